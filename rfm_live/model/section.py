"""One object of a checkpoint's configuration, read with types checked. Used by the judges of both layouts."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, TypeVar

from rfm_live.errors import CheckpointError

_Value = TypeVar("_Value", int, str, bool)


class Section:
    """A mapping whose `name` leads every error; all methods raise `CheckpointError`."""

    def __init__(self, name: str, content: object) -> None:
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{name} is {content!r:.40}, expected an object")
        self.name = name
        self.content: Mapping[str, Any] = content

    def section(self, key: str) -> "Section":
        return Section(f"{self.name}: {key}", self.content.get(key))

    def get(self, key: str, default: _Value) -> _Value:
        value = self.content.get(key, default)
        if type(value) is not type(default):
            raise CheckpointError(f"{self.name}: {key} is {value!r:.40}, expected {type(default).__name__}")
        return value

    def positive(self, key: str, default: int, most: int = 1 << 16) -> int:
        """A whole number 1..most; a `default` of 0 makes the key obligatory."""
        value = self.get(key, default)
        if not 1 <= value <= most:
            raise CheckpointError(f"{self.name}: {key} is {value}, expected 1..{most}")
        return value

    def number(self, key: str, default: float, least: float, most: float) -> float:
        value = self.content.get(key, default)
        if type(value) not in (int, float) or not isfinite(value) or not least <= value <= most:
            raise CheckpointError(f"{self.name}: {key} is {value!r:.40}, expected {least:g}..{most:g}")
        return float(value)

    def factors(self, key: str, default: list[int]) -> tuple[int, ...]:
        """A list of 1 to 8 whole numbers 1..64."""
        value = self.content.get(key, default)
        fits = isinstance(value, list) and 1 <= len(value) <= 8 and all(type(f) is int and 1 <= f <= 64 for f in value)
        if not fits:
            raise CheckpointError(f"{self.name}: {key} is {value!r:.40}, expected integers 1..64")
        return tuple(value)

    def require(self, key: str, default: Any, *supported: Any) -> Any:
        """Answer the value if it is one of the supported ones, else refuse it."""
        value = self.content.get(key, default)
        if value not in supported:
            names = " or ".join(repr(choice) for choice in supported)
            raise CheckpointError(f"{self.name}: {key} is {value!r:.40}, supported is {names}")
        return value
