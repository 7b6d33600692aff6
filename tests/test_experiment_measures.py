"""Who judges which concept, what they say of sounds that are known, and how far drift is."""

from dataclasses import replace

import numpy as np
import pytest

from rfm_live.concepts.clips import Samples
from rfm_live.concepts.distances import frechet_distance, squared_mmd
from rfm_live.concepts.effect_meters import CENTROID, METERS, ONSET_RATE, dominance_of, readings
from rfm_live.concepts.embeddings import hidden_rows, mel_rows
from rfm_live.concepts.sound_classifiers import SoundClassifiers, features
from rfm_live.errors import StartError
from rfm_live.experiments.conditions import Clips, Prompt, Record
from rfm_live.experiments.drift import drift, shared_space
from rfm_live.experiments.measures import (
    ClipReader,
    Judge,
    adherence,
    check_seconds,
    chroma_share_judge,
    judge_of,
    kind_of,
)
from rfm_live.experiments.setup import over_seeds
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.concept_card import ConceptCard, Effect
from tests.experimenting import CLIPS, tiny_bank

SECONDS = 3.0


def chord(*frequencies: float) -> Samples:
    """Each with five harmonics."""
    times = np.arange(round(SECONDS * 32_000)) / 32_000
    wave = sum(np.sin(2 * np.pi * one * part * times) / part for one in frequencies for part in range(1, 6))
    return np.asarray(0.1 * wave, np.float32)


@pytest.fixture(scope="module")
def records(tiny_model: MusicGen) -> dict[str, Record]:
    reader = ClipReader(tiny_model)
    sounds = {"c": chord(261.63), "g": chord(392.0), "a minor": chord(220.0, 261.63, 329.63)}
    return {name: reader.read(samples) for name, samples in sounds.items()}


def test_a_record_holds_what_the_meters_and_embeddings_say(tiny_model: MusicGen, records: dict[str, Record]) -> None:
    samples, record = chord(392.0), records["g"]
    assert dict(zip(METERS, record["meters"].tolist(), strict=True)) == readings(samples)
    np.testing.assert_array_equal(record["mel"], mel_rows(samples))
    np.testing.assert_array_equal(record["hidden"], hidden_rows(tiny_model, samples))
    np.testing.assert_array_equal(record["features"], features(samples))
    assert record["chroma"].sum() == pytest.approx(1.0) and record["sounding"][0] == 1.0
    assert record["points"].shape == (tiny_model.config.decoder.layers, tiny_model.config.decoder.width)


def test_notes_and_chords_are_judged_among_their_kind(tiny_model: MusicGen, records: dict[str, Record]) -> None:
    bank = tiny_bank(tiny_model)
    note, minor = judge_of(bank, "note_g"), judge_of(bank, "chord_minor")
    assert (note.meter, note.classes, note.is_external) == (dominance_of("g"), 12, True)
    assert note.value(records["g"]) > 0.9 and note.value(records["c"]) < 0.1
    assert note.is_hit is not None and note.is_hit(records["g"]) and not note.is_hit(records["c"])
    assert minor.value(records["a minor"]) > 0.9 and minor.classes == 4
    assert minor.is_hit is not None and minor.is_hit(records["a minor"])
    share = chroma_share_judge("note_g")
    assert share.value(records["g"]) > 0.5 > 0.2 > share.value(records["c"])


def test_every_kind_has_the_judge_that_is_told(tiny_model: MusicGen, records: dict[str, Record]) -> None:
    names = ("mode_minor", "tempo", "density", "brightness", "sparkle")
    effect = Effect(CENTROID, "hz", True, 900.0, 800.0, 700.0, 800.0, 1.0, 4)
    bank = tiny_bank(tiny_model, names)
    bank = replace(bank, cards=(*bank.cards[:4], ConceptCard(effect=effect)))
    judges = {name: judge_of(bank, name) for name in names}
    assert [judges[name].meter for name in names[1:]] == [ONSET_RATE, ONSET_RATE, CENTROID, CENTROID]
    assert judges["mode_minor"].value(records["a minor"]) > 0
    assert judges["mode_minor"].is_hit is not None and judges["mode_minor"].is_hit(records["a minor"])
    assert (judges["brightness"].sign, judges["sparkle"].sign) == (1.0, -1.0)  # the card's reading falls with the knob


def test_what_no_meter_hears_is_read_by_its_probe(tiny_model: MusicGen, records: dict[str, Record]) -> None:
    bank = tiny_bank(tiny_model, ("texture_foggy", "note_c"))
    judge, layer = judge_of(bank, "texture_foggy"), int(bank.scores[0].argmax())
    assert not judge.is_external and f"block {layer}" in judge.meter
    projection = float(records["c"]["points"][layer] @ bank.directions[0, layer])
    assert judge.value(records["c"]) == pytest.approx(projection)  # 0 without, 1 with: the tiny bank's means


def test_kinds_are_the_first_words_of_families() -> None:
    names = ("note_c_sharp", "time_signature_3_4", "tempo", "timbre_flute", "drums", "notebook")
    assert list(map(kind_of, names)) == ["note", "time_signature", "tempo", "timbre", "drums", "notebook"]


def test_a_change_is_signed_and_of_hertz_a_share() -> None:
    judge = Judge("dark", CENTROID, "hz", -1.0, True, lambda record: float(record["x"][0]), is_relative=True)
    before, after = ([{"x": np.array([value])} for value in values] for values in ((100.0, 300.0), (50.0, 350.0)))
    assert judge.changes(after, before) == pytest.approx([0.25, -0.25])  # 50 and -50 of a mean of 200
    plain = replace(judge, is_relative=False, sign=1.0)
    assert plain.changes(after, before) == [-50.0, 50.0] and plain.hits(CLIPS, after) == [None, None]


def test_a_mean_over_concepts_has_its_interval_over_seeds() -> None:
    found = over_seeds([[1.0, 3.0, None], [2.0, None, None]])  # seeds: 1.5, 3 and none
    assert found is not None and (found.value, found.low, found.high) == (2.25, 1.5, 3.0)
    assert over_seeds([[None], [None]]) is None


@pytest.fixture(scope="module")
def listeners() -> SoundClassifiers:
    """Tell high tones ("Tin Flute") from low ones ("bass")."""
    clips = [chord(frequency) for frequency in (880.0, 900.0, 920.0, 940.0, 110.0, 112.0, 115.0, 118.0)]
    said = [{"instrument": name} for name in ("Tin Flute",) * 4 + ("bass",) * 4]
    return SoundClassifiers.fit(clips, said)


def test_an_instrument_is_judged_by_classifiers_of_other_clips(
    tiny_model: MusicGen, listeners: SoundClassifiers
) -> None:
    bank = tiny_bank(tiny_model, ("timbre_tin_flute", "timbre_harp"))
    judge = judge_of(bank, "timbre_tin_flute", listeners)
    high, low = ({"features": features(chord(one))} for one in (910.0, 113.0))
    assert judge.values([high, low]) == [1.0, 0.0] and judge.meter == "instrument classifier" and judge.classes == 2
    assert not judge_of(bank, "timbre_harp", listeners).is_external  # no class of theirs
    asked = (Prompt("flute", {"instrument": "Tin Flute"}), Prompt("bass", {"instrument": "bass"}))
    assert judge.hits(Clips(asked, (1, 2, 3)), [high, high, low]) == [None, 1.0, None]  # asked for anyway: 1 and 3
    with pytest.raises(StartError, match="3 s or more"):
        judge.value({})


def test_adherence_is_the_share_of_what_prompts_ask(listeners: SoundClassifiers) -> None:
    records = [{"features": features(chord(one))} for one in (910.0, 113.0, 905.0)]
    prompts = (Prompt("flute", {"instrument": "Tin Flute", "mood": "gay"}),)
    found = adherence(listeners, Clips(prompts, (1, 2, 3)), records, ["instrument", "drums"])
    assert found == [1.0, 0.0, 1.0]
    assert adherence(listeners, Clips(prompts, (1, 2, 3)), records, ["drums"]) == [None] * 3
    assert adherence(None, Clips(prompts, (1, 2, 3)), records, ["instrument"]) == [None] * 3


def test_the_space_that_rows_span_keeps_their_distances() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((7, 40)), rng.standard_normal((9, 40)) + 0.5
    one, other = shared_space(first, second)
    assert one.shape == (7, 16) and other.shape == (9, 16)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(first, second))
    assert squared_mmd(one, other) == pytest.approx(squared_mmd(first, second))
    wide, same = shared_space(rng.standard_normal((30, 4)), rng.standard_normal((20, 4)))
    assert wide.shape == (30, 4) and same.shape == (20, 4)


def test_drift_is_none_from_the_same_clips_and_grows_with_the_distance() -> None:
    rng = np.random.default_rng(1)
    rows = [{name: rng.standard_normal((4, 6)) for name in ("mel", "hidden")} for _ in range(6)]
    near, far = ([{name: values + step for name, values in row.items()} for row in rows] for step in (0.5, 1.0))
    same = drift(rows, rows, resamples=20)
    assert same.fd_mel.value == pytest.approx(0.0, abs=1e-9) and abs(same.mmd_hidden.value) < 0.1
    # A shift of s along each of 6 dimensions leaves the covariances as they are: 6 s^2.
    assert drift(near, rows, 20).fd_hidden.value == pytest.approx(1.5)
    assert drift(far, rows, 20).fd_hidden.value == pytest.approx(6.0)


def test_clips_must_be_long_enough_to_embed_and_short_enough_to_hear(tiny_model: MusicGen) -> None:
    check_seconds(tiny_model, 2.0)
    longest = (tiny_model.config.decoder.max_positions - 5) // 50
    check_seconds(tiny_model, float(longest))
    for seconds in (1.5, longest + 1.0):
        with pytest.raises(StartError, match=f"expected 2..{longest} for this checkpoint"):
            check_seconds(tiny_model, seconds)
