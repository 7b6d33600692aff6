"""From a checkpoint's name to an engine that plays it: what a program that uses rfm_live as a library calls first."""

import torch

from rfm_live.engine.defaults import default_settings
from rfm_live.engine.player import Engine
from rfm_live.errors import StartError
from rfm_live.model.checkpoint import load_checkpoint
from rfm_live.places import EMBEDDED, bank_file, checkpoint_folder
from rfm_live.steering.bank import load_bank


def compute_device(name: torch.device | str) -> torch.device:
    """The device of that name, if the model can compute there. Raises StartError otherwise."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise StartError(f"compute is '{name}', expected cpu, cuda, cuda:N or mps") from None
    cards = torch.cuda.device_count()
    is_here = {"cpu": True, "cuda": (device.index or 0) < cards, "mps": torch.backends.mps.is_available()}
    if device.type not in is_here:
        raise StartError(f"compute is '{name}', expected cpu, cuda, cuda:N or mps")
    if not is_here[device.type]:
        found = f"{cards} CUDA devices" if device.type == "cuda" else "no MPS device"
        raise StartError(f"compute is '{name}', but torch sees {found}")
    return device


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
    `Decoder.prepare`; `device` is where the model computes. Raises StartError for a name, a device or a precision that
    stands for nothing here, CheckpointError and BankError for what cannot be read or does not fit.
    """
    folder, bank_path = checkpoint_folder(checkpoint), bank_file(bank, checkpoint)
    model = load_checkpoint(folder, compute_device(device), trust_pickle=trust_pickle)
    model.decoder.prepare(precision)
    decoder = model.config.decoder
    concepts = None if bank_path is None else load_bank(bank_path, decoder.layers, decoder.width, model.sha256)
    return Engine(model, concepts, default_settings(folder, model.config, prompt=prompt, seed=seed))
