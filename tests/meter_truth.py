"""How often the external meters hear the truth in real instruments: `python -m tests.meter_truth CACHE [SUBSET]`.

SynTheory's sets are rendered with FluidSynth on many General MIDI programs, and every clip is judged by the meter of
its set: what a meter misses here, no steering can show it. Notes below C2, where the chroma begins, are left out.
Intervals are 95 %; JSON last.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rfm_live.concepts.clips import Clip
from rfm_live.concepts.harmony import PITCH_CLASSES
from rfm_live.concepts.intervals import mean_interval
from rfm_live.concepts.meters import SAMPLE_RATE_HZ, Samples, strongest_pitch_class
from rfm_live.concepts.music_analysis import QUALITIES, chords, key, tempo_bpm
from rfm_live.concepts.syntheory_audio import Rendering, rendered_syntheory
from rfm_live.errors import ClipError

BELOW_C2 = re.compile(r"octave[012]_")
CHORD_NAMES = {"dim": "diminished", "aug": "augmented"}


def hears_note(samples: Samples, label: str | float) -> bool:
    strongest = strongest_pitch_class(samples)
    counts = np.bincount(strongest[strongest >= 0], minlength=12)
    return PITCH_CLASSES[int(counts.argmax())] == label


def hears_chord(samples: Samples, label: str | float) -> bool:
    heard = chords(samples)
    shares = {quality: heard.share(quality) for quality in QUALITIES}
    return max(shares, key=lambda quality: shares[quality]) == CHORD_NAMES.get(str(label), label)


def hears_mode(samples: Samples, label: str | float) -> bool:
    """A progression's mode; its label begins with it."""
    heard = key(samples)
    return heard is not None and heard.mode == ("major" if str(label).startswith("ionian") else "minor")


def hears_tempo(samples: Samples, label: str | float) -> bool:
    """Within 4 % of the tempo, its half or its double, as usual for tempo estimation (Gouyon et al. 2006)."""
    heard = tempo_bpm(samples)
    return any(abs(heard / (float(label) * factor) - 1.0) <= 0.04 for factor in (0.5, 1.0, 2.0))


METERS: dict[str, Callable[[Samples, str | float], bool]] = {
    "notes": hears_note,
    "chords": hears_chord,
    "progressions": hears_mode,
    "tempos": hears_tempo,
}


def hits(
    clips: Sequence[Clip], hears: Callable[[Samples, str | float], bool]
) -> tuple[list[float], dict[str, list[float]]]:
    """1 for every clip that is heard as its label says, else 0, and the same by label; unfit clips are left out."""
    all_hits: list[float] = []
    by_label: dict[str, list[float]] = {}
    for clip in clips:
        (label,) = clip.labels.values()
        try:
            hit = float(hears(clip.read(SAMPLE_RATE_HZ), label))
        except ClipError:
            continue
        all_hits.append(hit)
        by_label.setdefault(str(label), []).append(hit)
    return all_hits, by_label


def main() -> None:
    cache, subset = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 96
    results = {}
    for name, hears in METERS.items():
        clips = rendered_syntheory(name, cache, Rendering(subset=subset)).clips
        found, by_label = hits([clip for clip in clips if not BELOW_C2.search(clip.name)], hears)
        interval = mean_interval(found)
        results[name] = {"clips": len(found), "heard": interval.value, "low": interval.low, "high": interval.high}
        print(f"{name:14}{interval}  of {len(found)} clips", flush=True)
        if name == "chords":
            print("  " + "  ".join(f"{label} {np.mean(each):.2f}" for label, each in by_label.items()))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
