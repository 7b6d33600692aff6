"""The text encoder, against transformers' own on the same weights."""

import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
from transformers import AutoTokenizer, MusicgenForConditionalGeneration, T5Tokenizer

from rfm_live.errors import CheckpointError
from rfm_live.model.checkpoint import MusicGen, load_checkpoint


def test_states_match_transformers(tiny_path: Path, tiny_model: MusicGen) -> None:
    reference = MusicgenForConditionalGeneration.from_pretrained(tiny_path).text_encoder.eval()
    for prompt in ("calm piano", "80s POP (loud), 120 bpm!", "x"):
        encoded = tiny_model.text_encoder().encode(prompt)
        assert encoded is not None
        tokens = AutoTokenizer.from_pretrained(tiny_path)(prompt, return_tensors="pt")
        with torch.no_grad():
            expected = reference(**tokens).last_hidden_state
        torch.testing.assert_close(encoded[0], expected, atol=1e-6, rtol=0)
        assert encoded[1].dtype == torch.bool and encoded[1].shape == expected.shape[:2]


def test_a_blank_prompt_has_no_states(tiny_model: MusicGen) -> None:
    assert tiny_model.text_encoder().encode("") is None
    assert tiny_model.text_encoder().encode(" \n") is None


def test_characters_outside_the_vocabulary_are_still_a_prompt(tiny_model: MusicGen) -> None:
    encoded = tiny_model.text_encoder().encode("каліфорнія 🎹")
    assert encoded is not None and bool(torch.isfinite(encoded[0]).all())


def test_the_encoder_is_loaded_once(tiny_model: MusicGen) -> None:
    assert tiny_model.text_encoder() is tiny_model.text_encoder()


def test_a_checkpoint_without_tokenizer_plays_but_takes_no_prompt(tiny_path: Path, tmp_path: Path) -> None:
    folder = copytree(tiny_path, tmp_path / "bare")
    (folder / "tokenizer.json").unlink()
    model = load_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"bare: no tokenizer\.json or spiece\.model"):
        model.text_encoder()


def test_a_broken_tokenizer_is_told(tiny_path: Path, tmp_path: Path) -> None:
    folder = copytree(tiny_path, tmp_path / "broken")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="broken: tokenizer cannot be read"):
        load_checkpoint(folder).text_encoder()


def test_a_tokenizer_of_another_model_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    folder = copytree(tiny_path, tmp_path / "foreign")
    T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], extra_ids=200).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"tokenizer has \d+ tokens, text encoder knows 108"):
        load_checkpoint(folder).text_encoder()


@pytest.mark.parametrize(
    ("key", "value"), [("d_model", "wide"), ("d_ff", 65), ("num_layers", 3), ("num_layers", 10**9)]
)
def test_a_text_encoder_that_does_not_fit_is_refused(tiny_path: Path, tmp_path: Path, key: str, value: object) -> None:
    model = load_checkpoint(copytree(tiny_path, tmp_path / "unfit"))
    config = json.loads((model.path / "config.json").read_text())
    config["text_encoder"][key] = value
    (model.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"unfit.*text_encoder"):
        model.text_encoder()
