"""The control board: what one message changes, and what is counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfm_live.control.board import Change, ControlBoard
from rfm_live.control.table import ControlTable, Refused


@pytest.fixture
def board() -> ControlBoard:
    return ControlBoard(ControlTable(["note_c", "note_d"]))


def test_a_message_changes_the_value_and_names_its_source(board: ControlBoard) -> None:
    assert board.apply("/concept/note_c/eta", [0.5], "a") == [Change("/concept/note_c/eta", 0.5, "a")]
    assert board.value("/concept/note_c/eta") == 0.5


def test_a_value_that_is_there_already_is_no_change_so_that_echoes_die_out(board: ControlBoard) -> None:
    board.apply("/strength", [0.3], "a")
    assert board.apply("/strength", [board.value("/strength")], "b") == []
    assert board.apply("/strength", [0.3], "b") == []


def test_panic_sets_every_eta_to_zero_and_leaves_the_rest(board: ControlBoard) -> None:
    board.apply("/concept/note_c/eta", [1.5], "a")
    board.apply("/gain", [-6], "a")
    changes = board.apply("/panic", [], "a")
    assert changes == [Change("/panic", True, "a"), Change("/concept/note_c/eta", 0.0, None)]
    assert board.value("/concept/note_c/eta") == 0.0 and board.value("/gain") == -6.0
    assert board.apply("/panic", [0.0], "a") == []


def test_a_refused_message_changes_nothing_and_is_counted_by_its_reason(board: ControlBoard) -> None:
    before = board.full_state()
    for address, args in [("/x", [1]), ("/strength", [9]), ("/strength", [-9]), ("/status/frame", [1])]:
        with pytest.raises(Refused):
            board.apply(address, args, "a")
    assert board.full_state() == before
    assert board.refused == {"unknown address": 1, "out of range": 2, "read only": 1}
    assert board.accepted == 0


def test_a_question_for_a_trigger_or_an_unknown_address_is_refused_and_counted(board: ControlBoard) -> None:
    with pytest.raises(Refused, match="/panic has no value"):
        board.value("/panic")
    with pytest.raises(Refused, match="unknown address '/y'"):
        board.value("/y")
    assert board.refused == {"write only": 1, "unknown address": 1}


def test_the_full_state_has_every_address_that_has_a_value(board: ControlBoard) -> None:
    state = board.full_state()
    assert "/panic" not in state and "/sync" not in state and "/error" not in state
    assert all(board.value(address) == value for address, value in state.items())
    assert set(state) - set(board.settings()) == {p.address for p in board.table if p.access == "r"} - {"/error"}


def test_measurements_are_stored_inside_their_range(board: ControlBoard) -> None:
    stored = board.report({"/status/frame": 7, "/status/step_ms": 12.5, "/status/buffer_ms": -3.0})
    assert stored == {"/status/frame": 7, "/status/step_ms": 12.5, "/status/buffer_ms": 0.0}
    assert board.value("/status/frame") == 7
    with pytest.raises(KeyError):
        board.report({"/gain": 1.0})


@given(st.lists(st.tuples(st.sampled_from(["/concept/note_c/eta", "/gain", "/panic", "/no"]), st.floats(-3, 3))))
def test_replaying_the_changes_gives_the_state_and_every_message_is_counted_once(
    messages: list[tuple[str, float]],
) -> None:
    board = ControlBoard(ControlTable(["note_c"]))
    followed = board.full_state()
    for address, value in messages:
        try:
            changes = board.apply(address, [value], "a")
        except Refused:
            continue
        followed.update({change.address: change.value for change in changes if change.address in followed})
    assert followed == board.full_state()
    assert board.accepted + board.refused.total() == len(messages)
