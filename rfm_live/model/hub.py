"""Bring a checkpoint from the Hugging Face hub into its local cache. Used by `models pull`.

Only the files that we read are fetched. Weight files are fetched by ourselves, for the hub's library throws away what
an interrupted run has got: they grow in `blobs/HASH.part`, go on from there, and take their name once their hash is
right. The library then finds them in place, brings the small files and makes the snapshot.
"""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlparse

from rfm_live.errors import StartError

_SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "README.md",
)
_AUDIOCRAFT = ("state_dict.bin", "compression_state_dict.bin")
_SHARD = {
    "model.safetensors": re.compile(r"model-\d+-of-\d+\.safetensors"),
    "pytorch_model.bin": re.compile(r"pytorch_model-\d+-of-\d+\.bin"),
}
_HASH = re.compile(r"[\w-]{1,128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def pull(hub_id: str, revision: str | None = None) -> Path:
    """Fetch what is missing of a model, with progress bars on stderr, and answer its folder in the cache.

    Raises:
        StartError: the hub cannot be reached, has no such model, or the model has no weights that we read.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    name = hub_id if revision is None else f"{hub_id}@{revision}"
    if constants.HF_HUB_OFFLINE:
        raise StartError(f"'{name}' cannot be pulled: HF_HUB_OFFLINE is set")
    try:
        info = HfApi().model_info(hub_id, revision=revision)
        files = needed_files([file.rfilename for file in info.siblings or []])
        if not files:
            raise StartError(f"'{name}' on the hub holds no weights in transformers' or audiocraft's layout")
        for file in files:
            if file.endswith((".safetensors", ".bin")):
                _fetch(hub_id, file, str(info.sha))
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=files))
    except StartError:
        raise
    except RevisionNotFoundError as error:
        raise StartError(f"'{name}' cannot be pulled: the model has no revision '{revision}'") from error
    except RepositoryNotFoundError as error:
        raise StartError(f"'{name}' cannot be pulled: {constants.ENDPOINT} has no such public model") from error
    except Exception as error:  # the library passes on whatever its HTTP client, sockets and disk raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StartError(f"'{name}' cannot be pulled from {constants.ENDPOINT}: {reason}") from error


def needed_files(names: list[str]) -> list[str]:
    """Of a model's files those that we read: transformers' layout where it is complete, else audiocraft's."""
    weights: list[str] = []
    if "config.json" in names:
        for single, shard in _SHARD.items():
            index = f"{single}.index.json"
            shards = [name for name in names if shard.fullmatch(name)]
            if single in names:
                weights = [single]
            elif index in names and shards:
                weights = [index, *sorted(shards)]
            if weights:
                break
    if not weights and all(name in names for name in _AUDIOCRAFT):
        weights = list(_AUDIOCRAFT)
    return [*weights, *(name for name in _SMALL if name in names)] if weights else []


def _fetch(hub_id: str, name: str, commit: str) -> None:
    """Fetch one weight file into the cache's blobs, going on where an earlier run ended."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(hub_id, name, revision=commit)
    found = get_hf_file_metadata(url)
    if found.etag is None or found.size is None or not _HASH.fullmatch(found.etag):
        raise StartError(f"{url}: the hub tells hash {found.etag!r:.80} and size {found.size}")
    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type="model") / "blobs"
    blob, part = blobs / found.etag, blobs / f"{found.etag}.part"
    if blob.exists():
        return
    blobs.mkdir(parents=True, exist_ok=True)
    headers = build_hf_headers()
    if urlparse(found.location).netloc != urlparse(url).netloc:
        headers.pop("authorization", None)  # the token is for the hub, not for where it sends us
    with part.open("ab") as file:
        http_get(
            found.location,
            file,
            resume_size=file.tell(),
            headers=headers,
            expected_size=found.size,
            displayed_filename=name,
        )
    if part.stat().st_size != found.size or not _is_whole(part, found.etag):
        part.unlink()
        raise StartError(f"'{hub_id}': {name} arrived damaged; pull it again")
    part.replace(blob)


def _is_whole(file: Path, etag: str) -> bool:
    """Whether the sha256 is the one that the hub tells of a large file; of small ones it tells another kind of hash."""
    if not _SHA256.fullmatch(etag):
        return True
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == etag
