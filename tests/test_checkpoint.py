"""Reading checkpoints: every stored form gives the same model, and what does not fit is refused by name."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MusicgenForConditionalGeneration

from rfm_live.errors import CheckpointError
from rfm_live.model.assembly import fold_weight_norm
from rfm_live.model.checkpoint import MusicGen, load_checkpoint, open_checkpoint
from rfm_live.model.stored import weight_files
from tests.tiny import tiny_checkpoint

Tensors = dict[str, Tensor]


@pytest.fixture
def folder(tiny_path: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return copytree(tiny_path, tmp_path / "model")


def _change_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    file = folder / "model.safetensors"
    tensors = change({key: tensor.clone() for key, tensor in load_file(file).items()})
    save_file(tensors, file, metadata={"format": "pt"})


def _change_config(folder: Path, section: str | None, key: str, value: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    (config if section is None else config[section])[key] = value
    file.write_text(json.dumps(config))


def _same_weights(one: MusicGen, other: MusicGen, tolerance: float = 0.0) -> None:
    for ours, theirs in ((one.decoder, other.decoder), (one.codec, other.codec)):
        expected = theirs.state_dict()
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], atol=tolerance, rtol=0)


def test_the_description_says_what_the_file_holds(tiny_model: MusicGen, tiny_path: Path) -> None:
    config = tiny_model.config
    assert (config.decoder.width, config.decoder.layers, config.decoder.heads, config.decoder.pad_id) == (128, 3, 2, 64)
    assert (config.sample_rate, config.frame_rate, config.hop) == (32_000, 50, 640)
    assert config.codec.causal and config.codec.codebooks == 4
    assert tiny_model.path == tiny_path
    assert not any(parameter.requires_grad for parameter in tiny_model.decoder.parameters())


def test_the_hash_is_that_of_the_weight_file(tiny_model: MusicGen, tiny_path: Path) -> None:
    assert tiny_model.sha256 == hashlib.sha256((tiny_path / "model.safetensors").read_bytes()).hexdigest()


def test_the_older_weight_norm_names_give_the_same_codec(folder: Path, tiny_model: MusicGen) -> None:
    def rename(tensors: Tensors) -> Tensors:
        new = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        renamed = {}
        for key, tensor in tensors.items():
            for theirs, older in new.items():
                key = key.replace(theirs, older)
            renamed[key] = tensor
        assert sum(key.endswith("weight_g") for key in renamed) > 20
        return renamed

    _change_tensors(folder, rename)
    _same_weights(load_checkpoint(folder), tiny_model)


def test_folding_is_torchs_weight_norm() -> None:
    for layer in (torch.nn.Conv1d(3, 5, 7), torch.nn.ConvTranspose1d(6, 4, 8, 4)):
        torch.nn.init.normal_(layer.weight)
        normed = torch.nn.utils.parametrizations.weight_norm(layer)
        magnitude = normed.parametrizations.weight.original0.data * 1.7
        normed.parametrizations.weight.original0.data = magnitude
        folded = fold_weight_norm(magnitude, normed.parametrizations.weight.original1.data)
        torch.testing.assert_close(folded, normed.weight.data, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_load_in_single_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    stored = load_checkpoint(tiny_checkpoint(tmp_path / "half", dtype=dtype, layers=1))
    full = load_checkpoint(tiny_checkpoint(tmp_path / "full", layers=1))
    assert stored.decoder.embedding.weight.dtype == torch.float32
    assert torch.equal(stored.decoder.embedding.weight, full.decoder.embedding.weight.to(dtype).float())
    text = stored.text_encoder().encode("calm")
    assert text is not None and text[0].dtype == torch.float32


def test_a_half_precision_decoder_keeps_its_codec_and_positions_exact(tiny_path: Path, tiny_model: MusicGen) -> None:
    half = load_checkpoint(tiny_path, dtype=torch.bfloat16)
    assert half.decoder.heads.weight.dtype == torch.bfloat16
    assert torch.equal(half.decoder.positions, tiny_model.decoder.positions)
    assert half.codec.quantizer.codebooks.dtype == torch.float32
    columns = torch.full((1, 4, 3), 64)
    with torch.no_grad():
        logits = half.decoder(columns, 0, half.decoder.new_cache(1, 3), None)
        expected = tiny_model.decoder(columns, 0, tiny_model.decoder.new_cache(1, 3), None)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=0.15, rtol=0)


def test_shards_are_one_checkpoint(folder: Path, tiny_model: MusicGen) -> None:
    tensors = load_file(folder / "model.safetensors")
    halves = {"model-00001-of-00002.safetensors": 0, "model-00002-of-00002.safetensors": 1}
    where: dict[str, str] = {}
    for name, half in halves.items():
        part = {key: tensor.clone() for n, (key, tensor) in enumerate(sorted(tensors.items())) if n % 2 == half}
        save_file(part, folder / name)
        where |= dict.fromkeys(part, name)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    sharded = load_checkpoint(folder)
    _same_weights(sharded, tiny_model)
    assert sharded.sha256 == hashlib.sha256(b"".join((folder / name).read_bytes() for name in halves)).hexdigest()


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("safetensors", torch.float32),
        ("safetensors", torch.bfloat16),
        ("sharded safetensors", torch.float16),
        ("bin", torch.float16),
        ("sharded bin", torch.bfloat16),
        ("sharded bin", torch.float32),
    ],
)
def test_every_form_in_which_transformers_stores_a_model_gives_that_model(
    form: str, dtype: torch.dtype, tiny_path: Path, tiny_model: MusicGen, tmp_path: Path
) -> None:
    reference: Any = MusicgenForConditionalGeneration.from_pretrained(tiny_path, dtype=dtype)
    reference.save_pretrained(tmp_path, max_shard_size="300KB" if form == "sharded safetensors" else "5GB")
    if form.endswith("bin"):
        _as_bin(tmp_path, reference.state_dict(), shards=3 if form == "sharded bin" else 1)
    loaded = load_checkpoint(tmp_path)
    assert len(weight_files(tmp_path)) > 1 or "sharded" not in form
    assert len({stored.dtype for stored in open_checkpoint(tmp_path).decoder.stored()} | {dtype}) == 1
    for name, tensor in loaded.decoder.state_dict().items():
        assert torch.equal(tensor, tiny_model.decoder.state_dict()[name].to(dtype).float()), name
    expected = reference.audio_encoder.float().quantizer.layers[1].codebook.embed
    assert torch.equal(loaded.codec.quantizer.codebooks[1], expected)


def _as_bin(folder: Path, tensors: Tensors, shards: int) -> None:
    """Store tensors as older versions of transformers did: torch.save, with an index where there are several files."""
    (folder / "model.safetensors").unlink()
    names = [f"pytorch_model-{n + 1:05}-of-{shards:05}.bin" for n in range(shards)]
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    where = {key: names[n % shards] for n, key in enumerate(tensors)}
    for name in names:
        torch.save({key: tensor for key, tensor in tensors.items() if where[key] == name}, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))


def test_the_hash_of_bin_files_is_that_of_the_files_by_name(tiny_path: Path, folder: Path) -> None:
    _as_bin(folder, load_file(tiny_path / "model.safetensors"), shards=2)
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    expected = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()
    assert load_checkpoint(folder).sha256 == expected


def test_a_text_encoder_in_a_bin_file_encodes_the_same(tiny_path: Path, tiny_model: MusicGen, folder: Path) -> None:
    _as_bin(folder, load_file(tiny_path / "model.safetensors"), shards=2)
    ours, theirs = load_checkpoint(folder).text_encoder().encode("calm"), tiny_model.text_encoder().encode("calm")
    assert ours is not None and theirs is not None and torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("layout", ["transformers", "audiocraft"])
def test_a_model_in_double_precision_is_double_throughout(layout: str, tiny_path: Path) -> None:
    path = tiny_path if layout == "transformers" else Path(__file__).parent / "fixtures" / "audiocraft_tiny_a"
    model = load_checkpoint(path, dtype=torch.float64, codec_dtype=torch.float64)
    for module in (model.decoder, model.codec):
        assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float64}


def test_tables_that_older_files_store_are_not_read(folder: Path, tiny_model: MusicGen) -> None:
    _change_tensors(folder, lambda t: {**t, "decoder.model.decoder.embed_positions.weights": torch.ones(9, 9)})
    _same_weights(load_checkpoint(folder), tiny_model)


@pytest.mark.parametrize(
    "key",
    [
        "decoder.model.decoder.layers.1.self_attn.k_proj.weight",
        "decoder.model.decoder.layers.2.final_layer_norm.bias",
        "decoder.lm_heads.3.weight",
        "enc_to_dec_proj.bias",
        "audio_encoder.quantizer.layers.2.codebook.embed",
        "audio_encoder.decoder.layers.3.conv.parametrizations.weight.original1",
    ],
)
def test_a_missing_key_is_named(folder: Path, key: str) -> None:
    _change_tensors(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != key})
    with pytest.raises(CheckpointError, match=f"model: key '{key}' is missing"):
        load_checkpoint(folder)


def test_a_missing_magnitude_is_told(folder: Path) -> None:
    key = "audio_encoder.decoder.layers.3.conv.parametrizations.weight.original0"
    _change_tensors(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != key})
    with pytest.raises(
        CheckpointError,
        match=r"key 'audio_encoder\.decoder\.layers\.3\.conv\.parametrizations\.weight\.original0' is missing",
    ):
        load_checkpoint(folder)


def test_an_unexpected_key_is_named(folder: Path) -> None:
    for key in ("audio_encoder.encoder.layers.99.conv.bias", "strange", "decoder.model.decoder.layers.9.fc1.weight"):
        _change_tensors(folder, lambda tensors, key=key: {**tensors, key: torch.ones(2)})
        with pytest.raises(CheckpointError, match=rf"model\.safetensors: unexpected key '{re.escape(key)}'"):
            load_checkpoint(folder)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "decoder.model.decoder.layers.0.fc1.weight",
            r"layers\.0\.fc1\.weight' has shape \[3, 5\], expected \[256, 128\]",
        ),
        ("decoder.lm_heads.1.weight", r"key 'decoder\.lm_heads\.1\.weight' has shape \[3, 5\], expected \[64, 128\]"),
        ("audio_encoder.quantizer.layers.1.codebook.embed", r"has shape \[3, 5\], expected \[64, 16\]"),
        (
            "audio_encoder.encoder.layers.0.conv.bias",
            r"encoder\.layers\.0\.conv\.bias' has shape \[3, 5\], expected \[4\]",
        ),
    ],
)
def test_a_misshapen_key_is_named(folder: Path, key: str, message: str) -> None:
    _change_tensors(folder, lambda tensors: {**tensors, key: torch.ones(3, 5)})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (None, "model_type", "musicgen_melody", "model_type is 'musicgen_melody', supported is 'musicgen'"),
        ("decoder", "audio_channels", 2, "decoder: audio_channels is 2, supported is 1"),
        ("decoder", "activation_function", "relu", "activation_function is 'relu'"),
        ("decoder", "num_attention_heads", 3, "hidden_size is 128, expected n \\* 3 heads"),
        ("decoder", "num_hidden_layers", 0, "num_hidden_layers is 0, expected 1\\.\\.256"),
        ("decoder", "num_hidden_layers", "three", "num_hidden_layers is 'three', expected int"),
        ("decoder", "num_codebooks", 8, "decoder has 8 codebooks, audio_encoder has 4"),
        ("decoder", "vocab_size", 2048, "pad_token_id is 64, supported is 2048"),
        ("audio_encoder", "norm_type", "time_group_norm", "norm_type is 'time_group_norm'"),
        ("audio_encoder", "audio_channels", 2, "audio_encoder: audio_channels is 2"),
        ("audio_encoder", "normalize", True, "normalize is True, supported is False"),
        ("audio_encoder", "chunk_length_s", 1.0, "chunk_length_s is 1.0"),
        ("audio_encoder", "pad_mode", "replicate", "pad_mode is 'replicate', supported is 'reflect' or 'constant'"),
        ("audio_encoder", "trim_right_ratio", 0.5, "trim_right_ratio is 0.5"),
        ("audio_encoder", "upsampling_ratios", [], r"upsampling_ratios is \[\]"),
        ("audio_encoder", "target_bandwidths", [2.2], "decoder has 4 codebooks, audio_encoder has 7"),
        ("audio_encoder", "target_bandwidths", [], r"target_bandwidths is \[\], expected numbers"),
        ("audio_encoder", "target_bandwidths", [float("nan")], r"target_bandwidths is \[nan\], expected numbers"),
        ("audio_encoder", "sampling_rate", 32_001, "32001 Hz is no multiple of 640 samples"),
        ("text_encoder", "model_type", "bert", "model_type is 'bert', supported is 't5'"),
    ],
)
def test_an_unsupported_model_is_refused_by_name(
    folder: Path, section: str | None, key: str, value: Any, message: str
) -> None:
    _change_config(folder, section, key, value)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_a_missing_or_broken_file_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere/config\.json: cannot be read"):
        load_checkpoint(folder / "nowhere")
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{not safetensors}")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: header: cannot be read"):
        load_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model: no model\.safetensors"):
        load_checkpoint(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json: expected a JSON object"):
        load_checkpoint(folder)
    (folder / "config.json").write_text('{"model_type": "musicgen"}')
    with pytest.raises(CheckpointError, match="text_encoder is None, expected an object"):
        load_checkpoint(folder)
