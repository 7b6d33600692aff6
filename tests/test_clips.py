"""Clips, and folders and tables of them: every format, and each kind of bad file in one clear line."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from rfm_live.concepts.clips import Clip, MemorySound, SoundFile
from rfm_live.concepts.folders import Cutting, class_folders, csv_table, two_folders
from rfm_live.errors import ClipError
from tests.sounds import frequency_hz, tone, write, write_tones

SUBTYPES = {"mp3": "MPEG_LAYER_III", "ogg": "VORBIS"}


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg"])
def test_every_format_and_rate_keeps_pitch_length_and_level(tmp_path: Path, ending: str, rate: int) -> None:
    file = write(tmp_path / f"a.{ending}", tone(440.0, 1.5, rate), rate, SUBTYPES.get(ending))
    samples = SoundFile(file).read(32_000)
    assert len(samples) == pytest.approx(1.5 * 32_000, abs=3_000 if ending == "mp3" else 2)
    middle = samples[8_000:40_000]
    assert frequency_hz(middle, 32_000) == pytest.approx(440.0, abs=0.2)
    assert np.sqrt(np.square(middle).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_channels_are_averaged(tmp_path: Path) -> None:
    """Five channels, of which only the second sounds: a fifth of it is left."""
    channels = np.zeros((32_000, 5), np.float32)
    channels[:, 1] = tone(440.0, 1.0)
    samples = SoundFile(write(tmp_path / "a.wav", channels, subtype="FLOAT")).read(32_000)
    np.testing.assert_allclose(samples, tone(440.0, 1.0) / 5, atol=1e-7)


def test_a_part_of_a_file_is_those_samples(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 64_000).astype(np.float32)
    file = write(tmp_path / "a.wav", noise, subtype="FLOAT")
    assert (SoundFile(file, 0.5, 0.25).read(32_000) == noise[16_000:24_000]).all()
    assert (SoundFile(file, 1.9, 1.0).read(32_000) == noise[60_800:]).all()  # no more than there is
    quiet = SoundFile(file, 0.5, 0.25, peak=0.125).read(32_000)
    np.testing.assert_allclose(quiet, noise[16_000:24_000] * (0.125 / np.abs(noise[16_000:24_000]).max()), rtol=1e-5)


def test_identity_changes_with_the_file_and_the_part(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", tone(440.0, 1.0))
    known = {SoundFile(file).identity, SoundFile(file, 0.5).identity, SoundFile(file, peak=0.5).identity}
    assert len(known) == 3 and SoundFile(file).identity in known
    write(file, tone(440.0, 1.1))
    assert SoundFile(file).identity not in known
    one, other = MemorySound(tone(440.0, 0.1), 32_000), MemorySound(tone(441.0, 0.1), 32_000)
    assert one.identity == MemorySound(tone(440.0, 0.1), 32_000).identity != other.identity


def spoiled(value: float) -> np.ndarray:
    samples = tone(440.0, 1.0)
    samples[100:103] = value
    return samples


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(32_000, np.float32), "silent: -200 dB, expected at least -60"),
        (tone(440.0, 1.0, peak=1e-4), "silent: -83 dB, expected at least -60"),
        (spoiled(np.nan), "3 of 32000 samples are NaN or infinite"),
        (spoiled(np.inf), "3 of 32000 samples are NaN or infinite"),
        (np.clip(20.0 * tone(440.0, 1.0), -1.0, 1.0), "overdriven: 94% of the samples lie at full scale"),
        (np.zeros(0, np.float32), "holds no samples"),
    ],
)
def test_an_unfit_clip_says_why(tmp_path: Path, samples: np.ndarray, reason: str) -> None:
    file = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    for sound in (SoundFile(file), MemorySound(samples, 32_000)):
        with pytest.raises(ClipError) as caught:
            Clip("a", "a", {}, 1.0, sound).read(32_000)
        assert str(caught.value) == reason


def test_loud_and_quiet_music_is_fit(tmp_path: Path) -> None:
    for name, samples in (("loud", tone(440.0, 1.0, peak=1.0)), ("float", tone(440.0, 1.0, peak=1.8))):
        file = write(tmp_path / f"{name}.wav", samples, subtype="FLOAT")
        assert len(SoundFile(file, peak=0.9).read(32_000)) == 32_000


def test_long_files_become_clips_of_one_group(tmp_path: Path) -> None:
    """10.5 s in clips of 4: two whole ones and 2.5 s; a second file of 8.5 s loses its half second."""
    write(tmp_path / "in" / "deep" / "long.flac", tone(440.0, 10.5))
    write(tmp_path / "in" / "short.wav", tone(440.0, 8.5))
    write(tmp_path / "out" / "a.wav", tone(220.0, 1.2))
    found = two_folders(tmp_path / "in", tmp_path / "out", "bright", Cutting(peak=None))
    assert [(clip.name, clip.group, clip.seconds) for clip in found.clips] == [
        ("with/deep/long.flac at 0.00 s", "with/deep/long.flac", 4.0),
        ("with/deep/long.flac at 4.00 s", "with/deep/long.flac", 4.0),
        ("with/deep/long.flac at 8.00 s", "with/deep/long.flac", 2.5),
        ("with/short.wav at 0.00 s", "with/short.wav", 4.0),
        ("with/short.wav at 4.00 s", "with/short.wav", 4.0),
        ("without/a.wav at 0.00 s", "without/a.wav", pytest.approx(1.2)),
    ]
    assert [clip.labels for clip in found.clips] == [{"bright": 1.0}] * 5 + [{"bright": 0.0}]
    assert [len(clip.read(32_000)) for clip in found.clips] == [128_000] * 2 + [80_000] + [128_000] * 2 + [38_400]


def test_overlapping_clips_do_not_repeat_the_end(tmp_path: Path) -> None:
    write_tones(tmp_path / "in", [440.0], 7.0)
    write_tones(tmp_path / "out", [220.0], 2.0)
    found = two_folders(tmp_path / "in", tmp_path / "out", "x", Cutting(hop_seconds=1.5))
    assert [clip.name.split(" at ")[1] for clip in found.clips] == ["0.00 s", "1.50 s", "3.00 s", "0.00 s"]


def broken_files(folder: Path) -> dict[str, str]:
    """Files of which nothing can be learned, and what is said of each."""
    whole = write(folder / "whole.flac", tone(440.0, 2.0)).read_bytes()
    (folder / "corrupt.flac").write_bytes(b"RIFFxxxx" + whole[:400])
    (folder / "cut.wav").write_bytes(b"RIFF")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("this is no music\n" * 50)
    (folder / "phone.m4a").write_bytes(whole)
    (folder / "link.wav").symlink_to(folder / "nowhere.wav")
    write(folder / "short.wav", tone(440.0, 0.3))
    (folder / "whole.flac").unlink()
    return {
        "corrupt.flac": "cannot be read: ",
        "cut.wav": "cannot be read: ",
        "empty.wav": "is empty",
        "text.mp3": "cannot be read: ",
        "phone.m4a": ".m4a files are not read, convert it to wav or flac",
        "link.wav": "does not exist",
        "short.wav": "too short: 0.30 s, expected at least 1",
    }


def test_broken_files_are_listed_with_their_reason(tmp_path: Path) -> None:
    expected = broken_files(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("not a sound file, and not meant as one")
    (tmp_path / "in" / ".hidden.wav").write_bytes(b"")
    write_tones(tmp_path / "in", [440.0])
    write_tones(tmp_path / "out", [220.0])
    found = two_folders(tmp_path / "in", tmp_path / "out", "x")
    assert [clip.group for clip in found.clips] == ["with/tone_440.wav", "without/tone_220.wav"]
    told = {problem.name.removeprefix("with/"): problem.reason for problem in found.problems}
    assert told.keys() == expected.keys()
    for name, reason in expected.items():
        assert told[name].startswith(reason) and "\n" not in told[name], told[name]
    assert str(found.problems[0]).startswith("with/corrupt.flac: cannot be read: ")


def test_a_folder_without_usable_sound_ends_in_one_line(tmp_path: Path) -> None:
    write_tones(tmp_path / "in", [440.0])
    (tmp_path / "out").mkdir()
    for out, message in (
        ("nowhere", "folder '.*nowhere' cannot be read: no such file or directory"),
        ("out", r"'.*out' holds no sound file \(.wav, .flac, .mp3, .ogg ...\)"),
        ("in", "hold the same files"),
        ("in/tone_440.wav", "hold the same files"),
    ):
        with pytest.raises(ClipError, match=message):
            two_folders(tmp_path / "in", tmp_path / out, "x")
    write(tmp_path / "out" / "a.wav", tone(440.0, 0.2))
    with pytest.raises(ClipError, match=r"no usable sound file \(1 tried\); without/a.wav: too short: 0.20 s"):
        two_folders(tmp_path / "in", tmp_path / "out", "x")


def test_every_folder_is_a_class(tmp_path: Path) -> None:
    for name, hertz in (("low", 110.0), ("mid", 440.0), ("high", 1760.0)):
        write_tones(tmp_path / name, [hertz, 1.05 * hertz])
    found = class_folders(tmp_path, "register")
    assert [clip.labels["register"] for clip in found.clips] == ["high", "high", "low", "low", "mid", "mid"]
    assert len({clip.group for clip in found.clips}) == 6
    with pytest.raises(ClipError, match="holds 0 folders, expected one for each of 2 classes or more"):
        class_folders(tmp_path / "low")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_gives_classes_and_numbers(tmp_path: Path, separator: str) -> None:
    write_tones(tmp_path / "audio", [220.0, 440.0])
    table = tmp_path / "table.csv"
    rows = [["path", "mood", "bpm"], ["audio/tone_220.wav", "dark", "90"], ["audio/tone_440.wav", "bright", "128.5"]]
    table.write_text("\ufeff" + "\n".join(separator.join(row) for row in rows) + "\n\n")
    found = csv_table(table)
    assert [clip.labels for clip in found.clips] == [{"mood": "dark", "bpm": 90.0}, {"mood": "bright", "bpm": 128.5}]
    assert [clip.group for clip in found.clips] == ["audio/tone_220.wav", "audio/tone_440.wav"]


def test_a_table_with_a_missing_file_lists_it(tmp_path: Path) -> None:
    write_tones(tmp_path, [220.0])
    (tmp_path / "table.csv").write_text("path,mood\ntone_220.wav,dark\nnowhere.wav,bright\n")
    found = csv_table(tmp_path / "table.csv")
    assert [str(problem) for problem in found.problems] == ["nowhere.wav: does not exist"]
    assert [clip.group for clip in found.clips] == ["tone_220.wav"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns are '', expected 'path' and one for each label"),
        ("file,mood\na.wav,dark\n", "columns are 'file,mood', expected 'path'"),
        ("path\na.wav\n", "columns are 'path', expected 'path' and one for each label"),
        ("path,mood,mood\na.wav,dark,dark\n", "expected 'path' and one for each label"),
        ("path,mood\n", "the table has no rows"),
        ("path,mood\na.wav,dark\n\nb.wav\n", "row 3 has 1 fields, expected 2"),
        ("path,mood\na.wav,dark\nb.wav,\n", "row 2 has no mood"),
        ("path,mood\na.wav,dark\na.wav,bright\n", "row 2 names 'a.wav', as row 1 does"),
        ("path,bpm\na.wav,90\nb.wav,12O\nc.wav,100\n", "row 2 has the bpm '12O', expected a number"),
        ("path,bpm\na.wav,90\nb.wav,nan\nc.wav,100\n", "row 2 has the bpm 'nan', expected a number"),
        ("path,mood\na.wav,dark\n", r"no usable sound file \(1 tried\); a.wav: does not exist"),
    ],
)
def test_a_bad_table_names_the_row(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ClipError, match=message) as caught:
        csv_table(tmp_path / "table.csv")
    assert str(tmp_path / "table.csv") in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_that_is_no_text_or_not_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"path,mood\n\xff\xfe,x\n")
    with pytest.raises(ClipError, match="is not UTF-8: byte 10"):
        csv_table(tmp_path / "table.csv")
    with pytest.raises(ClipError, match="cannot be read: no such file or directory"):
        csv_table(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": 0.0}, {"seconds": float("nan")}, {"hop_seconds": 0.01}, {"shortest_seconds": 5.0}, {"peak": 1.5}],
)
def test_wrong_cutting_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ClipError, match="expected"):
        Cutting(**wrong)


def test_a_header_that_claims_centuries_is_refused(tmp_path: Path) -> None:
    """An uncompressed AU file may leave its length open; here a rate of 1 Hz makes 90,000 samples more than a day."""
    soundfile.write(tmp_path / "a.au", np.full(90_000, 0.5), 1)
    write_tones(tmp_path / "out", [220.0])
    (tmp_path / "table.csv").write_text("path,mood\na.au,dark\nout/tone_220.wav,bright\n")
    found = csv_table(tmp_path / "table.csv")
    assert [str(problem) for problem in found.problems] == ["a.au: too long: 90000 s, expected at most 86400"]
