"""`rfm-live learn --dry-run`: what the learning would take, told without learning."""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from rfm_live.cli.console import console
from rfm_live.cli.progress import progress_bar

if TYPE_CHECKING:
    from rfm_live.cli.learn import LearnOptions, Source
    from rfm_live.concepts.calibration import Listening
    from rfm_live.concepts.forecast import Forecast
    from rfm_live.concepts.learning import LearningSettings
    from rfm_live.model.checkpoint import MusicGen


def tell_forecast(
    model: "MusicGen",
    source: "Source",
    settings: "LearningSettings",
    listening: "Listening | None",
    began: float,
    options: "LearnOptions",
) -> None:
    """Measure a fraction and print the forecast; the work began at `began` of the monotonic clock. Raises ClipError."""
    from rfm_live.concepts.forecast import Task, rehearsal

    plan = None if source.plan is None else source.plan()
    collection = source.collect() if plan is None else plan.collection
    task = Task(collection, plan, source.label, source.name, settings, listening, options.meter)
    with progress_bar("measuring") as report:
        found = rehearsal(model, task, time.monotonic() - began, report)
    if options.as_json:
        console.print(json.dumps({**asdict(found), "seconds": found.seconds}, indent=2), soft_wrap=True)
        return
    for line in forecast_lines(found):
        console.print(line, soft_wrap=True)


def forecast_lines(found: "Forecast") -> list[str]:
    """The forecast in words."""
    parts = ("starting", "rendering", "reading", "learning", "listening")
    lines = [f"{len(found.concepts)} concepts from {found.clips} clips would take"]
    lines += [f"  {duration(getattr(found, part)):>10}  {part}" for part in parts]
    lines.append(f"  {duration(found.seconds):>10}  in all, and {found.peak_bytes / 2**30:.1f} GiB of memory")
    lines.append(f"measured on a fraction in {duration(found.measured_seconds)}; nothing was learned")
    return lines


def duration(seconds: float) -> str:
    """Seconds as people say them: `42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
