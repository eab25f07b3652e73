"""Packed ids come back as they were, from any place, in as few bits as the vocabulary allows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.store.packing import (
    high_bits,
    pack_bits,
    pack_ids,
    unpack_bits,
    unpack_flags,
    unpack_ids,
)

# The last vocabulary of each width and the first of the next; Gemma 3 has 262,208 tokens.
WIDTHS = {
    2: 0,
    65_536: 0,
    65_537: 1,
    129_280: 1,
    131_072: 1,
    131_073: 2,
    262_144: 2,
    262_208: 4,
    2**20: 4,
    2**20 + 1: 8,
    2**24: 8,
}


@pytest.mark.parametrize(("vocab", "width"), WIDTHS.items())
def test_the_high_bits_are_as_few_as_the_vocabulary_allows(vocab, width):
    assert high_bits(vocab) == width


@pytest.mark.parametrize("vocab", WIDTHS)
@settings(deadline=None)
@given(data=st.data())
def test_ids_come_back_from_any_place_in_any_shape(vocab, data):
    ids = st.integers(0, vocab - 1)
    rows = data.draw(st.lists(st.tuples(ids, ids, ids), min_size=1, max_size=9))
    given_N3 = torch.tensor(rows)
    low, high_M = pack_ids(given_N3, vocab)
    assert low.shape == given_N3.shape
    assert len(high_M) == -(-given_N3.numel() * high_bits(vocab) // 8)
    places = st.integers(0, given_N3.numel() - 1)
    place = torch.tensor(data.draw(st.lists(st.tuples(places, places), max_size=9))).reshape(-1, 2)
    place = place.long()
    found = unpack_ids(low, high_M, place, vocab)
    assert found.dtype == torch.int64
    assert torch.equal(found, given_N3.flatten()[place])


@pytest.mark.parametrize("vocab", WIDTHS)
def test_first_and_last_token_of_a_vocabulary_survive(vocab):
    ids = torch.tensor([vocab - 1, 0, vocab - 1, vocab - 2])
    assert torch.equal(unpack_ids(*pack_ids(ids, vocab), torch.arange(4), vocab), ids)


@pytest.mark.parametrize("vocab", [300, 65_536, 131_072, 2**24])
def test_an_id_that_is_not_of_the_vocabulary_is_refused(vocab):
    for wrong in (-1, vocab):
        with pytest.raises(ValueError, match=f"ids from .* not below {vocab}"):
            pack_ids(torch.tensor([0, wrong]), vocab)


def test_a_vocabulary_beyond_24_bits_is_refused():
    with pytest.raises(ValueError, match="2\\^24 is the most"):
        high_bits(2**24 + 1)


def test_no_ids_pack_to_nothing():
    low, high_M = pack_ids(torch.empty(0, 3, dtype=torch.int64), 131_072)
    assert low.shape == (0, 3)
    assert len(high_M) == 0


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@settings(deadline=None)
@given(data=st.data())
def test_values_come_back_in_the_bytes_they_need(width, data):
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40))
    packed_M = pack_bits(torch.tensor(values, dtype=torch.int64), width)
    assert packed_M.dtype == torch.uint8
    assert len(packed_M) == -(-len(values) * width // 8)
    assert unpack_bits(packed_M, torch.arange(len(values)), width).tolist() == values


def test_the_first_value_is_in_the_lowest_bits():
    assert pack_bits(torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 1]), 1).tolist() == [1, 1]
    assert pack_bits(torch.tensor([1, 2, 3]), 2).tolist() == [1 + 2 * 4 + 3 * 16]


@settings(deadline=None)
@given(flags=st.lists(st.booleans(), max_size=40))
def test_flags_come_back_without_the_bits_that_fill_the_last_byte(flags):
    packed_M = pack_bits(torch.tensor(flags, dtype=torch.bool), 1)
    assert unpack_flags(packed_M, len(flags)).tolist() == flags
