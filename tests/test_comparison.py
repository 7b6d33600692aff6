"""The table of probes and poolings: who is kept from whom, what intervals mean, and readers on planted points."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

from rfm_live.concepts.class_readers import Fold, Part, RfmSearch, best_linear, best_rfm, one_vs_rest
from rfm_live.concepts.clips import Label
from rfm_live.concepts.comparison import (
    LINEAR,
    METHODS,
    Cell,
    Task,
    as_markdown,
    as_table,
    compare_set,
    over_tasks,
    parts_of,
    read_test,
    resampled,
    scores_of,
)
from rfm_live.concepts.probes import LeastSquares
from rfm_live.errors import ClipError
from tests.test_directions import LAYERS, axes, planted

NAMES: list[Label] = ["major", "minor", "aug"]


def three_classes(folder: Path, groups: int = 12) -> tuple[object, Task]:
    store = planted(folder, NAMES * 32, dict(zip(NAMES, axes(3), strict=True)), groups=groups)
    store = type(store)(**{**vars(store), "clips": tuple(_labelled(clip) for clip in store.clips)})
    return store, Task.all_of(store.labels("chord"), store.groups)[0][0]


def _labelled(clip: object) -> object:
    from dataclasses import replace

    return replace(clip, labels={"chord": clip.labels["x"]})  # type: ignore[attr-defined, type-var]


def test_test_validation_and_training_share_no_group_and_every_class_is_in_each(tmp_path: Path) -> None:
    _, task = three_classes(tmp_path)
    sides = [set(task.groups[side]) for side in (task.is_training, task.is_validation, task.is_test)]
    assert all(sides) and not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    for side in (task.is_training, task.is_validation, task.is_test):
        assert (task.targets[side].sum(axis=0) > 0).all()
    assert (task.is_training | task.is_validation | task.is_test).all()


def test_a_bootstrap_draw_takes_whole_groups(tmp_path: Path) -> None:
    _, task = three_classes(tmp_path)
    groups = task.groups[task.is_test]
    draws = resampled(task)
    np.testing.assert_array_equal(draws[0], np.arange(len(groups)))
    for draw in draws[1:]:
        names, counts = np.unique(groups[draw], return_counts=True)
        whole = [np.sum(groups == name) for name in names]
        assert (counts % whole == 0).all() and counts.sum() == sum(counts)
    assert len({tuple(draw) for draw in draws}) > 3


def test_one_test_group_is_drawn_clip_by_clip() -> None:
    targets = np.eye(2)[np.tile([0, 1], 20)]
    is_test = np.arange(40) < 20
    task = Task(targets, np.where(is_test, "click", "other"), is_test, np.zeros(40, np.bool_))
    draws = resampled(task)
    assert len(draws[1]) == 20 and len(set(draws[1])) < 20


def test_of_few_groups_each_is_the_test_once(tmp_path: Path) -> None:
    store, _ = three_classes(tmp_path, groups=4)
    tests = Task.all_of(store.labels("chord"), store.groups)  # type: ignore[attr-defined]
    names = sorted(set(tests[0][0].groups))
    assert len(names) == 4 and [set(folds[0].groups[folds[0].is_test]) for folds in tests] == [{one} for one in names]
    for test, folds in zip(names, tests, strict=True):
        held = [set(task.groups[task.is_validation]) for task in folds]
        assert held == [{one} for one in names if one != test]
        for task in folds:
            assert (task.is_test == folds[0].is_test).all() and not (task.is_test & task.is_validation).any()
            assert (task.is_training | task.is_validation | task.is_test).all()
    cells, _ = compare_set("chords", store, ["mean"], ["linear", "means"])  # type: ignore[arg-type]
    for cell in cells:
        each = []
        for folds in tests:
            read = read_test(store, folds, "mean", [cell.method], RfmSearch())  # type: ignore[arg-type]
            wanted = folds[0].targets[folds[0].is_test]
            each.append(roc_auc_score(wanted, read[cell.method][1], average="macro"))
        assert cell.score[0] == pytest.approx(np.mean(each), abs=1e-4)


def test_two_groups_are_too_few_for_a_test(tmp_path: Path) -> None:
    store, _ = three_classes(tmp_path, groups=4)
    with pytest.raises(ClipError, match="2 groups"):
        Task.all_of(store.labels("chord"), ["one", "other"] * 48)  # type: ignore[attr-defined]


def test_settings_are_chosen_by_the_mean_over_folds() -> None:
    rng = np.random.default_rng(3)
    classes = np.tile([0, 1], 20)
    told, noise = classes[:, None] * 4.0 + rng.standard_normal((40, 3)), rng.standard_normal((40, 3))
    y = np.eye(2)[classes]
    first = Fold([Part(told[:20], y[:20]), Part(told[:20], y[:20])], [Part(told[20:], y[20:]), Part(told[20:], y[20:])])
    other = Fold([Part(told[:20], y[:20]), Part(noise[:20], y[:20])], [Part(told[20:], y[20:])] * 2)
    for chosen in (
        best_linear(LeastSquares(), [other, first]),
        best_rfm(RfmSearch(blocks=2, draws=1, rounds=1), [other, first]),
    ):
        assert chosen.layer == 0 and chosen.validation > 0.95
    both = best_linear(
        LeastSquares(), [Fold(other.train[1:], other.validation[1:]), Fold(first.train[1:], first.validation[1:])]
    )
    alone = [
        best_linear(LeastSquares(), [Fold(one.train[1:], one.validation[1:])]).validation for one in (other, first)
    ]
    assert both.validation == pytest.approx(np.mean(alone))


def test_a_mean_over_tests_is_drawn_test_by_test() -> None:
    apart = [np.full(301, 0.2), np.full(301, 0.8)]
    together = over_tasks(apart)
    assert together is not None and together[0] == pytest.approx(0.5)
    assert {round(float(value), 3) for value in together} == {0.2, 0.5, 0.8}
    assert over_tasks([None, None]) is None
    alone = over_tasks([np.arange(301.0)])
    assert alone is not None and (alone == np.arange(301.0)).all()


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    targets, readings = np.eye(3)[rng.integers(0, 3, 60)], rng.random((60, 3))
    everything = [np.arange(60)]
    areas, hits = scores_of(readings, targets, everything)
    assert areas[0] == pytest.approx(roc_auc_score(targets, readings, average="macro"))
    assert hits is not None
    assert hits[0] == accuracy_score(targets.argmax(axis=1), readings.argmax(axis=1))
    numbers = rng.standard_normal((60, 1))
    areas, hits = scores_of(readings[:, :1], numbers, everything)
    assert hits is None and areas[0] == pytest.approx(r2_score(numbers, readings[:, :1]))


def test_one_vs_rest_least_squares_is_multivariate_regression() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((50, 7)), np.eye(3)[rng.integers(0, 3, 50)]
    expected = LinearRegression().fit(x, y).predict(x)
    np.testing.assert_allclose(one_vs_rest(LeastSquares(), Part(x, y))(x), expected, atol=1e-9)


@pytest.mark.parametrize("pooling", ["mean", "last", "segments", "attention"])
def test_every_reader_finds_planted_classes_at_a_block_that_has_them(tmp_path: Path, pooling: str) -> None:
    store, task = three_classes(tmp_path)
    parts = [parts_of(store, task, layer, pooling) for layer in range(LAYERS)]  # type: ignore[arg-type]
    train, validation = [part[0] for part in parts], [part[1] for part in parts]
    truth = task.targets[task.is_test].argmax(axis=1)
    for method in METHODS:
        search = RfmSearch(blocks=2, draws=1, rounds=1, most=80)
        folds = [Fold(train, validation)]
        chosen = best_rfm(search, folds) if method == "rfm" else best_linear(LINEAR[method], folds)
        assert chosen.layer in (1, 2) and chosen.validation > 0.95
        readings = chosen.reader(parts[chosen.layer][2])
        assert readings.shape == (task.is_test.sum(), 3)
        assert (readings.argmax(axis=1) == truth).mean() > 0.9


def test_the_chosen_reader_has_learned_from_the_validation_part_too() -> None:
    rng = np.random.default_rng(2)
    train, held = (Part(rng.standard_normal((20, 5)), np.eye(2)[np.tile([0, 1], 10)]) for _ in range(2))
    chosen = best_linear(LeastSquares(), [Fold([train], [held])])
    expected = LinearRegression().fit(np.vstack((train.x, held.x)), np.vstack((train.y, held.y))).predict(held.x)
    np.testing.assert_allclose(chosen.reader(held.x), expected, atol=1e-9)


def test_a_set_becomes_cells_a_lead_and_a_table(tmp_path: Path) -> None:
    store, _ = three_classes(tmp_path)
    cells, lead = compare_set("chords", store, ["mean", "last"], ["rfm", "linear", "means"])  # type: ignore[arg-type]
    assert [(cell.pooling, cell.method) for cell in cells] == [
        (pooling, method) for pooling in ("mean", "last") for method in ("rfm", "linear", "means")
    ]
    by_method = {cell.method: cell for cell in cells if cell.pooling == "mean"}
    assert lead is not None
    assert lead.score[0] == pytest.approx(by_method["rfm"].score[0] - by_method["linear"].score[0], abs=2e-4)
    for cell in cells:
        assert cell.score[1] <= cell.score[0] <= cell.score[2] or cell.score[0] == 1.0
    rows = as_table(cells, [lead])
    assert rows[0] == ["set", "pooling", "rfm", "linear", "means", "rfm - linear"]
    assert [row[:2] for row in rows[1:]] == [["chords", "mean"], ["chords", "last"]] and rows[2][-1] == ""
    assert "right" in rows[1][2] and len(as_markdown(rows).splitlines()) == 4


def test_tempos_are_told_as_r2() -> None:
    cell = Cell("tempos", "mean", "rfm", 2, (0.91, 0.88, 0.93), None)
    assert as_table([cell], [])[1][:3] == ["tempos (R2)", "mean", "0.910 (0.880..0.930)"]
