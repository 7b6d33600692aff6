"""Reports: the paper's figures as they are published, pages and numbers as they were found."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from rfm_live.concepts.comparison import Cell, Lead
from rfm_live.concepts.intervals import Interval
from rfm_live.errors import StartError
from rfm_live.experiments import published
from rfm_live.experiments.drift import Drift
from rfm_live.experiments.e1_single_directions import bars_of, paper_table, words_for
from rfm_live.experiments.e2_layer_selection import _trades as trades_of
from rfm_live.experiments.e2_layer_selection import _verdict as verdict_of
from rfm_live.experiments.e2_layer_selection import selections
from rfm_live.experiments.e3_cross_fade import _stretches as stretches
from rfm_live.experiments.plots import Axes, Curve, bars_plot, curves_plot, points_plot
from rfm_live.experiments.report import Findings, Table, as_markdown, told, written
from rfm_live.experiments.setup import ClipValues, Outcome, over_seeds
from rfm_live.experiments.v1_poolings import Plan, findings
from rfm_live.experiments.v1_poolings import paper_table as poolings_table

# Typed off the paper's tables (arXiv 2510.19127), row by row: FD, MMD, CLAP and accuracy at eta .15/.30/.45/.60.
SINGLE = """
note | .113/.130/.138/.180 | .052/.127/.217/.476 | .315/.311/.318/.303 | .231/.461/.684/.824 | .083
chord | .116/.114/.110/.119 | .063/.086/.040/.095 | .324/.326/.319/.326 | .271/.288/.320/.344 | .25
interval | .110/.128/.169/.232 | .078/.119/.400/.817 | .315/.324/.311/.307 | .121/.156/.187/.223 | .083
scale | .114/.115/.114/.119 | .052/.075/.061/.081 | .318/.328/.322/.324 | .154/.157/.161/.176 | .143
progression | .131/.142/.173/.207 | .157/.233/.443/.650 | .315/.309/.296/.297 | .070/.079/.096/.114 | .053
tempo | .122/.150/.206/.377 | .112/.324/.717/1.880 | .328/.325/.307/.280 | |
time_signature | .162/.264/.402/.492 | .356/1.046/1.980/2.647 | .320/.317/.278/.264 | .172/.204/.238/.245 | .125
"""
SELECTIONS = """
uniform, gate 1 | .599 | 3.44 | .155 | .964
exponential, kappa 0.98/exponential, kappa 0.95/exponential, kappa 0.92 | .487/.465/.483 | 2.710/2.575/2.687 | .186/.194/.175 | .954/.961/.954
linear | .482 | 2.701 | .166 | .959
top 4/top 8/top 12/top 16/top 24/top 32 | .109/.157/.225/.347/.555/.586 | .192/.448/.919/1.781/3.218/3.395 | .309/.291/.263/.225/.158/.158 | .398/.678/.882/.941/.967/.958
gate 0.15/gate 0.30/gate 0.45/gate 0.60/gate 0.75/gate 0.90 | .108/.118/.197/.281/.399/.510 | .163/.272/.769/1.343/2.145/2.853 | .348/.306/.287/.265/.207/.172 | .348/.697/.884/.931/.961/.962
"""  # noqa: E501
PAIRS = """
note | .566/.927 | 2.394/4.725 | .205/.133 | .770/.920
chord | .604/.747 | 2.564/3.539 | .207/.167 | .385/.390
interval | .572/.886 | 2.351/4.470 | .209/.134 | .298/.300
"""
SCHEDULES = """
linear rise | .358/1.917/.227
linear fall | .321/1.636/.257
exponential fall | .229/1.052/.312
logistic rise | .360/1.999/.208
sine | .413/2.347/.225
cross-fade of 500 note pairs | .350/1.922/.250
"""


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


def numbers(cell: str) -> tuple[float, ...]:
    return tuple(map(float, cell.split("/")))


def test_single_directions_are_those_of_the_paper() -> None:
    assert published.ETAS == (0.15, 0.30, 0.45, 0.60) and [row[0] for row in rows(SINGLE)] == list(published.SINGLE)
    for kind, fd, mmd, clap, accuracy, chance in rows(SINGLE):
        found = published.SINGLE[kind]
        assert (found.fd, found.mmd, found.clap) == (numbers(fd), numbers(mmd), numbers(clap))
        assert found.accuracy == (numbers(accuracy) if accuracy else None)
        assert found.chance == (float(chance) if chance else None)


def test_external_meters_are_those_of_the_later_version() -> None:
    assert published.NOTE_DOMINANCE == {
        "RFM": numbers("18.5/34.5/52.5/66.5"),
        "prompt + RFM": numbers("53.6/67.8/78.2/85.1"),
    }
    assert published.CHORD_DOMINANCE == {
        "RFM": numbers("24.4/28.4/30.5/35.0"),
        "prompt + RFM": numbers("26.6/27.8/27.3/33.6"),
    }
    assert published.ONSETS == {
        "RFM": numbers("20.97/26.24/30.48/31.65"),
        "prompt + RFM": numbers("19.02/22.43/31.66/32.51"),
    }
    assert (published.NOTE_DOMINANCE_PROMPT, published.CHORD_DOMINANCE_PROMPT) == (36.0, 26.4)
    assert published.ONSET_ETAS == (-0.60, -0.15, 0.15, 0.60)
    assert published.ONSETS_PROMPT == {"slow": 25.03, "fast": 30.63}


def test_selections_pairs_and_schedules_are_those_of_the_paper() -> None:
    expected = []
    for names, *figures in rows(SELECTIONS):
        expected += zip(names.split("/"), *map(numbers, figures), strict=True)
    assert [(one.name, one.fd, one.mmd, one.clap, one.accuracy) for one in published.SELECTIONS] == expected
    assert {kind: tuple(map(numbers, figures)) for kind, *figures in rows(PAIRS)} == published.PAIRS
    assert published.PAIR_ETAS == (0.3, 0.6)
    assert {name: numbers(figures) for name, figures in rows(SCHEDULES)} == published.SCHEDULES
    assert published.POOLINGS == {
        "mean": {"scales": 0.956, "progressions": 0.943},
        "last": {"scales": 0.546, "progressions": 0.811},
    }
    assert published.LINEAR_PROBE == {"scales": 0.158, "progressions": 0.725}


def test_the_page_shows_the_papers_figures_digit_by_digit() -> None:
    notes, tempo = paper_table("note"), paper_table("tempo")
    assert notes is not None and tempo is not None and paper_table("timbre") is None
    by_name = {row[0]: row[1:] for row in notes.rows}
    assert by_name["probe accuracy (chance 0.083)"] == ["0.231", "0.461", "0.684", "0.824"]
    assert by_name["dominance %, RFM"] == ["18.5", "34.5", "52.5", "66.5"]
    assert by_name["dominance %, prompt only"] == ["36.0"] * 4
    assert "RFM: 20.97, 26.24, 30.48, 31.65" in tempo.note and "accuracy" not in str(tempo.rows)
    assert [list(row) for row in poolings_table().rows] == [
        ["RFM, mean", "0.956", "0.943"],
        ["RFM, last", "0.546", "0.811"],
        ["linear probe, mean", "0.158", "0.725"],
    ]


def test_figures_are_told_with_their_intervals() -> None:
    assert told(None) == "-" and told(0.25, 2) == "0.25" and told(5724.2) == "5724" and told(0.0) == "0.000"
    assert told(0.00012) == "0.00012" and told(-0.0042) == "-0.0042" and told(0.0123) == "0.012"
    assert told(Interval(0.5, 0.25, 0.75)) == "0.500 (0.250..0.750)"


def some_findings() -> Findings:
    curve = Curve("ours", [0.0, 1.0], [0.1, 0.9], [Interval(0.1, 0.0, 0.2), Interval(0.9, 0.8, 1.0)])
    plots = [
        curves_plot("lines", "Lines", Axes("eta", "reading"), [curve], [0.5]),
        points_plot("points", "Points", Axes("drift", "control"), [curve], curve),
        bars_plot("bars", "Bars", Axes("", "y"), ["a"], [("one", [Interval(1.0, 0.5, 1.5)])]),
    ]
    table = Table("A table", ("name", "value"), [["a | b", told(Interval(1.0, 0.5, 1.5))]], "A note.")
    return Findings("e9", "E9: a title", "A question?", ["something"], [table], plots, {"x": Interval(1.0, 0.5, 1.5)})


def test_every_line_of_a_picture_of_twelve_has_a_colour_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    colors = list[object]()

    def seen(figure: Figure, *_: object, **__: object) -> None:
        colors.extend(line.get_color() for line in figure.axes[0].lines)

    monkeypatch.setattr(Figure, "savefig", seen)
    curves = [Curve(f"note {number}", [0.0, 1.0], [0.0, number]) for number in range(12)]
    curves_plot("notes", "Notes", Axes("knob", "reading"), curves).draw(Path("unused.png"))
    assert len(set(colors)) == len(colors) == 12


def test_a_report_is_one_page_one_file_of_numbers_and_its_pictures(tmp_path: Path) -> None:
    files = written(some_findings(), tmp_path / "new", {"command": "rfm-live evaluate e9", "seeds": [1, 2]})
    assert [file.name for file in files] == ["e9.md", "e9.json", "e9_lines.png", "e9_points.png", "e9_bars.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files[2:])
    page = files[0].read_text()
    assert page == as_markdown(some_findings(), {"command": "rfm-live evaluate e9", "seeds": [1, 2]})
    assert "| a \\| b | 1.000 (0.500..1.500) |" in page and "![Lines](e9_lines.png)" in page and "- seeds: 1, 2" in page
    whole = json.loads(files[1].read_text())
    assert whole["data"] == {"x": {"value": 1.0, "low": 0.5, "high": 1.5}}
    assert (whole["command"], whole["conclusions"]) == ("rfm-live evaluate e9", ["something"])


def test_a_report_that_cannot_be_written_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StartError, match=r"report '.*taken' cannot be written"):
        written(some_findings(), tmp_path / "taken", {})


def test_prompts_ask_in_words() -> None:
    asked = {"note_c_sharp": "in C sharp", "chord_minor": "minor chords", "tempo": "fast", "timbre_flute": "flute"}
    assert {name: words_for(name) for name in asked} == asked
    assert (
        words_for("mode_minor") == "in minor"
        and words_for("drums") == "with drums"
        and words_for("odd_one") == "odd one"
    )


def test_selections_are_those_of_the_issue_and_fit_the_decoder() -> None:
    names = [selection.name for selection in selections(48)]
    assert {selection.name for selection in published.SELECTIONS} <= set(names)
    assert [name for name in (one.name for one in selections(6)) if name.startswith("top")] == [
        f"top {k}" for k in (1, 2, 3, 4)
    ]
    scaled = {one.name: one.eta for one in selections(6) if one.group == "smaller eta"}
    assert scaled == {f"eta x {p:.2f}": p for p in (0.15, 0.30, 0.45, 0.60, 0.75, 0.90)}
    for one in selections(6):  # whatever gate a bank has
        gates = [value for address, value in one.played("tempo").settings if address == "/concept/tempo/gate"]
        assert gates == [float(one.name.removeprefix("gate ")) if one.group == "gate" else 1.0], one.name


@pytest.mark.parametrize(("frames", "longest"), [(100, 100), (101, 100), (1500, 507), (749, 100), (3, 100)])
def test_long_music_is_heard_in_stretches_that_overlap(frames: int, longest: int) -> None:
    parts = stretches(frames, longest)
    told_frames = [frame for start, length, heard in parts for frame in range(start + heard, start + length)]
    assert told_frames == list(range(frames)) and max(length for _, length, _ in parts) <= longest
    assert all(heard == longest // 2 for _, _, heard in parts[1:])


def test_poolings_are_compared_by_their_best() -> None:
    cells = [
        Cell("scales", pooling, "rfm", 2, (score, score - 0.1, score + 0.1), (0.5, 0.4, 0.6))
        for pooling, score in (("mean", 0.6), ("segments", 0.8))
    ]
    lead = Lead("scales", (0.1, 0.0, 0.2), None)
    found = findings(cells, [lead], Plan(("scales",), ("mean", "segments"), ("rfm",)))
    assert found.conclusions == [
        "scales: best is segments pooling by rfm, AUC 0.800 (0.700..0.900); mean pooling has 0.600 by rfm"
    ]
    assert found.tables[0].rows[1][1] == "segments" and "50% right" in found.tables[0].rows[0][2]


def some_outcome(way: str, changes: list[float], fd: float = 0.0, hits: list[float | None] | None = None) -> Outcome:
    """Clips whose readings are their changes."""
    none: list[float | None] = [None] * len(changes)
    heard = ClipValues(changes, changes, hits or none, none, none)
    distance = Interval(fd, fd, fd)
    known = [over_seeds([values]) for values in (changes, changes, hits or none)]
    return Outcome(way, "note_c", 1.0, *known, Drift(distance, distance, distance), 1.0, heard)


def test_bars_say_what_is_reached_and_what_not() -> None:
    full, plain = [some_outcome("bank", [0.9, 0.7])], [some_outcome("unsteered", [0.1, 0.3])]
    assert [bar.told("note") for bar in bars_of("note", full, plain, None)] == [
        "note: share of frames 0.800, expected at least 0.75: reached",
        "note: share of frames unsteered 0.200, expected at most 0.15: NOT reached",
    ]
    assert [bar.told("chord") for bar in bars_of("chord", full, plain, None)] == [
        "chord: share of frames 0.800, expected at least 0.5: reached"
    ]
    (tempo,) = bars_of("tempo", full, plain, 1.5)
    assert tempo.told("tempo").endswith("1.500, expected at least 1.6: NOT reached")
    named = [some_outcome("bank", [0.0, 0.0, 0.0], hits=[1.0, None, 0.0])]
    (timbre,) = bars_of("timbre", named, plain, None)
    assert timbre.told("timbre") == "timbre: share of clips 0.500, expected at least 0.7: NOT reached"
    assert bars_of("brightness", full, plain, None) == []


def test_a_gate_is_weighed_against_the_knob_times_the_gate() -> None:
    chosen = [one for one in selections(6) if one.group == "naive" or one.name in ("gate 0.30", "eta x 0.30")]
    found = {
        "uniform, gate 1": [some_outcome("", [1.0, 1.0], 10.0)],
        "gate 0.30": [some_outcome("", [0.7, 0.9], 5.0)],
        "eta x 0.30": [some_outcome("", [0.5, 0.3], 4.0)],
    }
    (trade,) = trades_of(chosen, found)
    assert (trade.gate, trade.gate_drift, trade.drift.value) == (0.3, 5.0, 1.0)
    assert (trade.control.value, trade.control.low, trade.control.high) == pytest.approx((0.4, 0.2, 0.6))
    # From control 0.4 (drift 4) to 1.0 (drift 10) the line is at 0.8 at 8.
    assert trade.equal_control == pytest.approx(8.0)
    assert verdict_of([trade])[0].startswith("a gate against") and "more control at p = 0.30" in verdict_of([trade])[0]
    assert verdict_of([trade])[1] == "at equal control the gate drifts less at p = 0.30, of 1 that can be compared"
