"""The CLAP score: how well music fits a text, by a CLAP checkpoint that the user has. Used by evaluation.

The model is transformers' ClapModel. Published checkpoints differ by more than what is to be measured, and some
conversions have a text side that says the same of everything, so a score without the checkpoint's name and hash means
nothing, and a checkpoint that fails the self-check gives none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import torch

from rfm_live.concepts.meters import Samples
from rfm_live.errors import CheckpointError
from rfm_live.places import cached_snapshot

DEFAULT_CLAP = "laion/clap-htsat-unfused"
UNLIKE_TEXTS = (
    "a fast drum solo",
    "slow strings in a church",
    "a dog barks twice",
    "heavy metal with distorted guitars",
)
MOST_ALIKE = 0.9
"""Mean cosine of four unlike texts from which on a checkpoint is refused. A known broken one reaches 0.999."""

_SAMPLE_RATE_HZ = 48_000
_WINDOW_SECONDS = 10
_SHORTEST_SECONDS = 1.0
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Clap:
    """A CLAP checkpoint that has passed its self-check; `name` and `sha256` belong beside every score it gives."""

    name: str
    sha256: str
    model: Any
    tokenizer: Any
    feature_extractor: Any

    @torch.inference_mode()
    def audio_rows(self, clips: Sequence[Samples], sample_rate_hz: int) -> Rows:
        """Unit embeddings [N, D] of mono clips: the mean over windows of 10 s, as long as the model was taught with."""
        rows = []
        for clip in clips:
            windows = _windows(np.asarray(soxr.resample(clip, sample_rate_hz, _SAMPLE_RATE_HZ), np.float32))
            heard = self.feature_extractor(windows, sampling_rate=_SAMPLE_RATE_HZ, return_tensors="pt")
            rows.append(_embedded(self.model.get_audio_features(**heard)).mean(axis=0))
        return _unit(np.stack(rows))

    @torch.inference_mode()
    def text_rows(self, texts: Sequence[str]) -> Rows:
        """Unit embeddings [N, D] of texts."""
        read = self.tokenizer(list(texts), padding=True, truncation=True, max_length=77, return_tensors="pt")
        return _embedded(self.model.get_text_features(**read))

    def scores(self, clips: Sequence[Samples], texts: Sequence[str], sample_rate_hz: int) -> list[float]:
        """The cosine -1..1 of every clip with its own text.

        Raises:
            ValueError: there are not as many texts as clips.
        """
        if len(clips) != len(texts):
            raise ValueError(f"{len(texts)} texts stand against {len(clips)} clips, expected as many")
        fits = (self.audio_rows(clips, sample_rate_hz) * self.text_rows(texts)).sum(axis=1)
        return [float(fit) for fit in fits]


def find_clap(name: str = DEFAULT_CLAP) -> Path:
    """The folder of a CLAP checkpoint: a folder, or OWNER/NAME in the local Hugging Face cache. Uses no network.

    Raises:
        CheckpointError: it is not here.
    """
    folder = Path(name) if Path(name).is_dir() else cached_snapshot(name)
    if folder is None:
        raise CheckpointError(
            f"CLAP checkpoint '{name}' is neither a folder nor in the Hugging Face cache, so there is no CLAP score"
        )
    return folder


def load_clap(folder: Path) -> Clap:
    """Load a CLAP checkpoint in transformers' layout, and check that it tells unlike texts apart.

    Raises:
        CheckpointError: it cannot be read, lacks weights, or fails the check.
    """
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder}: holds none of {', '.join(_WEIGHTS)}")
    try:
        model, found = ClapModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        feature_extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever transformers, safetensors and the pickle reader raise on a broken file
        raise CheckpointError(f"{folder}: is no CLAP checkpoint: {' '.join(str(error).split())[:200]}") from error
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(f"{folder}: lacks '{missing[0]}' and so {len(missing)} of the model's weights")
    if feature_extractor.truncation == "fusion" and not model.config.audio_config.enable_fusion:
        raise CheckpointError(f"{folder}: prepares sound for fusion, and the model has none")
    clap = Clap(folder.name, _sha256(weights), model.eval(), tokenizer, feature_extractor)
    if (alike := text_likeness(clap)) >= MOST_ALIKE:
        raise CheckpointError(
            f"{folder}: four unlike texts have a mean cosine of {alike:.3f}, expected below {MOST_ALIKE}: "
            "its scores would mean nothing"
        )
    return clap


def text_likeness(clap: Clap) -> float:
    """The mean cosine of the pairs among UNLIKE_TEXTS."""
    rows = clap.text_rows(UNLIKE_TEXTS)
    return float((rows @ rows.T)[np.triu_indices(len(rows), 1)].mean())


def _windows(samples: Samples) -> list[Samples]:
    """Ten seconds each; a rest of less than a second is left out, unless there is nothing else."""
    size = _WINDOW_SECONDS * _SAMPLE_RATE_HZ
    windows = [samples[start : start + size] for start in range(0, len(samples), size)]
    return [window for window in windows if len(window) >= _SHORTEST_SECONDS * _SAMPLE_RATE_HZ] or windows[:1]


def _embedded(output: Any) -> Rows:
    """Unit rows of what ClapModel's feature methods return: an output object or, in some versions, the tensor."""
    rows = getattr(output, "pooler_output", output)
    return _unit(rows.float().numpy())


def _unit(rows: Rows) -> Rows:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
