"""The library's names: lazy, complete, typed, and nothing else."""

import ast
import importlib
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import rfm_live

ROOT = Path(__file__).parent.parent
SOURCE = ast.parse((ROOT / "rfm_live" / "__init__.py").read_text())

PROGRAM = """\
from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

from rfm_live import Engine, EngineState, MusicGen, Window, load_checkpoint, open_engine

engine = open_engine("embedded", seed=1)
assert_type(engine, Engine)
assert_type(engine.advance(), NDArray[np.float32])
assert_type(engine.codes, NDArray[np.int64] | None)
assert_type(engine.copy_state(), EngineState)
assert_type(load_checkpoint(Path("folder")), MusicGen)
Window("thirty")
"""


def typed_imports() -> dict[str, str]:
    """What type checkers see at the top of the package: the module of every name."""
    branch = next(node for node in SOURCE.body if isinstance(node, ast.If))
    return {
        alias.name: str(node.module) for node in branch.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def test_importing_the_package_loads_neither_torch_nor_a_device() -> None:
    code = "import sys, rfm_live; sys.exit(bool({'torch', 'numpy', 'sounddevice', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_every_public_name_is_what_type_checkers_see() -> None:
    imports = typed_imports()
    assert {*imports, "__version__"} == set(rfm_live.__all__)
    for name, module in imports.items():
        value = getattr(rfm_live, name)
        assert value is getattr(importlib.import_module(module), name)
        assert value.__module__ == module


def test_nothing_else_is_public() -> None:
    parts = {path.stem for path in (ROOT / "rfm_live").iterdir() if path.suffix == ".py" or path.is_dir()}
    visible = {name for name in dir(rfm_live) if not name.startswith("_")} - parts
    assert visible - {"import_module", "TYPE_CHECKING"} == set(rfm_live.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="module 'rfm_live' has no attribute 'TokenStream'"):
        rfm_live.__getattr__("TokenStream")


def test_a_star_import_brings_the_public_names() -> None:
    code = "from rfm_live import *; import rfm_live; assert set(rfm_live.__all__) <= set(globals())"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


def test_a_strict_type_checker_knows_the_types(tmp_path: Path) -> None:
    assert files("rfm_live").joinpath("py.typed").is_file()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), str(program)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600).stdout
    assert answer.count("error:") == 1, answer
    assert 'Argument 1 to "Window" has incompatible type "str"; expected "int"' in answer
