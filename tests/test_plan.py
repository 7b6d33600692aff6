"""The plan: coefficients are the formula's, glides are lines, gates are draws of (seed, concept, frame)."""

import dataclasses
import math

import numpy as np
import pytest
from rfm_kernels.reference import philox_uniform

from rfm_live.errors import RfmError
from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.plan import SteeringPlan
from tests.test_bank import some_bank


def open_bank(concepts: int = 3, gate: float = 1.0) -> ConceptBank:
    return dataclasses.replace(some_bank(concepts), gate=np.full(concepts, gate, dtype=np.float32))


def etas(plan: SteeringPlan, bank: ConceptBank, frame: int) -> list[float]:
    """The etas that the coefficients stand for, read back through the bank's reach of layer 0."""
    coefficients = plan.coefficients(frame)
    if coefficients is None:
        return [0.0] * len(bank.names)
    return [round(float(value), 5) for value in coefficients[:, 0] / (bank.unit * bank.layer_weights[:, 0])]


@pytest.mark.parametrize("concepts", [0, 1, 7])
def test_knobs_at_zero_ask_for_no_steering_at_all(concepts: int) -> None:
    plan = SteeringPlan(open_bank(concepts))
    assert all(plan.coefficients(frame) is None for frame in range(10))


def test_coefficients_are_strength_times_eta_times_unit_times_layer_weight() -> None:
    bank = open_bank()
    plan = SteeringPlan(bank)
    plan.set("note_b", "slew", 0)
    plan.set("note_b", "eta", -0.5)
    plan.set_overall("strength", 1.5)
    expected = np.zeros((3, 4), dtype=np.float32)
    expected[1] = 1.5 * -0.5 * bank.unit[1] * bank.layer_weights[1]
    coefficients = plan.coefficients(0)
    assert coefficients is not None
    np.testing.assert_allclose(coefficients, expected, rtol=1e-6)


def test_eta_glides_on_a_line_and_arrives_exactly() -> None:
    bank = open_bank()
    plan = SteeringPlan(bank)
    plan.set("note_a", "slew", 80)
    plan.set("note_a", "eta", 1.0)
    assert [etas(plan, bank, frame)[0] for frame in range(10, 16)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    plan.set("note_a", "eta", 0.0)
    assert [etas(plan, bank, frame)[0] for frame in range(16, 20)] == [0.75, 0.5, 0.25, 0.0]
    assert plan.coefficients(20) is None


def test_a_knob_turned_during_its_glide_leaves_from_where_it_is() -> None:
    bank = open_bank()
    plan = SteeringPlan(bank)
    plan.set("note_a", "slew", 80)
    plan.set("note_a", "eta", 1.0)
    assert [etas(plan, bank, frame)[0] for frame in (0, 1)] == [0.25, 0.5]
    plan.set("note_a", "eta", 0.0)
    assert [etas(plan, bank, frame)[0] for frame in range(2, 6)] == [0.375, 0.25, 0.125, 0.0]


def test_off_and_solo_silence_a_concept_through_its_glide() -> None:
    bank = open_bank()
    plan = SteeringPlan(bank)
    for name in bank.names:
        plan.set(name, "slew", 40)
        plan.set(name, "eta", 1.0)
    plan.coefficients(0)
    assert etas(plan, bank, 1) == [1.0, 1.0, 1.0]
    plan.set("note_a", "on", 0)
    assert etas(plan, bank, 2) == [0.5, 1.0, 1.0]
    plan.set("note_c", "solo", 1)
    assert etas(plan, bank, 3) == [0.0, 0.5, 1.0]
    plan.set("note_c", "solo", 0)
    plan.set("note_a", "on", 1)
    assert etas(plan, bank, 4) == [0.5, 0.75, 1.0]  # note_b leaves from 0.5


def test_the_budget_caps_the_summed_push_and_keeps_its_balance() -> None:
    bank = open_bank()
    plan = SteeringPlan(bank)
    for name, eta in zip(bank.names, (1.0, -2.0, 1.0), strict=True):
        plan.set(name, "slew", 0)
        plan.set(name, "eta", eta)
    plan.set_overall("budget", 2.0)
    assert etas(plan, bank, 0) == [0.5, -1.0, 0.5]
    plan.set_overall("budget", 0.0)
    assert plan.coefficients(1) is None


def test_a_gate_is_one_philox_draw_per_concept_and_frame() -> None:
    bank = open_bank(gate=0.3)
    plan = SteeringPlan(bank, seed=9)
    for name in bank.names:
        plan.set(name, "slew", 0)
        plan.set(name, "eta", 1.0)
    frames = np.arange(2000)
    drawn = np.array([etas(plan, bank, int(frame)) for frame in frames]) != 0.0  # [frames, C]
    offsets = (1 << 62) + (frames[:, None] << 16) + np.arange(3)
    np.testing.assert_array_equal(drawn, philox_uniform(9, offsets) < np.float32(0.3))
    assert np.all(np.abs(drawn.mean(axis=0) - 0.3) < 0.04)
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.eye(3), atol=0.08)


def test_all_layers_share_the_gate() -> None:
    plan = SteeringPlan(open_bank(1, gate=0.5))
    plan.set("note_a", "eta", 1.0)
    for frame in range(50):
        coefficients = plan.coefficients(frame)
        assert coefficients is None or (coefficients[0] != 0).all()


def test_a_closed_gate_asks_for_no_steering_at_all() -> None:
    plan = SteeringPlan(open_bank(gate=0.0))
    for name in ("note_a", "note_b", "note_c"):
        plan.set(name, "eta", 2.0)
    plan.set("note_b", "period", 2)
    assert all(plan.coefficients(frame) is None for frame in range(50))


def test_a_period_steers_every_so_many_frames_whatever_the_gate() -> None:
    bank = open_bank(1, gate=0.1)
    plan = SteeringPlan(bank)
    plan.set("note_a", "slew", 0)
    plan.set("note_a", "eta", 1.0)
    plan.set("note_a", "period", 5)
    assert [frame for frame in range(20) if plan.coefficients(frame) is not None] == [0, 5, 10, 15]


def test_release_drops_every_eta_at_once_and_knobs_can_be_turned_again() -> None:
    bank = open_bank()
    plan = SteeringPlan(bank)
    plan.set("note_a", "eta", 1.0)
    plan.coefficients(0)
    plan.release()
    assert plan.coefficients(1) is None
    plan.set("note_a", "eta", 0.3)
    assert etas(plan, bank, 2)[0] == 0.1


def test_a_restored_plan_goes_on_as_the_first_time() -> None:
    bank = open_bank(gate=0.6)
    plan = SteeringPlan(bank, seed=4)
    plan.set("note_a", "eta", 1.0)
    plan.set("note_b", "eta", -1.0)
    plan.coefficients(0)
    state = plan.copy_state()
    first = [etas(plan, bank, frame) for frame in range(1, 30)]
    plan.set("note_a", "eta", 0.0)
    plan.set_overall("strength", 0.0)
    plan.set_seed(5)
    plan.coefficients(30)
    for _ in range(2):
        plan.restore_state(state)
        assert [etas(plan, bank, frame) for frame in range(1, 30)] == first


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("note_x", "eta", 0),
        ("note_a", "colour", 0),
        ("note_a", "eta", 2.1),
        ("note_a", "eta", math.nan),
        ("note_a", "eta", "much"),
        ("note_a", "on", 0.5),
        ("note_a", "gate", -0.1),
        ("note_a", "period", 0),
        ("note_a", "slew", math.inf),
    ],
)
def test_wrong_knobs_are_refused_and_change_nothing(name: str, field: str, value: object) -> None:
    plan = SteeringPlan(open_bank())
    with pytest.raises(RfmError):
        plan.set(name, field, value)  # type: ignore[arg-type]
    assert plan.coefficients(0) is None


@pytest.mark.parametrize(("field", "value"), [("strength", 2.5), ("budget", -1), ("loudness", 0)])
def test_wrong_overall_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(RfmError, match=field):
        SteeringPlan(open_bank()).set_overall(field, value)
