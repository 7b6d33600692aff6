"""The banks that ship: what teaches them, how units and bars are found, and a whole small run on a tiny model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rfm_live.concepts.intervals import Interval
from rfm_live.concepts.music_analysis import QUALITIES
from rfm_live.embedded import CHECKPOINT, bank_listening, banks, reference_turns, turned_banks
from rfm_live.embedded.bank_listening import UNITS, Curve, Listening, best_unit, best_units, is_inverted
from rfm_live.embedded.bank_reports import Bar, _cannot, reasons
from rfm_live.embedded.composer import INSTRUMENTS, Style, draw_style
from rfm_live.embedded.reference_turns import reference
from rfm_live.embedded.turned_banks import Teaching
from rfm_live.embedded.turns import AFTER_FRAMES, BEFORE_FRAMES, Turn, chord_study, concept_sets, draw_turns
from rfm_live.errors import BankError, StartError
from rfm_live.experiments.drift import Drift
from rfm_live.experiments.measures import ClipReader, Judge, judge_of
from rfm_live.experiments.setup import ClipValues, Outcome
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.places import presets
from rfm_live.steering.bank import ConceptBank, load_bank, read_bank, save_bank


def differing(turn: Turn) -> set[str]:
    """The fields of Style in which the sides of a turn differ."""
    before, after = turn.before.style, turn.after.style
    return {name for name in Style.__dataclass_fields__ if getattr(before, name) != getattr(after, name)}


@pytest.mark.parametrize(
    ("concept", "fields", "also"),
    [
        ("note_f_sharp", {"tonic"}, {"texture"}),
        ("chord_minor", set(), {"mode"}),
        ("mode_minor", {"mode"}, {"texture"}),
        ("tempo", {"tempo", "beat"}, set()),
        ("density", {"dense"}, set()),
        ("brightness", {"instrument"}, set()),
        ("timbre_voice", {"instrument"}, set()),
        ("drums", {"drums", "bass"}, set()),
        ("texture_pedal", {"texture"}, set()),
    ],
)
def test_the_sides_of_a_turn_differ_in_the_concept_alone(concept: str, fields: set[str], also: set[str]) -> None:
    turns = draw_turns(concept, 8, seed=1)
    for index, turn in enumerate(turns):
        assert (turn.before.frames, turn.after.frames) == (BEFORE_FRAMES, AFTER_FRAMES)
        found = differing(turn)
        assert fields <= found <= fields | also, (index, turn.before.style, turn.after.style)
    assert turns == draw_turns(concept, 8, seed=1) and turns[:3] == draw_turns(concept, 3, seed=1)
    assert turns != draw_turns(concept, 8, seed=2)


def test_the_beat_goes_on_through_a_turn() -> None:
    turns = [turn for turn in draw_turns("note_a", 24, seed=1) if turn.before.style.drums]
    assert {turn.before.style.tempo for turn in turns} == {"slow", "medium", "fast"}
    for turn in turns:
        bar = 4 * turn.before.style.beat
        for piece, origin in ((turn.before, BEFORE_FRAMES), (turn.after, 0)):
            kicks = {(note.start - origin) % bar for note in piece.notes if (note.channel, note.pitch) == (9, 36)}
            assert kicks <= {0, bar // 2} and kicks, (turn.before.style.tempo, kicks)
        assert all(0 <= note.start < note.start + note.length <= BEFORE_FRAMES for note in turn.before.notes)


def test_knobs_are_heard_under_prompts_with_and_without_drums_for_every_instrument() -> None:
    asked = [prompt.asked or {} for prompt in bank_listening.prompts(2 * len(INSTRUMENTS), seed=1)]
    assert [one["drums"] for one in asked[:4]] == ["none", "drums", "none", "drums"]
    families = sorted(one.family for one in INSTRUMENTS)
    for start in (0, len(INSTRUMENTS)):
        assert sorted(one["family"] for one in asked[start : start + len(INSTRUMENTS)]) == families
    assert bank_listening.prompts(4, 1) == bank_listening.prompts(8, 1)[:4] != bank_listening.prompts(4, 2)


def test_concepts_with_an_opposite_turn_both_ways_and_the_others_one_way() -> None:
    for names in concept_sets().values():
        for name in names:
            shares = {turn.share for turn in draw_turns(name, 4, seed=1)}
            assert shares == ({1.0} if "_" in name else {1.0, -1.0}), name


def test_there_are_no_turns_to_what_the_composer_does_not_know() -> None:
    with pytest.raises(ValueError, match="no turns teach 'swing'"):
        draw_turns("swing", 1, seed=1)


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_chord_study_sounds_triads_of_its_quality_within_the_range(quality: str) -> None:
    for index, instrument in enumerate(INSTRUMENTS):
        rng = np.random.default_rng(index)
        style = replace(draw_style(rng), instrument=instrument, drums=index % 2 == 0)
        study = chord_study(rng, 160, quality, style)
        notes = [note for note in study.notes if note.channel == 0]
        assert notes and all(instrument.low <= note.pitch for note in notes)
        assert any(note.channel == 9 for note in study.notes) == style.drums
        assert all(note.start + note.length <= 160 and note.length > 0 for note in study.notes)
        bar = 4 * study.style.beat
        for start in range(0, 160 - bar, bar):
            sounding = {note.pitch % 12 for note in notes if start <= note.start < start + bar}
            assert any(sounding == {(root + step) % 12 for step in QUALITIES[quality]} for root in range(12)), (
                instrument.name,
                sounding,
            )


def test_the_unit_is_the_smallest_that_is_worth_nearly_most_and_leaves_music_alive() -> None:
    alive = np.ones(len(UNITS), np.bool_)
    assert best_unit(np.array([0.5, 0.96, 1.0, 0.9, 0.2]), alive) == UNITS[1]
    dead = alive.copy()
    dead[1] = False
    assert best_unit(np.array([0.97, 1.5, 1.0, 0.2, 0.1]), dead) == UNITS[0]
    assert best_unit(np.array([0.5, 1.0, 0.4, 0.4, 0.4]), ~alive) == UNITS[1]
    assert best_unit(np.array([-0.5, -0.2, -0.4, -0.9, -1.0]), alive) == UNITS[0]


def test_a_bank_helps_to_find_the_unit_of_a_concept_that_few_clips_mislead() -> None:
    likely, misled = [0.1, 0.2, 0.9, 1.0, 0.2], [0.5, 0.4, 0.4, 0.3, 0.2]
    alone = best_unit(np.array(misled), np.ones(len(UNITS), np.bool_))
    alive = np.ones((4, len(UNITS)), np.bool_)
    alive[3, 3] = False
    found = best_units(np.array([likely, likely, misled, likely]), alive)
    assert (alone, found) == (UNITS[0], [UNITS[3], UNITS[3], UNITS[2], UNITS[2]])


def test_a_knob_is_turned_round_only_where_that_is_clear() -> None:
    assert is_inverted(np.array([-1.0, -1.1, -0.9]))
    assert not is_inverted(np.array([-1.0, 0.4, -0.1])) and not is_inverted(np.array([1.0, 1.1, 0.9]))


def test_what_is_held_out_are_whole_instruments_and_every_class_keeps_something() -> None:
    groups = ["flute", "harp", "horn", "choir", "piano"] * 4
    is_train = turned_banks._without_some(groups, [1.0, -1.0] * 10, seed=3)
    assert len({group for group, trains in zip(groups, is_train, strict=True) if not trains}) == 1
    assert all(len({trains for g, trains in zip(groups, is_train, strict=True) if g == group}) == 1 for group in groups)
    assert turned_banks._without_some(["a", "a", "b"], [1.0, 1.0, -1.0], seed=0)[2]


def test_a_bar_says_whether_it_is_reached() -> None:
    found = Interval(0.7, 0.6, 0.8)
    assert str(Bar("share", found, least=0.7)) == "reached: share 0.700 (0.600..0.800), wanted at least 0.7"
    assert str(Bar("share", found, most=0.15)).startswith("not reached: ")


def curve(concept: str, readings: dict[float, float], kept: dict[float, float]) -> Curve:
    """A curve of three clips that all read alike."""
    none, known = Interval(0.0, 0.0, 0.0), [None] * 3
    by_knob = {
        knob: Outcome(
            "knob", concept, knob, Interval(value, value, value), none, none, Drift(none, none, none), 1.0,
            ClipValues([value] * 3, [value] * 3, known, known, known),
        )
        for knob, value in readings.items()
    }  # fmt: skip
    judge = Judge(concept, "triads", "share of frames", 1.0, True, lambda record: 0.0)
    changes = {knob: [value] * 3 for knob, value in kept.items()}
    return Curve(concept, judge, none, by_knob, by_knob[1.0], none, none, [0.9] * 3, changes)


def test_a_report_says_why_a_bar_is_missed() -> None:
    whole = load_bank(presets() / "banks" / "embedded_chords.safetensors", 6, 256)
    missed = {-1.0: 0.0, 0.5: 0.1, 0.75: 0.2, 1.0: 0.3, 1.5: 0.4}
    costs = {-1.0: 0.0, 0.5: -0.01, 0.75: -0.04, 1.0: -0.1, 1.5: -0.2}
    said = reasons("chords", whole, [curve(name, missed, costs) for name in whole.names])
    assert f"{whole.names[2]} {whole.scores[2].max():.2f}" in said[0]
    assert said[1].endswith("keeps to its bar at 0.5 (0.100 of the concept), 0.75 (0.200 of the concept)")
    only_the_prompt = [curve(name, dict.fromkeys(missed, 0.9), dict.fromkeys(costs, -0.1)) for name in whole.names]
    assert [line.split("; ")[1] for line in reasons("chords", whole, only_the_prompt)] == [
        "the prompt keeps to its bar at no value that was heard"
    ]
    without = [curve(name, dict.fromkeys(missed, 0.9), dict.fromkeys(costs, 0.0)) for name in whole.names]
    assert reasons("chords", whole, without) == []


def test_a_report_says_which_knobs_do_no_more_than_a_random_push() -> None:
    alike = [curve(name, {-1.0: 0.0, 0.5: 0.1, 0.75: 0.2, 1.0: 0.3}, {}) for name in ("chord_major", "chord_minor")]
    with_random_less = replace(alike[1], random=alike[1].by_knob[-1.0])
    assert _cannot([alike[0], with_random_less])[-1].endswith("than with the random push: chord_major")
    assert _cannot([with_random_less])[-1] == "at 1 every knob gives clearly more of its concept than the random push"


def test_half_a_pair_is_the_other_knob_halfway() -> None:
    pair = (("tempo", -1.0), ("drums", 1.0))
    assert bank_listening._with_halves(pair) == ((("tempo", -1.0), ("drums", 0.5)), (("tempo", -0.5), ("drums", 1.0)))


def test_the_shares_of_turns_add_up_to_what_is_taught() -> None:
    teaching = Teaching(10)
    counts = [teaching.count(name) for name in ("note_c", "chord_minor", "timbre_keys", "tempo", "texture_pedal")]
    assert counts == [30, 30, 20, 30, 20]


def test_meters_hear_what_the_composer_turns_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_checkpoint(CHECKPOINT)
    monkeypatch.setattr(reference_turns, "TURNS", 6)
    bank = load_bank(Path("presets/banks/embedded.safetensors"), 6, 256, model.sha256)
    heard = [reference(model, judge_of(bank, name), 0, tmp_path) for name in ("note_e", "tempo")]
    assert heard[0].reading.value > 0.3 and heard[0].hits is not None and heard[0].hits.value >= 0.5
    assert heard[1].reading.value > 1.0 and heard[1].hits is None  # onsets a second, and no rivals
    with monkeypatch.context() as patch:
        patch.setattr(reference_turns, "sounded", lambda *_: pytest.fail("the turns were sounded again"))
        again = reference(model, judge_of(bank, "note_e"), 0, tmp_path)
        patch.setattr(ClipReader, "identity", "ears of another kind")
        with pytest.raises(pytest.fail.Exception, match="sounded again"):
            reference(model, judge_of(bank, "note_e"), 0, tmp_path)
    assert (again.reading, again.hits) == (heard[0].reading, heard[0].hits)
    page = reference_turns.report(bank, heard, "made so")
    assert "made so" in page and model.sha256[:12] in page and "- tempo: " in page and "| note_e | " in page


def test_without_a_bank_there_is_nothing_to_compare_the_composer_with(tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(reference_turns.main)
    result = CliRunner().invoke(app, ["--target", str(tmp_path / "nowhere"), "--work", str(tmp_path)])
    assert result.exit_code == 2 and "embedded.safetensors" in "".join(result.output.split()), result.output
    assert not list(tmp_path.iterdir())


def test_turns_that_are_coded_serve_every_decoder_with_that_codec(
    tiny_model: MusicGen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = turned_banks.taught(tiny_model, ("tempo",), Teaching(4, epochs=0), tmp_path, banks.stage)
    monkeypatch.setattr(turned_banks, "sounded", lambda *_: pytest.fail("the turns were sounded again"))
    other = replace(tiny_model, make_hash=lambda: "0" * 64)
    again = turned_banks.taught(other, ("tempo",), Teaching(4, epochs=0), tmp_path, banks.stage)
    assert len(list(tmp_path.glob("taught_*"))) == 2 and np.array_equal(first.pushes, again.pushes)


def test_a_whole_run_makes_a_bank_and_its_report_and_goes_on_where_it_was(
    tiny_model: MusicGen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banks, "concept_sets", lambda: {"tempo": ("tempo",), "density": ("density",)})
    monkeypatch.setattr(banks, "PAIRS", ((("tempo", 1.0), ("density", -1.0)),))
    monkeypatch.setattr(bank_listening, "UNITS", (1.0,))
    teaching, listening = Teaching(4), Listening(3, 2, 3.0, 40)

    counts = set[tuple[int, int, int]]()
    heard = bank_listening.Listener.curves

    def counted(self: bank_listening.Listener, bank: ConceptBank) -> list[Curve]:
        curves = heard(self, bank)
        played = [(curve.by_knob[1.0], curve.random, curve.by_knob[0.5]) for curve in curves]
        counts.update((len(a.clips.readings), len(b.clips.readings), len(c.clips.readings)) for a, b, c in played)
        return curves

    monkeypatch.setattr(bank_listening.Listener, "curves", counted)

    def run() -> None:
        banks.make_banks(tiny_model, ["tempo", "density"], tmp_path / "banks", tmp_path / "work", teaching, listening)

    run()
    files = {path.name for path in (tmp_path / "banks").iterdir()}
    assert files == {"embedded.safetensors", "embedded_pairs.md"} | {
        f"embedded_{name}.{suffix}" for name in ("tempo", "density") for suffix in ("safetensors", "md", "png")
    }
    assert read_bank(tmp_path / "banks" / "embedded.safetensors").names == ("tempo", "density")
    bank = read_bank(tmp_path / "banks" / "embedded_tempo.safetensors")
    effect = bank.cards[0].effect
    assert effect is not None and effect.meter == "onset rate" and effect.seeds == 2 and bank.unit[0] == 1.0
    text = (tmp_path / "banks" / "embedded_tempo.md").read_text()
    assert counts == {(3, 3, 2)} and "3 pieces at 1 and of the random control, 2 at the other values." in text
    assert "onset rate at 1 over that at -1" in text and tiny_model.sha256[:12] in text
    costs = text.split("## What it costs")[1].split("##")[0].splitlines()
    heads = [line.split()[1] for line in costs if line.startswith("|")]
    assert heads == "knob --- -1 0.5 0.75 1 1.5".split()
    assert "tempo 1 + density -1" in (tmp_path / "banks" / "embedded_pairs.md").read_text()

    def nothing_more(*_: Sequence[object]) -> None:
        raise AssertionError("something was learned or played twice")

    monkeypatch.setattr(turned_banks, "learn_turns", nothing_more)
    monkeypatch.setattr(
        "rfm_live.experiments.conditions.Studio._played",
        lambda self, conditions: nothing_more() if conditions else iter(()),
    )
    kept = (tmp_path / "banks" / "embedded_tempo.safetensors").read_bytes()
    run()
    assert (tmp_path / "banks" / "embedded_tempo.safetensors").read_bytes() == kept


def test_pushes_are_inherited_from_the_banks_of_another_checkpoint(
    tiny_model: MusicGen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("tempo", "density")
    ancestor, pushes = tmp_path / "before", np.ones((2, *tiny_bank_shape(tiny_model)), np.float32)
    ancestor.mkdir()
    monkeypatch.setattr(turned_banks, "learn_turns", lambda *_: pytest.fail("something was learned"))
    found = turned_banks.taught(tiny_model, names, Teaching(4), tmp_path, banks.stage, pushes)
    assert found.is_inherited and np.array_equal(found.pushes, pushes)
    bank = turned_banks.uncalibrated(tiny_model, Teaching(4), found)
    assert bank.cards[0].method.endswith("for the checkpoint that this one went on from") and (bank.gate == 1.0).all()
    longer = replace(bank, unit=np.full(2, 2.5, np.float32), checkpoint_sha256="0" * 64)
    save_bank(longer, ancestor / "embedded_tempo.safetensors")
    with pytest.raises(StartError, match="holds tempo, density, expected tempo"):
        banks.inherited_pushes(ancestor, "tempo", tiny_model)
    monkeypatch.setattr(banks, "concept_sets", lambda: {"tempo": names})
    np.testing.assert_allclose(banks.inherited_pushes(ancestor, "tempo", tiny_model), pushes, rtol=1e-5)
    with pytest.raises(BankError, match="embedded_tempo"):
        banks.inherited_pushes(tmp_path / "nowhere", "tempo", tiny_model)


def test_a_bank_whose_pushes_act_in_some_frames_is_calibrated_and_heard_so_and_says_so(
    tiny_model: MusicGen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banks, "concept_sets", lambda: {"tempo": ("tempo",)})
    monkeypatch.setattr(banks, "GATES", {"tempo": 0.5})
    monkeypatch.setattr(bank_listening, "UNITS", (1.0,))
    heard = set[float]()
    calibrated = bank_listening.Listener.calibrated

    def listened(self: bank_listening.Listener, bank: ConceptBank) -> ConceptBank:
        heard.update(bank.gate.tolist())
        return calibrated(self, bank)

    monkeypatch.setattr(bank_listening.Listener, "calibrated", listened)
    teaching, listening = Teaching(4), Listening(2, 2, 3.0, 40)
    for asked, gate, folder in ((1.0, 1.0, tmp_path / "all"), (None, 0.5, tmp_path / "half")):
        banks.make_banks(tiny_model, ["tempo"], folder, tmp_path / "work", teaching, listening, gate=asked)
        assert heard == {gate} and (read_bank(folder / "embedded.safetensors").gate == gate).all()
        heard.clear()
    whole, half = ((tmp_path / name / "embedded_tempo.md").read_text() for name in ("all", "half"))
    assert "--gate" not in whole and "of the frames, drawn" not in whole
    assert "--gate 0.5 --seeds 2" in half and "as `push` says, in 50% of the frames, drawn one by one," in half
    assert whole.split("## Effect")[1] != half.split("## Effect")[1]


def tiny_bank_shape(model: MusicGen) -> tuple[int, int]:
    return model.config.decoder.layers, model.config.decoder.width


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["swing"], "set is 'swing', expected one of notes, chords"),
        (["--seeds", "2", "--few", "4"], "few is 4, expected 2..2"),
        (["--seconds", "2"], "seconds are 2, expected 3 or more"),
        (["--checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: list[str], said: str) -> None:
    import typer

    app = typer.Typer()
    app.command()(banks.main)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and said in " ".join(result.output.split()), result.output


def test_an_unknown_set_raises() -> None:
    with pytest.raises(StartError):
        banks.chosen_sets(["scales"])
