"""The bar of long work: what is done, what is left, on stderr, with titles as they are."""

import re
from io import StringIO

import pytest
from rich.console import Console

from rfm_live.cli import progress
from rfm_live.cli.progress import progress_bar


def test_the_bar_tells_what_is_done_and_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = StringIO()
    monkeypatch.setattr(progress, "errors", Console(file=written, force_terminal=True, width=100, markup=False))
    with progress_bar("reading [clips]") as report:
        report(30, 120)
        report(120, 120)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue()).strip().splitlines()[-1]
    assert re.match(r"reading \[clips\] .* 120/120 +0:00:0\d left +0:00:00$", last.strip()), last
