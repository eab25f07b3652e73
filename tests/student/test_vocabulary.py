"""A vocabulary has a size, and special tokens inside it."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from student.errors import ConfigError
from student.vocabulary import Vocabulary

FIELDS = {"size": 10, "bos": 0, "eos": 9, "pad": 3}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": 0}, "size is 0; it must be at least 1"),
        ({"size": 3.5}, r"size is 3\.5; it must be a whole number"),
        ({"size": "10"}, "size is '10'; it must be a whole number"),
        ({"size": 2**63}, "size is 9223372036854775808; it must be at most 9223372036854775807"),
        ({"bos": 1.5}, r"bos is 1\.5; it must be a whole number"),
        ({"bos": True}, "bos is True; it must be a whole number"),
        ({"bos": None}, "bos is None; it must be a whole number"),
        ({"bos": -1}, "bos is -1; it must be a token of the vocabulary, 0 to 9"),
        ({"eos": 10}, "eos is 10; it must be a token of the vocabulary, 0 to 9"),
        ({"eos": None}, "eos is None; it must be a whole number"),
        ({"pad": 2.0}, r"pad is 2\.0; it must be a whole number"),
        ({"pad": "3"}, "pad is '3'; it must be a whole number"),
        ({"pad": 10}, "pad is 10; it must be a token of the vocabulary, 0 to 9"),
    ],
)
def test_what_is_no_size_or_token_of_the_table_is_refused_by_name(changed, message):
    with pytest.raises(ConfigError, match=message):
        Vocabulary(**FIELDS | changed)


def test_the_first_and_last_token_can_be_special_and_pads_can_be_missing():
    assert Vocabulary(size=1, bos=0, eos=0) == Vocabulary(size=1, bos=0, eos=0, pad=None)
    assert asdict(Vocabulary(**FIELDS)) == FIELDS


def test_numpys_numbers_are_kept_as_pythons():
    made = Vocabulary(**{name: np.int64(value) for name, value in FIELDS.items()})
    assert made == Vocabulary(**FIELDS)
    assert json.loads(json.dumps(asdict(made))) == FIELDS
