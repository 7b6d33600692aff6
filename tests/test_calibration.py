"""From directions to knobs: on made-up readings whose answer is known, and on the embedded checkpoint."""

from dataclasses import replace

import numpy as np
import pytest

from rfm_live.concepts.calibration import (
    KNOBS,
    UNITS,
    Heard,
    Listening,
    Trials,
    calibrated,
    effect_of,
    is_inverted,
    standard_error,
    suggested_range,
)
from rfm_live.concepts.effect_meters import CENTROID, METERS, Ear, dominance_of, fitting_ear, readings
from rfm_live.concepts.stage import Play, Stage, control_of, with_controls
from rfm_live.errors import StartError
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank
from tests.test_bank import some_bank

ALIVE = np.ones(5)
PLAY = Play(heard_seconds=0.4, lead_seconds=0.4, settle_seconds=0.2)


def heard(means: list[float], sounding: np.ndarray = ALIVE) -> Heard:
    """Readings at knob -2, -1, 0, 1, 2 in three pieces that differ a little."""
    return Heard(np.asarray(means)[:, None] + np.array([-0.01, 0.0, 0.01]), np.array([0.1, 0.2, 0.0]), sounding)


@pytest.mark.parametrize(
    ("means", "sign", "span"),
    [
        ([0.0, 0.1, 0.5, 0.9, 1.0], 1.0, (-2.0, 2.0)),
        ([0.0, 0.1, 0.5, 0.9, 0.5], 1.0, (-2.0, 1.0)),
        ([0.3, 0.1, 0.5, 0.9, 0.9], 1.0, (-1.0, 2.0)),
        ([0.1, 0.1, 0.1, 0.9, 0.88], 1.0, (0.0, 2.0)),
        ([900.0, 700.0, 500.0, 300.0, 250.0], -1.0, (-2.0, 2.0)),
    ],
)
def test_the_range_goes_as_far_as_more_knob_is_more_effect(
    means: list[float], sign: float, span: tuple[float, float]
) -> None:
    assert suggested_range(heard(means), sign) == span


def test_the_range_ends_where_the_music_ends() -> None:
    means = [0.0, 0.1, 0.5, 0.9, 1.0]
    assert suggested_range(heard(means, np.array([0.5, 1, 1, 1, 0.5])), 1.0) == (-1.0, 1.0)
    assert suggested_range(heard(means, np.array([0.5, 0.5, 1, 1, 1])), 1.0) == (0.0, 2.0)


def test_a_direction_is_inverted_only_where_that_is_clear() -> None:
    rising = heard([0.0, 0.1, 0.5, 0.9, 1.0])
    assert not is_inverted(rising, 1.0) and is_inverted(rising, -1.0)
    assert is_inverted(rising.flipped(), 1.0) and not is_inverted(rising.flipped(), -1.0)
    noise = replace(rising, readings=np.array([[0.0] * 3, [0.4, 0.1, 0.7], [0.0] * 3, [0.5, 0.0, 0.4], [0.0] * 3]))
    assert not is_inverted(noise, 1.0) and not is_inverted(noise, -1.0)


def test_the_effect_on_the_card_is_what_was_heard() -> None:
    result = heard([0.0, 0.1, 0.5, 0.9, 1.0])
    result.readings[KNOBS.index(1.0)] += np.array([0.0, 0.03, 0.0])
    effect = effect_of(result, Ear("loudness", "db", 1.0, True, lambda samples: 0.0))
    assert (effect.meter, effect.unit, effect.seeds, effect.is_external) == ("loudness", "db", 3, True)
    assert [effect.at_minus, effect.at_zero, effect.at_plus] == pytest.approx([0.1, 0.5, 0.91])
    assert effect.at_random == pytest.approx(0.1)
    # three contrasts 0.80, 0.83, 0.80: standard deviation 0.01732, over the root of 3
    assert effect.standard_error == pytest.approx(0.01)
    assert effect.is_heard and not replace(effect, at_random=1.0).is_heard
    assert not replace(effect, standard_error=0.5).is_heard


def test_a_standard_error_is_that_of_the_mean() -> None:
    assert standard_error(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(np.sqrt(5 / 3) / 2)
    assert standard_error(np.array([1.0])) == np.inf


def tone(frequency: float, seconds: float = 2.0) -> np.ndarray:
    times = np.arange(round(seconds * 32_000)) / 32_000
    wave = sum(np.sin(2 * np.pi * frequency * part * times) / part for part in range(1, 6))
    return (0.2 * wave).astype(np.float32)


def test_the_meter_that_hears_the_clips_apart_is_taken_with_its_sign_and_span() -> None:
    bright = [readings(tone(1760.0 + step)) for step in range(0, 50, 10)]
    dark = [readings(tone(110.0 + step)) for step in range(0, 5)]
    is_with = np.array([True] * 5 + [False] * 5)
    ear = fitting_ear(bright + dark, is_with)
    assert ear is not None and (ear.name, ear.sign, ear.unit, ear.is_external) == (CENTROID, 1.0, "hz", True)
    assert ear.read(tone(880.0)) == pytest.approx(readings(tone(880.0))[CENTROID])
    apart = np.mean([clip[CENTROID] for clip in bright]) - np.mean([clip[CENTROID] for clip in dark])
    assert ear.span == pytest.approx(apart)
    assert (turned := fitting_ear(bright + dark, ~is_with)) is not None and turned.sign == -1.0


def test_a_note_is_heard_by_the_dominance_of_its_pitch_class() -> None:
    read = readings(tone(440.0))
    assert read[dominance_of("a")] > 0.9 and read[dominance_of("c")] < 0.05
    notes = [readings(tone(440.0 * 2 ** (step / 12))) for step in (0, 12, 2, 5)]
    ear = fitting_ear(notes, np.array([True, True, False, False]))
    assert ear is not None and ear.name == dominance_of("a") and ear.span == np.inf


def test_clips_that_differ_in_nothing_have_no_meter_unless_one_is_wanted() -> None:
    same = [readings(tone(330.0))] * 6
    is_with = np.array([True, False] * 3)
    assert fitting_ear(same, is_with) is None
    wanted = fitting_ear(same, is_with, CENTROID)
    assert wanted is not None and wanted.name == CENTROID and set(readings(tone(330.0))) == set(METERS)


@pytest.fixture(scope="module")
def tiny_bank(tiny_model: MusicGen) -> ConceptBank:
    config = tiny_model.config.decoder
    bank = replace(some_bank(3, config.layers, config.width), checkpoint_sha256=tiny_model.sha256)
    return replace(bank, gate=np.ones(3, np.float32), layer_weights=np.ones((3, config.layers), np.float32))


def first_concept(bank: ConceptBank) -> ConceptBank:
    arrays = ("directions", "scores", "mean", "spread", "unit", "layer_weights", "gate", "period")
    arrays += ("other_mean", "other_spread", "residual_norm")
    kept = {name: getattr(bank, name)[:1] for name in ("names", "cards", *arrays)}
    return replace(bank, **kept)


def test_every_trial_of_a_seed_goes_on_from_the_same_bars(tiny_model: MusicGen, tiny_bank: ConceptBank) -> None:
    """Against an engine that plays the whole piece in one go."""
    from rfm_live.engine.defaults import default_settings
    from rfm_live.engine.player import Engine

    stage = Stage(tiny_model, tiny_bank, PLAY)
    steered = [stage.hear(4, {"note_a": 1.5}), stage.hear(4, {"note_b": 1.0}), stage.hear(4, {"note_a": 1.5})]
    np.testing.assert_array_equal(steered[0], steered[2])
    assert not np.array_equal(steered[0], steered[1])
    for knobs in ({"note_a": 1.5}, {}):
        engine = Engine(tiny_model, tiny_bank, default_settings(tiny_model.path, tiny_model.config, seed=4))
        whole = engine.render([(20, f"/concept/{name}/eta", eta) for name, eta in knobs.items()], 1.0)
        np.testing.assert_array_equal(stage.hear(4, knobs), whole[round(0.6 * 32_000) :])


def test_a_control_pushes_as_far_as_its_concept_in_another_direction(tiny_bank: ConceptBank) -> None:
    both = with_controls(tiny_bank)
    assert both.names == (*tiny_bank.names, *(control_of(tiny_bank, name) for name in tiny_bank.names))
    np.testing.assert_array_equal(both.unit[3:], tiny_bank.unit)
    np.testing.assert_array_equal(both.layer_weights[3:], tiny_bank.layer_weights)
    cosines = np.einsum("cld,cld->cl", both.directions[3:], tiny_bank.directions)
    assert np.abs(cosines).max() < 0.5


class FakeStage:
    """Music as loud as a known function of the knobs, so that the right unit is known."""

    def __init__(self, level_of: dict[str, float]) -> None:
        self.level_of = level_of

    def hear(self, seed: int, knobs: dict[str, float]) -> np.ndarray:
        (name, eta), *_ = [*knobs.items(), ("", 0.0)]
        units = eta * UNITS[-1]
        level = 0.5 + self.level_of.get(name, 0.0) * np.clip(units, -1.0, 1.0) / 4
        return np.full(6400, 0.0 if abs(units) > 2.5 else level, np.float32)


@pytest.mark.parametrize(("span", "unit"), [(np.inf, 1.0), (0.25, 0.5), (0.1, 0.25)])
def test_the_unit_is_the_smallest_with_a_full_effect(
    tiny_model: MusicGen, tiny_bank: ConceptBank, span: float, unit: float
) -> None:
    """The level goes from 0.25 to 0.75 between units -1 and 1 and stays there; it falls silent beyond 2.5."""
    done: list[tuple[int, int]] = []
    trials = Trials(tiny_model, tiny_bank, Listening(PLAY, (1, 2)), lambda *counts: done.append(counts))
    trials._stage = FakeStage({"note_a": 1.0, "note_c": -1.0})  # type: ignore[assignment]
    ear = Ear("level", "", 1.0, True, lambda samples: float(samples.mean()), span)
    assert trials.find_unit(["note_a", "note_c"], dict.fromkeys(tiny_bank.names, ear)) == unit
    assert not is_inverted(trials.listen("note_a", unit, ear), 1.0)
    assert is_inverted(trials.listen("note_c", unit, ear), 1.0)


def test_a_unit_at_which_any_push_moves_the_music_is_too_long(tiny_model: MusicGen, tiny_bank: ConceptBank) -> None:
    """The knob's effect grows up to unit 1; a random push has one, too, from 0.75 on: half as far as the knob, or a
    tenth, or, where nothing is left of the knob's own, as far at every unit.
    """

    def unit_with(stray: float, since: float) -> float:
        trials = Trials(tiny_model, tiny_bank, Listening(PLAY, (1, 2)), lambda done, count: None)
        trials._stage = StrayingStage(control_of(tiny_bank, "note_a"), stray, since)  # type: ignore[assignment]
        ear = Ear("level", "", 1.0, True, lambda samples: float(samples.mean()))
        return trials.find_unit(["note_a"], {"note_a": ear})

    assert unit_with(0.0, 0.75) == 1.0
    assert unit_with(0.25, 0.75) == 0.5
    assert unit_with(0.01, 0.75) == 1.0
    assert unit_with(0.5, 0.0) == 1.0


class StrayingStage(FakeStage):
    """A stage on which the random knob moves the level, too, by `stray` from `since` units on."""

    def __init__(self, control: str, stray: float, since: float) -> None:
        super().__init__({"note_a": 1.0})
        self.control, self.stray, self.since = control, stray, since

    def hear(self, seed: int, knobs: dict[str, float]) -> np.ndarray:
        units = knobs.get(self.control, 0.0) * UNITS[-1]
        return super().hear(seed, knobs) + np.float32(self.stray * (units >= self.since and units > 0.0))


def test_calibrating_turns_inverted_directions_round_and_fills_the_cards(
    tiny_model: MusicGen, tiny_bank: ConceptBank
) -> None:
    """On a real engine, with one concept, for time."""
    tiny_bank = first_concept(tiny_bank)
    steps: list[tuple[int, int]] = []

    def louder(samples: np.ndarray) -> float:
        return float(np.square(samples).mean())

    ears = {name: Ear("power", "", 1.0, True, louder) for name in tiny_bank.names}
    listening = Listening(PLAY, (1, 2))
    first = calibrated(tiny_model, tiny_bank, ears, listening, lambda *counts: steps.append(counts))
    assert steps[-1][0] == steps[-1][1] == len(steps)
    (effect,) = (card.effect for card in first.cards)
    assert effect is not None and effect.seeds == 2 and effect.at_plus != effect.at_minus
    flipped = np.array_equal(first.directions, -tiny_bank.directions)
    assert flipped or np.array_equal(first.directions, tiny_bank.directions)
    np.testing.assert_array_equal(first.mean, -tiny_bank.mean if flipped else tiny_bank.mean)
    assert first.unit[0] in UNITS


def test_one_piece_is_too_few_to_listen_to() -> None:
    with pytest.raises(StartError, match="1 seeds to listen with"):
        Listening(seeds=(1,))
