"""A bank file comes back as it was saved, and a wrong one is refused by what is wrong with it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rfm_live.errors import BankError
from rfm_live.steering.bank import ConceptBank, load_bank, save_bank

SHA = "ab" * 32


def some_bank(concepts: int = 3, layers: int = 4, width: int = 33, seed: int = 0) -> ConceptBank:
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(concepts, layers, width)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    table = rng.random((concepts, layers), dtype=np.float32)
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
        origin="tests",
        licence="Apache-2.0",
    )


@pytest.mark.parametrize("concepts", [0, 1, 7])
def test_a_saved_bank_loads_as_it_was(tmp_path: Path, concepts: int) -> None:
    bank = some_bank(concepts)
    save_bank(bank, tmp_path / "a.safetensors")
    loaded = load_bank(tmp_path / "a.safetensors", 4, 33, SHA)
    for field in dataclasses.fields(ConceptBank):
        before, after = getattr(bank, field.name), getattr(loaded, field.name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
        else:
            assert before == after


def test_the_empty_bank_has_the_checkpoint_s_shape() -> None:
    bank = ConceptBank.empty(5, 8)
    assert (bank.names, bank.layers, bank.width) == ((), 5, 8)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"names": ("note_a", "note_b", "Note-C")}, "'Note-C'"),
        ({"names": ("note_a", "note_b", "note_a")}, "note_a"),
        ({"names": ("note_a",)}, "1 names for 3"),
        ({"directions": np.zeros((3, 4, 33), np.float32)}, "length 0, expected 1"),
        ({"directions": np.full((3, 4, 33), np.nan, np.float32)}, "not finite"),
        ({"directions": np.zeros((3, 4), np.float32)}, "2 axes"),
        ({"unit": np.array([1, np.inf, 1], np.float32)}, "unit holds"),
        ({"unit": np.array([1, -1, 1], np.float32)}, "unit spans"),
        ({"scores": np.full((3, 4), 1.1, np.float32)}, "scores spans"),
        ({"scores": np.zeros((3, 5), np.float32)}, r"scores has shape \[3, 5\], expected \[3, 4\]"),
        ({"gate": np.array([0, 2, 0], np.float32)}, "gate spans"),
        ({"period": np.zeros(3, np.int64)}, "period spans"),
        ({"site": "attention"}, "'attention'"),
    ],
)
def test_a_contradictory_bank_is_refused_by_name(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(BankError, match=says):
        dataclasses.replace(some_bank(), **wrong)  # type: ignore[arg-type]


def test_a_bank_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_bank(some_bank(), path)
    with pytest.raises(BankError, match=r"a\.safetensors: made for the checkpoint with sha256 abababababab"):
        load_bank(path, 4, 33, "cd" * 32)
    with pytest.raises(BankError, match="4 layers of width 33, the checkpoint has 6 of width 33"):
        load_bank(path, 6, 33, SHA)
    assert load_bank(path, 4, 33).checkpoint_sha256 == SHA


def test_files_that_are_no_banks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    with pytest.raises(BankError, match=r"b\.safetensors: cannot be read"):
        load_bank(path, 4, 33)
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(BankError, match="cannot be read"):
        load_bank(path, 4, 33)
    save_bank(some_bank(), tmp_path / "good.safetensors")
    tensors = load_file(tmp_path / "good.safetensors")
    good = {
        "format": "rfm_live bank",
        "version": 1,
        "names": list(some_bank().names),
        "checkpoint_sha256": SHA,
        "origin": "",
        "licence": "",
        "site": "block_output",
    }

    def refused(about: object, says: str, **kept: np.ndarray) -> None:
        text = about if isinstance(about, str) else json.dumps(about)
        save_file(kept or tensors, path, metadata={"rfm_live": text})
        with pytest.raises(BankError, match=says):
            load_bank(path, 4, 33)

    refused("{", "not JSON")
    refused("null", "not a file of the format")
    refused({**good, "format": "other"}, "not a file of the format")
    refused({**good, "version": 2}, "version is 2")
    refused({**good, "names": "note_a"}, "expected a list")
    refused({**good, "names": [1, 2, 3]}, "concept name is 1")
    refused({**good, "licence": None}, "licence is None")
    refused(good, "lacks directions", unit=tensors["unit"])
    save_file(tensors, path)
    with pytest.raises(BankError, match="not a file of the format"):
        load_bank(path, 4, 33)
