"""From a checkpoint's name to an engine that plays it: what a program that uses rfm_live as a library calls first."""

import torch

from rfm_live.engine.defaults import default_settings
from rfm_live.engine.player import Engine
from rfm_live.model.checkpoint import load_checkpoint
from rfm_live.places import EMBEDDED, bank_file, checkpoint_folder
from rfm_live.steering.bank import load_bank


def open_engine(
    checkpoint: str = EMBEDDED,
    bank: str | None = None,
    *,
    prompt: str = "",
    seed: int = 0,
    device: torch.device | str = "cpu",
    trust_pickle: bool = False,
    precision: str = "fp32",
) -> Engine:
    """Load a checkpoint and its concept bank, and make an engine that plays as the checkpoint wishes.

    `checkpoint` is "embedded", a folder, or the hub id of a model in the local cache; `bank` a file, "none", or None
    for the bank that ships with the embedded checkpoint; `trust_pickle` as in `load_checkpoint`, `precision` as in
    `Decoder.prepare`. Raises StartError for a name or a precision that stands for nothing, CheckpointError and
    BankError for what cannot be read or does not fit.
    """
    folder, bank_path = checkpoint_folder(checkpoint), bank_file(bank, checkpoint)
    model = load_checkpoint(folder, device, trust_pickle=trust_pickle)
    model.decoder.prepare(precision)
    decoder = model.config.decoder
    concepts = None if bank_path is None else load_bank(bank_path, decoder.layers, decoder.width, model.sha256)
    return Engine(model, concepts, default_settings(folder, model.config, prompt=prompt, seed=seed))
