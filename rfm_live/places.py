"""Where the files that come with the program are: the embedded checkpoint and the shipped banks. Loads nothing."""

from pathlib import Path

from rfm_live.errors import StartError

EMBEDDED = "embedded"
_PACKAGE = Path(__file__).parent


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint: "embedded", or a path.

    Raises:
        StartError: there is no such folder.
    """
    folder = _PACKAGE / "embedded" / "checkpoint" if name == EMBEDDED else Path(name).expanduser()
    if not (folder / "config.json").is_file():
        raise StartError(f"checkpoint '{name}': {folder} holds no config.json")
    return folder


def bank_file(name: str | None, checkpoint: str) -> Path | None:
    """The concept bank to load: a path, the embedded checkpoint's own when `name` is None, or none with "none".

    Raises:
        StartError: there is no such file.
    """
    if name == "none" or (name is None and checkpoint != EMBEDDED):
        return None
    file = presets() / "banks" / "embedded_notes.safetensors" if name is None else Path(name).expanduser()
    if not file.is_file():
        raise StartError(f"bank '{file}' does not exist")
    return file


def presets() -> Path:
    """The folder of presets: inside an installed package, beside it in a checkout."""
    inside = _PACKAGE / "presets"
    return inside if inside.is_dir() else _PACKAGE.parent / "presets"
