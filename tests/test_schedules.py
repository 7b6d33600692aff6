"""Schedules are the paper's formulas over their span; points are lines; the table and the plan read the same texts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfm_live.control.table import ControlTable, Refused
from rfm_live.errors import ControlError
from rfm_live.steering.schedules import (
    FADE_SHAPES,
    SHAPES,
    Points,
    Schedule,
    read_points,
    span_frames,
)

POINTS = read_points("/p", "1:0.5 2:1 4:0")


@pytest.mark.parametrize(
    ("shape", "frame", "share"),
    [
        # MusicRFM's own curves at its window of 1500 frames, worked out by hand
        ("linear_up", 0, 0.0),
        ("linear_up", 375, 0.25),
        ("linear_up", 1600, 1.0),
        ("linear_down", 375, 0.75),
        ("linear_down", 1500, 0.0),
        ("exponential", 0, 1.0),
        ("exponential", 1, 0.998),
        ("exponential", 100, 0.998**100),
        ("exponential", 1500, 0.998**1500),
        ("logistic", 750, 0.5),
        ("logistic", 950, 1 / (1 + math.exp(-1))),
        ("logistic", 150, 1 / (1 + math.exp(3))),
        ("sine", 0, 0.5),
        ("sine", 375, 1.0),
        ("sine", 1125, 0.0),
        ("sine", 1875, 1.0),
        ("constant", 123, 1.0),
    ],
)
def test_every_curve_is_the_papers_at_the_papers_window(shape: str, frame: int, share: float) -> None:
    assert Schedule.of(shape, 1500, Points()).share(frame) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "breakpoints"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 1.0, 1.7])
def test_a_curve_over_another_span_is_the_same_curve_stretched(shape: str, part: float) -> None:
    short, long = (Schedule.of(shape, span, Points()).share(part * span) for span in (60, 3000))
    assert short == pytest.approx(long, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@given(frame=st.integers(0, 10**9), span=st.integers(6, 30_000))
def test_no_curve_leaves_0_to_1(shape: str, frame: int, span: int) -> None:
    assert 0.0 <= Schedule.of(shape, span, POINTS).share(frame) <= 1.0


@pytest.mark.parametrize("shape", FADE_SHAPES)
@given(frame=st.integers(0, 10**9), span=st.integers(6, 30_000))
def test_a_cross_fade_never_falls_and_stays_between_0_and_1(shape: str, frame: int, span: int) -> None:
    assert 0.0 <= Schedule.of_fade(shape, span).share(frame) <= Schedule.of_fade(shape, span).share(frame + 1) <= 1.0


@pytest.mark.parametrize(
    ("shape", "shares"),
    [
        ("linear", (0.0, 0.25, 0.5, 1.0)),
        ("cosine", (0.0, 0.5 - math.sqrt(0.125), 0.5, 1.0)),
        ("logistic", (1 / (1 + math.exp(3.75)), 1 / (1 + math.exp(1.875)), 0.5, 1 / (1 + math.exp(-3.75)))),
        ("exponential", (0.0, 1 - 0.998**375, 1 - 0.998**750, 1 - 0.998**1500)),
    ],
)
def test_a_cross_fade_is_its_formula_at_the_quarters(shape: str, shares: tuple[float, ...]) -> None:
    for quarter, share in zip((0, 1, 2, 4), shares, strict=True):
        assert Schedule.of_fade(shape, 80).share(quarter * 20) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("", {0: 1.0, 500: 1.0}),
        ("0:0.25", {0: 0.25, 500: 0.25}),
        ("1:0.5 2:1 4:0", {0: 0.5, 50: 0.5, 75: 0.75, 100: 1.0, 150: 0.5, 200: 0.0, 9999: 0.0}),
        ("4:0 1:0.5 2:1", {75: 0.75, 150: 0.5}),  # in any order
        ("1:0 1:1 2:0.5", {49: 0.0, 50: 1.0, 75: 0.75}),  # a step
    ],
)
def test_points_are_lines_between_seconds_held_at_both_ends(text: str, shares: dict[int, float]) -> None:
    points = read_points("/p", text)
    for frame, share in shares.items():
        assert Schedule.of("breakpoints", 1500, points).share(frame) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("seconds", [0.001, 0.125, 1.0, 29.99, 600.0])
def test_a_span_is_the_nearest_whole_number_of_frames_and_at_least_one(seconds: float) -> None:
    assert abs(span_frames(seconds) - max(seconds * 50, 1)) <= 0.5 or span_frames(seconds) == 1


NUMBER = st.sampled_from(
    ["0", "1", "0.5", "1.0", "12.25", "999.999999", "1000", "-1", "1.5", "1e3", "٣", ".5", "nan", ""]
)
TEXTS = st.lists(st.tuples(NUMBER, st.sampled_from([":", ";", "::"]), NUMBER).map("".join), max_size=4).flatmap(
    lambda parts: st.sampled_from([" ", ",", "  ", "\n"]).map(lambda gap: gap.join(parts))
)


@given(TEXTS | st.text(st.sampled_from("01.: \n"), max_size=12))
def test_the_control_table_takes_exactly_the_points_that_the_plan_reads(text: str) -> None:
    try:
        read_points("/concept/a/schedule_points", text)
        is_read = True
    except ControlError:
        is_read = False
    try:
        ControlTable(["a"]).check("/concept/a/schedule_points", [text])
        is_taken = True
    except Refused:
        is_taken = False
    assert is_read == is_taken


def test_wrong_points_are_refused_with_thing_value_and_domain() -> None:
    with pytest.raises(
        ControlError, match=r"^/p is '0:2', expected points such as '0:0 2.5:1', seconds 0..999, shares"
    ):
        read_points("/p", "0:2")
    with pytest.raises(ControlError, match=r"^/p is 3, expected points"):
        read_points("/p", 3)
    with pytest.raises(ControlError, match=r"/schedule_points is '0:2', expected text such as '0:0 2.5:1', at"):
        ControlTable(["a"]).check("/concept/a/schedule_points", ["0:2"])
