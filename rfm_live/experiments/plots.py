"""The pictures of reports: curves with bands, points with a front, bars, traces. matplotlib comes with `train`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfm_live.concepts.intervals import Interval
from rfm_live.experiments.report import Plot


@dataclass(frozen=True)
class Curve:
    """A line through (x, y); with `bands`, the intervals of y are shaded. `style` is matplotlib's."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    bands: Sequence[Interval] | None = None
    style: str = "o-"


@dataclass(frozen=True)
class Axes:
    """What the two axes show."""

    x: str
    y: str


def curves_plot(name: str, title: str, axes: Axes, curves: Sequence[Curve], marks: Sequence[float] = ()) -> Plot:
    """Lines; `marks` are places on the x axis that a dotted line is drawn through."""

    def draw(panel: Any) -> None:
        for curve in curves:
            (line,) = panel.plot(curve.x, curve.y, curve.style, label=curve.label, markersize=4)
            if curve.bands is not None:
                low, high = zip(*((band.low, band.high) for band in curve.bands), strict=True)
                panel.fill_between(curve.x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        for mark in marks:
            panel.axvline(mark, color="0.5", linestyle=":")

    return _plot(name, title, axes, draw)


def points_plot(name: str, title: str, axes: Axes, groups: Sequence[Curve], front: Curve | None = None) -> Plot:
    """Points of several groups, and the line of their front."""

    def draw(panel: Any) -> None:
        for group in groups:
            panel.plot(group.x, group.y, group.style, label=group.label, markersize=6)
        if front is not None:
            panel.plot(front.x, front.y, front.style, color="0.4", label=front.label)

    return _plot(name, title, axes, draw)


def bars_plot(
    name: str, title: str, axes: Axes, labels: Sequence[str], groups: Sequence[tuple[str, Sequence[Interval]]]
) -> Plot:
    """Bars with their intervals, one group of bars beside the other over each of `labels`."""

    def draw(panel: Any) -> None:
        width = 0.8 / max(len(groups), 1)
        for number, (label, bars) in enumerate(groups):
            places = [place + (number - (len(groups) - 1) / 2) * width for place in range(len(bars))]
            errors = [
                [max(bar.value - bar.low, 0.0) for bar in bars],
                [max(bar.high - bar.value, 0.0) for bar in bars],
            ]
            panel.bar(places, [bar.value for bar in bars], width, yerr=errors, label=label, capsize=2)
        if len(labels) > 6:
            panel.set_xticks(range(len(labels)), labels, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
            panel.margins(y=0.4)  # the legend needs room
        else:
            panel.set_xticks(range(len(labels)), labels)
        panel.axhline(0.0, color="0.5", linewidth=0.8)

    return _plot(name, title, axes, draw)


def _plot(name: str, title: str, axes: Axes, draw_on: Callable[[Any], None]) -> Plot:
    def draw(file: Path) -> None:
        from matplotlib import colormaps
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.5, 4.8), layout="constrained")
        panel = figure.subplots()
        usual_then_lighter = (*range(0, 20, 2), *range(1, 20, 2))
        panel.set_prop_cycle(color=[colormaps["tab20"](place) for place in usual_then_lighter])
        draw_on(panel)
        panel.set_title(title)
        panel.set_xlabel(axes.x)
        panel.set_ylabel(axes.y)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8)
        figure.savefig(file, dpi=110)

    return Plot(name, title, draw)
