"""`rfm-live evaluate` from the outside, on the tiny checkpoint: every experiment, and one line for what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from rfm_live.cli.app import app
from rfm_live.cli.evaluate import EXPERIMENTS
from rfm_live.experiments import conditions
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import save_bank
from tests.experimenting import tiny_bank

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def place(tiny_model: MusicGen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bank for the tiny checkpoint; caches and reports lie there, too."""
    folder = tmp_path_factory.mktemp("evaluation")
    save_bank(tiny_bank(tiny_model), folder / "bank.safetensors")
    return folder


@pytest.fixture(scope="module")
def evaluate(place: Path, tiny_path: Path) -> Run:
    def run(*arguments: str) -> Result:
        where = ["--checkpoint", tiny_path, "--bank", place / "bank.safetensors", "--cache", place / "cache"]
        words = ["evaluate", *arguments, "--quick", "--subset", "48", *where, "-o", place / "report"]
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, words)))

    return run


def read(place: Path, result: Result, experiment: str) -> dict[str, Any]:
    """The numbers that an experiment has written; its page and pictures are there, and the page says what follows."""
    assert result.exit_code == 0, result.output
    whole: dict[str, Any] = json.loads((place / "report" / f"{experiment}.json").read_text())
    page = (place / "report" / f"{experiment}.md").read_text()
    assert whole["experiment"] == experiment and whole["seeds"] == [5000, 5001] and whole["quick"] is True
    assert whole["conclusions"] and all(f"- {line}" in page and line in result.stdout for line in whole["conclusions"])
    assert list((place / "report").glob(f"{experiment}_*.png"))
    return whole


def test_e1_compares_the_bank_with_rivals_a_random_push_and_words(evaluate: Run, place: Path) -> None:
    whole = read(place, evaluate("e1", "--concept", "note_c"), "e1")
    played = [(one["way"], one["eta"]) for one in whole["data"]["outcomes"]]
    knobs = [(way, eta) for way in ("bank", "means", "random") for eta in (0.6, 1.0)]
    assert played == [*knobs, ("prompt", 0.0)]
    for one in whole["data"]["outcomes"]:
        assert one["change"]["low"] <= one["change"]["value"] <= one["change"]["high"]
        assert one["concept"] == "note_c" and set(one["drift"]) == {"fd_mel", "fd_hidden", "mmd_hidden"}
    assert whole["judges"] == ["note_c: dominance of c"]
    page = (place / "report" / "e1.md").read_text()
    assert "| probe accuracy (chance 0.083) | 0.231 | 0.461 | 0.684 | 0.824 |" in page


def test_a_second_run_plays_nothing_again_and_finds_the_same(
    evaluate: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(place, evaluate("e1", "--concept", "note_c"), "e1")

    def refuse(self: object, condition: object) -> None:
        raise AssertionError(f"{condition} is played again")

    monkeypatch.setattr(conditions.Studio, "samples", refuse)
    assert read(place, evaluate("e1", "--concept", "note_c"), "e1") == before


def test_an_interrupt_ends_cleanly_and_the_next_run_goes_on(
    evaluate: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = conditions.Studio.samples
    done = []

    def interrupted(self: conditions.Studio, condition: conditions.Condition) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(condition)
        return played(self, condition)

    with monkeypatch.context() as patched:
        patched.setattr(conditions.Studio, "samples", interrupted)
        result = evaluate("v3", "--concept", "note_g")
    assert result.exit_code == 130 and "stopped" in result.stderr and "Traceback" not in result.output
    assert not (place / "report" / "v3.json").exists() and not list(place.rglob("*.part"))
    again: list[conditions.Condition] = []

    def counted(self: conditions.Studio, condition: conditions.Condition) -> Any:
        again.append(condition)
        return played(self, condition)

    monkeypatch.setattr(conditions.Studio, "samples", counted)
    whole = read(place, evaluate("v3", "--concept", "note_g"), "v3")
    assert list(whole["data"]["outcomes"]) == ["all blocks", "block 0 alone", "without block 0"]
    assert not set(again) & set(done)


def test_e2_has_a_front_and_weighs_gates_against_smaller_knobs(evaluate: Run, place: Path) -> None:
    whole = read(place, evaluate("e2", "--concept", "note_c"), "e2")
    names = list(whole["data"]["outcomes"])
    assert names == ["uniform, gate 1", "exponential, kappa 0.95", "linear", "top 1", "gate 0.30", "eta x 0.30"]
    assert set(whole["data"]["front"]) <= set(names)
    (trade,) = whole["data"]["gate_against_smaller_eta"]
    assert trade["gate"] == 0.3


def test_e3_traces_both_concepts_step_by_step(evaluate: Run, place: Path) -> None:
    whole = read(place, evaluate("e3", "--concept", "note_c", "--concept", "note_g"), "e3")
    assert [(one["leaving"], one["joining"], one["shape"]) for one in whole["data"]["fades"]] == [
        ("note_c", "note_g", "linear"),
        ("note_c", "note_g", "cosine"),
    ]
    for fade in whole["data"]["fades"]:
        assert [len(trace) for trace in fade["probe"]] == [150, 150] and len(fade["probe_crossings"]) == 2
        assert [len(trace) for trace in fade["meter"]] == [3, 3]  # 3 s in windows of 2 s, every half second


def test_v2_tells_what_each_of_two_notes_keeps_by_both_meters(evaluate: Run, place: Path) -> None:
    whole = read(place, evaluate("v2", "--concept", "note_c", "--concept", "note_g"), "v2")
    assert [one["way"] for one in whole["data"]["companies"]] == ["plain", "dual"]
    for company in whole["data"]["companies"]:
        judged = [(one["concept"], one["meter"]) for one in company["kept"]]
        assert judged == [
            ("note_c", "dominance of c"),
            ("note_c", "chroma share"),
            ("note_g", "dominance of g"),
            ("note_g", "chroma share"),
        ]


def test_v1_and_v4_learn_on_the_spot(evaluate: Run, place: Path) -> None:
    poolings = read(place, evaluate("v1"), "v1")
    assert [(one["set_name"], one["pooling"]) for one in poolings["data"]["cells"]] == [
        ("scales", "mean"),
        ("scales", "last"),
    ]
    machines = read(place, evaluate("v4", "--concept", "note_c"), "v4")
    assert list(machines["data"]["contrasts"]) == ["eigenvector_1", "eigenvector_2", "random"]
    (shares,) = machines["data"]["shares"].values()
    assert 1.0 >= shares[0] >= shares[1] > 0.0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["e9"], "experiment is 'e9', expected one of e1, e2, e3, v1, v2, v3, v4"),
        (["e1", "--concept", "note_x"], "concept 'note_x' is not in the bank, expected one of note_c, note_g"),
        (["e3", "--concept", "note_c"], "concepts are note_c, expected two of one kind to fade between"),
        (["v2", "--concept", "note_c"], "concepts are note_c, expected two or more to play together"),
        (["v1", "--no-learn"], "v1 compares ways of learning, expected --learn"),
        (["v4", "--no-learn"], "v4 learns eigenvectors, expected --learn"),
        (["v4", "--concept", "brightness"], "SynTheory teaches none of brightness"),
        (["e1", "--seconds", "1"], "clips of 1 s, expected 2.."),
    ],
)
def test_what_cannot_be_is_one_line(evaluate: Run, arguments: list[str], line: str) -> None:
    result = evaluate(*arguments)
    assert result.exit_code == 2, result.output
    assert line in " ".join(result.stderr.split())


def test_a_foreign_checkpoint_needs_a_bank(tiny_path: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", "e1", "--checkpoint", str(tiny_path)])
    assert result.exit_code == 2 and "name one with --bank" in " ".join(result.stderr.split())


def test_the_help_names_every_experiment() -> None:
    text = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["evaluate", "--help"]).stdout
    assert all(f"{name}:" in text for name in EXPERIMENTS)
