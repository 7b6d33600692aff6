"""The commands without clock or devices: render, doctor, devices, and what they say of wrong input."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer

from rfm_live.cli.console import one_line_errors
from rfm_live.cli.render import Setting, parse_setting
from rfm_live.errors import AudioError, ControlError
from tests.performance import command, environment


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(), cwd=folder, timeout=180
    )


def test_render_writes_the_same_samples_twice_and_others_once_a_knob_turns(tmp_path: Path) -> None:
    knobs = {"a": [], "b": [], "c": ["--set", "note_c=1@1"]}
    samples = {}
    for name, settings in knobs.items():
        result = run("render", "", "--seconds", "2", "--seed", "7", *settings, "-o", f"{name}.wav", folder=tmp_path)
        assert result.returncode == 0, result.stderr
        samples[name], rate = soundfile.read(tmp_path / f"{name}.wav")
        assert (rate, len(samples[name])) == (32_000, 64_000)
    assert np.array_equal(samples["a"], samples["b"])
    assert np.array_equal(samples["a"][:32_000], samples["c"][:32_000])
    assert not np.array_equal(samples["a"], samples["c"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "note_c"), "is not NAME=VALUE"),
        (("--set", "note_c=9"), "expected -2..2"),
        (("--set", "note_h=1"), "unknown address"),
        (("--set", "note_c=loud"), "expected a number"),
        (("--set", "/top_k=nan"), "expected 0..2048"),
        (("--set", "/top_k=1.5"), "expected a whole number"),
        (("--set", "note_c=1@5"), "the music ends at 1 s"),
        (("--set", "/sync=1"), "unknown to the engine"),
        (("--seed", "2147483648"), "expected 0..2147483647"),
        (("--seconds", "0"), "length is 0 s"),
        (("-o", "x.mp3"), "expected .wav or .flac"),
        (("-o", "no/where.wav"), "does not exist"),
        (("--checkpoint", "nowhere"), "holds no config.json"),
        (("--precision", "fp8"), "expected one of fp32, fp16, int8"),
        (("--compute", "tpu"), "expected cpu, cuda, cuda:N or mps"),
        (("--compute", "meta"), "expected cpu, cuda, cuda:N or mps"),
        (("--compute", "cuda:99"), "but torch sees"),
    ],
)
def test_a_wrong_render_ends_with_one_line_and_code_2(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run("render", "", "--seconds", "1", *arguments, folder=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_error_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets and colons are no markup and no emoji."""
    text = "JACK needs pip install 'rfm-live[jack]', not :musical_note: [/x]"
    with pytest.raises(typer.Exit), one_line_errors():
        raise AudioError(text)
    assert capsys.readouterr().err == f"rfm-live: {text}\n"


@pytest.mark.parametrize("ending", [UnboundLocalError, AudioError])
def test_ctrl_c_is_told_as_such_even_if_a_library_fails_over_it(
    ending: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    """As transformers does, which Ctrl-C may meet while it exchanges methods of torch."""
    with pytest.raises(typer.Exit) as ended, one_line_errors():
        try:
            raise KeyboardInterrupt
        finally:
            raise ending("the tidying up failed")
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "rfm-live: stopped\n"


def test_an_error_of_nobody_is_shown_whole() -> None:
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError


def test_doctor_measures_this_machine(tmp_path: Path) -> None:
    result = run("doctor", folder=tmp_path)
    assert "frame of 20 ms" in result.stdout
    assert "real time" in result.stdout
    assert "35 concepts" in result.stdout


def test_devices_lists_or_says_what_is_missing(tmp_path: Path) -> None:
    result = run("devices", folder=tmp_path)
    assert result.returncode in (0, 2)
    assert result.stdout or "libportaudio2" in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("note_c=1", Setting("/concept/note_c/eta", "1", 0.0)),
        ("note_c=-0.5@10", Setting("/concept/note_c/eta", "-0.5", 10.0)),
        ("/temperature=0.8@2.5", Setting("/temperature", "0.8", 2.5)),
        ("/prompt=slow piano@3", Setting("/prompt", "slow piano", 3.0)),
    ],
)
def test_settings_are_read(text: str, expected: Setting) -> None:
    assert parse_setting(text) == expected


@pytest.mark.parametrize(
    "text", ["", "=1", "note_c=", "note_c=1@", "note_c=1@-1", "note_c=1@soon", "note_c=1@inf", "note_c=1@nan"]
)
def test_settings_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ControlError, match="NAME=VALUE"):
        parse_setting(text)
