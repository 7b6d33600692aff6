"""The control table: its addresses, defaults and the check of every value."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfm_live.control.table import ControlTable, Refused, as_float32
from rfm_live.errors import ControlError

TABLE = ControlTable(["note_c", "note_c_sharp", "tempo"], gates=[0.25, 1.0, 0.1])
EVERY_ADDRESS = [parameter.address for parameter in TABLE]


def refusal(address: str, *args: object) -> Refused:
    with pytest.raises(Refused) as caught:
        TABLE.check(address, args)
    return caught.value


@pytest.mark.parametrize("concepts", [[], ["a"], [f"c{i}" for i in range(40)]])
def test_every_concept_brings_the_same_addresses_beside_the_master_ones(concepts: list[str]) -> None:
    parts = {address.split("/")[3] for address in EVERY_ADDRESS if address.startswith("/concept/")}
    master = {parameter.address for parameter in ControlTable([])}
    told = {parameter.address for parameter in ControlTable(concepts)}
    assert told == master | {f"/concept/{name}/{part}" for name in concepts for part in parts}


def test_the_addresses_of_the_design_are_there() -> None:
    wanted = {f"/concept/note_c/{part}" for part in ("eta", "on", "solo", "gate", "period", "slew", "mode", "target")}
    wanted |= {"/strength", "/budget", "/prompt", "/temperature", "/top_k", "/top_p", "/guidance", "/seed"}
    wanted |= {"/window", "/forget", "/transport/play", "/panic", "/gain", "/sync", "/error"}
    wanted |= {f"/status/{name}" for name in ("frame", "step_ms", "buffer_ms", "underruns", "real_time_factor")}
    assert wanted <= set(EVERY_ADDRESS)


@pytest.mark.parametrize("address", EVERY_ADDRESS)
def test_every_default_lies_inside_its_own_range(address: str) -> None:
    parameter = TABLE.lookup(address)
    if parameter.kind != "trigger":
        assert parameter.check(parameter.default) == parameter.default
        assert type(parameter.check(parameter.default)) is {"f": float, "i": int, "s": str}[parameter.kind]


@pytest.mark.parametrize("address", EVERY_ADDRESS)
def test_every_limit_is_a_float32_so_that_osc_reaches_it(address: str) -> None:
    parameter = TABLE.lookup(address)
    if parameter.kind == "f":
        assert as_float32(parameter.low) == parameter.low and as_float32(parameter.high) == parameter.high
        assert parameter.check(parameter.low) == parameter.low and parameter.check(parameter.high) == parameter.high


def test_the_bank_gives_the_default_gate() -> None:
    assert TABLE.lookup("/concept/note_c/gate").default == 0.25
    assert TABLE.lookup("/concept/tempo/gate").default == as_float32(0.1)
    assert ControlTable(["a"]).lookup("/concept/a/gate").default == 1.0


def test_given_defaults_go_before_those_of_the_table_and_are_checked() -> None:
    table = ControlTable(["a"], defaults={"/concept/a/period": 4, "/temperature": 0.9})
    assert table.lookup("/concept/a/period").default == 4
    assert table.lookup("/temperature").default == as_float32(0.9)
    assert [parameter.address for parameter in table] == [parameter.address for parameter in ControlTable(["a"])]
    for address, value in (("/concept/a/period", 0), ("/x", 1), ("/prompt", 3)):
        with pytest.raises(Refused):
            ControlTable(["a"], defaults={address: value})


@pytest.mark.parametrize("name", ["", "C", "note c", "1a", "a/b", "ä"])
def test_a_concept_name_that_is_no_osc_word_is_refused(name: str) -> None:
    with pytest.raises(ControlError, match="concept name"):
        ControlTable([name])


def test_repeated_concept_names_are_refused() -> None:
    with pytest.raises(ControlError, match="repeat among a, a"):
        ControlTable(["a", "a"])


@pytest.mark.parametrize(
    ("address", "args", "reason", "text"),
    [
        ("/nowhere", (1.0,), "unknown address", "unknown address '/nowhere'"),
        ("/strength", (), "wrong count", "/strength takes 1 value, got 0"),
        ("/strength", (1.0, 2.0), "wrong count", "/strength takes 1 value, got 2"),
        ("/strength", ("loud",), "wrong type", "/strength is 'loud', expected a number"),
        ("/strength", (None,), "wrong type", "/strength is None, expected a number"),
        ("/strength", (math.nan,), "not finite", "/strength is nan, expected 0..2"),
        ("/strength", (-math.inf,), "not finite", "/strength is -inf, expected 0..2"),
        ("/concept/note_c/eta", (2.5,), "out of range", "/concept/note_c/eta is 2.5, expected -2..2"),
        ("/gain", (13,), "out of range", "/gain is 13, expected -60..12 dB"),
        ("/top_k", (2.5,), "wrong type", "/top_k is 2.5, expected a whole number, 0..2048 tokens"),
        ("/seed", (-1,), "out of range", "/seed is -1, expected 0..2147483647"),
        ("/prompt", (3,), "wrong type", "/prompt is 3, expected text"),
        ("/prompt", ("x" * 501,), "out of range", "/prompt has 501 characters, expected at most 500 characters"),
        ("/prompt", ("a\0b",), "wrong type", "/prompt is 'a\\x00b', expected text without NUL or surrogates"),
        ("/prompt", ("\ud800",), "wrong type", "/prompt is '\\ud800', expected text without NUL or surrogates"),
        ("/status/frame", (3,), "read only", "/status/frame is read only"),
        (
            "/concept/tempo/mode",
            ("hold",),
            "out of range",
            "/concept/tempo/mode is 'hold', expected one of add, blend, clamp",
        ),
        ("/concept/tempo/mode", (1,), "wrong type", "/concept/tempo/mode is 1, expected text"),
        ("/budget_of", ("Eta",), "out of range", "/budget_of is 'Eta', expected one of eta, norm"),
        (
            "/crossfade/to",
            ("note",),
            "out of range",
            "/crossfade/to is 'note', expected one of note_c, note_c_sharp, tempo or empty text",
        ),
        (
            "/concept/tempo/schedule_points",
            ("0:2",),
            "out of range",
            "/concept/tempo/schedule_points is '0:2', expected text such as '0:0 2.5:1', at most 500 characters, "
            "seconds 0..999, shares 0..1",
        ),
        ("/panic", ("now",), "wrong type", "/panic is 'now', expected a number"),
    ],
)
def test_a_wrong_message_is_refused_with_thing_value_and_domain(
    address: str, args: tuple[object, ...], reason: str, text: str
) -> None:
    error = refusal(address, *args)
    assert (error.reason, str(error)) == (reason, text)


def test_a_choice_among_many_is_refused_in_a_short_sentence() -> None:
    table = ControlTable([f"timbre_number_{number}" for number in range(60)])
    with pytest.raises(Refused) as caught:
        table.check("/crossfade/from", ["timbre"])
    assert str(caught.value).endswith("timbre_number_3, timbre_number_4, ... or empty text")
    with pytest.raises(Refused, match="/crossfade/from is 'a', expected empty text"):
        ControlTable([]).check("/crossfade/from", ["a"])


def test_faders_that_send_only_floats_reach_switches_and_integers() -> None:
    assert TABLE.check("/transport/play", [0.0]) == 0
    assert TABLE.check("/transport/play", [True]) == 1
    assert TABLE.check("/top_k", [40.0]) == 40
    assert TABLE.check("/strength", [1]) == 1.0


def test_a_trigger_fires_without_a_value_and_on_the_press_but_not_on_the_release() -> None:
    assert TABLE.check("/panic", []) is True
    assert TABLE.check("/panic", [1.0]) is True
    assert TABLE.check("/panic", [0.0]) is False


@given(st.floats(-2, 2))
def test_a_float_is_kept_as_osc_carries_it(value: float) -> None:
    kept = TABLE.check("/concept/note_c/eta", [value])
    assert kept == struct.unpack(">f", struct.pack(">f", value))[0]
    assert TABLE.check("/concept/note_c/eta", [kept]) == kept


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers(), max_size=2),
    st.sampled_from([10**400, -(10**400), 2**64]),
)  # fmt: skip


@given(st.sampled_from(EVERY_ADDRESS) | st.text(), st.lists(ANYTHING, max_size=3))
def test_whatever_comes_in_is_a_value_of_the_range_or_refused(address: str, args: list[object]) -> None:
    try:
        value = TABLE.check(address, args)
    except Refused as error:
        assert len(str(error)) < 300 and str(error).isprintable()
        return
    parameter = TABLE.lookup(address)
    if parameter.kind == "trigger":
        assert value in (True, False)
    else:
        assert parameter.check(value) == value
