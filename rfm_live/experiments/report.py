"""What an experiment found, written as one JSON file, one Markdown page and pictures. Used by `rfm-live evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from rfm_live.concepts.intervals import Interval
from rfm_live.errors import StartError

FORMAT = 1
_BRACKETS = (
    "Brackets hold 95 % intervals, bootstrapped over seeds, each with its clips of all concepts; those of distances "
    "over clips, and where distances of several concepts are put together, over concepts."
)


@dataclass(frozen=True)
class Table:
    """Rows of text under a `head`, with a `note` that says how to read them."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A picture NAME.png: `draw` writes it to the file that it is given."""

    name: str
    title: str
    draw: Callable[[Path], None]


@dataclass(frozen=True)
class Findings:
    """What an experiment asked and found; `data` is everything in numbers: JSON's types, dataclasses and intervals."""

    experiment: str
    title: str
    question: str
    conclusions: Sequence[str]
    tables: Sequence[Table]
    plots: Sequence[Plot] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


def told(value: Interval | float | None, digits: int = 3) -> str:
    """A figure as tables show it: with its interval, or a dash where there is none.

    It has `digits` behind the point, none where it is 1000 or more, and two that count where it would round to nothing.
    """
    if value is None:
        return "-"
    if isinstance(value, Interval):
        return f"{told(value.value, digits)} ({told(value.low, digits)}..{told(value.high, digits)})"
    if abs(value) >= 1000.0:
        return f"{value:.0f}"
    return f"{value:.{digits}f}" if value == 0.0 or abs(value) >= 10.0 ** (1 - digits) else f"{value:.2g}"


def written(findings: Findings, folder: Path, about: Mapping[str, Any]) -> list[Path]:
    """Write EXPERIMENT.json, EXPERIMENT.md and the pictures into `folder`; `about` tells how they were made.

    Raises:
        StartError: a file cannot be written.
    """
    pictures = [folder / f"{findings.experiment}_{plot.name}.png" for plot in findings.plots]
    page, numbers = (folder / f"{findings.experiment}.{suffix}" for suffix in ("md", "json"))
    whole = {
        "format": FORMAT,
        "experiment": findings.experiment,
        **about,
        "conclusions": list(findings.conclusions),
        "data": findings.data,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for plot, picture in zip(findings.plots, pictures, strict=True):
            plot.draw(picture)
        page.write_text(as_markdown(findings, about), encoding="utf-8")
        numbers.write_text(json.dumps(whole, indent=2, default=_plain) + "\n", encoding="utf-8")
    except OSError as error:
        raise StartError(f"report '{folder}' cannot be written: {(error.strerror or str(error)).lower()}") from error
    return [page, numbers, *pictures]


def as_markdown(findings: Findings, about: Mapping[str, Any]) -> str:
    """The page: the question, what follows, tables and pictures, and how to make it again."""
    lines = [f"# {findings.title}", "", findings.question, "", "## What follows", ""]
    lines += [f"- {conclusion}" for conclusion in findings.conclusions]
    for plot in findings.plots:
        lines += ["", f"![{plot.title}]({findings.experiment}_{plot.name}.png)"]
    for table in findings.tables:
        lines += ["", f"## {table.title}", "", *([table.note, ""] if table.note else []), *_markdown_table(table)]
    lines += ["", "## How this was made", "", _BRACKETS, ""]
    lines += [f"- {name}: {_line(value)}" for name, value in about.items()]
    return "\n".join(lines) + "\n"


def _markdown_table(table: Table) -> list[str]:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (table.head, *table.rows)]
    written_rows = ["| " + " | ".join(row) + " |" for row in rows]
    return [written_rows[0], "|" + " --- |" * len(table.head), *written_rows[1:]]


def _line(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _plain(value: object) -> object:
    """What JSON has no type for: dataclasses as objects, numpy's numbers as numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
