"""The bench: bytes as one counts them by hand, peers that do the same work, and a run that obeys physics."""

import copy
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rfm_live.bench.machine import available_bytes, other_core_busy, resident_bytes, this_machine
from rfm_live.bench.peers import generate_laps, steered_by_hooks
from rfm_live.bench.report import Section
from rfm_live.bench.run import SECTIONS, Options, too_large
from rfm_live.bench.shapes import (
    CODEC_32KHZ,
    SIZES,
    Pair,
    Size,
    cache_bytes,
    decoder_bytes,
    random_pair,
    step_bytes,
    toy_codec,
    weight_bytes,
)
from rfm_live.bench.steps import CONCEPTS
from rfm_live.bench.timing import Floats, Laps, bandwidth, in_turn, ratio
from rfm_live.errors import StartError
from rfm_live.model.codec import Codec
from tests.performance import command, environment

CPU = torch.device("cpu")


def _laps(*rounds: list[float]) -> Laps:
    seconds = np.array(rounds)
    return Laps(seconds, seconds, seconds)


def test_a_ratio_is_the_median_of_the_rounds_medians() -> None:
    slower, faster = _laps([4, 4, 90], [6, 6, 6], [8, 8, 8]), _laps([1, 1, 50], [2, 2, 2], [4, 4, 4])
    assert ratio(slower, faster) == 3.0  # of 4, 3 and 2
    assert slower.cost(_laps([3, 3, 3], [5, 5, 5], [7, 7, 7])) == pytest.approx(1 / 5)


def test_subjects_run_in_turn_after_a_round_that_warms_up() -> None:
    order = []

    def block(name: str) -> Floats:
        order.append(name)
        return np.array([[len(order), 10.0 * len(order)]] * 2)

    laps = in_turn({"a": lambda: block("a"), "b": lambda: block("b")}, 2, CPU)
    assert order == ["a", "b"] * 3
    assert laps["b"].wall.tolist() == [[4, 4], [6, 6]]
    assert laps["b"].processor.tolist() == [[40, 40], [60, 60]]


def test_figures_are_of_processor_time_on_a_cpu_and_of_the_wall_clock_elsewhere() -> None:
    rounds = [np.array([[1.0, 0.5]])]
    assert Laps.of(rounds, CPU).p50_ms == 500.0
    assert Laps.of(rounds, torch.device("meta")).p50_ms == 1000.0
    assert Laps.of(rounds, CPU).wall_ms(99) == 1000.0


def test_bandwidth_is_that_of_bytes_read_and_written() -> None:
    speed = bandwidth(CPU, 1 << 24, runs=2)
    assert 1e8 < speed.copy < 1e13 and 1e8 < speed.read < 1e13  # between a floppy disk and all of a GPU
    assert speed.best == max(speed.copy, speed.read)


@pytest.mark.parametrize(
    ("size", "parameters"), [("small", 419_584_000), ("medium", 1_837_556_736), ("large", 3_255_382_016)]
)
def test_the_published_sizes_weigh_what_transformers_counts(size: str, parameters: int) -> None:
    """The numbers are transformers' own count of MusicgenForCausalLM, without the projection of the text."""
    config = SIZES[size].config
    assert weight_bytes(config) == 4 * (parameters + 769 * config.width)


def test_a_step_reads_what_transformers_decoder_holds_but_for_the_tables_and_the_texts_keys() -> None:
    from transformers import MusicgenForCausalLM
    from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

    config = MusicgenDecoderConfig(hidden_size=128, num_hidden_layers=3, num_attention_heads=2, ffn_dim=512)
    with torch.device("meta"):
        reference = MusicgenForCausalLM(config)
    left_out = ("embed_tokens", "encoder_attn.k_proj", "encoder_attn.v_proj")
    read = sum(p.numel() for name, p in reference.named_parameters() if not any(part in name for part in left_out))
    size, long = Size(128, 3).config, 1000  # a text so long that its projections are fewer bytes than their products
    text = 3 * 2 * long * 128
    assert step_bytes(size, rows=0, context=0, text_tokens=long) == 4 * (read + 4 * 128 + text)
    products = step_bytes(size, 0, 0, text_tokens=7) - step_bytes(size, 0, 0, text_tokens=0)
    assert products == 4 * 3 * 2 * 128 * 2 * 7  # a text of 7 tokens on 2 heads, multiplied out
    remembered = step_bytes(size, rows=2, context=10, text_tokens=0) - step_bytes(size, 0, 0, 0)
    assert remembered == 4 * 2 * 2 * 11 * 128 * 3
    norms = 4 * 128 * (6 * 3 + 2 + 4)
    whole, rounded = (step_bytes(size, 0, 0, 0, weight_bytes=number_bytes) for number_bytes in (4, 1))
    assert rounded - norms == (whole - norms) / 4


def test_keys_and_values_take_what_they_take() -> None:
    assert cache_bytes(SIZES["small"].config, rows=2, columns=1503, number_bytes=2) == 295_501_824  # by hand


def test_a_push_reads_the_weights_of_the_codecs_decoder() -> None:
    for config in (CODEC_32KHZ, replace(toy_codec(64), conv_shortcut=True, residual_layers=2)):
        with torch.device("meta"):
            decoder = Codec(config).decoder
        assert decoder_bytes(config) == 4 * sum(p.numel() for p in decoder.parameters() if p.dim() > 1)


@pytest.fixture(scope="module")
def pair() -> Pair:
    size = replace(Size(128, 3, text_width=48).config, vocab=64)
    return random_pair(size, toy_codec(64), CPU)


def test_both_models_of_a_pair_compute_the_same(pair: Pair) -> None:
    assert pair.logit_difference(pair.ours.decoder) < 1e-4
    assert pair.logit_difference(pair.in_precision("fp32")) < 1e-4
    other = copy.deepcopy(pair.ours.decoder)
    other.heads.weight[0, 0] += 1.0
    assert pair.logit_difference(other) > 1e-3


def test_hooks_steer_as_our_steering_does(pair: Pair) -> None:
    decoder, generator = pair.ours.decoder, torch.Generator().manual_seed(5)
    directions = torch.randn(4, 3, 128, generator=generator)  # [C, L, D]
    codes = torch.randint(0, 64, (1, 4, 6), generator=generator)
    ones = torch.ones_like(pair.tokens)

    def theirs() -> torch.Tensor:
        given = {"input_ids": pair.tokens, "attention_mask": ones, "decoder_input_ids": codes[0]}
        with torch.inference_mode():
            return pair.reference(**given).logits.transpose(0, 1)  # type: ignore[no-any-return]

    plain = theirs()
    with steered_by_hooks(pair.reference, directions, 0.3):
        steered = theirs()
    with torch.inference_mode():
        cross = decoder.new_cross(*pair.prompt())
        ours = decoder(codes, 0, decoder.new_cache(1, 6), cross, 0.3 * directions.sum(0))[0]
    torch.testing.assert_close(steered, ours, atol=1e-4, rtol=0)
    assert (steered - plain).abs().max() > 0.01
    assert torch.equal(theirs(), plain)  # the hooks are gone


def test_every_step_of_the_peer_is_timed_but_the_first(pair: Pair) -> None:
    laps = generate_laps(pair.reference, pair.tokens, steps=5, guidance=3.0, top_k=10)
    assert laps.shape == (5, 2) and (laps > 0).all()


def test_a_shape_whose_two_models_do_not_fit_is_left_out_by_name() -> None:
    assert too_large("medium", CPU, 17_000_000_000) is None
    reason = too_large("large", CPU, 24_000_000_000)  # 2 * 4 * 3.257e9 bytes, and 2 GB around them
    assert reason == "large: two models in float32 take 28.2 GB, and 24.0 GB are free"
    assert too_large("large", CPU, None) is None


def test_both_models_of_a_pair_hold_one_set_of_weights(pair: Pair) -> None:
    ours, theirs = (
        {part.untyped_storage().data_ptr() for part in module.parameters()}
        for module in (pair.ours.decoder, pair.reference.decoder)
    )
    assert theirs <= ours


@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that tells how much memory is free")
def test_memory_that_is_free_is_part_of_all_of_it() -> None:
    free, all_of_it = available_bytes(), this_machine().memory_bytes
    assert free is not None and 0 < free < all_of_it


def test_another_core_is_kept_busy_only_meanwhile() -> None:
    with other_core_busy() as is_busy:
        assert isinstance(is_busy, bool)
    size = resident_bytes()
    assert size is None or size > 1 << 20


def test_a_section_is_a_table_of_markdown() -> None:
    section = Section("Speed", ("One.", "Two."), ("what", "ms"), (("a step", "1.5"),))
    assert section.markdown() == "## Speed\n\nOne. Two.\n\n| what | ms |\n| --- | ---: |\n| a step | 1.5 |\n"


@pytest.mark.parametrize(
    ("sections", "shapes", "minutes", "words"),
    [
        (("steps",), (), 1.0, "section 'steps' is unknown, expected one of step, steering, decoding, stream"),
        ((), ("tiny",), 1.0, "shape 'tiny' is unknown, expected one of embedded, small, medium, large"),
        ((), (), 0.0, "stream is 0 minutes, expected 0.01..1440"),
        ((), (), float("nan"), "stream is nan minutes"),
    ],
)
def test_wrong_options_are_refused(
    sections: tuple[str, ...], shapes: tuple[str, ...], minutes: float, words: str
) -> None:
    with pytest.raises(StartError, match=words):
        Options(sections, shapes, minutes, False)


def _bench(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = command("bench", *arguments)
    return subprocess.run(line, capture_output=True, text=True, env=environment(), cwd=folder, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "nowhere"), "device 'nowhere' is not on this machine"),
        (("--write", "no/where.md"), "its folder does not exist"),
    ],
)
def test_a_wrong_bench_ends_with_one_line_and_code_2(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = _bench(*arguments, folder=tmp_path)
    assert result.returncode == 2 and words in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_a_quick_run_ends_with_figures_that_obey_physics(tmp_path: Path) -> None:
    result = _bench("--quick", "--write", "found.md", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert set(found) == {"machine", *SECTIONS, "not_measured"} and found["not_measured"] == []
    step = found["step"]["embedded"]
    for ours in step["ours"].values():
        assert 0 < ours["floor_ms"] < ours["p50_ms"] <= ours["p95_ms"] <= ours["p99_ms"]
        assert ours["floor_ms"] < ours["transformers_ms"] and ours["ratio"] > 0
        assert ours["share_of_floor"] == pytest.approx(ours["floor_ms"] / ours["p50_ms"], rel=0.01)
    assert step["ours"]["fp32"]["logit_difference"] < 1e-4
    steering = found["steering"]["embedded"]
    assert set(steering) == {str(concepts) for concepts in CONCEPTS} and steering["0"]["ours_cost"] == 0.0
    assert steering["32"]["hooks_ms"] > steering["0"]["hooks_ms"] > 0
    decoding = found["decoding"]["embedded"]
    assert 0 < decoding["chunks_of_5"] < decoding["floor_factor_of_5"]
    assert decoding["largest_error"] < 1e-5
    stream = found["stream"]
    assert stream["frame"]["p50_ms"] <= stream["frame"]["p99_ms"] and stream["last_minute_over_first"] > 0
    assert stream["cache_bytes"] > 0
    written = (tmp_path / "found.md").read_text()
    assert "cut off" not in written
    assert written.count("## ") == 4 and "`rfm-live bench --minutes 1 --quick`" in written


def test_a_run_that_is_cut_off_keeps_what_was_measured(tmp_path: Path) -> None:
    written = tmp_path / "found.md"
    line = command("bench", "decoding", "stream", "--minutes", "30", "--write", str(written))
    running = subprocess.Popen(line, env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 240
        while running.poll() is None and time.monotonic() < until:
            if written.is_file() and "## " in written.read_text():
                running.send_signal(signal.SIGINT)
                break
            time.sleep(0.05)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 130 and "stopped" in said.decode(), said.decode()
    text = written.read_text()
    assert text.count("## ") == 1 and "| embedded |" in text and "the run was cut off" in text
