"""Models that are already loaded: transformers' and audiocraft's objects become the model that their files give."""

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AutoProcessor, EncodecModel, MusicgenForConditionalGeneration, T5Config, T5EncoderModel

from rfm_live.engine.player import Engine
from rfm_live.errors import CheckpointError
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.model.objects import from_audiocraft, from_transformers
from tests.tiny import tiny_checkpoint, tiny_tokenizer

FIXTURE = Path(__file__).parent / "fixtures" / "audiocraft_tiny_a"


def same_weights(one: MusicGen, other: MusicGen) -> None:
    for ours, theirs in ((one.decoder, other.decoder), (one.codec, other.codec)):
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, expected[name]), name


@pytest.fixture(scope="module")
def reference(tiny_path: Path) -> Any:
    return MusicgenForConditionalGeneration.from_pretrained(tiny_path).eval()


def test_a_transformers_model_is_the_model_of_its_files(reference: Any, tiny_path: Path, tiny_model: MusicGen) -> None:
    model = from_transformers(reference, AutoProcessor.from_pretrained(tiny_path))
    assert model.config == tiny_model.config and model.path is None
    same_weights(model, tiny_model)
    ours, theirs = model.text_encoder().encode("calm piano"), tiny_model.text_encoder().encode("calm piano")
    assert ours is not None and theirs is not None
    torch.testing.assert_close(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_a_model_from_memory_plays_as_its_files_do(reference: Any, tiny_path: Path, tiny_model: MusicGen) -> None:
    engines = [Engine(from_transformers(reference, AutoProcessor.from_pretrained(tiny_path))), Engine(tiny_model)]
    for _ in range(5):
        one, other = (engine.advance() for engine in engines)
        assert (one == other).all()


def test_the_hash_is_of_the_tensors_and_changes_with_one(reference: Any, tmp_path: Path) -> None:
    first, again = from_transformers(reference).sha256, from_transformers(reference).sha256
    assert first == again and len(first) == 64
    other = MusicgenForConditionalGeneration.from_pretrained(tiny_checkpoint(tmp_path / "other", seed=1))
    assert from_transformers(other).sha256 != first


def test_a_model_without_tokenizer_takes_no_prompt(reference: Any) -> None:
    with pytest.raises(CheckpointError, match="was given without a tokenizer"):
        from_transformers(reference).text_encoder()


def test_nothing_of_the_decoder_that_was_taken_is_kept(tiny_path: Path) -> None:
    given = MusicgenForConditionalGeneration.from_pretrained(tiny_path)
    weights = [StorageWeakRef(weight.untyped_storage()) for weight in given.decoder.parameters()]
    taken = from_transformers(given)
    assert not any(weight.expired() for weight in weights)
    del given
    gc.collect()
    assert taken.decoder is not None and all(weight.expired() for weight in weights)


def test_the_weights_are_copies(reference: Any) -> None:
    model = from_transformers(reference)
    before = model.decoder.out_norm.weight.clone()
    with torch.no_grad():
        reference.decoder.model.decoder.layer_norm.weight.add_(1.0)
    assert torch.equal(model.decoder.out_norm.weight, before)
    with torch.no_grad():
        reference.decoder.model.decoder.layer_norm.weight.sub_(1.0)


class Named(nn.Module):
    """A module without a forward: what audiocraft's modules show of themselves, their tensors and attributes."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


def conv(weights: dict[str, Any], layer: str, transposed: bool = False) -> Named:
    """A StreamableConv1d or StreamableConvTranspose1d with weight norm, of the shapes that the fixture stores."""
    outputs, inputs, kernel = weights[f"{layer}.weight_v"].shape
    if transposed:
        made: nn.Module = nn.ConvTranspose1d(outputs, inputs, kernel, kernel // 2)
        tap = {"convtr": Named(convtr=weight_normed(made)), "causal": False, "trim_right_ratio": 1.0}
        return Named(**tap)
    return Named(conv=Named(conv=weight_normed(nn.Conv1d(inputs, outputs, kernel))), causal=False, pad_mode="reflect")


def weight_normed(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning, match="deprecated"):  # audiocraft uses the older form, whose keys differ
        return nn.utils.weight_norm(layer)


def encodec(stored: dict[str, Any]) -> Named:
    """audiocraft's EncodecModel in outline: SEANet's two stacks by their indices, and the quantizer's tables."""
    sides = {}
    for side in ("encoder", "decoder"):
        layers: dict[int, nn.Module] = {}
        for key in stored:
            if not key.startswith(f"{side}.model."):
                continue
            index, kind = int(key.split(".")[2]), key.split(".")[3]
            place = f"{side}.model.{index}"
            if kind == "block":
                block = [nn.ELU(), conv(stored, f"{place}.block.1.conv.conv"), nn.ELU()]
                block.append(conv(stored, f"{place}.block.3.conv.conv"))
                layers[index] = Named(block=nn.Sequential(*block), shortcut=nn.Identity())
            elif kind == "lstm":
                width = stored[f"{place}.lstm.weight_hh_l0"].shape[1]
                layers[index] = Named(lstm=nn.LSTM(width, width, 2))
            else:
                layers[index] = conv(stored, f"{place}.{kind}.{kind}", transposed=kind == "convtr")
        stack = nn.Sequential(*(layers.get(index, nn.ELU()) for index in range(max(layers) + 1)))
        sides[side] = Named(model=stack, dimension=32, channels=1, n_filters=4)
    tables = nn.ModuleList(Named(_codebook=Named()) for _ in range(4))
    for k, table in enumerate(tables):
        for name in ("inited", "cluster_size", "embed", "embed_avg"):
            value = stored[f"quantizer.vq.layers.{k}._codebook.{name}"]
            table._codebook.register_buffer(name, torch.zeros_like(value))
    quantizer = Named(vq=Named(layers=tables), n_q=4, bins=128)
    model = Named(**sides, quantizer=quantizer, sample_rate=32_000, channels=1, renormalize=False)
    model.load_state_dict(stored)
    return model


def audiocraft_model(compression_model: Any) -> Any:
    """What `audiocraft.models.MusicGen` holds, filled from the fixture; its T5 is a random one of the same width."""
    content = torch.load(FIXTURE / "state_dict.bin", weights_only=True)
    tokenizer = tiny_tokenizer()
    torch.manual_seed(3)
    t5 = T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=768, d_kv=16, d_ff=64, num_layers=1, num_heads=2))
    conditioner = SimpleNamespace(t5=t5.eval(), t5_tokenizer=tokenizer)
    provider = SimpleNamespace(conditioners={"description": conditioner})
    experiment = yaml.safe_load(content["xp.cfg"])
    lm = SimpleNamespace(state_dict=lambda: content["best_state"], cfg=experiment, condition_provider=provider)
    return SimpleNamespace(lm=lm, compression_model=compression_model)


def test_an_audiocraft_model_is_the_model_of_its_files() -> None:
    stored = torch.load(FIXTURE / "compression_state_dict.bin", weights_only=True)["best_state"]
    theirs = audiocraft_model(encodec(stored))
    model, expected = from_audiocraft(theirs), load_checkpoint(FIXTURE)
    assert model.config == expected.config
    same_weights(model, expected)
    text = model.text_encoder().encode("calm piano")
    assert text is not None and text[0].shape[2] == 768
    conditioner = theirs.lm.condition_provider.conditioners["description"]
    tokens = conditioner.t5_tokenizer("calm piano", return_tensors="pt")
    torch.testing.assert_close(text[0], conditioner.t5(**tokens).last_hidden_state.detach())


def test_audiocrafts_wrapper_of_a_transformers_codec_is_understood(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "c", codebook_size=128, causal=False, pad_mode="reflect")
    codec: EncodecModel = MusicgenForConditionalGeneration.from_pretrained(path).audio_encoder
    model, expected = from_audiocraft(audiocraft_model(SimpleNamespace(model=codec))), load_checkpoint(path)
    assert model.config.codec == expected.config.codec
    for name, tensor in model.codec.state_dict().items():
        assert torch.equal(tensor, expected.codec.state_dict()[name]), name


def test_what_is_no_musicgen_is_refused_by_name() -> None:
    model = audiocraft_model(SimpleNamespace(sample_rate=32_000))
    with pytest.raises(CheckpointError, match="compression_model is SimpleNamespace, expected EnCodec"):
        from_audiocraft(model)
    model.lm.cfg = None
    with pytest.raises(CheckpointError, match=r"lm is SimpleNamespace, expected LMModel: .*'transformer'"):
        from_audiocraft(model)


def test_an_audiocraft_model_without_configuration_is_read_off_its_modules() -> None:
    stored = torch.load(FIXTURE / "compression_state_dict.bin", weights_only=True)["best_state"]
    model = audiocraft_model(encodec(stored))
    model.lm.cfg = None
    outline(model.lm)
    found, expected = from_audiocraft(model), load_checkpoint(FIXTURE)
    assert found.config == expected.config
    same_weights(found, expected)
    model.lm.pattern_provider.delays = [0, 0, 1, 1]
    with pytest.raises(CheckpointError, match=r"delays is \[0, 0, 1, 1\], supported is \[0, 1, 2, 3\]"):
        from_audiocraft(model)


def outline(lm: Any) -> None:
    """Give `lm` the attributes that audiocraft's LMModel has beside its tensors."""
    block = nn.TransformerEncoderLayer(64, 4, 256, activation=nn.functional.gelu, norm_first=True, bias=False)
    for name, value in (("causal", True), ("past_context", None), ("kv_repeat", 1), ("qk_layer_norm", False)):
        setattr(block.self_attn, name, value)
    lm.transformer = SimpleNamespace(
        layers=[block] * 3, positional_embedding="sin", max_period=10_000, positional_scale=1.0
    )
    lm.dim, lm.n_q, lm.card, lm.cfg_coef = 64, 4, 128, 3.0
    lm.linears = [nn.Linear(64, 128, bias=False)]
    lm.pattern_provider = SimpleNamespace(delays=[0, 1, 2, 3], flatten_first=0, empty_initial=0)
    fused = {"cross": ["description"], "prepend": [], "sum": [], "input_interpolate": []}
    lm.fuser = SimpleNamespace(fuse2cond=fused, cross_attention_pos_emb=False)
    conditioner = lm.condition_provider.conditioners["description"]
    conditioner.name, conditioner.finetune, conditioner.normalize_text = "t5-base", False, False
