"""Activations: states as transformers has them, pooled by hand, stored, resumed after a kill, in bounded memory."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MusicgenForConditionalGeneration

from rfm_live.concepts import activations
from rfm_live.concepts.activations import Reading, compute_activations, open_activations
from rfm_live.concepts.clips import Clip, Collection, MemorySound, Problem, SoundFile
from rfm_live.concepts.pooling import pool_last, pool_mean, pool_segments
from rfm_live.concepts.shards import Shard, open_shard, read_layer, write_shard
from rfm_live.concepts.states import hidden_states, pooled, read_points
from rfm_live.errors import ClipError
from rfm_live.model.checkpoint import MusicGen
from tests.reading import READING, collection
from tests.sounds import tone, write, write_tones

ROOT = Path(__file__).parent.parent
HALF_FLOAT = 2.0**-11
"""Largest relative error of a float16."""


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"), [110.0 * 1.3**step for step in range(6)])


def samples_of(found: Collection) -> torch.Tensor:
    """Samples [N, 12 frames] of clips of a quarter of a second, which is half a frame more."""
    return torch.from_numpy(np.stack([clip.read(32_000)[: 12 * 640] for clip in found.clips]))


@pytest.mark.parametrize(
    ("site", "module"), [("block_output", ""), ("attention_output", "self_attn"), ("ffn_output", "fc2")]
)
def test_states_are_those_of_transformers_behind_bos_and_delay(
    tiny_path: Path, tiny_model: MusicGen, site: str, module: str
) -> None:
    """Columns laid out by hand: the pad token, then codebook k another k columns later."""
    samples = torch.from_numpy(np.stack([tone(440.0, 0.2), tone(300.0, 0.2)]))
    reference = MusicgenForConditionalGeneration.from_pretrained(tiny_path).eval()
    with torch.no_grad():
        codes = reference.audio_encoder.encode(samples[:, None]).audio_codes[0]  # [B, K, T]
        assert codes.shape == (2, 4, 10)
        columns = torch.full((2, 4, 11), 64)
        for codebook in range(4):
            columns[:, codebook, 1 + codebook :] = codes[:, codebook, : 10 - codebook]
        outputs: list[torch.Tensor] = []
        for block in reference.decoder.model.decoder.layers:
            block.get_submodule(module).register_forward_hook(
                lambda _module, _inputs, output: outputs.append(output[0] if isinstance(output, tuple) else output)
            )
        reference.decoder(input_ids=columns.reshape(8, 11))
        actual = hidden_states(tiny_model, samples, site)
    torch.testing.assert_close(actual, torch.stack(outputs, dim=1)[:, :, 1:], atol=1e-4, rtol=0)


def test_pooling_agrees_with_its_specification() -> None:
    """Two clips of 3 blocks, 11 frames of which 2 are skipped: 9 frames make segments of 3, 2, 2 and 2."""
    states = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 11, 5)).astype(np.float32))
    points = pooled(states, 4, 2)
    for clip in range(2):
        for layer in range(3):
            heard = states[clip, layer, 2:].numpy()
            np.testing.assert_allclose(points.mean[clip, layer], pool_mean(heard), atol=1e-6)
            np.testing.assert_allclose(points.last[clip, layer], pool_last(heard), atol=0)
            np.testing.assert_allclose(points.segments[clip, layer], pool_segments(heard, 4), atol=1e-6)
    np.testing.assert_allclose(pooled(states, 4, 99).mean, states[:, :, 5:].mean(2), atol=1e-6)  # never more than half
    with pytest.raises(ClipError, match="11 frames leave 6 to pool, expected at least 7"):
        pooled(states, 7, 99)


def test_a_store_gives_back_the_points_in_the_clips_order(tiny_model: MusicGen, tones: Path, tmp_path: Path) -> None:
    found = collection(tones, 19)
    told: list[tuple[int, int]] = []
    store = compute_activations(tiny_model, found, tmp_path, READING, lambda done, total: told.append((done, total)))
    assert store == open_activations(tmp_path) and store.problems == () and store.origin == "tones"
    assert [clip.name for clip in store.clips] == [f"clip{index:04d}" for index in range(19)]
    assert store.labels("even") == [1.0 - index % 2 for index in range(19)] and len(set(store.groups)) == 6
    points = read_points(tiny_model, samples_of(found), replace(READING, batch=19))
    for pooling, shape in (("mean", (19, 3, 128)), ("last", (19, 3, 128)), ("segments", (19, 4, 3, 128))):
        rows = store.rows(pooling)
        expected = points[pooling].numpy() if pooling != "segments" else points.segments.transpose(1, 2).numpy()
        assert rows.shape == shape and rows.dtype == np.float32
        np.testing.assert_allclose(rows, expected, rtol=2 * HALF_FLOAT, atol=1e-4)
        np.testing.assert_array_equal(store.layer(pooling, 1), rows[..., 1, :])
    assert told[0] == (0, 19) and told[-1] == (19, 19) and told == sorted(told) and len(told) > 4
    with pytest.raises(ClipError, match="clip0000: no label 'odd', expected even"):
        store.labels("odd")
    with pytest.raises(ValueError, match="no 'mean' of block 3"):
        store.layer("mean", 3)


def test_unfit_clips_are_listed_and_the_others_kept(tiny_model: MusicGen, tones: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "tone.wav", tone(440.0, 2.0))
    sounds = {
        "good": SoundFile(file),
        "gone": SoundFile(tmp_path / "gone.wav"),
        "silent": MemorySound(np.zeros(32_000, np.float32), 32_000),
        "short": MemorySound(tone(440.0, 0.1), 32_000),
        "long": MemorySound(tone(440.0, 11.0), 32_000),
        "other length": MemorySound(tone(440.0, 0.77), 32_000),
    }
    clips = tuple(Clip(name, name, {"x": 1.0}, 1.0, sound) for name, sound in sounds.items())
    listed = Problem("text.wav", "cannot be read")
    store = compute_activations(tiny_model, Collection(clips, (listed,), "", ""), tmp_path / "store", READING)
    assert [clip.name for clip in store.clips] == ["good", "other length"] and store.rows("mean").shape == (2, 3, 128)
    assert {problem.name: problem.reason for problem in store.problems} == {
        "text.wav": "cannot be read",
        "gone": "does not exist",
        "silent": "silent: -200 dB, expected at least -60",
        "short": "is 5 frames long, expected 8..511",
        "long": "is 550 frames long, expected 8..511",
    }
    with pytest.raises(ClipError, match="none of 1 clips can be used: silent: silent: -200 dB"):
        compute_activations(tiny_model, Collection(clips[2:3], (), "", ""), tmp_path / "none", READING)
    with pytest.raises(ClipError, match="two clips are called 'good'"):
        compute_activations(tiny_model, Collection(clips[:1] * 2, (), "", ""), tmp_path / "double", READING)


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}


def test_only_what_changed_is_computed_again(tiny_model: MusicGen, tones: Path, tmp_path: Path) -> None:
    computed: list[str] = []

    def counting(model: MusicGen, tasks, advance) -> None:
        computed.extend(task.file.name for task in tasks)
        activations.run_locally(model, tasks, advance)

    found = collection(tones, 20)
    compute_activations(tiny_model, found, tmp_path, READING, run=counting)
    assert len(computed) == 3
    first = shard_bytes(tmp_path)
    changed = replace(found.clips[9], sound=MemorySound(tone(777.0, 0.5), 32_000))
    for again, expected in (
        (found, []),
        (replace(found, clips=(*found.clips[:9], changed, *found.clips[10:])), ["shard_00001.safetensors"]),
        (found, ["shard_00001.safetensors"]),
        (replace(found, clips=tuple(replace(clip, labels={"y": 0.0}) for clip in found.clips)), []),
        (replace(found, clips=found.clips[:16]), []),
    ):
        computed.clear()
        store = compute_activations(tiny_model, again, tmp_path, READING, run=counting)
        assert computed == expected and [clip.labels for clip in store.clips] == [clip.labels for clip in again.clips]
    assert list(shard_bytes(tmp_path)) == ["shard_00000.safetensors", "shard_00001.safetensors"]
    torn = tmp_path / "shard_00001.safetensors"
    torn.write_bytes(torn.read_bytes()[:-10])
    computed.clear()
    compute_activations(tiny_model, found, tmp_path, READING, run=counting)
    assert computed == ["shard_00001.safetensors", "shard_00002.safetensors"] and shard_bytes(tmp_path) == first
    computed.clear()
    compute_activations(tiny_model, found, tmp_path, replace(READING, segments=5), run=counting)
    assert len(computed) == 3


def start_reading(checkpoint: Path, folder: Path, count: int, target: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.reading", str(checkpoint), str(folder), str(count), str(target)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    tiny_path: Path, tiny_model: MusicGen, tones: Path, tmp_path: Path
) -> None:
    """Killed as soon as two of ten shards are there, whatever it is doing then."""
    expected = tmp_path / "whole"
    compute_activations(tiny_model, collection(tones, 80), expected, READING)
    target = tmp_path / "killed"
    process = start_reading(tiny_path, tones, 80, target)
    deadline = time.monotonic() + 60
    while len(shard_bytes(target)) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = shard_bytes(target)
    assert 2 <= len(done) < 10 and not (target / "activations.json").exists()
    with pytest.raises(ClipError, match="holds no finished activations"):
        open_activations(target)
    compute_activations(tiny_model, collection(tones, 80), target, READING)
    assert shard_bytes(target) == shard_bytes(expected)
    assert (target / "activations.json").read_bytes() == (expected / "activations.json").read_bytes()


def test_memory_does_not_grow_with_the_number_of_clips(tiny_path: Path, tones: Path, tmp_path: Path) -> None:
    """500 clips after 50: 450 more clips' points alone take 4 MiB, their samples 14."""
    output, _ = start_reading(tiny_path, tones, 500, tmp_path).communicate(timeout=120)
    before, after = map(int, output.split())
    assert after - before < 2_560, (before, after)


def test_float16_takes_large_residual_streams(tmp_path: Path) -> None:
    """The middle block is beyond float16's 65504; the others keep a scale of 1."""
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((7, 3, 16)).astype(np.float32) * np.float32([[1.0], [3e6], [200.0]])
    segments = rng.standard_normal((7, 3, 2, 16)).astype(np.float32)
    file = tmp_path / "shard_00000.safetensors"
    write_shard(file, Shard("abc", tuple("abcdefg"), (Problem("h", "silent"),)), {"mean": mean, "segments": segments})
    assert open_shard(file) == Shard("abc", tuple("abcdefg"), (Problem("h", "silent"),))
    for layer in range(3):
        np.testing.assert_allclose(
            read_layer(file, "mean", layer), mean[:, layer], rtol=HALF_FLOAT, atol=1e-2 * (layer == 1)
        )
        np.testing.assert_allclose(read_layer(file, "segments", layer), segments[:, layer], rtol=HALF_FLOAT, atol=0.02)
    assert np.abs(mean[:, 1]).max() > 65_504


def test_a_model_that_overflows_is_told_by_block(tiny_path: Path, tones: Path, tmp_path: Path) -> None:
    from rfm_live.model.checkpoint import load_checkpoint

    model = load_checkpoint(tiny_path)
    with torch.no_grad():
        model.decoder.blocks[1].ffn_out.weight.fill_(torch.inf)
    with pytest.raises(ClipError, match="clip0000: block 1 of the model answers NaN or infinity"):
        compute_activations(model, collection(tones, 3), tmp_path, READING)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"site": "logits"}, "site is 'logits', expected block_output, attention_output, ffn_output"),
        ({"segments": 0}, "segments is 0, expected 1 or more"),
        ({"batch": 0}, "batch is 0"),
        ({"skipped_seconds": float("nan")}, "skipped seconds are nan"),
    ],
)
def test_a_wrong_reading_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ClipError, match=message):
        Reading(**wrong)


def test_broken_stores_say_so(tiny_model: MusicGen, tones: Path, tmp_path: Path) -> None:
    store = compute_activations(tiny_model, collection(tones, 9), tmp_path, READING)
    (tmp_path / "shard_00001.safetensors").unlink()
    with pytest.raises(ClipError, match=r"shard '.*shard_00001.safetensors' is missing or broken"):
        store.layer("mean", 0)
    index = json.loads((tmp_path / "activations.json").read_text())
    for content, message in (
        ("{", "is broken"),
        (json.dumps({**index, "format": 7}), "has format 7, expected 1"),
        (json.dumps({**index, "clips": [{"name": "a"}]}), "is broken"),
        (json.dumps({key: value for key, value in index.items() if key != "layers"}), "is broken: 'layers'"),
    ):
        (tmp_path / "activations.json").write_text(content)
        with pytest.raises(ClipError, match=message):
            open_activations(tmp_path)
    with pytest.raises(ClipError, match="cannot be written"):
        compute_activations(tiny_model, collection(tones, 1), tmp_path / "activations.json" / "below", READING)
