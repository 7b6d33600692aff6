"""Re-orthogonalised directions against numpy's QR, scipy's polar decomposition and numpy's pseudo-inverse."""

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg

from rfm_live.steering.orthogonal import METHODS, gram_matrices, orthogonal_map

Floats = npt.NDArray[np.float64]


def some_directions(concepts: int, layers: int = 2, width: int = 23) -> Floats:
    """Unit rows [C, L, D] that overlap: every pair has a cosine of about 0.5."""
    rng = np.random.default_rng(concepts)
    directions = rng.normal(size=(concepts, layers, width)) + rng.normal(size=(1, layers, width))
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def new_directions(method: str, directions: Floats) -> Floats:
    """[L, C, D]."""
    by_layer = directions.transpose(1, 0, 2)
    return orthogonal_map(method, gram_matrices(directions)) @ by_layer


@pytest.mark.parametrize("concepts", [1, 2, 7])
def test_gram_schmidt_is_the_q_of_qr_with_the_first_direction_kept(concepts: int) -> None:
    directions = some_directions(concepts)
    for layer, found in enumerate(new_directions("gram_schmidt", directions)):
        q, r = np.linalg.qr(directions[:, layer].T)
        np.testing.assert_allclose(found, (q * np.sign(np.diag(r))).T, atol=1e-10)
        np.testing.assert_allclose(found[0], directions[0, layer], atol=1e-14)


@pytest.mark.parametrize("concepts", [1, 2, 7])
def test_least_squares_is_the_nearest_orthonormal_set(concepts: int) -> None:
    directions = some_directions(concepts)
    for layer, found in enumerate(new_directions("least_squares", directions)):
        nearest, _ = scipy.linalg.polar(directions[:, layer])
        np.testing.assert_allclose(found, nearest, atol=1e-10)


@pytest.mark.parametrize("concepts", [1, 2, 7])
def test_dual_directions_move_their_own_reading_by_1_and_no_other(concepts: int) -> None:
    directions = some_directions(concepts)
    for layer, found in enumerate(new_directions("dual", directions)):
        np.testing.assert_allclose(found, np.linalg.pinv(directions[:, layer]).T, atol=1e-10)
        np.testing.assert_allclose(found @ directions[:, layer].T, np.eye(concepts), atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_directions_at_right_angles_stay_as_they_are(method: str) -> None:
    corners = np.eye(5)[:3, None]  # [C, 1, D]
    np.testing.assert_allclose(orthogonal_map(method, gram_matrices(corners)), np.eye(3)[None], atol=1e-14)


def test_two_directions_at_60_degrees_by_hand() -> None:
    gram = np.array([[[1.0, 0.5], [0.5, 1.0]]])
    # q2 - q1 / 2 has the length sqrt(3) / 2
    expected = [[1.0, 0.0], [-0.5 / np.sqrt(0.75), 1 / np.sqrt(0.75)]]
    np.testing.assert_allclose(orthogonal_map("gram_schmidt", gram)[0], expected, atol=1e-12)
    np.testing.assert_allclose(orthogonal_map("dual", gram)[0], [[4 / 3, -2 / 3], [-2 / 3, 4 / 3]], atol=1e-12)


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("apart", [0.0, 1e-3, 0.03])
def test_directions_that_all_but_depend_on_others_give_no_push_of_endless_length(method: str, apart: float) -> None:
    directions = some_directions(3)
    directions[2] = directions[0] + apart * some_directions(4)[3]
    directions[2] /= np.linalg.norm(directions[2], axis=-1, keepdims=True)
    lengths = np.linalg.norm(new_directions(method, directions), axis=-1)
    assert np.isfinite(lengths).all() and lengths.max() <= 10.0


def test_gram_schmidt_drops_the_repetition_of_a_direction() -> None:
    directions = some_directions(3)
    directions[1] = directions[0]
    found = new_directions("gram_schmidt", directions)
    assert not found[:, 1].any()
    np.testing.assert_allclose(np.linalg.norm(found[:, [0, 2]], axis=-1), 1.0)


def test_another_method_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="orthogonalisation 'qr' is none of off, gram_schmidt, least_squares, dual"):
        orthogonal_map("qr", np.eye(2)[None])
