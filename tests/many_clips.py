"""Is a long reading bounded in memory, and does it survive being killed? One JSON line: clips, seconds, peak memory.

`python -m tests.many_clips` renders `--clips` of SynTheory's intervals and reads them with the embedded checkpoint,
twice and in processes of their own: once in peace, and once killed with SIGKILL `--kills` times at drawn moments and
begun again. Every file of the two stores must be the same, byte for byte; exit code 1 where one is not. Linux only.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from rfm_live.concepts.activations import compute_activations
from rfm_live.concepts.syntheory_audio import Rendering, rendered_syntheory
from rfm_live.model.checkpoint import load_checkpoint
from rfm_live.places import EMBEDDED, checkpoint_folder

SET = "intervals"
ROOT = Path(__file__).parent.parent


def read(cache: Path, clips: int, folder: Path) -> None:
    """Read all clips in this process and print its peak of resident memory in bytes."""
    torch.set_num_threads(1)
    collection = rendered_syntheory(SET, cache / "syntheory", Rendering(clips))
    store = compute_activations(load_checkpoint(checkpoint_folder(EMBEDDED)), collection, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"clips": len(store.clips), "peak_bytes": peak}))


def begin(cache: Path, clips: int, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.many_clips", "--cache", str(cache), "--clips", str(clips)]
    return subprocess.Popen([*command, "--read", str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def finished(process: subprocess.Popen[str]) -> dict[str, int]:
    told, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"the reading ended with code {process.returncode}")
    found: dict[str, int] = json.loads(told)
    return found


def same_files(one: Path, other: Path) -> bool:
    """Whether both folders hold the same files with the same bytes."""
    names = [sorted(file.name for file in folder.iterdir()) for folder in (one, other)]
    return names[0] == names[1] and all((one / name).read_bytes() == (other / name).read_bytes() for name in names[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--cache", type=Path, required=True, help="folder for sound and activations")
    parser.add_argument("--read", type=Path, help="read into this folder, and nothing else")
    options = parser.parse_args()
    if options.read is not None:
        read(options.cache, options.clips, options.read)
        return
    rendered_syntheory(SET, options.cache / "syntheory", Rendering(options.clips))
    calm, killed = options.cache / "calm", options.cache / "killed"
    began = time.monotonic()
    undisturbed = finished(begin(options.cache, options.clips, calm))
    seconds = time.monotonic() - began
    draws, ended = random.Random(1), []
    for _ in range(options.kills):
        process = begin(options.cache, options.clips, killed)
        try:
            process.wait(timeout=seconds * draws.uniform(0.1, 0.9) / options.kills)
        except subprocess.TimeoutExpired:
            process.kill()
        ended.append(process.wait())
    resumed = finished(begin(options.cache, options.clips, killed))
    is_same = same_files(calm, killed)
    found = {"clips": undisturbed["clips"], "seconds": round(seconds), "exit_codes": ended, "is_same": is_same}
    print(json.dumps({**found, "peak_bytes": undisturbed["peak_bytes"], "peak_bytes_resumed": resumed["peak_bytes"]}))
    sys.exit(0 if is_same else 1)


if __name__ == "__main__":
    main()
