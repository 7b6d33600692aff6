"""rfm_live: play a music model live. The names in `__all__` are the library; everything else may change.

Importing the package loads neither torch nor a device: a name is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rfm_live.engine.defaults import default_settings
    from rfm_live.engine.opening import open_engine
    from rfm_live.engine.player import Engine, EngineSettings, EngineState
    from rfm_live.engine.stream import Window
    from rfm_live.errors import AudioError, BankError, CheckpointError, ControlError, RfmError, StartError
    from rfm_live.model.checkpoint import MusicGen, load_checkpoint
    from rfm_live.model.objects import from_audiocraft, from_transformers
    from rfm_live.model.sampling import SamplingSettings
    from rfm_live.steering.bank import ConceptBank, load_bank, save_bank

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "BankError",
    "CheckpointError",
    "ConceptBank",
    "ControlError",
    "Engine",
    "EngineSettings",
    "EngineState",
    "MusicGen",
    "RfmError",
    "SamplingSettings",
    "StartError",
    "Window",
    "__version__",
    "default_settings",
    "from_audiocraft",
    "from_transformers",
    "load_bank",
    "load_checkpoint",
    "open_engine",
    "save_bank",
]

_MODULES = {
    "engine.defaults": ("default_settings",),
    "engine.opening": ("open_engine",),
    "engine.player": ("Engine", "EngineSettings", "EngineState"),
    "engine.stream": ("Window",),
    "errors": ("AudioError", "BankError", "CheckpointError", "ControlError", "RfmError", "StartError"),
    "model.checkpoint": ("MusicGen", "load_checkpoint"),
    "model.objects": ("from_audiocraft", "from_transformers"),
    "model.sampling": ("SamplingSettings",),
    "steering.bank": ("ConceptBank", "load_bank", "save_bank"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'rfm_live' has no attribute '{name}'")
    value: object = getattr(import_module(f"rfm_live.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
