"""The plan's knobs: their state is exact at any frame, and they are those of the control table."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfm_live.control.table import ControlTable, Parameter
from rfm_live.errors import ControlError
from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.knobs import CONCEPT_FIELDS, Choice, Range
from rfm_live.steering.plan import SteeringPlan
from tests.test_bank import some_bank
from tests.test_plan_shapes import overlapping_bank, turned_plan


def settings_of(bank: ConceptBank) -> st.SearchStrategy[tuple[str, str, Any]]:
    """(concept or "", field, value) of every kind of knob."""
    fields: list[st.SearchStrategy[tuple[str, str, Any]]] = []
    for name in bank.names:
        fields += [st.tuples(st.just(name), st.just(key), values_of(field)) for key, field in CONCEPT_FIELDS.items()]
        fields += [st.tuples(st.just(name), st.just("eta"), st.floats(-2, 2))] * 8
        fields += [st.tuples(st.just(name), st.just("schedule_points"), st.sampled_from(["", "0:0 0.5:1", "1:0.5"]))]
        fields += [st.tuples(st.just(name), st.just("schedule_start"), st.just(True))]
    for key, field in SteeringPlan(bank).overall_fields.items():
        fields += [st.tuples(st.just(""), st.just(key), values_of(field))]
    return st.one_of(fields)


def values_of(field: Range | Choice) -> st.SearchStrategy[Any]:
    if isinstance(field, Choice):
        return st.sampled_from(field.options)
    if isinstance(field.low, int):
        return st.integers(field.low, int(field.high))
    return st.floats(field.low, field.high)


def turn(plan: SteeringPlan, setting: tuple[str, str, Any]) -> None:
    name, field, value = setting
    plan.set(name, field, value) if name else plan.set_overall(field, value)


def played(plan: SteeringPlan, script: dict[int, list[Any]], frames: range) -> list[tuple[bytes, ...] | None]:
    """What every frame is steered with, as bytes."""
    heard: list[tuple[bytes, ...] | None] = []
    for frame in frames:
        for setting in script.get(frame, []):
            turn(plan, setting)
        steering = plan.steering(frame)
        parts = () if steering is None else dataclasses.astuple(steering)
        heard.append(None if steering is None else tuple(np.asarray(part).tobytes() for part in parts))
    return heard


BANK = overlapping_bank(gate=0.6)


@settings(max_examples=60, deadline=None)
@given(
    script=st.dictionaries(st.integers(0, 60), st.lists(settings_of(BANK), min_size=1, max_size=4), max_size=12),
    cut=st.integers(0, 70),
    other=st.lists(settings_of(BANK), max_size=6),
)
def test_a_plan_restored_at_any_frame_goes_on_bit_for_bit(
    script: dict[int, list[Any]], cut: int, other: list[Any]
) -> None:
    plan = SteeringPlan(BANK, seed=3)
    first = played(plan, script, range(cut))
    for setting in script.get(cut, []):  # turned, and not yet taken over
        turn(plan, setting)
    state = plan.copy_state()
    rest = {frame: settings for frame, settings in script.items() if frame != cut}
    expected = played(plan, rest, range(cut, 80))
    played(plan, {80: other}, range(80, 85))
    for restored in (plan, SteeringPlan(BANK)):
        restored.restore_state(state)
        assert played(restored, rest, range(cut, 80)) == expected
    assert played(SteeringPlan(BANK, seed=3), script, range(80)) == first + expected


@given(st.lists(settings_of(BANK).filter(lambda setting: setting[1] != "eta"), max_size=12))
@settings(max_examples=60, deadline=None)
def test_with_every_eta_at_zero_no_other_knob_steers(script: list[Any]) -> None:
    plan = SteeringPlan(BANK)
    assert set(played(plan, {0: script}, range(40))) == {None}


# The control table's knobs are the plan's


def fields_of_the_plan() -> dict[str, Range | Choice]:
    bank = some_bank(2)
    fields = {f"/concept/note_b/{name}": field for name, field in CONCEPT_FIELDS.items()}
    return fields | {f"/{name}": field for name, field in SteeringPlan(bank).overall_fields.items()}


@pytest.mark.parametrize("address", fields_of_the_plan())
def test_every_knob_has_the_control_tables_domain_and_default(address: str) -> None:
    field, parameter = fields_of_the_plan()[address], ControlTable(["note_a", "note_b"]).lookup(address)
    if isinstance(field, Choice):
        assert parameter.choices == field.options and parameter.default == field.options[int(field.default)]
    else:
        assert (parameter.low, parameter.high, parameter.default) == (field.low, field.high, field.default)
        assert (parameter.kind == "i") == isinstance(field.low, int)


def test_every_steering_address_of_the_table_is_a_knob_of_the_plan() -> None:
    bank, told = some_bank(1), []
    for parameter in ControlTable(bank.names):
        parts = parameter.address.split("/")[1:]
        plan = SteeringPlan(bank)
        if parts[0] == "concept":
            plan.set(parts[1], parts[2], parameter.default)
        elif parameter.address[1:] in plan.overall_fields:
            plan.set_overall(parameter.address[1:], parameter.default)
        else:
            continue
        told.append(parameter)
        assert plan.coefficients(0) is None
    assert len(told) == len(CONCEPT_FIELDS) + 2 + len(SteeringPlan(bank).overall_fields)


def test_telling_every_default_changes_no_bit() -> None:
    bank = overlapping_bank(gate=0.5)
    plain, told = (turned_plan(bank, 0.5, 1.0) for _ in range(2))
    kept = {"eta", "slew", "gate", "period"}

    def is_told(parameter: Parameter) -> bool:
        return parameter.access == "rw" and parameter.address.split("/")[-1] not in kept

    for parameter in filter(is_told, ControlTable(bank.names)):
        parts = parameter.address.split("/")[1:]
        if parts[0] == "concept":
            told.set(parts[1], parts[2], parameter.default)
        elif parameter.address[1:] in told.overall_fields:
            told.set_overall(parameter.address[1:], parameter.default)
    assert played(told, {}, range(40)) == played(plain, {}, range(40))


@pytest.mark.parametrize(
    ("name", "field", "value", "text"),
    [
        ("note_a", "mode", "hold", "/concept/note_a/mode is 'hold', expected one of add, blend, clamp"),
        ("note_a", "rows", 1, "/concept/note_a/rows is 1, expected one of both, conditional"),
        ("note_a", "target", 1.5, "/concept/note_a/target is 1.5, expected 0.0..1.0"),
        ("note_a", "layers", "best", "/concept/note_a/layers is 'best', expected one of all, uniform, top_k"),
        ("note_a", "layers_k", 1.5, "/concept/note_a/layers_k is 1.5, expected a whole number, 1..64"),
        ("note_a", "layers_kappa", 0.0, "/concept/note_a/layers_kappa is 0.0, expected 0.0625..1.0"),
        ("note_a", "schedule", "rising", "/concept/note_a/schedule is 'rising', expected one of constant, linear_up"),
        ("note_a", "schedule_seconds", 0.0, "/concept/note_a/schedule_seconds is 0.0, expected 0.125..600.0"),
        ("note_a", "schedule_points", "0:2", "/concept/note_a/schedule_points is '0:2', expected points such as"),
        ("note_a", "schedule_start", "now", "/concept/note_a/schedule_start is 'now', expected"),
        ("", "budget_of", "sum", "/budget_of is 'sum', expected one of eta, norm"),
        ("", "orthogonal", "qr", "/orthogonal is 'qr', expected one of off, gram_schmidt, least_squares, dual"),
        ("", "crossfade/to", "note_x", "/crossfade/to is 'note_x', expected one of "),
        ("", "crossfade/on", 2, "/crossfade/on is 2, expected 0..1"),
    ],
)
def test_a_wrong_value_is_refused_by_thing_value_and_domain(name: str, field: str, value: object, text: str) -> None:
    plan = turned_plan(BANK, 0.5)
    before = played(turned_plan(BANK, 0.5), {}, range(30))
    with pytest.raises(ControlError) as caught:
        turn(plan, (name, field, value))
    assert str(caught.value).startswith(text)
    assert played(plan, {}, range(30)) == before
