"""Classifiers of sound: they tell synthesised timbres and drums of clips that they were not trained on."""

import numpy as np
import pytest

from rfm_live.concepts.sound_classifiers import SoundClassifiers, features

RATE, SECONDS = 32_000, 3
TIME = np.arange(SECONDS * RATE) / RATE
TIMBRES = {"pure": (1.0,), "hollow": (1.0, 0.0, 0.7, 0.0, 0.5), "bright": (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)}


def clip(timbre: str, has_drums: bool, seed: int) -> np.ndarray:
    """Half-second notes of one timbre at pitches and levels of their own, with noise bursts on the beats."""
    rng = np.random.default_rng(seed)
    pitch = 220.0 * 2 ** (rng.integers(0, 12, SECONDS * 2) / 12)
    phase = 2 * np.pi * np.cumsum(np.repeat(pitch, RATE // 2)) / RATE
    music = sum(share * np.sin((number + 1) * phase) for number, share in enumerate(TIMBRES[timbre]))
    music = music * np.exp(-3 * (TIME % 0.5))
    if has_drums:
        music = music + rng.standard_normal(len(TIME)) * np.exp(-40 * (TIME % 0.5))
    return (rng.uniform(0.02, 0.2) * music).astype(np.float32)


def labelled(seeds: range) -> tuple[list[np.ndarray], list[dict[str, str]]]:
    rows = [(timbre, drums, seed) for seed in seeds for timbre in TIMBRES for drums in (False, True)]
    labels = [{"instrument": timbre, "drums": "drums" if drums else "none"} for timbre, drums, _ in rows]
    return [clip(*row) for row in rows], labels


@pytest.fixture(scope="module")
def classifiers() -> SoundClassifiers:
    return SoundClassifiers.fit(*labelled(range(4)))


def test_instrument_and_drums_of_unheard_clips_are_told(classifiers: SoundClassifiers) -> None:
    clips, labels = labelled(range(100, 103))
    hits = classifiers.hits(clips, labels)
    assert np.mean(hits["instrument"]) >= 0.9 and np.mean(hits["drums"]) >= 0.9
    assert hits["drums"] == [
        heard["drums"] == label["drums"] for heard, label in zip(classifiers.heard(clips), labels, strict=True)
    ]


def test_wrong_labels_are_missed(classifiers: SoundClassifiers) -> None:
    clips, labels = labelled(range(200, 201))
    turned = [{**label, "drums": "none" if label["drums"] == "drums" else "drums"} for label in labels]
    assert np.mean(classifiers.hits(clips, turned)["drums"]) <= 0.2


def test_members_are_learned_apart_and_told_as_one() -> None:
    clips, labels = labelled(range(4))
    groups = {"pure": "soft", "hollow": "loud", "bright": "loud"}
    coarse = [{"kind": groups[label["instrument"]]} for label in labels]
    found = SoundClassifiers.fit(clips, coarse, {"kind": [label["instrument"] for label in labels]})
    assert found.classes("kind") == ["loud", "soft"]
    assert list(found.by_attribute["kind"].classes_) == sorted(TIMBRES)
    heard, known = labelled(range(100, 102))
    assert np.mean(found.hits(heard, [{"kind": groups[label["instrument"]]} for label in known])["kind"]) >= 0.9


def test_the_level_does_not_matter() -> None:
    music = clip("bright", True, 7)
    np.testing.assert_allclose(features(music), features(np.float32(0.25) * music), rtol=1e-3, atol=1e-3)


def test_labels_that_teach_nothing_are_refused() -> None:
    clips, labels = labelled(range(1))
    with pytest.raises(ValueError, match="5 labels stand against 6 clips"):
        SoundClassifiers.fit(clips, labels[:5])
    with pytest.raises(ValueError, match="clip 1 has no label 'drums', expected one as clip 0 has"):
        SoundClassifiers.fit(clips[:2], [labels[0], {"instrument": "bright"}])
    with pytest.raises(ValueError, match="'drums' of all 2 clips is 'none', expected 2 classes or more"):
        SoundClassifiers.fit([clips[0], clips[2]], [labels[0], labels[2]])
