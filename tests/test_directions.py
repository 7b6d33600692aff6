"""From labels and stored activations to directions per block: planted truths, whole groups held out."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from rfm_live.concepts.activations import ActivationStore, ClipRecord
from rfm_live.concepts.clips import Label
from rfm_live.concepts.directions import POOLINGS, learn_concept, points_of
from rfm_live.concepts.geometry import pairwise_cosines
from rfm_live.concepts.learning import METHODS, LearningSettings, eigen_spectra, learn_directions
from rfm_live.concepts.probes import DifferenceOfMeans
from rfm_live.concepts.shards import Shard, write_shard
from rfm_live.concepts.splits import Split
from rfm_live.concepts.states import Reading
from rfm_live.concepts.targets import Concept, classes_of, concepts_of
from rfm_live.errors import ClipError, StartError

LAYERS, WIDTH, SEGMENTS = 3, 24, 4


def planted(folder: Path, labels: list[Label], axis_of: dict[Label, np.ndarray], groups: int = 8) -> ActivationStore:
    """Clips whose points lie 3 times their label's axis from noise, at block 1 twice as far, at block 0 not at all."""
    rng = np.random.default_rng(len(labels))
    segments = rng.standard_normal((len(labels), LAYERS, SEGMENTS, WIDTH)).astype(np.float32)
    for index, label in enumerate(labels):
        for layer, strength in enumerate((0.0, 6.0, 3.0)):
            segments[index, layer] += strength * axis_of[label]
    names = tuple(f"clip_{index}" for index in range(len(labels)))
    points = {"mean": segments.mean(axis=2), "last": segments[:, :, -1], "segments": segments}
    folder.mkdir(exist_ok=True)
    write_shard(folder / "a.safetensors", Shard("made by hand", names, ()), points)
    clips = tuple(ClipRecord(name, f"g{i // 2 % groups}", {"x": labels[i]}) for i, name in enumerate(names))
    reading = Reading(segments=SEGMENTS)
    return ActivationStore(folder, clips, (), "ab" * 32, reading, "hand", "MIT", LAYERS, WIDTH, ("a.safetensors",))


def axes(count: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(3).standard_normal((WIDTH, count)))[0].T


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    up, down = axes(1)[0], -axes(1)[0]
    return planted(tmp_path_factory.mktemp("two"), [0.0, 1.0] * 40, {1.0: up, 0.0: down})


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("method", [method for method in METHODS if method != "random"])
def test_every_method_and_pooling_finds_the_planted_axis(
    two_classes: ActivationStore, method: str, pooling: str
) -> None:
    settings = LearningSettings(method, pooling, draws=2, rounds=2)
    learned = learn_directions(two_classes, "x", "dark", settings)
    (found,) = learned.directions
    assert [concept.name for concept in learned.concepts] == ["dark"]
    assert found.vectors.shape == (LAYERS, WIDTH)
    assert found.vectors[1] @ axes(1)[0] > (0.9 if method in ("rfm", "means") else 0.5) and found.scores[1] > 0.99
    assert 0.1 < found.scores[0] < 0.9
    # the classes lie 2 * 6 apart at block 1 and 2 * 3 at block 2
    assert found.distance[1:] == pytest.approx([12.0, 6.0], rel=0.2)
    along = found.mean[1] - found.other_mean[1]
    assert along == pytest.approx(12.0 * found.vectors[1] @ axes(1)[0], rel=0.2)


def test_scores_are_those_of_scikit_learn_on_the_groups_held_out(two_classes: ActivationStore) -> None:
    (concept,) = concepts_of(two_classes.labels("x"), "dark")
    is_held = np.array([group in ("g0", "g3") for group in two_classes.groups])
    found = learn_concept(two_classes, concept, DifferenceOfMeans(), "mean", Split(~is_held, is_held))
    for layer in range(LAYERS):
        rows = two_classes.layer("mean", layer)
        train, held = rows[~is_held], rows[is_held]
        with_, without = (train[concept.targets[~is_held] == value] for value in (1.0, 0.0))
        vector = with_.mean(axis=0) - without.mean(axis=0)
        np.testing.assert_allclose(found.vectors[layer], vector / np.linalg.norm(vector), atol=1e-5)
        expected = roc_auc_score(concept.targets[is_held], held @ vector)
        assert found.scores[layer] == pytest.approx(expected)
        projected = with_ @ found.vectors[layer]
        assert found.mean[layer] == pytest.approx(projected.mean(), rel=1e-4)
        assert found.spread[layer] == pytest.approx(projected.std(), rel=1e-4)


def test_a_number_is_learned_as_a_line_and_split_at_its_median(tmp_path: Path) -> None:
    values: list[Label] = [float(value) for value in np.repeat(np.linspace(-1, 1, 20), 4)]
    store = planted(tmp_path, values, {value: float(value) * axes(1)[0] for value in values}, groups=10)
    (found,) = learn_directions(store, "x", "tempo", LearningSettings("ridge")).directions
    concept = Concept("tempo", np.asarray(values, np.float64))
    assert concept.score_kind == "r2" and concept.is_with.mean() == 0.5
    assert found.vectors[1] @ axes(1)[0] > 0.7 and found.scores[1] > 0.9 and found.scores[0] < 0.5
    assert found.mean[1] > found.other_mean[1]
    assert r2_score([1, 2, 3], [1, 2, 3]) == 1.0


def test_each_class_gets_a_concept_against_the_rest(tmp_path: Path) -> None:
    names: list[Label] = ["aug", "C sharp!", "dim"]
    store = planted(tmp_path, names * 24, dict(zip(names, axes(3), strict=True)))
    learned = learn_directions(store, "x", "chord", LearningSettings("means"))
    assert [concept.name for concept in learned.concepts] == ["chord_c_sharp", "chord_augmented", "chord_diminished"]
    best = np.stack([found.vectors for found in learned.directions])
    # the mean of a class less that of two others at right angles: cosine to the other directions -1/2
    assert pairwise_cosines(best)[1][~np.eye(3, dtype=bool)] == pytest.approx(-0.5, abs=0.1)


def test_no_group_is_on_both_sides(two_classes: ActivationStore) -> None:
    learned = learn_directions(two_classes, "x", "dark", LearningSettings("means"))
    groups = np.asarray(two_classes.groups)
    assert 0 < learned.split.is_held.mean() < 0.5
    assert not set(groups[learned.split.is_held]) & set(groups[~learned.split.is_held])


def test_a_bound_keeps_half_of_the_points_for_the_rarer_side(two_classes: ActivationStore) -> None:
    rare = Concept("rare", np.asarray([1.0] * 12 + [0.0] * 68))
    nothing_held = Split(np.ones(80, np.bool_), np.zeros(80, np.bool_))
    points = points_of(two_classes, 0, "segments", rare, nothing_held, most=60)
    assert len(points.x) == 60 and points.is_with.sum() == 30
    points = points_of(two_classes, 0, "mean", rare, nothing_held, most=60)
    assert len(points.x) == 60 and points.is_with.sum() == 12
    assert len(points_of(two_classes, 0, "mean", rare, nothing_held).x) == 80


def test_what_was_learned_is_read_from_the_cache_and_what_changed_is_not(
    two_classes: ActivationStore, tmp_path: Path
) -> None:
    settings = LearningSettings("means")
    first = learn_directions(two_classes, "x", "dark", settings, tmp_path).directions[0]
    (file,) = tmp_path.iterdir()
    doctored = np.zeros_like(first.scores)
    from safetensors.numpy import load_file, save_file

    save_file(load_file(file) | {"scores": doctored}, file)
    again = learn_directions(two_classes, "x", "dark", settings, tmp_path).directions[0]
    np.testing.assert_array_equal(again.scores, doctored)
    other = learn_directions(two_classes, "x", "dark", LearningSettings("means", held_share=0.4), tmp_path)
    assert other.directions[0].scores.any() and len(list(tmp_path.iterdir())) == 2
    file.write_bytes(b"torn")
    mended = learn_directions(two_classes, "x", "dark", settings, tmp_path).directions[0]
    np.testing.assert_array_equal(mended.scores, first.scores)


def test_a_machine_tells_how_many_directions_matter(two_classes: ActivationStore) -> None:
    settings = LearningSettings(draws=1, rounds=2)
    learned = learn_directions(two_classes, "x", "dark", settings)
    spectrum = eigen_spectra(two_classes, learned, settings)["dark"]
    assert spectrum.shares[0] > 2 * spectrum.shares[1] and spectrum.participation < 8
    assert eigen_spectra(two_classes, learned, LearningSettings("means")) == {}


@pytest.mark.parametrize(
    ("labels", "name", "says"),
    [
        ([1.0, 1.0], "dark", "all 2 clips have the label 1.0"),
        (["a", 1.0], "dark", "texts and numbers"),
        (["a", "b"], "Dark", "'Dark_a'"),
        (["a", "暗い"], "mood", "class '暗い' has no letter a..z and no digit"),
        (["A b", "a-B"], "mood", "classes 'A b' and 'a-B' would both be 'mood_a_b'"),
        ([0.0, 1.0], "2dark", "'2dark'"),
    ],
)
def test_labels_that_make_no_concept_are_refused(labels: list[Label], name: str, says: str) -> None:
    with pytest.raises(ClipError, match=says):
        concepts_of(labels, name)


def test_numbers_are_split_by_quarters() -> None:
    assert classes_of([float(value) for value in range(8)]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert classes_of([0.0, 1.0, 1.0]) == [0.0, 1.0, 1.0] and classes_of(["b", "a"]) == ["b", "a"]


@pytest.mark.parametrize(("method", "pooling"), [("svm", "mean"), ("rfm", "max")])
def test_an_unknown_method_or_pooling_is_refused(method: str, pooling: str) -> None:
    with pytest.raises(StartError, match="expected one of"):
        LearningSettings(method, pooling)


def test_two_recordings_are_learned_from_their_first_parts_and_the_gap_is_seen_by_nobody(tmp_path: Path) -> None:
    """Clips 0 and 1 belong to g0, 2 and 3 to g1: a class of 8 clips each."""
    labels: list[Label] = [1.0, 1.0, 0.0, 0.0] * 4
    store = planted(tmp_path, labels, {1.0: axes(1)[0], 0.0: -axes(1)[0]}, groups=2)
    learned = learn_directions(store, "x", "dark", LearningSettings("means"))
    assert learned.split.by_time == ("g0", "g1")
    own = np.flatnonzero(np.asarray(labels) == 1.0)
    assert own[learned.split.is_train[own]].tolist() == own[:5].tolist()
    assert own[learned.split.is_held[own]].tolist() == own[6:].tolist()
    assert learned.directions[0].scores[1] == 1.0 and learned.directions[0].vectors[1] @ axes(1)[0] > 0.9
    seen = points_of(store, 1, "mean", learned.concepts[0], learned.split)
    assert (len(seen.x), len(seen.held)) == (10, 4)
    gap = store.layer("mean", 1)[own[5]]
    assert not any((row == gap).all() for row in np.concatenate([seen.x, seen.held]))


def test_one_source_of_too_few_clips_cannot_be_held_out(tmp_path: Path) -> None:
    labels: list[Label] = [0.0, 1.0]
    store = planted(tmp_path, labels, {0.0: axes(1)[0], 1.0: -axes(1)[0]}, groups=1)
    with pytest.raises(ClipError, match="expected 2 sources or more, or 4 clips"):
        learn_directions(store, "x", "dark", LearningSettings("means"))
