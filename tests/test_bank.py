"""A bank file comes back as it was saved, and a wrong one is refused by what is wrong with it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from rfm_live.errors import BankError
from rfm_live.steering.bank import ConceptBank, load_bank, merged, read_bank, renamed, save_bank
from rfm_live.steering.concept_card import ConceptCard, Effect

SHA = "ab" * 32
EFFECT = Effect("pitch class dominance", "share of frames", True, 0.01, 0.08, 0.9, 0.085, 0.02, 4)


def some_bank(concepts: int = 3, layers: int = 4, width: int = 33, seed: int = 0) -> ConceptBank:
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(concepts, layers, width)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    table = rng.random((concepts, layers), dtype=np.float32)
    card = ConceptCard("rfm", "auc", "tests", "Apache-2.0", (-1.0, 2.0), EFFECT)
    return ConceptBank(
        names=tuple(f"note_{chr(97 + index)}" for index in range(concepts)),
        directions=directions,
        scores=table,
        mean=table - 0.5,
        spread=table + 1,
        unit=rng.random(concepts, dtype=np.float32) + 1,
        layer_weights=table,
        gate=np.full(concepts, 0.3, dtype=np.float32),
        period=np.ones(concepts, dtype=np.int64),
        checkpoint_sha256=SHA,
        other_mean=table - 1.5,
        other_spread=table + 2,
        residual_norm=table + 10,
        cards=(card,) * concepts,
    )


def assert_equal_banks(one: ConceptBank, other: ConceptBank) -> None:
    for field in dataclasses.fields(ConceptBank):
        before, after = getattr(one, field.name), getattr(other, field.name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
        else:
            assert before == after


@pytest.mark.parametrize("concepts", [0, 1, 7])
def test_a_saved_bank_loads_as_it_was(tmp_path: Path, concepts: int) -> None:
    bank = some_bank(concepts)
    save_bank(bank, tmp_path / "a.safetensors")
    assert_equal_banks(bank, load_bank(tmp_path / "a.safetensors", 4, 33, SHA))
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_bank_without_effect_or_measurements_loads_as_it_was(tmp_path: Path) -> None:
    bank = dataclasses.replace(some_bank(), other_mean=None, other_spread=None, residual_norm=None, cards=())
    save_bank(bank, tmp_path / "a.safetensors")
    assert_equal_banks(bank, read_bank(tmp_path / "a.safetensors"))
    assert bank.cards[2].effect is None


def test_the_empty_bank_has_the_checkpoint_s_shape() -> None:
    bank = ConceptBank.empty(5, 8)
    assert (bank.names, bank.layers, bank.width) == ((), 5, 8)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"names": ("note_a", "note_b", "Note-C")}, "'Note-C'"),
        ({"names": ("note_a", "note_b", "note_a")}, "note_a"),
        ({"names": ("note_a",)}, "1 names for 3"),
        ({"cards": (ConceptCard(),)}, "1 cards for 3"),
        ({"directions": np.zeros((3, 4, 33), np.float32)}, "length 0, expected 1"),
        ({"directions": np.full((3, 4, 33), np.nan, np.float32)}, "directions holds"),
        ({"directions": np.zeros((3, 4), np.float32)}, "2 axes"),
        ({"unit": np.array([1, np.inf, 1], np.float32)}, "unit holds"),
        ({"unit": np.array([1, -1, 1], np.float32)}, "unit spans"),
        ({"scores": np.full((3, 4), 1.1, np.float32)}, "scores spans"),
        ({"scores": np.zeros((3, 5), np.float32)}, r"scores has shape \[3, 5\], expected \[3, 4\]"),
        ({"gate": np.array([0, 2, 0], np.float32)}, "gate spans"),
        ({"period": np.zeros(3, np.int64)}, "period spans"),
        ({"spread": np.full((3, 4), -1, np.float32)}, "spread spans"),
        ({"other_spread": np.full((3, 4), -1, np.float32)}, "other_spread spans"),
        ({"residual_norm": np.full((3, 4), np.nan, np.float32)}, "residual_norm holds"),
        ({"residual_norm": None}, "or none of them"),
        ({"site": "attention"}, "'attention'"),
    ],
)
def test_a_contradictory_bank_is_refused_by_name(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(BankError, match=says):
        dataclasses.replace(some_bank(), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [("auc", (1.0, -1.0)), ("auc", (-3.0, 1.0)), ("accuracy", (-1.0, 1.0))])
def test_a_contradictory_card_is_refused(wrong: tuple[str, tuple[float, float]]) -> None:
    with pytest.raises(BankError, match="expected"):
        ConceptCard(score_kind=wrong[0], suggested_range=wrong[1])


def test_a_bank_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_bank(some_bank(), path)
    with pytest.raises(BankError, match=r"a\.safetensors: made for the checkpoint with sha256 abababababab"):
        load_bank(path, 4, 33, "cd" * 32)
    with pytest.raises(BankError, match="4 layers of width 33, the checkpoint has 6 of width 33"):
        load_bank(path, 6, 33, SHA)
    assert load_bank(path, 4, 33).checkpoint_sha256 == SHA


Contents = tuple[dict[str, Any], dict[str, np.ndarray]]


def contents(path: Path) -> Contents:
    """Metadata and arrays of a bank file, by safetensors itself."""
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["rfm_live"]), {name: file.get_tensor(name) for name in file.keys()}


def about(**changes: object) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    return lambda stored, arrays: stored.update(changes)


def card(**changes: object) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    return lambda stored, arrays: stored["cards"][1].update(changes)


def effect(**changes: object) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    return lambda stored, arrays: stored["cards"][1]["effect"].update(changes)


def array(name: str, values: object) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    return lambda stored, arrays: arrays.update({name: np.asarray(values)})


def without(name: str) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    return lambda stored, arrays: arrays.__delitem__(name)


BROKEN = [
    (about(format="other"), "not a file of the format"),
    (about(version=3), "version is 3, expected 1 or 2"),
    (about(version=None), "version is None"),
    (about(names="note_a"), "names are 'note_a', expected a list"),
    (about(names=[1, 2, 3]), "concept name is 1"),
    (about(names=["note_a", "note_b"]), "cards are .*, expected a list of 2"),
    (about(names=["note_a", "note_b", "note_b"]), "note_b.* more than once"),
    (about(names=["note_a", "note_b", "x" * 65]), "concept name is 'xxx"),
    (about(site="middle"), "site is 'middle'"),
    (about(site=None), "site is None, expected a text"),
    (about(checkpoint_sha256=7), "checkpoint_sha256 is 7"),
    (about(cards=None), "cards are None, expected a list of 3"),
    (about(cards=[1, 2, 3]), "'note_a': card is 1"),
    (card(licence=None), "'note_b': licence is None"),
    (card(score_kind="f1"), "'note_b': score_kind is 'f1', expected auc or r2"),
    (card(mood="dark"), "'note_b': card has too much or too little: mood"),
    (card(suggested_range=[1]), r"suggested_range is \[1\], expected two numbers"),
    (card(suggested_range=[0, 9]), "suggested_range is 0..9"),
    (card(effect=3), "effect is 3"),
    (effect(seeds=0), "effect.seeds is 0"),
    (effect(at_plus=float("nan")), "effect.at_plus is nan"),
    (effect(is_external=1), "effect.is_external is 1"),
    (without("directions"), "lacks directions"),
    (array("directions", np.zeros((3, 4, 33), np.float32)), "length 0"),
    (array("spread", np.zeros((3, 4, 1), np.float32)), "spread has shape"),
    (array("gate", np.full(3, 7, np.float32)), "gate spans 7"),
]


@pytest.mark.parametrize(("break_it", "says"), BROKEN, ids=[says for _, says in BROKEN])
def test_a_broken_bank_is_refused_in_one_line_that_says_what_is_wrong(
    tmp_path: Path, break_it: Callable[[dict[str, Any], dict[str, np.ndarray]], None], says: str
) -> None:
    """Written with a right checksum, so that what is refused is the contents."""
    from rfm_live.steering.bank import _content_hash

    path = tmp_path / "b.safetensors"
    save_bank(some_bank(), path)
    stored, arrays = contents(path)
    break_it(stored, arrays)
    stored.pop("content_sha256")
    stored["content_sha256"] = _content_hash(stored, arrays)
    save_file(arrays, path, metadata={"rfm_live": json.dumps(stored)})
    with pytest.raises(BankError, match=says) as refused:
        read_bank(path)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize("metadata", [None, {}, {"rfm_live": "{"}, {"rfm_live": "null"}, {"rfm_live": "[" * 9999}])
def test_a_file_without_a_bank_s_metadata_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"unit": np.ones(3, np.float32)}, tmp_path / "b.safetensors", metadata=metadata)
    with pytest.raises(BankError, match=r"not JSON|not a file of the format"):
        read_bank(tmp_path / "b.safetensors")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    for prepare in (lambda: None, lambda: path.write_bytes(b""), lambda: path.write_bytes(b"no safetensors at all")):
        prepare()
        with pytest.raises(BankError, match=r"b\.safetensors: cannot be read"):
            read_bank(path)
    save_bank(some_bank(), path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BankError, match="cannot be read"):
        read_bank(path)


@pytest.mark.parametrize("where", range(1, 20))
def test_a_bank_with_a_changed_byte_is_refused(tmp_path: Path, where: int) -> None:
    path = tmp_path / "a.safetensors"
    save_bank(some_bank(), path)
    content = bytearray(path.read_bytes())
    content[len(content) * where // 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(BankError):
        read_bank(path)


def test_a_bank_of_version_1_is_read_without_what_it_did_not_hold(tmp_path: Path) -> None:
    bank, path = some_bank(), tmp_path / "old.safetensors"
    arrays = ("directions", "scores", "mean", "spread", "layer_weights", "unit", "gate", "period")
    old = {"format": "rfm_live bank", "version": 1, "names": list(bank.names), "checkpoint_sha256": SHA}
    old |= {"origin": "tests", "licence": "Apache-2.0", "site": "block_output"}
    save_file({name: getattr(bank, name) for name in arrays}, path, metadata={"rfm_live": json.dumps(old)})
    card = ConceptCard(origin="tests", licence="Apache-2.0")
    missing: dict[str, Any] = {"other_mean": None, "other_spread": None, "residual_norm": None}
    assert_equal_banks(read_bank(path), dataclasses.replace(bank, cards=(card,) * 3, **missing))
    del old["licence"]
    save_file({name: getattr(bank, name) for name in arrays}, path, metadata={"rfm_live": json.dumps(old)})
    with pytest.raises(BankError, match="licence is None"):
        read_bank(path)


def test_merged_banks_hold_every_concept_as_it_was() -> None:
    one, other = some_bank(2), renamed(some_bank(3, seed=1), {"note_a": "x", "note_b": "y", "note_c": "z"})
    both = merged([one, other])
    assert both.names == ("note_a", "note_b", "x", "y", "z")
    for name in ("directions", "scores", "residual_norm", "unit", "period"):
        np.testing.assert_array_equal(getattr(both, name)[:2], getattr(one, name))
        np.testing.assert_array_equal(getattr(both, name)[2:], getattr(other, name))
    assert both.cards == one.cards + other.cards


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, r"\['note_a', 'note_b', 'note_c'\] occur more than once"),
        ({"checkpoint_sha256": "cd" * 32}, "cdcdcdcdcdcd and abababababab"),
        ({"other_mean": None, "other_spread": None, "residual_norm": None}, "of version 1"),
    ],
)
def test_banks_that_do_not_belong_together_are_not_merged(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(BankError, match=says):
        merged([some_bank(), dataclasses.replace(some_bank(seed=1), **wrong)])


def test_a_concept_is_renamed_and_a_wrong_name_refused() -> None:
    bank = renamed(some_bank(), {"note_b": "dusk"})
    assert bank.names == ("note_a", "dusk", "note_c")
    with pytest.raises(BankError, match="'dawn' is not in the bank, expected one of note_a, dusk"):
        renamed(bank, {"dawn": "x"})
    with pytest.raises(BankError, match="more than once"):
        renamed(bank, {"dusk": "note_a"})
    with pytest.raises(BankError, match="'Dusk!'"):
        renamed(bank, {"dusk": "Dusk!"})


def test_a_bank_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(BankError, match="cannot be written"):
        save_bank(some_bank(), tmp_path / "no_folder" / "a.safetensors")
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(BankError, match="cannot be written"):
        save_bank(some_bank(), tmp_path / "a.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
