"""What shapes a plan's steering beside eta: schedules, cross-fade, layer weights, mixing, budget, modes and rows."""

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.frame import FrameSteering, Mode
from rfm_live.steering.orthogonal import METHODS
from rfm_live.steering.plan import SteeringPlan
from rfm_live.steering.reach import LEVEL_SPREADS
from tests.test_bank import some_bank

Floats = npt.NDArray[np.float64]


def overlapping_bank(concepts: int = 3, gate: float = 1.0, layers: int = 4, width: int = 33) -> ConceptBank:
    """A bank whose directions have cosines of about 0.5, and gates that are open."""
    bank = some_bank(concepts, layers, width)
    shared = bank.directions + np.random.default_rng(9).normal(size=(1, layers, width)) / width**0.5
    directions = (shared / np.linalg.norm(shared, axis=-1, keepdims=True)).astype(np.float32)
    return dataclasses.replace(bank, directions=directions, gate=np.full(concepts, gate, np.float32))


def turned_plan(bank: ConceptBank, *etas: float, **overall: object) -> SteeringPlan:
    """A plan without glides, its first knobs at `etas` and its overall fields as told."""
    plan = SteeringPlan(bank)
    for name, eta in zip(bank.names, etas, strict=False):
        plan.set(name, "slew", 0)
        plan.set(name, "eta", eta)
    for field, value in overall.items():
        plan.set_overall(field, value)
    return plan


def weighed(plan: SteeringPlan, frame: int = 0) -> Floats:
    coefficients = plan.coefficients(frame)
    assert coefficients is not None
    return coefficients.astype(np.float64)


def reach_of(bank: ConceptBank) -> Floats:
    return (bank.unit[:, None] * bank.layer_weights).astype(np.float64)


def pushes(plan: SteeringPlan, bank: ConceptBank, frame: int = 0) -> Floats:
    """The summed push [L, D] in full."""
    return np.einsum("cl,cld->ld", weighed(plan, frame), bank.directions)


# Schedules


@pytest.mark.parametrize(
    ("field", "value"),
    [("schedule", "constant"), ("schedule", "breakpoints"), ("schedule_points", "0:1 3:1"), ("layers", "uniform")],
)
def test_a_share_of_1_is_no_share_at_all_bit_for_bit(field: str, value: str) -> None:
    bank = overlapping_bank(gate=0.5)
    plain, shaped = (turned_plan(bank, 0.7, -0.3, 0.1) for _ in range(2))
    if field == "schedule_points":
        shaped.set("note_a", "schedule", "breakpoints")
    shaped.set("note_a", field, value)
    for frame in range(60):
        one, other = plain.coefficients(frame), shaped.coefficients(frame)
        assert (one is None and other is None) or np.array_equal(one, other)  # type: ignore[arg-type]


def test_a_schedule_begins_at_the_frame_after_it_is_set_and_runs_over_its_seconds() -> None:
    bank = overlapping_bank()
    plan = turned_plan(bank, 1.0, 1.0)
    full = weighed(plan, 0)
    plan.set("note_a", "schedule_seconds", 0.2)  # 10 frames
    plan.set("note_a", "schedule", "linear_down")
    for frame in range(1, 15):
        share = max(1 - (frame - 1) / 10, 0)
        np.testing.assert_allclose(weighed(plan, frame)[0], share * full[0], rtol=1e-6)
        np.testing.assert_array_equal(weighed(plan, frame)[1], full[1])
    plan.set("note_a", "schedule_start", True)
    np.testing.assert_array_equal(weighed(plan, 20), full)
    plan.set("note_a", "schedule_start", 0)  # the release of the button
    np.testing.assert_allclose(weighed(plan, 25)[0], 0.5 * full[0], rtol=1e-6)
    plan.set("note_a", "schedule", "constant")
    np.testing.assert_array_equal(weighed(plan, 26), full)


def test_a_schedule_runs_while_its_knob_is_at_zero() -> None:
    bank = overlapping_bank()
    plan = turned_plan(bank, 0.0)
    plan.set("note_a", "schedule_seconds", 2.0)
    plan.set("note_a", "schedule", "linear_up")
    assert plan.coefficients(100) is None
    plan.set("note_a", "eta", 1.0)
    np.testing.assert_allclose(weighed(plan, 150)[0], 0.5 * reach_of(bank)[0], rtol=1e-6)


def test_breakpoints_are_seconds_since_the_start() -> None:
    bank = overlapping_bank()
    plan = turned_plan(bank, 1.0)
    plan.set("note_a", "schedule_points", "0:0 1:1 2:0.5")
    plan.set("note_a", "schedule", "breakpoints")
    assert plan.coefficients(7) is None
    for after, share in ((25, 0.5), (50, 1.0), (75, 0.75), (500, 0.5)):
        np.testing.assert_allclose(weighed(plan, 7 + after)[0], share * reach_of(bank)[0], rtol=1e-6)


def test_a_cross_fade_leads_from_one_concept_to_the_other_and_leaves_the_rest() -> None:
    bank = overlapping_bank()
    plan = turned_plan(bank, 0.45, 0.45, 0.2)
    full = weighed(plan, 9)
    plan.set_overall("crossfade/from", "note_b")
    plan.set_overall("crossfade/to", "note_a")
    plan.set_overall("crossfade/seconds", 1.0)
    np.testing.assert_array_equal(weighed(plan, 10), full)
    plan.set_overall("crossfade/on", 1)
    for after in (0, 10, 25, 49, 50, 90):
        share = min(after / 50, 1)
        expected = full * np.array([share, 1 - share, 1.0])[:, None]
        np.testing.assert_allclose(weighed(plan, 11 + after), expected, rtol=1e-6, atol=1e-9)
    plan.set_overall("crossfade/on", 1)  # is on already: goes on
    assert not weighed(plan, 200)[1].any()
    plan.set_overall("crossfade/to", "note_b")  # to itself: no cross-fade
    np.testing.assert_array_equal(weighed(plan, 201), full)
    plan.set_overall("crossfade/to", "note_a")
    plan.set_overall("crossfade/on", 0)
    np.testing.assert_array_equal(weighed(plan, 202), full)


def test_a_cross_fade_multiplies_a_schedule() -> None:
    bank = overlapping_bank()
    plan = turned_plan(bank, 0.45, 0.45)
    for name in ("note_a", "note_b"):
        plan.set(name, "schedule_seconds", 1.0)
        plan.set(name, "schedule", "linear_up")
    for field, value in (("from", "note_a"), ("to", "note_b"), ("seconds", 2.0), ("on", 1)):
        plan.set_overall(f"crossfade/{field}", value)
    plan.coefficients(0)
    shares = [0.5 * 0.75, 0.5 * 0.25]  # half of the schedule, a quarter of the cross-fade
    np.testing.assert_allclose(weighed(plan, 25)[:2], 0.45 * reach_of(bank)[:2] * np.c_[shares], rtol=1e-6)


# Layer weights


def test_layer_weights_multiply_the_banks_for_all_concepts_or_one() -> None:
    bank = overlapping_bank()
    low, high = bank.scores.min(axis=1, keepdims=True), bank.scores.max(axis=1, keepdims=True)
    score = ((bank.scores - low) / (high - low)).astype(np.float64)
    plan = turned_plan(bank, 1.0, 1.0, 1.0, layers="linear", layers_w0=0.5)
    expected = 0.5 * score * reach_of(bank)
    np.testing.assert_allclose(weighed(plan, 0), expected, rtol=1e-5)
    plan.set("note_b", "layers", "exponential")
    plan.set("note_b", "layers_kappa", 0.25)
    expected[1] = score[1] ** 4 * reach_of(bank)[1]
    np.testing.assert_allclose(weighed(plan, 1), expected, rtol=1e-5)
    plan.set("note_c", "layers", "top_k")
    plan.set("note_c", "layers_k", 1)
    expected[2] = np.where(bank.scores[2] == bank.scores[2].max(), reach_of(bank)[2], 0.0)
    np.testing.assert_allclose(weighed(plan, 2), expected, rtol=1e-5)
    for name in ("note_b", "note_c"):
        plan.set(name, "layers", "all")
    plan.set_overall("layers", "uniform")
    plan.set_overall("layers_w0", 1.0)
    np.testing.assert_array_equal(weighed(plan, 3), weighed(turned_plan(bank, 1.0, 1.0, 1.0)))


# Several concepts


@pytest.mark.parametrize("method", METHODS[1:])
def test_mixed_coefficients_push_along_the_new_directions(method: str) -> None:
    """Worked out from the directions themselves: QR, polar decomposition and pseudo-inverse per layer."""
    bank = overlapping_bank()
    etas = np.array([0.5, -1.0, 0.75])
    found = pushes(turned_plan(bank, *etas, orthogonal=method), bank)
    for layer in range(bank.layers):
        rows = bank.directions[:, layer].astype(np.float64)  # [C, D]
        q, r = np.linalg.qr(rows.T)
        u, _, vt = np.linalg.svd(rows, full_matrices=False)
        new = {"gram_schmidt": (q * np.sign(np.diag(r))).T, "least_squares": u @ vt, "dual": np.linalg.pinv(rows).T}
        expected = (etas * reach_of(bank)[:, layer]) @ new[method]
        np.testing.assert_allclose(found[layer], expected, atol=1e-5)


def test_gram_schmidt_keeps_the_direction_of_what_was_turned_first() -> None:
    bank = overlapping_bank()
    plan = turned_plan(bank, 0.0, 1.0, orthogonal="gram_schmidt")
    alone = weighed(plan, 0)
    plan.set("note_a", "slew", 0)
    plan.set("note_a", "eta", 1.0)
    both = pushes(plan, bank, 1)
    first = pushes(turned_plan(bank, 0.0, 1.0), bank)
    rest = both - first  # what note_a adds lies at a right angle to note_b
    np.testing.assert_allclose(np.einsum("ld,ld->l", rest, bank.directions[1]), 0.0, atol=1e-5)
    plan.set("note_a", "eta", 0.0)
    np.testing.assert_array_equal(weighed(plan, 2), alone)
    plan.set("note_b", "eta", 0.0)
    assert plan.coefficients(3) is None
    for frame, name in ((4, "note_a"), (5, "note_b")):  # the other way round
        plan.set(name, "eta", 1.0)
        plan.coefficients(frame)
    rest = pushes(plan, bank, 6) - pushes(turned_plan(bank, 1.0), bank)
    np.testing.assert_allclose(np.einsum("ld,ld->l", rest, bank.directions[0]), 0.0, atol=1e-5)


def test_of_concepts_that_were_turned_together_the_banks_first_goes_first() -> None:
    bank = overlapping_bank(20)
    etas = np.linspace(0.05, 0.3, 20)  # within the budget
    found = pushes(turned_plan(bank, *etas, orthogonal="gram_schmidt"), bank)
    q, r = np.linalg.qr(bank.directions[:, 0].astype(np.float64).T)
    expected = (etas * reach_of(bank)[:, 0]) @ (q * np.sign(np.diag(r))).T
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_one_concept_alone_is_never_mixed(method: str) -> None:
    bank = overlapping_bank()
    np.testing.assert_array_equal(
        weighed(turned_plan(bank, 0.0, 0.6, orthogonal=method)), weighed(turned_plan(bank, 0.0, 0.6))
    )


def test_only_pushes_into_the_same_rows_are_mixed() -> None:
    bank = overlapping_bank()
    plan = turned_plan(bank, 1.0, 1.0, 1.0, orthogonal="dual")
    plan.set("note_a", "rows", "conditional")
    plan.set("note_b", "mode", "clamp")
    np.testing.assert_allclose(weighed(plan)[[0, 2]], reach_of(bank)[[0, 2]], rtol=1e-6)
    plan.set("note_c", "rows", "conditional")
    assert np.abs(weighed(plan, 1)[[0, 2]] - reach_of(bank)[[0, 2]]).max() > 0.1
    np.testing.assert_array_equal(weighed(plan, 1)[1], np.ones(bank.layers))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [0.0, 0.5, 1.25, 4.0])
def test_the_norm_budget_caps_the_length_of_the_summed_push(method: str, budget: float) -> None:
    """Lengths are in units of the concepts' own full pushes, here made equal so that they can be added up by hand."""
    bank = overlapping_bank()
    even = (bank.layer_weights / np.linalg.norm(bank.layer_weights, axis=1, keepdims=True)).astype(np.float32)
    bank = dataclasses.replace(bank, layer_weights=even, unit=np.full(3, 2.0, np.float32))
    free = pushes(turned_plan(bank, 1.0, -0.5, 2.0, orthogonal=method, budget_of="norm"), bank)
    length = np.linalg.norm(free) / 2.0
    assert 1.25 < length < 4.0
    plan = turned_plan(bank, 1.0, -0.5, 2.0, orthogonal=method, budget_of="norm", budget=budget)
    if budget == 0.0:
        assert plan.coefficients(0) is None
    else:
        capped = pushes(plan, bank)
        assert np.linalg.norm(capped) / 2.0 == pytest.approx(min(budget, length), rel=1e-5)
        np.testing.assert_allclose(capped, free * min(budget / length, 1.0), atol=1e-5)


def test_the_budgets_measure_is_changed_while_it_plays() -> None:
    bank = overlapping_bank()
    plan = turned_plan(bank, 1.0, -1.0, budget=0.5)
    by_eta = weighed(plan, 0)
    plan.set_overall("budget_of", "norm")
    by_norm = weighed(plan, 1)
    assert np.abs(by_norm).sum() > 1.2 * np.abs(by_eta).sum()  # against each other the two push less than their sum
    plan.set_overall("budget_of", "eta")
    np.testing.assert_array_equal(weighed(plan, 2), by_eta)


@pytest.mark.parametrize("measure", ["eta", "norm"])
def test_for_one_concept_both_budgets_are_the_same(measure: str) -> None:
    bank = overlapping_bank()
    found = weighed(turned_plan(bank, 0.0, 2.0, budget_of=measure, budget=0.5))
    np.testing.assert_allclose(found[1], 0.5 * reach_of(bank)[1], rtol=1e-5)


def test_the_budget_leaves_room_for_what_a_schedule_holds_back() -> None:
    bank = overlapping_bank()
    plan = turned_plan(bank, 1.0, 1.0, budget=1.0)
    plan.set("note_a", "schedule", "linear_up")  # at 0 in its first frame
    np.testing.assert_allclose(weighed(plan)[1], reach_of(bank)[1], rtol=1e-6)


# Modes and rows


def steering_of(plan: SteeringPlan, frame: int = 0) -> FrameSteering:
    steering = plan.steering(frame)
    assert steering is not None
    return steering


def test_pushes_into_both_rows_stay_the_plain_case() -> None:
    plan = turned_plan(overlapping_bank(), 1.0, 0.5)
    plan.set("note_c", "mode", "clamp")  # at eta 0
    plan.set("note_c", "rows", "conditional")
    assert steering_of(plan).is_plain
    plan.set("note_c", "eta", 0.1)
    assert not steering_of(plan, 1).is_plain


def test_a_clamp_pulls_whole_towards_the_level_between_the_two_class_means() -> None:
    bank = overlapping_bank()
    assert bank.other_mean is not None
    plan = turned_plan(bank, 0.5, 0.25)
    plan.set("note_a", "mode", "clamp")
    plan.set("note_a", "target", 0.25)
    steering = steering_of(plan)
    assert steering.mode is not None and steering.target is not None and steering.is_text_only is None
    assert steering.mode.tolist() == [Mode.CLAMP, Mode.ADD, Mode.ADD]
    np.testing.assert_array_equal(steering.coefficients[0], np.full(bank.layers, 0.5, np.float32))
    np.testing.assert_allclose(steering.target[0], 0.75 * bank.other_mean[0] + 0.25 * bank.mean[0], rtol=1e-5)
    np.testing.assert_allclose(steering.coefficients[1], 0.25 * reach_of(bank)[1], rtol=1e-6)


def test_in_a_bank_without_the_other_class_levels_are_spreads_about_the_mean() -> None:
    bank = dataclasses.replace(overlapping_bank(), other_mean=None, other_spread=None, residual_norm=None)
    plan = turned_plan(bank, 0.5)
    plan.set("note_a", "mode", "clamp")
    for frame, (level, spreads) in enumerate(((0.0, -LEVEL_SPREADS), (0.5, 0.0), (1.0, LEVEL_SPREADS))):
        plan.set("note_a", "target", level)
        target = steering_of(plan, frame).target
        assert target is not None
        np.testing.assert_allclose(target[0], bank.mean[0] + spreads * bank.spread[0], rtol=1e-5)
    plan.set("note_a", "mode", "blend")
    np.testing.assert_array_equal(steering_of(plan, 3).coefficients[0], np.full(bank.layers, 0.5, np.float32))


def test_a_blend_takes_the_share_of_the_hidden_states_length_that_a_push_would_add() -> None:
    bank = overlapping_bank()
    assert bank.residual_norm is not None
    plan = turned_plan(bank, 0.5)
    plan.set("note_a", "mode", "blend")
    steering = steering_of(plan)
    assert steering.mode is not None and steering.mode.tolist() == [Mode.BLEND, 0, 0] and steering.target is None
    np.testing.assert_allclose(steering.coefficients[0], 0.5 * reach_of(bank)[0] / bank.residual_norm[0], rtol=1e-5)


def test_rows_are_a_choice_per_concept() -> None:
    plan = turned_plan(overlapping_bank(), 0.5, 0.5)
    plan.set("note_b", "rows", "conditional")
    steering = steering_of(plan)
    assert steering.is_text_only is not None and steering.is_text_only.tolist() == [False, True, False]
    assert steering.mode is None and steering.target is None
