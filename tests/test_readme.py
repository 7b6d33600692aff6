"""The README tells the truth: its control table is the control table, its layout is the layout."""

import re
from pathlib import Path

import pytest
import soundfile

from rfm_live import Engine
from rfm_live.control.table import ControlTable

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_address_of_the_control_table_is_in_the_readme_and_no_other() -> None:
    section = README.split("## Controls")[1].split("## Latency")[0]
    told = set(
        re.findall(
            r"`(/[a-z_/A-Z0-9]+)`",
            "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|")),
        )
    )
    table = {parameter.address.replace("/concept/x/", "/concept/NAME/") for parameter in ControlTable(["x"])}
    assert told == table | {"/sync", "/error"}


def test_ranges_in_the_readme_are_those_of_the_table() -> None:
    for parameter in ControlTable(["x"]):
        address = parameter.address.replace("/concept/x/", "/concept/NAME/")
        row = re.search(rf"^\| `{re.escape(address)}` \| ([^|]*)\|", README, re.MULTILINE)
        if row is None:
            continue
        if ".." in row[1]:
            assert f"{parameter.low:g}..{parameter.high:g}" in row[1], address
        if parameter.choices:
            assert tuple(re.findall(r"`([a-z_]+)`", row[1])) == parameter.choices, address


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_python_examples_run(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    engine = names["engine"]
    assert isinstance(engine, Engine) and engine.frame > 0
    for file in tmp_path.iterdir():
        assert len(soundfile.read(file)[0]) == engine.frame * engine.hop


def test_the_layout_names_every_part() -> None:
    section = README.split("## Layout")[1].split("## Tests")[0]
    parts = {path.name for path in (ROOT / "rfm_live").iterdir() if path.is_dir() and path.name[0] not in "._"}
    told = set(re.findall(r"^  ([a-z]+)/ ", section, re.MULTILINE))
    assert told == parts - {"presets"}
