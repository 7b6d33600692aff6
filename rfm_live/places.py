"""Where files are: the embedded checkpoint, the shipped banks, and checkpoints by name. Loads nothing.

The one place that turns what a user types after `--checkpoint` into a folder; nothing here uses the network.
"""

import json
import re
from pathlib import Path

from rfm_live.errors import StartError

EMBEDDED = "embedded"
# The files one of which makes a folder a checkpoint: transformers' layout and audiocraft's.
CHECKPOINT_MARKS = ("config.json", "state_dict.bin")
_PACKAGE = Path(__file__).parent
_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>\w[\w.-]*(/\w[\w.-]*)*))?")


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint: "embedded", a path, or a hub id OWNER/NAME[@REVISION] in the local cache.

    Raises:
        StartError: there is no such folder, or the hub's model has not been pulled.
    """
    folder = _PACKAGE / "embedded" / "checkpoint" if name == EMBEDDED else Path(name).expanduser()
    hub_id = hub_name(name)
    if hub_id is not None and not folder.exists():
        cached = cached_snapshot(*hub_id)
        if cached is None:
            raise StartError(
                f"checkpoint '{name}' is neither a folder nor in the local Hugging Face cache: "
                f"rfm-live models pull {name}"
            )
        folder = cached
    if not any((folder / mark).is_file() for mark in CHECKPOINT_MARKS):
        raise StartError(f"checkpoint '{name}': {folder} holds no {' or '.join(CHECKPOINT_MARKS)}")
    return folder


def hub_name(name: str, with_owner: bool = True) -> tuple[str, str | None] | None:
    """Split OWNER/NAME[@REVISION] -> (hub id, revision or None); None for what is no such name.

    A few old models of the hub have no owner (`t5-base`); a bare word after `--checkpoint` is a folder.
    """
    match = _HUB_ID.fullmatch(name)
    if match is None or (with_owner and "/" not in match["id"]):
        return None
    return match["id"], match["revision"]


def cached_models() -> list[str]:
    """The names of the MusicGen checkpoints in the local Hugging Face cache; those of other revisions than main with
    `@REVISION`."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    names = []
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        for revision in sorted(repository.revisions, key=lambda revision: revision.commit_hash):
            if repository.repo_type == "model" and _is_musicgen(revision.snapshot_path):
                suffix = "" if "main" in revision.refs else f"@{revision.commit_hash}"
                names.append(repository.repo_id + suffix)
    return names


def _is_musicgen(folder: Path) -> bool:
    """Whether a folder claims to be a MusicGen, of whatever kind; whether it plays is another question."""
    if (folder / "state_dict.bin").exists():
        return True
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and str(content.get("model_type")).startswith("musicgen")


def cached_snapshot(hub_id: str, revision: str | None = None) -> Path | None:
    """The folder of a model in the local Hugging Face cache, or None. Never uses the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for mark in CHECKPOINT_MARKS:
        try:
            found = try_to_load_from_cache(hub_id, mark, revision=revision)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def bank_file(name: str | None, checkpoint: str) -> Path | None:
    """The concept bank to load: a path, the embedded checkpoint's own when `name` is None, or none with "none".

    Raises:
        StartError: there is no such file.
    """
    if name == "none" or (name is None and checkpoint != EMBEDDED):
        return None
    file = shipped_bank() if name is None else Path(name).expanduser()
    if not file.is_file():
        raise StartError(f"bank '{file}' does not exist")
    return file


def shipped_bank() -> Path:
    """The bank of all the embedded checkpoint's concepts."""
    return presets() / "banks" / "embedded.safetensors"


def presets() -> Path:
    """The folder of presets: inside an installed package, beside it in a checkout."""
    inside = _PACKAGE / "presets"
    return inside if inside.is_dir() else _PACKAGE.parent / "presets"
