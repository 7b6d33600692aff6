"""The CLAP score's plumbing, on a tiny random ClapModel; what the weights mean is the self-check's business."""

import shutil
import string
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizer

from rfm_live.concepts.clap import Clap, find_clap, load_clap, text_likeness
from rfm_live.errors import CheckpointError

RATE = 32_000


def tiny_clap(folder: Path, text_gain: float) -> Path:
    """A random CLAP checkpoint; `text_gain` multiplies the text side's weights, so that it tells texts apart or not."""
    torch.manual_seed(0)
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *string.ascii_letters, *string.digits]
    tokenizer = RobertaTokenizer(vocab={letter: place for place, letter in enumerate(letters)}, merges=[])
    config = ClapConfig(
        text_config={
            "vocab_size": len(letters),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 80,
        },
        audio_config={
            "patch_embeds_hidden_size": 16,
            "hidden_size": 128,
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 2],
            "enable_fusion": False,
            "spec_size": 256,
            "num_mel_bins": 64,
            "window_size": 8,
        },
        projection_dim=24,
    )
    model = ClapModel(config)
    with torch.no_grad():
        for parameter in model.text_model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(text_gain)
    for part in (model, tokenizer, ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad")):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clap(tmp_path_factory.mktemp("clap"), text_gain=20.0)


@pytest.fixture(scope="module")
def clap(folder: Path) -> Iterator[Clap]:
    yield load_clap(folder)


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def test_a_score_is_the_cosine_of_transformers_own_embeddings(clap: Clap, folder: Path) -> None:
    model = ClapModel.from_pretrained(folder).eval()
    extractor = ClapFeatureExtractor.from_pretrained(folder)
    tokenizer = RobertaTokenizer.from_pretrained(folder)
    at_48k = (0.1 * np.random.default_rng(3).standard_normal(3 * 48_000)).astype(np.float32)
    texts = ["slow piano", "fast drums"]
    heard = extractor([at_48k, at_48k[::-1].copy()], sampling_rate=48_000, return_tensors="pt")
    with torch.inference_mode():
        output = model(**heard, **tokenizer(texts, padding=True, return_tensors="pt"))
    expected = torch.nn.functional.cosine_similarity(output.audio_embeds, output.text_embeds).tolist()
    assert clap.scores([at_48k, at_48k[::-1].copy()], texts, 48_000) == pytest.approx(expected, abs=1e-5)


def test_embeddings_have_unit_length_and_the_same_sound_has_the_same(clap: Clap) -> None:
    rows = clap.audio_rows([sound(2.0), sound(2.0), sound(2.0, seed=1)], RATE)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any()


def test_a_long_clip_is_the_mean_of_its_windows_and_a_short_rest_is_left_out(clap: Clap) -> None:
    at_48k = np.concatenate([sound(10.0 * 1.5), sound(10.0 * 1.5, seed=1)])  # 20 s at 48 kHz
    halves = clap.audio_rows([at_48k[:480_000], at_48k[480_000:]], 48_000)
    expected = halves.mean(axis=0) / np.linalg.norm(halves.mean(axis=0))
    whole = clap.audio_rows([at_48k, np.concatenate([at_48k, at_48k[:24_000]])], 48_000)
    np.testing.assert_allclose(whole, [expected, expected], atol=1e-6)


def test_as_many_texts_as_clips_are_expected(clap: Clap) -> None:
    with pytest.raises(ValueError, match="1 texts stand against 2 clips"):
        clap.scores([sound(1.0), sound(1.0)], ["piano"], RATE)


def test_a_checkpoint_has_a_name_and_the_hash_of_its_weights(clap: Clap, folder: Path) -> None:
    assert clap.name == folder.name and len(clap.sha256) == 64
    assert text_likeness(clap) < 0.9


def test_a_checkpoint_whose_texts_are_all_alike_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"four unlike texts have a mean cosine of 0\.9\d+, expected below 0\.9"):
        load_clap(tiny_clap(tmp_path, text_gain=1.0))


def test_a_checkpoint_that_is_not_here_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="'nobody/clap' is neither a folder nor in the Hugging Face cache"):
        find_clap("nobody/clap")


def test_a_folder_is_found_as_it_is(folder: Path) -> None:
    assert find_clap(str(folder)) == folder


def test_broken_checkpoints_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds none of model.safetensors, pytorch_model.bin$"):
        load_clap(tmp_path)
    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="is no CLAP checkpoint") as caught:
        load_clap(cut)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_not_made_up(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "less")
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_projection.linear1.weight"]
    save_file(tensors, tmp_path / "less" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"lacks 'text_projection\.linear1\.weight' and so 1 of the model's weights"
    ):
        load_clap(tmp_path / "less")
