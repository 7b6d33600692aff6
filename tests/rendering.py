"""A program that renders SynTheory's chords: what a test kills. `python -m tests.rendering CACHE SUBSET`."""

import sys
from pathlib import Path

from rfm_live.concepts.syntheory_audio import Rendering, rendered_syntheory

if __name__ == "__main__":
    rendered_syntheory("chords", Path(sys.argv[1]), Rendering(subset=int(sys.argv[2])))
