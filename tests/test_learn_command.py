"""`rfm-live learn` and `rfm-live bank` from the outside: banks out of folders of sound, one line for what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from rfm_live.cli.app import app
from rfm_live.concepts.calibration import Listening
from rfm_live.embedded import LISTENING_PROMPT
from rfm_live.places import shipped_bank
from rfm_live.steering.bank import ConceptBank, load_bank, read_bank, renamed, save_bank
from tests.sounds import tone, write, write_tones
from tests.test_bank import some_bank


def here(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, arguments)))


def said(result: Result) -> str:
    """The one line that a refusal is."""
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """high/ and low/: eight tones each, of one second; one file of high/ is broken."""
    root = tmp_path_factory.mktemp("audio")
    write_tones(root / "high", [1000.0 + 50 * step for step in range(8)])
    write_tones(root / "low", [150.0 + 5 * step for step in range(8)])
    (root / "high" / "torn.wav").write_bytes(b"RIFF and no more")
    return root


@pytest.fixture(scope="module")
def learned(folders: Path, tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The bank that the command learns from them without listening, and what it tells as JSON."""
    place = tmp_path_factory.mktemp("learned")
    arguments = ["--name", "height", "--seeds", "0", "--checkpoint", tiny_path, "--cache", place / "cache", "--json"]
    result = here("learn", "--folders", folders / "high", folders / "low", *arguments, "-o", place / "h.safetensors")
    assert result.exit_code == 0, result.output
    return place, json.loads(result.stdout)


def test_two_folders_become_a_checked_bank(learned: tuple[Path, dict[str, object]], tiny_path: Path) -> None:
    place, told = learned
    bank = read_bank(place / "h.safetensors")
    assert bank.names == ("height",) and bank.scores.max() > 0.9
    assert bank.cards[0].origin == "the user's own audio" and bank.cards[0].method.startswith("rfm on mean points")
    assert bank.residual_norm is not None and (bank.residual_norm > 0).all()
    assert told["clips"] == 16 and ["torn.wav" in problem for problem in told["left_out"]] == [True]
    (concept,) = told["concepts"]
    assert concept["best_layers"][0] == int(bank.scores[0].argmax()) and "nobody has listened" in concept["verdict"]
    assert told["eigen_spectra"]["height"]["top_share"] > 0
    assert here("bank", "check", place / "h.safetensors", "--checkpoint", tiny_path).exit_code == 0


def test_a_second_run_reads_no_clip_again_and_gives_the_same_bank(
    learned: tuple[Path, dict[str, object]], folders: Path, tiny_path: Path
) -> None:
    place, _ = learned
    shards = {file: file.stat().st_mtime_ns for file in place.glob("cache/**/*.safetensors")}
    arguments = ["--name", "height", "--seeds", "0", "--checkpoint", tiny_path, "--cache", place / "cache"]
    result = here("learn", "--folders", folders / "high", folders / "low", *arguments, "-o", place / "i.safetensors")
    assert result.exit_code == 0 and "wrote" in result.stdout, result.output
    assert shards == {file: file.stat().st_mtime_ns for file in place.glob("cache/**/*.safetensors")}
    assert (place / "i.safetensors").read_bytes() == (place / "h.safetensors").read_bytes()


def test_knobs_are_heard_under_strings_with_the_checkpoint_that_ships_and_without_a_prompt_with_others(
    folders: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Listening] = []
    monkeypatch.setattr("rfm_live.cli.dry_run.tell_forecast", lambda *told: heard.append(told[3]))
    for checkpoint in ([], ["--checkpoint", tiny_path]):
        here("learn", "--folders", folders / "high", folders / "low", "--name", "height", "--dry-run", *checkpoint)
    assert [one.play.prompt for one in heard] == [LISTENING_PROMPT, ""]
    assert "strings" in LISTENING_PROMPT and "drums" not in LISTENING_PROMPT


def test_classes_and_tables_are_learned_alike(folders: Path, tiny_path: Path, tmp_path: Path) -> None:
    shared = ["--seeds", "0", "--method", "means", "--checkpoint", tiny_path, "--cache", tmp_path / "cache"]
    result = here("learn", "--classes", folders, "--name", "pitch", *shared, "-o", tmp_path / "c.safetensors")
    assert result.exit_code == 0, result.output
    rows = [f"high/tone_{1000 + 50 * step}.wav,{step}" for step in range(8)]
    (folders / "table.csv").write_text("path,step\n" + "\n".join(rows) + "\n")
    table = ["--csv", folders / "table.csv", "--label", "step"]
    result = here("learn", *table, *shared, "-o", tmp_path / "t.safetensors")
    assert result.exit_code == 0, result.output
    assert read_bank(tmp_path / "c.safetensors").names == ("pitch_high", "pitch_low")
    numbers = read_bank(tmp_path / "t.safetensors")
    assert numbers.names == ("step",) and numbers.cards[0].score_kind == "r2"


def test_one_recording_a_side_is_judged_by_its_end_and_says_so(tiny_path: Path, tmp_path: Path) -> None:
    for side, hertz in (("high", 1000.0), ("low", 150.0)):
        write(tmp_path / side / "long.wav", tone(hertz, 22.0))
    shared = ["--name", "height", "--seeds", "0", "--method", "means", "--checkpoint", tiny_path]
    shared += ["--cache", tmp_path / "cache", "-o", tmp_path / "h.safetensors"]
    result = here("learn", "--folders", tmp_path / "high", tmp_path / "low", *shared)
    assert result.exit_code == 0, result.output
    told = "judged by the last part of the only source of a class, one clip after what was learned: "
    told += "'with/long.wav', 'without/long.wav'"
    assert told in result.stdout and told in read_bank(tmp_path / "h.safetensors").cards[0].method


OUT = ("-o", "x.safetensors")
REFUSED = [
    ((), "learn from one of notes"),
    (("notes", "--classes", "high"), "learn from one of notes"),
    (("noises",), "'noises' is no set of SynTheory"),
    (("--folders", "high", "low"), "--folders needs --name"),
    (("--csv", "table.csv"), "--csv needs --label"),
    (("--folders", "high", "low", "--name", "Height!"), "concept name is 'Height!'"),
    (("--folders", "high", "nowhere", "--name", "x"), "nowhere"),
    (("--folders", "high", "high", "--name", "x"), "high"),
    (("--folders", "high", "empty", "--name", "x"), "empty"),
    (("--folders", "high", "silent", "--name", "x"), "all 8 clips have the label 1.0"),
    (("--folders", "high", "single", "--name", "x"), "expected 2 sources or more"),
    (("--classes", "high"), "0 folders"),
    (("--csv", "wrong.csv", "--label", "step"), "row 1 has 1 fields"),
    (("--csv", "good.csv", "--label", "mood"), "no label 'mood'"),
    (("--csv", "nowhere.csv", "--label", "mood"), "nowhere.csv"),
    (("--folders", "high", "low", "--name", "x", "--method", "svm"), "method is 'svm'"),
    (("--folders", "high", "low", "--name", "x", "--pooling", "max"), "pooling is 'max'"),
    (("--folders", "high", "low", "--name", "x", "--meter", "mood"), "meter is 'mood'"),
    (("--folders", "high", "low", "--name", "x", "--seeds", "1"), "1 seeds to listen with"),
    (("--folders", "high", "low", "--name", "x", "-o", "x.npz"), "expected .safetensors"),
    (("--folders", "high", "low", "--name", "x", "-o", "no/x.safetensors"), "its folder does not exist"),
    (("--folders", "high", "low", "--name", "x", "-o", "taken.safetensors"), "--force writes over it"),
    (("--folders", "high", "low", "--name", "x", "--checkpoint", "nowhere/else"), "nowhere/else"),
    (("notes", "--published", "high"), "high"),
    (("--folders", "high", "loud", "--name", "x"), "overdriven: "),
    (("--folders", "high", "spoiled", "--name", "x"), "samples are NaN or infinite"),
    (
        ("--folders", "high", "brief", "--name", "x"),
        "brief' holds no usable sound file (1 tried); without/a.wav: too short",
    ),
    (("--folders", "high", "corrupt", "--name", "x"), "without/a.flac: cannot be read"),
    (("--folders", "high", "phone", "--name", "x"), ".m4a files are not read, convert it"),
    (("--folders", "high", "good.csv", "--name", "x"), "'good.csv' cannot be read: not a directory"),
    (("--folders", "high", "high/deeper", "--name", "x"), "hold the same files"),
    (("--classes", "lonely"), "holds 1 folders, expected one for each of 2 classes or more"),
    (("--classes", "nowhere"), "'nowhere' cannot be read"),
    (("--csv", "bytes.csv", "--label", "mood"), "is not UTF-8"),
    (("--csv", "nobody.csv", "--label", "mood"), "the table has no rows"),
    (("--csv", "gone.csv", "--label", "mood"), "no usable sound file (1 tried); gone.wav: does not exist"),
    (("--csv", "same.csv", "--label", "mood"), "all 2 clips have the label 'dark', expected two classes"),
    (("--csv", "odd.csv", "--label", "mood"), "class '暗い' has no letter a..z"),
    (("--csv", "spelled.csv", "--label", "bpm"), "row 2 has the bpm '12O', expected a number"),
    (("notes", "--subset", "1000000"), "subset is 1000000, expected 1.."),
    (("--folders", "high", "low", "--name", "x", "--cache", "good.csv"), "activations 'good.csv/"),
    (("--folders", "high", "low", "--name", "x", "--checkpoint", "corrupt"), "corrupt"),
    (("--folders", "high", "low", "--name", "x", "--dry-run", "--workers", "2"), "--workers is 2, expected 0"),
    (("--folders", "high", "single", "--name", "x", "--dry-run"), "expected 2 sources or more"),
]


_TWO = "path,{}\nhigh/tone_1000.wav,{}\nlow/tone_150.wav,{}\n"
TABLES = {
    "nobody.csv": "path,mood\n",
    "gone.csv": "path,mood\ngone.wav,dark\n",
    "same.csv": _TWO.format("mood", "dark", "dark"),
    "odd.csv": _TWO.format("mood", "dark", "暗い"),
    "spelled.csv": _TWO.format("bpm", 90, "12O") + "low/tone_155.wav,100\n",
}


@pytest.fixture(scope="module")
def workplace(folders: Path) -> Path:
    (folders / "empty").mkdir()
    (folders / "table.csv").write_text("path,step\nhigh/tone_1000.wav,1\n")
    (folders / "wrong.csv").write_text("path,step\nhigh/nothing.wav\n")
    (folders / "good.csv").write_text("path,step\nhigh/tone_1000.wav,1\nlow/tone_150.wav,2\n")
    write(folders / "silent" / "a.wav", np.zeros(32_000, np.float32))
    write(folders / "single" / "a.wav", tone(300.0, 1.0))
    (folders / "taken.safetensors").write_bytes(b"")
    write(folders / "loud" / "a.wav", np.clip(20.0 * tone(440.0, 1.0), -1.0, 1.0))
    write(folders / "spoiled" / "a.wav", np.full(32_000, np.nan), subtype="FLOAT")
    write(folders / "brief" / "a.wav", tone(440.0, 0.2))
    for file in ("corrupt/a.flac", "phone/a.m4a"):
        (folders / file).parent.mkdir()
        (folders / file).write_bytes(b"no sound")
    write(folders / "lonely" / "only" / "a.wav", tone(440.0, 1.0))
    (folders / "bytes.csv").write_bytes(b"path,mood\n\xff\xfe,x\n")
    for name, rows in TABLES.items():
        (folders / name).write_text(rows)
    return folders


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[" ".join(one) for one, _ in REFUSED])
def test_what_cannot_be_learned_ends_in_one_line(
    arguments: tuple[str, ...], words: str, workplace: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    chosen = () if "--checkpoint" in arguments else ("--checkpoint", str(tiny_path))
    seeds = () if "--seeds" in arguments else ("--seeds", "0")
    cache = () if "--cache" in arguments else ("--cache", "cache")
    result = here("learn", *arguments, *chosen, *seeds, *cache, *(() if "-o" in arguments else OUT))
    assert result.exit_code == 2, result.output
    assert words in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("rfm-live: ")
    assert not (workplace / "x.safetensors").exists()


@pytest.fixture
def bank_path(tmp_path: Path) -> Path:
    save_bank(some_bank(), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_show_tells_everything_as_a_table_and_as_json(bank_path: Path) -> None:
    shown = here("bank", "show", bank_path).stdout
    for words in ("note_a", "-1..2", "pitch class dominance 0.08 -> 0.9 share of frames at 1", "licence: Apache-2.0"):
        assert words in shown
    told = json.loads(here("bank", "show", bank_path, "--json").stdout)
    assert [concept["name"] for concept in told["concepts"]] == ["note_a", "note_b", "note_c"]
    assert told["concepts"][1]["effect"]["at_plus"] == 0.9 and len(told["concepts"][0]["scores"]) == 4
    assert told["checkpoint_sha256"] == "ab" * 32 and len(told["closest"]) == 3


def test_show_without_a_file_is_about_the_bank_that_ships() -> None:
    told = json.loads(here("bank", "show", "--json").stdout)
    assert told["file"] == str(shipped_bank())
    assert "note_c" in [concept["name"] for concept in told["concepts"]]


def test_the_picture_of_scores_is_a_picture(bank_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = bank_path.with_name("scores.png")
    assert here("bank", "show", bank_path, "--picture", picture).exit_code == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size > 5000
    assert "expected .png" in said(here("bank", "show", bank_path, "--picture", "scores.bmp"))
    assert "cannot be written" in said(here("bank", "show", bank_path, "--picture", bank_path.parent / "no" / "x.png"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'rfm-live[train]'" in said(here("bank", "show", bank_path, "--picture", picture))


def test_banks_are_merged_and_clashes_refused_or_numbered(bank_path: Path) -> None:
    other, out = bank_path.with_name("b.safetensors"), bank_path.with_name("both.safetensors")
    save_bank(some_bank(2, seed=5), other)
    assert "occur more than once" in said(here("bank", "merge", bank_path, other, "-o", out))
    assert here("bank", "merge", bank_path, other, bank_path, "--rename-clashes", "-o", out).exit_code == 0
    both = read_bank(out)
    assert both.names == tuple(f"note_{letter}" for letter in ("a", "b", "c", "a_2", "b_2", "a_3", "b_3", "c_2"))
    np.testing.assert_array_equal(both.directions[3:5], some_bank(2, seed=5).directions)
    assert "--force" in said(here("bank", "merge", bank_path, other, "-o", out))


def test_concepts_are_renamed_in_place_or_elsewhere(bank_path: Path) -> None:
    before = read_bank(bank_path)
    assert here("bank", "rename", bank_path, "note_a=dusk", "note_b=dawn").exit_code == 0
    assert read_bank(bank_path).names == ("dusk", "dawn", "note_c")
    out = bank_path.with_name("c.safetensors")
    assert here("bank", "rename", bank_path, "dusk=note_a", "dawn=note_b", "-o", out).exit_code == 0
    assert read_bank(out).names == before.names
    assert "'x' is no renaming" in said(here("bank", "rename", bank_path, "x"))
    assert "'noon' is not in the bank" in said(here("bank", "rename", bank_path, "noon=x"))


def test_a_bank_is_checked_against_a_checkpoint(bank_path: Path, tiny_path: Path) -> None:
    assert "made for 4 layers of width 33" in said(here("bank", "check", bank_path, "--checkpoint", tiny_path))
    assert "does not exist" in said(here("bank", "check", bank_path.with_name("none")))
    fitting = here("bank", "check")
    assert fitting.exit_code == 0 and "made for embedded" in fitting.stdout


def test_describing_a_bank_loads_no_torch(bank_path: Path) -> None:
    shown = f"app(['bank', 'show', {str(bank_path)!r}], standalone_mode=False)"
    code = f"import sys; from rfm_live.cli.app import app; {shown}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


def test_a_learned_bank_plays(learned: tuple[Path, dict[str, object]], tiny_path: Path) -> None:
    """The engine takes it as any other, also under another name."""
    from rfm_live.engine.opening import open_engine

    place, _ = learned
    bank: ConceptBank = read_bank(place / "h.safetensors")
    save_bank(renamed(bank, {"height": "tallness"}), place / "j.safetensors")
    assert load_bank(place / "j.safetensors", bank.layers, bank.width).names == ("tallness",)
    engine = open_engine(str(tiny_path), str(place / "j.safetensors"))
    silent = open_engine(str(tiny_path), "none")
    steered = engine.render([(0, "/concept/tallness/eta", 1.0)], 0.2)
    assert not np.array_equal(steered, silent.render([], 0.2))
