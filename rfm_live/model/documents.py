"""Read the JSON and YAML of a checkpoint, which may be hostile: bounded in size and depth, no aliases, no objects."""

import json
from pathlib import Path
from typing import Any

import yaml

from rfm_live.errors import CheckpointError

MOST_JSON_BYTES = 16 << 20
MOST_YAML_CHARACTERS = 1 << 16  # MusicGen's own are a tenth of it
MOST_YAML_DEPTH = 32


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `CheckpointError`."""
    try:
        size = file.stat().st_size
        if size > MOST_JSON_BYTES:
            raise CheckpointError(f"{file}: has {size} bytes, expected at most {MOST_JSON_BYTES}")
        return parse_json(file.read_bytes(), str(file))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {one_line(error)}") from error


def parse_json(text: bytes, source: str) -> dict[str, Any]:
    """Parse a JSON object. Raises `CheckpointError`; `source` names the file in it."""
    try:
        content = json.loads(text.decode("utf-8"))
    except RecursionError as error:
        raise CheckpointError(f"{source}: is nested too deeply") from error
    except ValueError as error:
        raise CheckpointError(f"{source}: cannot be read: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{source}: expected a JSON object")
    return content


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Parse a YAML mapping of plain values. Raises `CheckpointError`; `source` names the file in it."""
    if len(text) > MOST_YAML_CHARACTERS:
        raise CheckpointError(f"{source}: has {len(text)} characters, expected at most {MOST_YAML_CHARACTERS}")
    try:
        _check_events(text, source)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: is no plain YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{source}: is {type(content).__name__}, expected a mapping")
    return content


def _check_events(text: str, source: str) -> None:
    """An alias may multiply what it stands for without bound, and depth exhausts the parser's stack."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise CheckpointError(f"{source}: holds the alias '*{event.anchor:.40}', expected plain values")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MOST_YAML_DEPTH:
                raise CheckpointError(f"{source}: is nested too deeply, expected at most {MOST_YAML_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def one_line(error: BaseException) -> str:
    """A foreign exception's text as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
