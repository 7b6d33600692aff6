"""What a section of the bench found, and how it is told: markdown for people, one JSON object for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from textwrap import fill
from typing import Any

from rfm_live.bench.machine import Machine

_CLOCK = "figures are medians unless they say otherwise; on a CPU, of processor time on one thread"


@dataclass(frozen=True)
class Section:
    """A table with the sentences before it, and the same figures by name."""

    title: str
    sentences: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: dict[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", fill(" ".join(self.sentences), 120), ""]
        lines += _line(self.header), _line(["---", *["---:"] * (len(self.header) - 1)])
        return "\n".join([*lines, *(_line(row) for row in self.rows)]) + "\n"


def document(command: str, machine: Machine, sections: Sequence[Section], left_out: Sequence[str]) -> str:
    """The whole report."""
    head = ["# What the engine does on this machine", "", f"Written by `{command}`; do not edit.", ""]
    head += [
        *(f"- {line}" for line in machine.lines()),
        "- figures are medians unless they say otherwise; on a CPU, of processor time on one thread",
        "",
    ]
    if left_out:
        head += ["Not measured here:", "", *(f"- {reason}" for reason in left_out), ""]
    return "\n".join(head) + "\n" + "\n".join(section.markdown() for section in sections)


def json_line(machine: Machine, sections: dict[str, Section], left_out: Sequence[str]) -> str:
    """The last line of the output."""
    figures = {name: section.figures for name, section in sections.items()}
    return json.dumps({"machine": asdict(machine), **figures, "not_measured": list(left_out)})


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
