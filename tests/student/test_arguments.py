"""What is no number, or no list, is told from what is one in another dress."""

import numpy as np
import pytest

from student.arguments import finite, listed, whole
from student.errors import ConfigError, ShapeError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_come_back_as_pythons(value):
    assert whole("x", value, 3, 3) == 3
    assert type(whole("x", value, 3, 3)) is int


@pytest.mark.parametrize("value", [3.0, True, np.True_, "3", None, [3], np.float64(3), 3 + 0j])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ShapeError, match=r"^x is .*; it must be a whole number\.$"):
        whole("x", value, 0)


def test_bounds_are_part_of_the_range_and_named_where_they_are_passed():
    with pytest.raises(ConfigError, match=r"^x is 2; it must be at least 3\.$"):
        whole("x", 2, 3, 5)
    with pytest.raises(ConfigError, match=r"^x is 6; it must be at most 5\.$"):
        whole("x", 6, 3, 5)
    assert [whole("x", value, 3, 5) for value in (3, 5)] == [3, 5]
    assert whole("x", 2**63 - 1, 0) == 2**63 - 1
    with pytest.raises(ConfigError, match="at most"):
        whole("x", 2**63, 0)


def test_a_long_value_is_cut_short():
    with pytest.raises(ShapeError) as caught:
        whole("x", "word " * 1000, 0)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("value", [0, -1.5, np.float32(2), np.int64(2), 2**70])
def test_numbers_are_finite_in_any_dress(value):
    assert finite("x", value) is None


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), True, "1", None, 1j])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(ShapeError, match=r"^x is .*; it must be a finite number\.$"):
        finite("x", value)


def test_lists_tuples_ranges_and_arrays_are_listed_and_text_is_not():
    for values in ([0, 1], (0, 1), range(2), np.arange(2), (n for n in range(2))):
        assert listed("x", values, "a list") == [0, 1]
    for values, kind in (("01", "str"), (b"01", "bytes"), (1, "int"), (None, "NoneType")):
        with pytest.raises(ShapeError, match=f"^x is of type {kind}; give a list\\.$"):
            listed("x", values, "a list")
