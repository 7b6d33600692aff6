"""The plan's knobs in the engine: they reach the sound, leave it alone at eta 0, and survive a restored state."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from rfm_live.control.table import ControlTable
from rfm_live.engine.player import Engine, EngineSettings, Event
from rfm_live.engine.stream import Window
from rfm_live.errors import ControlError
from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.sampling import SamplingSettings
from tests.test_plan_shapes import overlapping_bank

SECONDS = 0.8  # 40 frames, over the window's end
PUSH: list[Event] = [(2, "/concept/note_a/eta", 1.0), (2, "/concept/note_b/eta", -0.75)]


@pytest.fixture
def new_engine(tiny_model: MusicGen) -> Callable[[], Engine]:
    config = tiny_model.decoder.config
    bank = overlapping_bank(3, layers=config.layers, width=config.width)
    bank = dataclasses.replace(bank, unit=np.full(3, 8.0, np.float32))
    window = Window(frames=24, prime=9, forget=4, chunk=3)
    settings = EngineSettings(SamplingSettings(guidance=3.0, top_k=32, seed=1), window, "calm piano")
    return lambda: Engine(tiny_model, bank, settings)


SHAPES: dict[str, list[Event]] = {
    "schedule": [(2, "/concept/note_a/schedule_seconds", 0.5), (2, "/concept/note_a/schedule", "linear_down")],
    "cross-fade": [
        (2, "/crossfade/from", "note_a"),
        (2, "/crossfade/to", "note_b"),
        (2, "/crossfade/seconds", 0.5),
        (2, "/crossfade/on", 1),
    ],
    "points": [(2, "/concept/note_a/schedule_points", "0:0 0.2:1"), (2, "/concept/note_a/schedule", "breakpoints")],
    "layers": [(2, "/layers", "top_k"), (2, "/layers_k", 1)],
    "own layers": [(2, "/concept/note_a/layers", "linear")],
    "orthogonal": [(2, "/orthogonal", "dual")],
    "budget": [(2, "/budget_of", "norm"), (2, "/budget", 0.5)],
    "blend": [(2, "/concept/note_a/mode", "blend")],
    "clamp": [(2, "/concept/note_a/mode", "clamp"), (2, "/concept/note_a/target", 0.0)],
    "rows": [(2, "/concept/note_a/rows", "conditional")],
}


def test_the_pushes_alone_are_heard(new_engine: Callable[[], Engine]) -> None:
    assert (new_engine().render(PUSH, SECONDS) != new_engine().render([], SECONDS)).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_steering_is_heard_and_only_while_something_is_steered(
    shape: str, new_engine: Callable[[], Engine]
) -> None:
    pushed, plain = (new_engine().render(events, SECONDS) for events in (PUSH, []))
    assert (new_engine().render([*SHAPES[shape], *PUSH], SECONDS) != pushed).any()
    np.testing.assert_array_equal(new_engine().render(SHAPES[shape], SECONDS), plain)


def test_an_engine_restored_amid_all_shapes_goes_on_bit_for_bit(new_engine: Callable[[], Engine]) -> None:
    events = [event for shape in SHAPES.values() for event in shape] + PUSH
    engine = new_engine()
    for _, address, value in events:
        engine.apply(address, value)
    engine.render([], 0.3)
    state = engine.copy_state()
    expected = engine.render([], 0.5)
    engine.apply("/orthogonal", "off")
    engine.apply("/concept/note_a/schedule", "sine")
    engine.render([], 0.1)
    for other in (engine, new_engine()):
        other.restore_state(state)
        np.testing.assert_array_equal(other.render([], 0.5), expected)


def test_every_setting_that_the_board_replays_is_taken_and_changes_no_sample(new_engine: Callable[[], Engine]) -> None:
    engine, kept = new_engine(), {"/prompt", "/guidance", "/top_k", "/top_p", "/seed", "/temperature", "/window"}
    for parameter in ControlTable(engine.bank.names):
        if parameter.access == "rw" and parameter.address not in kept:
            engine.apply(parameter.address, parameter.default)
    np.testing.assert_array_equal(engine.render(PUSH, SECONDS), new_engine().render(PUSH, SECONDS))


@pytest.mark.parametrize(("address", "value"), [("/concept/note_a/mode", "loud"), ("/orthogonal", 1), ("/budget", "x")])
def test_a_wrong_knob_is_refused(address: str, value: object, new_engine: Callable[[], Engine]) -> None:
    with pytest.raises(ControlError, match=address):
        new_engine().apply(address, value)
