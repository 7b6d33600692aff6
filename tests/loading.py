"""How long a checkpoint takes to load, and how much memory: one JSON line per stored form.

`python -m tests.loading` makes checkpoints of musicgen-small's size with random weights in a temporary folder (2.4 GB)
and loads each in a fresh process; other shapes by options, as in test_checkpoint_memory. Memory is the peak of the
resident set, mapped file pages included, less what was resident before; Linux only. Floor: what is loaded must be read
once, and each weight must lie in memory once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

FORMS = ("float32 safetensors", "float16 safetensors", "float32 bin", "float16 bin")
TEXT = {"base": (768, 12, 3072), "tiny": (64, 2, 128)}


def random_checkpoint(folder: Path, form: str, width: int, layers: int, heads: int, codec_filters: int) -> int:
    """Write a random MusicGen in transformers' layout and answer the size of its weights in bytes."""
    from transformers import MusicgenConfig, MusicgenForConditionalGeneration

    text_width, text_layers, text_inner = TEXT["base" if layers >= 24 else "tiny"]
    config = MusicgenConfig(
        text_encoder={"model_type": "t5", "d_model": text_width, "num_layers": text_layers, "d_ff": text_inner},
        audio_encoder={
            "model_type": "encodec",
            "sampling_rate": 32_000,
            "audio_channels": 1,
            "hidden_size": 128,
            "num_filters": codec_filters,
            "upsampling_ratios": [8, 5, 4, 4],
            "codebook_size": 2048,
            "codebook_dim": 128,
            "target_bandwidths": [2.2],
            "use_causal_conv": False,
            "use_conv_shortcut": False,
        },
        decoder={"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "ffn_dim": 4 * width},
    )
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in MusicgenForConditionalGeneration(config).state_dict().items()}
    name, kind = form.split()
    dtype = getattr(torch, name)
    tensors = {key: torch.empty(shape, dtype=dtype).uniform_(-0.05, 0.05) for key, shape in shapes.items()}
    tensors.pop("text_encoder.encoder.embed_tokens.weight", None)  # the same table as `shared`
    config.save_pretrained(folder)
    file = folder / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
    if kind == "safetensors":
        save_file(tensors, file, metadata={"format": "pt"})
    else:
        torch.save(tensors, file)
    return file.stat().st_size


def measure(folder: Path, dtype: str) -> dict[str, float]:
    """Load in this process, which should be fresh, and answer seconds and the bytes of the peak."""
    from rfm_live.model.checkpoint import load_checkpoint

    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    began = time.perf_counter()
    model = load_checkpoint(folder, dtype=getattr(torch, dtype))
    seconds = time.perf_counter() - began
    assert model.decoder.config.layers
    return {"seconds": seconds, "peak": _status("VmHWM") - before}


def measured(form: str, **shape: Any) -> dict[str, Any]:
    """Make a checkpoint and load it in a fresh process, in the dtype it is stored in."""
    with tempfile.TemporaryDirectory() as place:
        size = random_checkpoint(Path(place), form, **shape)
        command = [sys.executable, "-m", "tests.loading", "--load", place, "--dtype", form.split()[0]]
        root = Path(__file__).parent.parent
        result = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True, timeout=300)
    found = json.loads(result.stdout.splitlines()[-1])
    return {
        "form": form,
        "file_bytes": size,
        "seconds": round(found["seconds"], 2),
        "peak_bytes": found["peak"],
        "ratio": round(found["peak"] / size, 3),
    }


def _status(name: str) -> int:
    """A figure of /proc/self/status in bytes."""
    lines: Iterator[str] = iter(Path("/proc/self/status").read_text().splitlines())
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=Path)
    parser.add_argument("--dtype", default="float32")
    for name, default in (("--width", 1024), ("--layers", 24), ("--heads", 16), ("--codec-filters", 64)):
        parser.add_argument(name, type=int, default=default)
    options = parser.parse_args()
    if options.load is not None:
        print(json.dumps(measure(options.load, options.dtype)))
        return
    shape = {name: getattr(options, name) for name in ("width", "layers", "heads", "codec_filters")}
    for form in FORMS:
        print(json.dumps(measured(form, **shape)), flush=True)


if __name__ == "__main__":
    _main()
