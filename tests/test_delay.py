"""The delay pattern, against a layout written out by hand and as a round trip."""

import pytest
import torch

from rfm_live.model.delay import delay, undelay


def test_columns_match_the_pattern_written_by_hand() -> None:
    codes = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert delay(codes, 9).tolist() == [[9, 1, 2, 3, 9], [9, 9, 4, 5, 6]]


@pytest.mark.parametrize(("codebooks", "frames"), [(1, 1), (4, 1), (4, 3), (4, 50), (7, 2), (4, 0)])
def test_undelay_reverses_delay(codebooks: int, frames: int) -> None:
    codes = torch.randint(0, 64, (codebooks, frames))
    columns = delay(codes, 64)
    assert columns.shape == (codebooks, frames + codebooks)
    assert torch.equal(undelay(columns), codes)


def test_columns_without_a_complete_frame_have_none() -> None:
    assert undelay(torch.full((4, 4), 64)).shape == (4, 0)
    assert undelay(torch.full((4, 1), 64)).shape == (4, 0)
