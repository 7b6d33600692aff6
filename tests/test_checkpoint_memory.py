"""Loading holds every weight once: the peak of memory is that of the model, in each stored form."""

import sys

import pytest

from tests.loading import measured

MOST_RATIO = 1.2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which only Linux has")
@pytest.mark.parametrize("form", ["float16 safetensors", "float32 bin"])
def test_the_peak_of_loading_is_hardly_above_the_size_of_the_file(form: str) -> None:
    """187 MB and 375 MB: large enough for interpreter and allocator to be small beside them."""
    found = measured(form, width=768, layers=8, heads=12, codec_filters=8)
    assert found["ratio"] <= MOST_RATIO, found
