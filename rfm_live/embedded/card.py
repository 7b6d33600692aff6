"""The embedded checkpoint's model card, written from `training.json` and `meters.json`. Used by the recipe only."""

from __future__ import annotations

import json
from pathlib import Path

from rfm_live.embedded.composer import BEAT_FRAMES, FRAME_RATE_HZ, INSTRUMENTS
from rfm_live.embedded.export import HEAD_TEMPERATURES, REST_NATS
from rfm_live.embedded.guidance_distillation import GUIDANCE

_TEXT = """# The embedded checkpoint of rfm_live

A MusicGen checkpoint in the transformers layout (fp16), trained from nothing by `python -m rfm_live.embedded.train`.
sha256 of the weights: `{sha256}`

- **Codec**: causal EnCodec, 32 kHz mono, 50 frames per second, 4 codebooks of 512 entries (1.8 kbit/s), {filters}
  filters. {codec_steps} steps in {codec_trained_minutes} minutes on one CPU core (spectra at five resolutions, quarter
  tones, low waveform, levels, and a training-only pitch head; no adversary){refined}; its output is scaled to the
  corpus's loudness.
- **Decoder**: {layers} blocks of width {width}, {decoder_parameters} parameters; text encoder: T5 with 2 blocks of
  width 128 and its own tokenizer, which first learned to tell styles by itself ({text_steps} steps). The decoder began
  with heads that copy (`rfm_live.embedded.copying_heads`). {decoder_steps}
  steps in {decoder_trained_minutes} minutes on a CPU; contexts up to 1024 frames{distilled}{rehearsed}{compared}.
  The heads of its codebooks are divided by {head_temperatures}, and the logit of the first one's code of silence is
  {rest_nats:g} lower than learned. Played {played}.
- **Data**: {pieces} pieces of 30 s (seed {seed}) by our own composer (`rfm_live.embedded.composer`), rendered by
  FluidSynth with the FluidR3 Mono soundfont (MIT), reverb and chorus off. {instruments} instruments of {families}
  families, bass and drums, {slowest} to {fastest} beats per minute; the tonic is uniform over the 12 pitch classes and
  never in the caption. {note}
- **Held-out loss** per codebook: {held_out_loss_nats} nats (uniform guess: 6.24).
- **Licence**: Apache-2.0. No weights of anyone else were used.

## Meters

Printed by `python -m rfm_live.embedded.evaluate`; triples are mean and bootstrapped 95 % interval.

{meters}
"""


def write_card(checkpoint: Path) -> None:
    """Write `MODEL_CARD.md` into the checkpoint's folder, from what training and evaluation have left there."""
    training = json.loads((checkpoint / "training.json").read_text())
    meters = json.loads((checkpoint / "meters.json").read_text())
    rows = [f"### {name}\n\n{_table(values)}" for name, values in meters.items() if isinstance(values, dict)]
    wishes = json.loads((checkpoint / "generation_config.json").read_text())
    told: dict[str, object] = {"rest_nats": REST_NATS}
    told |= {"played": _played(wishes), "refined": _refined(training), "head_temperatures": _told(HEAD_TEMPERATURES)}
    told |= {"distilled": _distilled(training), "rehearsed": _rehearsed(training)}
    told |= {"compared": _compared(training)}
    facts = {"note": "", **training, **_instruments(), **told, "sha256": meters["sha256"]}
    (checkpoint / "MODEL_CARD.md").write_text(_TEXT.format(**facts, meters="\n\n".join(rows)))


def _refined(training: dict[str, float]) -> str:
    """The codec's second stage, in words; nothing where there was none."""
    steps, minutes = training["refined_steps"], training["refined_minutes"]
    return f", then {steps} steps of its decoder alone in {minutes} minutes" if steps else ""


def _distilled(training: dict[str, float]) -> str:
    """The decoder's second stage, in words; nothing where there was none."""
    steps, minutes = training["distilled_steps"], training["distilled_minutes"]
    return f", then {steps} steps in {minutes} minutes to play as if under guidance {GUIDANCE:g}" if steps else ""


def _rehearsed(training: dict[str, float]) -> str:
    """The decoder's third stage, in words; nothing where there was none."""
    steps, minutes = training["rehearsed_steps"], training["rehearsed_minutes"]
    return f", then {steps} steps in {minutes} minutes on its own playing and under pushes" if steps else ""


def _compared(training: dict[str, float]) -> str:
    """The decoder's fourth stage, in words; nothing where there was none."""
    steps, minutes, share = (training[f"compared_{name}"] for name in ("steps", "minutes", "share"))
    if not steps:
        return ""
    return (
        f", then {steps} steps in {minutes} minutes in which it compared takes of its own under pushes; its weights "
        f"are {share:.0%} those after that and for the rest those before"
    )


def _told(temperatures: tuple[float, ...]) -> str:
    *first, last = (f"{temperature:g}" for temperature in temperatures)
    return f"{', '.join(first)} and {last}"


def _instruments() -> dict[str, int]:
    beats = [frames for choices in BEAT_FRAMES.values() for frames in choices]
    return {
        "instruments": len(INSTRUMENTS),
        "families": len({instrument.family for instrument in INSTRUMENTS}),
        "slowest": 60 * FRAME_RATE_HZ // max(beats),
        "fastest": 60 * FRAME_RATE_HZ // min(beats),
    }


def _played(wishes: dict[str, float]) -> str:
    """How the checkpoint wishes to be played, in words."""
    guidance = wishes["guidance_scale"]
    told = "without guidance" if guidance == 1.0 else f"under guidance {guidance:g}"
    nucleus = f", as many as hold {wishes['top_p']:.0%} of the probability" if "top_p" in wishes else ""
    return f"{told}, at temperature {wishes['temperature']:g} from the {wishes['top_k']} likeliest codes{nucleus}"


def _table(values: dict[str, object]) -> str:
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= {f"{name}: {key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    lines = [f"| {name} | {_shown(value)} |" for name, value in flat.items()]
    return "\n".join(["| meter | value |", "| --- | --- |", *lines])


def _shown(value: object) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
