"""What a run of the bench measures, in which extent, and what it leaves out for want of memory."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from rfm_live.bench.decoding import Clip, decoding_figures, decoding_section
from rfm_live.bench.endurance import measure_stream
from rfm_live.bench.machine import available_bytes
from rfm_live.bench.report import Section
from rfm_live.bench.shapes import (
    CODEC_32KHZ,
    SIZES,
    Pair,
    Size,
    embedded_pair,
    random_pair,
    toy_codec,
    weight_bytes,
)
from rfm_live.bench.steps import Extent, steering_figures, steering_section, step_figures, step_section
from rfm_live.engine.defaults import default_settings
from rfm_live.engine.player import Engine
from rfm_live.errors import StartError
from rfm_live.places import EMBEDDED, bank_file
from rfm_live.steering.bank import load_bank

SECTIONS = ("step", "steering", "decoding", "stream")
SHAPES = (EMBEDDED, *SIZES)
_GUIDANCE = 3.0
_MODELS = 2  # transformers' weights and ours while these are made; then what both read, and what steps keep of it
_SPARE_BYTES = 2 << 30  # for the program itself and the rest of the machine


@dataclass(frozen=True)
class Options:
    """`sections` and `shapes` by name, `minutes` of music for "stream", `is_quick` for a run of seconds.

    Raises StartError for a name that is none and for minutes outside 0.01..1440.
    """

    sections: tuple[str, ...]
    shapes: tuple[str, ...]
    minutes: float
    is_quick: bool

    def __post_init__(self) -> None:
        for what, given, known in (("section", self.sections, SECTIONS), ("shape", self.shapes, SHAPES)):
            if unknown := sorted(set(given) - set(known)):
                raise StartError(f"{what} '{unknown[0]}' is unknown, expected one of {', '.join(known)}")
        if not 0.01 <= self.minutes <= 1440.0:
            raise StartError(f"stream is {self.minutes:g} minutes, expected 0.01..1440")


@dataclass(frozen=True)
class Plan:
    """How long one shape is measured."""

    step: Extent
    steering: Extent


_PLANS = {
    EMBEDDED: Plan(Extent(8, 120), Extent(6, 60)),
    "small": Plan(Extent(5, 16), Extent(4, 10)),
    "medium": Plan(Extent(3, 5), Extent(2, 4)),
    "large": Plan(Extent(2, 4), Extent(2, 3)),
}
_QUICK = Plan(Extent(2, 12), Extent(4, 12))
_CLIPS = {EMBEDDED: Clip(150, 50, 5), "32 kHz, 64 filters": Clip(50, 50, 3)}
_QUICK_CLIP = Clip(25, 10, 2)
_SECTIONS: dict[str, Callable[[dict[str, dict[str, Any]]], Section]] = {
    "step": partial(step_section, guidance=_GUIDANCE),
    "steering": steering_section,
    "decoding": decoding_section,
}


def run(
    options: Options, device: torch.device, tell: Callable[[str], None]
) -> Iterator[tuple[dict[str, Section], list[str]]]:
    """Measure -> after every measurement the sections so far by name, and what was left out and why.

    `tell` hears what is being measured. There is one answer at least.
    """
    figures: dict[str, dict[str, Any]] = {"step": {}, "steering": {}, "decoding": {}}
    sections: dict[str, Section] = {}
    left_out: list[str] = []
    for section, subject, found in _figures(options, device, tell, left_out):
        figures[section][subject] = found
        sections[section] = _SECTIONS[section](figures[section])
        yield {name: sections[name] for name in SECTIONS if name in sections}, left_out
    if "stream" in options.sections:
        tell(f"{EMBEDDED}: a stream of {options.minutes:g} minutes")
        sections["stream"] = _stream(options, device, tell)
    yield {name: sections[name] for name in SECTIONS if name in sections}, left_out


def _figures(
    options: Options, device: torch.device, tell: Callable[[str], None], left_out: list[str]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Section, shape or codec, and what was measured of it; what does not fit is added to `left_out`."""
    wanted = [name for name in ("step", "steering") if name in options.sections]
    for shape in options.shapes if wanted else ():
        if reason := too_large(shape, device, _free_bytes(device)):
            left_out.append(reason)
            continue
        tell(f"{shape}: making the models")
        pair, plan = _pair(shape, device), _QUICK if options.is_quick else _PLANS[shape]
        for name in wanted:
            tell(f"{shape}: {name}")
            measure = step_figures if name == "step" else steering_figures
            extent = plan.step if name == "step" else plan.steering
            yield name, shape, measure(pair, extent, device, _GUIDANCE)
        del pair
        gc.collect()
    for codec, clip in _CLIPS.items() if "decoding" in options.sections else ():
        if options.is_quick and codec != EMBEDDED:
            continue
        tell(f"{codec}: decoding")
        size = Size(64, 1, text_width=64)
        pair = embedded_pair(device) if codec == EMBEDDED else random_pair(size.config, CODEC_32KHZ, device)
        yield "decoding", codec, decoding_figures(pair, _QUICK_CLIP if options.is_quick else clip, device)


def _stream(options: Options, device: torch.device, tell: Callable[[str], None]) -> Section:
    """The embedded checkpoint as `play` plays it, with its bank."""
    from rfm_live.embedded import CHECKPOINT, DEFAULT_PROMPT
    from rfm_live.model.checkpoint import load_checkpoint

    model = load_checkpoint(CHECKPOINT, device)
    decoder, file = model.config.decoder, bank_file(None, EMBEDDED)
    bank = None if file is None else load_bank(file, decoder.layers, decoder.width, model.sha256)
    engine = Engine(model, bank, default_settings(CHECKPOINT, model.config, prompt=DEFAULT_PROMPT))
    return measure_stream(engine, model, options.minutes, device, tell)


def _pair(shape: str, device: torch.device) -> Pair:
    if shape == EMBEDDED:
        return embedded_pair(device)
    decoder = SIZES[shape].config
    return random_pair(decoder, toy_codec(decoder.vocab), device, _dtype(device))


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.float32


def too_large(shape: str, device: torch.device, free_bytes: int | None) -> str | None:
    """Why a shape cannot be measured here: both models must fit into memory that is free (None: nobody knows)."""
    if shape == EMBEDDED or free_bytes is None:
        return None
    dtype = _dtype(device)
    needs = round(_MODELS * weight_bytes(SIZES[shape].config, dtype.itemsize)) + _SPARE_BYTES
    if needs <= free_bytes:
        return None
    number = str(dtype).removeprefix("torch.")
    return f"{shape}: two models in {number} take {needs / 1e9:.1f} GB, and {free_bytes / 1e9:.1f} GB are free"


def _free_bytes(device: torch.device) -> int | None:
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_bytes()
