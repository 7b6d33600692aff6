"""Who may import whom: the one-way street of the README's layout, read off the import statements."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rfm_live"

ALLOWED = {
    "model": set(),
    "steering": set(),
    "engine": {"model", "steering"},
    "control": set(),
    "audio": {"engine.tape"},
    "server": {"control", "engine.tape", "audio", "engine.worker", "audio.playout"},
    "concepts": {"model", "steering", "engine"},
    "embedded": {"model", "steering", "engine", "concepts", "experiments"},
    "experiments": {"model", "steering", "engine", "concepts"},
    "bench": {"model", "steering", "engine", "embedded"},
}
"""Our own packages that each part may import; every part may import itself, `errors` and `places`."""

FORBIDDEN = {
    "control": {"torch", "asyncio", "socket", "threading"},
    "audio": {"torch", "transformers"},
    "server": {"torch", "transformers"},
}


def imports_of(part: str) -> list[tuple[str, str]]:
    """(file, imported module) of every import statement in a part, those inside functions too."""
    found = []
    for file in sorted((PACKAGE / part).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found += [(file.name, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.append((file.name, node.module))
    return found


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part: str) -> None:
    for file, module in imports_of(part):
        if not module.startswith("rfm_live."):
            continue
        inner = module.removeprefix("rfm_live.")
        if inner.split(".")[0] in {part, "errors", "places"}:
            continue
        assert any(inner == allowed or inner.startswith(f"{allowed}.") for allowed in ALLOWED[part]), (
            f"{file}: {module}"
        )


@pytest.mark.parametrize("part", FORBIDDEN)
def test_a_part_leaves_alone_what_it_must_not_load(part: str) -> None:
    for file, module in imports_of(part):
        assert module.split(".")[0] not in FORBIDDEN[part], f"{file}: {module}"


def test_the_command_line_and_the_server_start_without_torch() -> None:
    code = "import sys, rfm_live.cli.play, rfm_live.server.supervisor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, timeout=60).returncode == 0


def test_kernels_is_no_module() -> None:
    """A top-level module `kernels` would break transformers, which probes for one."""
    assert not (PACKAGE.parent / "kernels" / "__init__.py").exists()
