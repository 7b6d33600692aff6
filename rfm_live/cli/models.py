"""`rfm-live models`: which checkpoints are here, bring one from the hub, and look into one."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track
from rich.table import Table
from rich.text import Text

from rfm_live.cli.console import console, errors, one_line_errors
from rfm_live.errors import CheckpointError, RfmError, StartError
from rfm_live.places import CHECKPOINT_MARKS, EMBEDDED, cached_models, checkpoint_folder, hub_name

if TYPE_CHECKING:
    from rfm_live.model.checkpoint import OpenCheckpoint

models = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, fetch and examine checkpoints.")

_NAME = "embedded, a folder, or OWNER/NAME[@REVISION] of the Hugging Face hub"
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
TrustPickle = Annotated[
    bool,
    typer.Option("--trust-pickle", help="let .bin files run code while they are read: only if you know their origin"),
]


@models.command("list")
def list_models(
    folders: Annotated[list[Path] | None, typer.Argument(help="folders of checkpoints to look at as well")] = None,
    as_json: AsJson = False,
) -> None:
    """List the embedded checkpoint, those in the local Hugging Face cache, and those in the folders given."""
    with one_line_errors():
        names = [EMBEDDED, *cached_models(), *(str(place) for folder in folders or [] for place in _inside(folder))]
        rows = [_listed(name) for name in names]
        if as_json:
            console.print(json.dumps(rows, indent=2), soft_wrap=True)
            return
        table = Table("checkpoint", "layout", "blocks", "width", "weights", "state")
        for row in rows:
            size = f"{row['bytes'] / 1e6:.0f} MB" if row["bytes"] else ""
            cells = (row["name"], row["layout"], _text(row["blocks"]), _text(row["width"]), size, row["state"])
            table.add_row(*(Text(cell, overflow="fold") for cell in cells))
        console.print(table)


@models.command()
def pull(name: Annotated[str, typer.Argument(help="OWNER/NAME[@REVISION] of the Hugging Face hub")]) -> None:
    """Fetch a checkpoint from the hub: only the files that are needed; an interrupted pull goes on where it ended."""
    with one_line_errors():
        hub_id = hub_name(name, with_owner=False)
        if hub_id is None:
            raise StartError(f"'{name}' is no name on the hub, expected OWNER/NAME or OWNER/NAME@REVISION")

        from rfm_live.model.hub import pull as fetch

        folder = fetch(*hub_id)
        for companion in _missing_companions(folder):
            console.print(f"its files name {companion}, which is fetched as well", soft_wrap=True)
            fetch(companion)
        console.print(f"{name} is in {folder}", soft_wrap=True)


@models.command()
def check(
    name: Annotated[str, typer.Argument(help=_NAME)] = EMBEDDED,
    trust_pickle: TrustPickle = False,
    as_json: AsJson = False,
) -> None:
    """Read a checkpoint whole and print everything that was found: hyper-parameters, types, sizes, hashes, licence."""
    with one_line_errors():
        found = examine(name, trust_pickle)
        if as_json:
            console.print(json.dumps(found, indent=2), soft_wrap=True)
            return
        table = Table("what", "found", show_header=False)
        for section, content in found.items():
            for key, value in content.items() if isinstance(content, dict) else [("", content)]:
                table.add_row(f"{section} {key}".strip(), Text(_text(value), overflow="fold"))
        console.print(table)


def examine(name: str, trust_pickle: bool) -> dict[str, Any]:
    """What `check` prints. Raises StartError or CheckpointError for a checkpoint that cannot play."""
    folder = checkpoint_folder(name)

    import torch

    from rfm_live.engine.defaults import default_settings
    from rfm_live.model.checkpoint import hash_files, load_text_encoder, open_checkpoint

    torch.set_num_threads(1)
    opened = open_checkpoint(folder, trust_pickle)
    settings = default_settings(folder, opened.config)
    tensors = [*opened.decoder.stored(), *opened.codec.stored()]
    for tensor in track(tensors, "reading weights", console=errors, transient=True):
        tensor.read()
    try:
        load_text_encoder(folder, trust_pickle)
        prompts = "yes"
    except CheckpointError as error:
        prompts = f"no: {error}"
    config = asdict(opened.config)
    return {
        "checkpoint": name,
        "folder": str(folder),
        "layout": opened.layout,
        "decoder": config["decoder"],
        "codec": config["codec"],
        "music": {key: config[key] for key in ("sample_rate", "frame_rate", "hop")},
        "play": {
            "temperature": settings.sampling.temperature,
            "top_k": settings.sampling.top_k,
            "top_p": settings.sampling.top_p,
            "guidance": settings.sampling.guidance,
            "window_frames": settings.window.frames if settings.window else None,
        },
        "text_encoder": opened.text_model or "in the files",
        "stored": _stored(opened),
        "files": {file.name: f"{file.stat().st_size} bytes, sha256 {hash_files((file,))}" for file in opened.files},
        "sha256": hash_files(opened.files),
        "licence": licence(folder, name),
        "can": {"play": "yes", "take prompts": prompts},
    }


def licence(folder: Path, name: str) -> str:
    """The licence of the weights, as their model card tells it."""
    if name == EMBEDDED:
        return "Apache-2.0"
    if name.startswith("facebook/musicgen-"):
        return "CC-BY-NC-4.0 (Meta's weights: not for commercial use)"
    card = folder / "README.md"
    if not card.is_file():
        return "unknown: no model card (MusicGen's published weights are CC-BY-NC-4.0)"
    head = card.read_text(encoding="utf-8", errors="replace")[:65_536].split("\n---", 1)[0]
    lines = [line.partition(":")[2].strip() for line in head.splitlines() if line.startswith("license:")]
    return f"{lines[0]}, says its model card" if lines else "unknown: its model card names none"


def _stored(opened: "OpenCheckpoint") -> dict[str, Any]:
    """Types and numbers of the parameters as they lie in the files."""
    found: dict[str, Any] = {}
    for part, source in (("decoder", opened.decoder), ("codec", opened.codec)):
        tensors = source.stored()
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        found[part] = f"{sum(tensor.count for tensor in tensors)} numbers, {', '.join(dtypes)}"
    return found


def _listed(name: str) -> dict[str, Any]:
    """One line of the list; what cannot be opened says why."""
    from rfm_live.model.checkpoint import open_checkpoint

    row: dict[str, Any] = {"name": name, "layout": "", "blocks": None, "width": None, "bytes": 0, "state": "ready"}
    try:
        opened = open_checkpoint(checkpoint_folder(name))
    except RfmError as error:
        return row | {"state": str(error)}
    decoder = opened.config.decoder
    size = sum(file.stat().st_size for file in opened.files)
    return row | {"layout": opened.layout, "blocks": decoder.layers, "width": decoder.width, "bytes": size}


def _inside(folder: Path) -> list[Path]:
    """The checkpoint that a folder is, or those that it holds."""
    if any((folder / mark).exists() for mark in CHECKPOINT_MARKS):
        return [folder]
    if not folder.is_dir():
        raise StartError(f"'{folder}' is no folder")
    return sorted(place.parent for mark in CHECKPOINT_MARKS for place in folder.glob(f"*/{mark}"))


def _missing_companions(folder: Path) -> list[str]:
    """The text encoder and the codec that audiocraft's files name, where they are not here yet."""
    if (folder / "config.json").is_file():
        return []

    from rfm_live.model.audiocraft_layout import missing_companions

    return missing_companions(folder)


def _text(value: object) -> str:
    return "" if value is None else ", ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
