"""audiocraft's layout: its exported files give a model, with every hyper-parameter from the file at hand."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
import yaml
from transformers import MusicgenForConditionalGeneration, T5Config, T5EncoderModel

from rfm_live.engine.defaults import default_settings
from rfm_live.errors import CheckpointError
from rfm_live.model.checkpoint import MusicGen, load_checkpoint, load_text_encoder
from tests.tiny import tiny_checkpoint, tiny_tokenizer

FIXTURE = Path(__file__).parent / "fixtures" / "audiocraft_tiny_a"
FILES = ("compression_state_dict.bin", "state_dict.bin")


@pytest.fixture(scope="module")
def model() -> MusicGen:
    return load_checkpoint(FIXTURE)


def test_the_description_is_that_of_the_experiment(model: MusicGen) -> None:
    decoder, codec = model.config.decoder, model.config.codec
    assert (decoder.width, decoder.layers, decoder.heads, decoder.ffn_width) == (64, 3, 4, 256)
    assert (decoder.codebooks, decoder.vocab, decoder.pad_id, decoder.text_width) == (4, 128, 128, 768)
    assert (codec.filters, codec.ratios, codec.hidden, codec.lstm_layers) == (4, (8, 5, 4, 4), 32, 2)
    assert (codec.causal, codec.pad_mode, codec.conv_shortcut) == (False, "reflect", False)
    assert (model.config.sample_rate, model.config.frame_rate, model.config.hop) == (32_000, 50, 640)
    assert (model.config.guidance, model.config.segment_seconds) == (3.0, 30.0)


def test_the_defaults_of_play_are_audiocrafts(model: MusicGen) -> None:
    settings = default_settings(FIXTURE, model.config)
    assert (settings.sampling.top_k, settings.sampling.guidance, settings.sampling.temperature) == (128, 3.0, 1.0)
    assert settings.window is not None and settings.window.frames == 1500


def test_the_hash_is_that_of_both_files_by_name(model: MusicGen) -> None:
    assert model.sha256 == hashlib.sha256(b"".join((FIXTURE / name).read_bytes() for name in FILES)).hexdigest()


def test_a_referee_in_double_precision_holds_the_same_numbers(model: MusicGen) -> None:
    referee = load_checkpoint(FIXTURE, dtype=torch.float64, codec_dtype=torch.float64)
    assert referee.decoder.heads.weight.dtype == referee.codec.quantizer.codebooks.dtype == torch.float64
    assert torch.equal(referee.decoder.blocks[1].qkv.weight.float(), model.decoder.blocks[1].qkv.weight)
    codes = torch.randint(128, (1, 4, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(referee.codec.decode(codes).float(), model.codec.decode(codes), atol=1e-5, rtol=1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the fixture that a test may change."""
    return copytree(FIXTURE, tmp_path / "audiocraft")


def change(folder: Path, name: str, edit: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Edit the tensors and the parsed `xp.cfg` of one file."""
    content = torch.load(folder / name, weights_only=True)
    experiment = yaml.safe_load(content["xp.cfg"])
    edit(content["best_state"], experiment)
    content["xp.cfg"] = yaml.safe_dump(experiment)
    torch.save(content, folder / name)


def same_decoder(one: MusicGen, other: MusicGen) -> bool:
    expected = other.decoder.state_dict()
    return all(torch.equal(tensor, expected[name]) for name, tensor in one.decoder.state_dict().items())


def test_both_names_of_the_attention_weights_are_known(folder: Path, model: MusicGen) -> None:
    def rename(tensors: dict[str, Any], experiment: dict[str, Any]) -> None:
        for key in list(tensors):
            tensors[re.sub(r"(self_attn|cross_attention)\.", r"\1.mha.", key)] = tensors.pop(key)
        experiment["transformer_lm"]["memory_efficient"] = False

    change(folder, "state_dict.bin", rename)
    assert same_decoder(load_checkpoint(folder), model)


def test_half_precision_files_give_their_numbers(folder: Path, model: MusicGen) -> None:
    change(folder, "state_dict.bin", lambda tensors, _: tensors.update({k: t.half() for k, t in tensors.items()}))
    loaded = load_checkpoint(folder)
    assert torch.equal(loaded.decoder.heads.weight, model.decoder.heads.weight.half().float())


def test_guidance_and_segment_of_the_experiment_are_the_defaults(folder: Path) -> None:
    def edit(tensors: dict[str, Any], experiment: dict[str, Any]) -> None:
        experiment["classifier_free_guidance"]["inference_coef"] = 2.5
        experiment["dataset"]["segment_duration"] = 12
        experiment["conditioners"]["args"] = {"merge_text_conditions_p": 0.25}  # older files; no conditioner

    change(folder, "state_dict.bin", edit)
    settings = default_settings(folder, load_checkpoint(folder).config)
    assert settings.sampling.guidance == 2.5
    assert settings.window is not None and settings.window.frames == 600


def test_interpolations_may_lead_through_others(folder: Path, model: MusicGen) -> None:
    def edit(tensors: dict[str, Any], experiment: dict[str, Any]) -> None:
        experiment["transformer_lm"]["dim"] = "${sizes.dim}"
        experiment["sizes"] = {"dim": "${width}"}
        experiment["width"] = 64
        experiment["logging"]["folder"] = "${oc.env:HOME}/${nothing}"  # says nothing of the model

    change(folder, "state_dict.bin", edit)
    assert load_checkpoint(folder).config == model.config


def test_padding_and_causality_are_those_of_the_file(folder: Path) -> None:
    change(folder, "compression_state_dict.bin", lambda _, experiment: experiment["seanet"].update(pad_mode="constant"))
    assert load_checkpoint(folder).config.codec.pad_mode == "constant"
    change(folder, "compression_state_dict.bin", lambda _, experiment: experiment["encodec"].update(causal=True))
    assert load_checkpoint(folder).config.codec.causal  # for seanet.causal is ${encodec.causal}


def test_a_codec_that_is_pointed_to_may_lie_beside(folder: Path, tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "whole", codebook_size=128, causal=False, pad_mode="reflect")
    whole: Any = MusicgenForConditionalGeneration.from_pretrained(path)
    whole.audio_encoder.save_pretrained(folder / "encodec_32khz")
    torch.save({"pretrained": "facebook/encodec_32khz"}, folder / "compression_state_dict.bin")
    model, expected = load_checkpoint(folder), load_checkpoint(path)
    assert model.config.codec == expected.config.codec
    codes = torch.randint(128, (1, 4, 7), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.codec.decode(codes), expected.codec.decode(codes))
    files = ("compression_state_dict.bin", "state_dict.bin", "encodec_32khz/model.safetensors")
    assert model.sha256 == hashlib.sha256(b"".join((folder / name).read_bytes() for name in files)).hexdigest()


def test_the_text_encoder_that_is_named_may_lie_beside(folder: Path, model: MusicGen) -> None:
    tokenizer = tiny_tokenizer()
    torch.manual_seed(2)
    t5 = T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=768, d_kv=16, d_ff=64, num_layers=2, num_heads=2))
    t5.save_pretrained(folder / "t5-base")
    tokenizer.save_pretrained(folder / "t5-base")
    encoded = load_text_encoder(folder).encode("calm piano")
    tokens = tokenizer("calm piano", return_tensors="pt")
    assert encoded is not None
    torch.testing.assert_close(encoded[0], t5.eval()(**tokens).last_hidden_state.detach())


def test_a_text_encoder_of_another_width_is_refused(folder: Path) -> None:
    T5EncoderModel(T5Config(vocab_size=99, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=2)).save_pretrained(
        folder / "t5-base"
    )
    with pytest.raises(CheckpointError, match=r"t5-base/config\.json: d_model is 64, supported is 768"):
        load_text_encoder(folder)
