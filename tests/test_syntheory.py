"""SynTheory's seven sets against the published specification: counts, labels, pitches, voicings, timing. No sound."""

from collections import Counter

import pytest

from rfm_live.concepts.syntheory import CLICKS, PROGRAMS, SETS, Excerpt, Track

BY_NAME = {concept.name: concept for concept in SETS}
PER_CLASS = {
    "notes": 828,
    "intervals": 3_312,
    "scales": 2_208,
    "chords": 3_312,
    "progressions": 1_104,
    "tempos": 25,
    "time_signatures": 150,
}
TOTALS = {
    "notes": (12, 9_936),
    "intervals": (12, 39_744),
    "scales": (7, 15_456),
    "chords": (4, 13_248),
    "progressions": (19, 20_976),
    "tempos": (161, 4_025),
    "time_signatures": (8, 1_200),
}


@pytest.fixture(scope="module")
def clips() -> dict[str, dict[str, Excerpt]]:
    """Every clip by the name of its set and its own."""
    found = {name: list(concept.excerpts(0)) for name, concept in BY_NAME.items()}
    for name, members in found.items():
        assert len({clip.name for clip in members}) == len(members), f"{name} has two clips of one name"
    return {name: {clip.name: clip for clip in members} for name, members in found.items()}


def strokes(track: Track) -> list[tuple[float, float, list[int]]]:
    """Start and length in seconds and the pitches of everything struck together."""
    starts = sorted({note.start for note in track.notes})
    together = [[note for note in track.notes if note.start == start] for start in starts]
    return [
        (track.seconds_at(group[0].start), track.seconds_at(group[0].length), [note.pitch for note in group])
        for group in together
    ]


def pitches(clip: Excerpt) -> list[list[int]]:
    return [group for _, _, group in strokes(clip.track)]


@pytest.mark.parametrize("name", BY_NAME)
def test_counts_and_labels_are_those_of_the_publication(clips: dict[str, dict[str, Excerpt]], name: str) -> None:
    classes, total = TOTALS[name]
    labels = Counter(clip.label for clip in clips[name].values())
    assert len(clips[name]) == BY_NAME[name].count == total
    assert len(labels) == classes and set(labels.values()) == {PER_CLASS[name]}
    if name == "tempos":
        assert sorted(labels) == list(range(50, 211)) and not BY_NAME[name].classes
    else:
        assert sorted(labels) == list(range(classes)) and len(BY_NAME[name].classes) == classes


def test_the_92_programs_leave_out_what_the_specification_leaves_out() -> None:
    left_out = {8, 9, 14, 21, 23, 47, 86, 22, 31, 55, 77, 78} | set(range(96, 104)) | set(range(112, 128))
    assert len(PROGRAMS) == 92 and set(PROGRAMS) == set(range(128)) - left_out


@pytest.mark.parametrize(
    ("name", "struck"), [("notes", 4), ("intervals", 8), ("scales", 8), ("chords", 4), ("progressions", 4)]
)
def test_tonal_clips_fill_four_seconds_with_equal_strokes(
    clips: dict[str, dict[str, Excerpt]], name: str, struck: int
) -> None:
    programs = Counter()
    for clip in clips[name].values():
        programs[clip.track.program] += 1
        assert (clip.start_seconds, clip.track.seconds, clip.track.channel, clip.track.reverb) == (0.0, 4.0, 2, None)
    assert set(programs) == set(PROGRAMS) and len(set(programs.values())) == 1
    for clip in list(clips[name].values())[::92]:
        assert [(start, length) for start, length, _ in strokes(clip.track)] == [
            (index * 4.0 / struck, 4.0 / struck) for index in range(struck)
        ]
        assert {(note.length, note.velocity) for note in clip.track.notes} == {(3840 // struck, 64)}


def test_notes_run_over_nine_octaves(clips: dict[str, dict[str, Excerpt]]) -> None:
    first = [clip for clip in clips["notes"].values() if clip.track.program == 0]
    assert [pitches(clip) for clip in first] == [[[pitch]] * 4 for pitch in range(108)]
    assert [clip.label for clip in first] == [pitch % 12 for pitch in range(108)]
    assert BY_NAME["notes"].classes[:3] == ("c", "c_sharp", "d")


def test_intervals_alternate_or_sound_together(clips: dict[str, dict[str, Excerpt]]) -> None:
    """A fifth on C: C4 is 60 and G4 is 67."""
    named = clips["intervals"]
    assert pitches(named["07_on_c_up_program000"]) == [[60], [67]] * 4
    assert pitches(named["07_on_c_down_program000"]) == [[67], [60]] * 4
    assert pitches(named["07_on_c_unison_program000"]) == [[60, 67]] * 8
    assert pitches(named["12_on_b_up_program095"]) == [[71], [83]] * 4
    assert named["07_on_c_up_program000"].label == 6 and BY_NAME["intervals"].classes[6] == "7"


def test_scales_rise_to_the_octave_and_fall_back(clips: dict[str, dict[str, Excerpt]]) -> None:
    named = clips["scales"]

    def played(name: str) -> list[int]:
        return [group[0] for group in pitches(named[f"{name}_program000"])]

    assert played("ionian_on_c_up") == [60, 62, 64, 65, 67, 69, 71, 72]
    assert played("ionian_on_c_down") == [72, 71, 69, 67, 65, 64, 62, 60]
    assert played("dorian_on_d_up") == [62, 64, 65, 67, 69, 71, 72, 74]
    assert played("phrygian_on_e_up") == [64, 65, 67, 69, 71, 72, 74, 76]
    assert played("lydian_on_f_up") == [65, 67, 69, 71, 72, 74, 76, 77]
    assert played("mixolydian_on_g_up") == [55, 57, 59, 60, 62, 64, 65, 67]  # tonics from F# on lie below middle C
    assert played("aeolian_on_a_up") == [57, 59, 60, 62, 64, 65, 67, 69]
    assert played("locrian_on_b_up") == [59, 60, 62, 64, 65, 67, 69, 71]
    assert played("ionian_on_f_sharp_up")[0] == 54


def test_chords_have_the_voicings_of_the_specification(clips: dict[str, dict[str, Excerpt]]) -> None:
    named = clips["chords"]

    def voiced(name: str) -> list[int]:
        assert len(pitches(named[f"{name}_program000"])) == 4
        return pitches(named[f"{name}_program000"])[0]

    assert voiced("major_on_c_position5") == [60, 64, 67]
    assert voiced("major_on_c_position6") == [72, 64, 67]
    assert voiced("major_on_c_position64") == [72, 76, 67]
    assert voiced("minor_on_a_position5") == [57, 60, 64]
    assert voiced("dim_on_b_position5") == [59, 62, 65]
    assert voiced("aug_on_c_position5") == [60, 64, 68]  # third degree of A harmonic minor: A3 + 3, 7, 11
    assert voiced("aug_on_g_position64") == [79, 83, 75]  # third degree of E harmonic minor: E4 + 3, 7, 11
    assert BY_NAME["chords"].classes == ("major", "minor", "aug", "dim")


def test_every_chord_has_its_root_and_quality_in_every_position(clips: dict[str, dict[str, Excerpt]]) -> None:
    thirds = {"major": {0, 4, 7}, "minor": {0, 3, 7}, "aug": {0, 4, 8}, "dim": {0, 3, 6}}
    names = BY_NAME["notes"].classes
    for root, note in enumerate(names):
        for kind, offsets in thirds.items():
            for position in ("5", "6", "64"):
                clip = clips["chords"][f"{kind}_on_{note}_position{position}_program007"]
                assert {pitch % 12 for pitch in pitches(clip)[0]} == {(root + offset) % 12 for offset in offsets}


def test_progressions_fold_their_triads_into_the_octave(clips: dict[str, dict[str, Excerpt]]) -> None:
    named = clips["progressions"]
    assert pitches(named["ionian_1451_in_c_program000"]) == [[60, 64, 67], [65, 69, 60], [67, 71, 62], [60, 64, 67]]
    assert pitches(named["aeolian_1764_in_a_program000"]) == [[57, 60, 64], [67, 59, 62], [65, 57, 60], [62, 65, 57]]
    assert [label.removeprefix("ionian_") for label in BY_NAME["progressions"].classes[:10]] == [
        *("1451", "1465", "1564", "1645", "2516", "4156", "4536", "5415", "5641", "6415")
    ]
    assert [label.removeprefix("aeolian_") for label in BY_NAME["progressions"].classes[10:]] == [
        *("1251", "1341", "1451", "1637", "1671", "1673", "1764", "4711", "7671")
    ]


def test_clicks_have_their_sounds() -> None:
    assert [(click.name, click.channel, click.program, click.downbeat, click.other) for click in CLICKS] == [
        ("default", 9, 0, 37, 31),
        ("woodblock_dark", 2, 115, 37, 31),
        ("woodblock_light", 2, 115, 52, 48),
        ("taiko", 2, 116, 52, 48),
        ("synth_drum", 2, 118, 52, 48),
    ]


def test_tempo_clicks_lie_a_beat_apart_and_accent_every_fourth(clips: dict[str, dict[str, Excerpt]]) -> None:
    for bpm in (50, 74, 120, 209, 210):
        clip = clips["tempos"][f"{bpm:03d}_bpm_taiko_offset4"]
        assert (clip.label, clip.track.bpm, clip.track.seconds, clip.track.reverb) == (bpm, bpm, 20.0, 0)
        struck = strokes(clip.track)
        assert len(struck) == bpm // 3 + 1
        assert struck[1][0] == pytest.approx(60 / bpm) and struck[-1][0] + struck[-1][1] >= 20.0
        assert [group for _, _, group in struck[:6]] == [[52], [48], [48], [48], [52], [48]]
        assert [note.velocity for note in clip.track.notes[:5]] == [100, 75, 75, 75, 100]
        assert 0.0 <= clip.start_seconds <= 16.0


@pytest.mark.parametrize(
    ("metre", "unit_seconds", "ticks"),
    [("2_2", 1.0, 960), ("2_4", 0.5, 480), ("3_4", 0.5, 480), ("4_4", 0.5, 480)]
    + [(metre, 0.25, 240) for metre in ("3_8", "6_8", "9_8", "12_8")],
)
def test_metres_accent_the_first_of_the_bar(
    clips: dict[str, dict[str, Excerpt]], metre: str, unit_seconds: float, ticks: int
) -> None:
    for reverb in (0, 63, 127):
        clip = clips["time_signatures"][f"{metre}_default_reverb{reverb:03d}_offset9"]
        track, beats = clip.track, int(metre.split("_")[0])
        assert (track.bpm, track.seconds, track.reverb, track.channel) == (120, 30.0, reverb, 9)
        assert 0.0 <= clip.start_seconds <= 26.0
        assert {note.length for note in track.notes} == {ticks} and track.seconds_at(ticks) == unit_seconds
        assert len(track.notes) == 30 / unit_seconds + 1
        accents = [index for index, note in enumerate(track.notes) if (note.pitch, note.velocity) == (37, 100)]
        assert accents == list(range(0, len(track.notes), beats))
    assert BY_NAME["time_signatures"].classes[clip.label] == metre.replace("_", "/")


@pytest.mark.parametrize("name", ["tempos", "time_signatures"])
def test_crops_are_named_by_the_seed(clips: dict[str, dict[str, Excerpt]], name: str) -> None:
    starts = [clip.start_seconds for clip in clips[name].values()]
    assert starts == [clip.start_seconds for clip in BY_NAME[name].excerpts(0)]
    assert starts != [clip.start_seconds for clip in BY_NAME[name].excerpts(1)]
    assert len(set(starts)) == len(starts)
