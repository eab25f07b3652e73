"""A stream knows where its documents and their windows begin and end; the rules are restated here.

The restatements are loops over documents, tokens and windows.
"""

import random

import numpy as np
import pytest
import torch

from student.documents import Documents, Entries, unpad
from student.errors import ShapeError

CPU = torch.device("cpu")
# Shorter than a window, exactly one, exactly two, in between; one document and many.
STREAMS = [
    (1,),
    (4,),
    (8, 8, 8),
    (8, 4, 7),
    (3, 1, 2),
    (1, 9, 4, 1, 13, 8, 2),
    (5, 16, 3),
]
COMPRESSIONS = [1, 3, 4, 8]


def documents(lengths) -> Documents:
    return Documents(lengths, CPU)


def tokens(lengths) -> list[tuple[int, int, int]]:
    """Return document, place in it, and place of its beginning, a token of the stream."""
    found, start = [], 0
    for document, length in enumerate(lengths):
        found += [(document, place, start) for place in range(length)]
        start += length
    return found


def windows(lengths, compression) -> list[tuple[int, int]]:
    """Return the document and the first place of each window that its document fills."""
    return [
        (document, place)
        for document, length in enumerate(lengths)
        for place in range(0, length - compression + 1, compression)
    ]


def visible(lengths, compression) -> list[list[int]]:
    """Return, a token, the windows of its document that end at it or before."""
    whole = windows(lengths, compression)
    return [
        [
            number
            for number, (document, first) in enumerate(whole)
            if document == own and first + compression - 1 <= place
        ]
        for own, place, _ in tokens(lengths)
    ]


@pytest.mark.parametrize("lengths", STREAMS, ids=str)
def test_each_token_knows_its_document_its_place_and_where_the_document_begins(lengths):
    stream, told = documents(lengths), tokens(lengths)
    assert stream.document_N.tolist() == [document for document, _, _ in told]
    assert stream.position_N.tolist() == [place for _, place, _ in told]
    assert stream.start_N.tolist() == [start for _, _, start in told]
    assert stream.num_tokens == len(told) == sum(stream.lengths)
    last = [
        n for n, (_, place, start) in enumerate(told) if n + 1 == len(told) or not told[n + 1][1]
    ]
    assert stream.last().tolist() == last
    assert {x.dtype for x in (stream.document_N, stream.position_N, stream.last())} == {torch.int64}


def test_rows_are_documents_of_one_length():
    stream = Documents.rows(3, 5, CPU)
    assert stream.lengths == (5, 5, 5)
    assert stream.equal_length == 5
    assert documents((5,)).equal_length == 5
    assert documents((5, 5, 4)).equal_length is None


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((), "lengths is empty; give the tokens of each document"),
        ((0,), r"lengths\[0\] is 0; it must be at least 1"),
        ((3, 0, 2), r"lengths\[1\] is 0; it must be at least 1"),
        ((4, -1), r"lengths\[1\] is -1; it must be at least 1"),
        ((4, 1.5), r"lengths\[1\] is 1\.5; it must be a whole number"),
        ((True,), r"lengths\[0\] is True; it must be a whole number"),
        ((2**70,), r"lengths\[0\] is 1180591620717411303424; it must be at most"),
        (torch.tensor([2.0]), r"lengths\[0\] is 2\.0; it must be a whole number"),
        ("33", "lengths is of type str; give a list with the tokens of each document"),
        (5, "lengths is of type int; give a list"),
        (torch.tensor(5), "lengths is of type int; give a list"),
    ],
)
def test_lengths_that_are_none_are_refused_by_name(lengths, message):
    with pytest.raises(ShapeError, match=message):
        documents(lengths)


@pytest.mark.parametrize("lengths", [[3, 2], np.array([3, 2]), torch.tensor([3, 2])], ids=repr)
def test_lengths_may_be_a_list_an_array_or_a_tensor(lengths):
    stream = documents(lengths)
    assert stream.lengths == (3, 2)
    assert {type(length) for length in stream.lengths} == {int}


@pytest.mark.parametrize(
    ("count", "length", "message"),
    [
        (0, 4, "count is 0; it must be at least 1"),
        (2.0, 4, r"count is 2\.0; it must be a whole number"),
        (2, 0, "length is 0; it must be at least 1"),
        (2, 4.0, r"length is 4\.0; it must be a whole number"),
    ],
)
def test_rows_that_are_none_are_refused_by_name(count, length, message):
    with pytest.raises(ShapeError, match=message):
        Documents.rows(count, length, CPU)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("lengths", STREAMS, ids=str)
def test_entries_stand_for_the_windows_that_documents_fill(lengths, compression):
    entries, whole = documents(lengths).entries(compression), windows(lengths, compression)
    assert entries.count == len(whole)
    assert entries.position_T.tolist() == [place for _, place in whole]
    assert entries.begins_T.tolist() == [place == 0 for _, place in whole]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("lengths", STREAMS, ids=str)
def test_a_token_sees_the_closed_windows_of_its_own_document(lengths, compression):
    entries, seen = documents(lengths).entries(compression), visible(lengths, compression)
    ranges = zip(entries.first_N.tolist(), entries.end_N.tolist(), strict=True)
    assert [list(range(first, end)) for first, end in ranges] == seen
    assert entries.most == max(map(len, seen))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("lengths", STREAMS, ids=str)
def test_a_span_holds_all_that_its_tokens_see_and_its_end_is_tight(lengths, compression):
    entries, seen = documents(lengths).entries(compression), visible(lengths, compression)
    for start in range(len(seen)):
        for stop in range(start + 1, len(seen) + 1):
            low, high = entries.span(start, stop)
            union = sorted({place for row in seen[start:stop] for place in row})
            assert set(union) <= set(range(low, high))
            assert not union or (low <= union[0] and high == union[-1] + 1)
            assert entries.most_seen(start, stop) == max(map(len, seen[start:stop]))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("lengths", STREAMS, ids=str)
def test_windows_are_the_rows_of_their_tokens(lengths, compression):
    stream = documents(lengths)
    starts = [start for _, place, start in tokens(lengths) if place == 0]
    rows_NF = torch.arange(2 * stream.num_tokens).view(-1, 2)
    expected = [
        rows_NF[starts[document] + place :][:compression].tolist()
        for document, place in windows(lengths, compression)
    ]
    got_TCF = stream.entries(compression).windows(rows_NF)
    assert got_TCF.shape == (len(expected), compression, 2)
    assert got_TCF.tolist() == expected


@pytest.mark.parametrize("lengths", [(4,), (11,), (8, 4, 7), (8, 8, 8)], ids=str)
def test_windows_that_follow_one_another_are_a_view_and_equal_to_gathered_ones(lengths):
    stream = documents(lengths)
    entries, rows_NF = stream.entries(4), torch.arange(3 * stream.num_tokens).view(-1, 3)
    assert entries.token_TC is None
    viewed = entries.windows(rows_NF)
    assert viewed.data_ptr() == rows_NF.data_ptr()
    entries.token_TC = torch.arange(4 * entries.count).view(-1, 4)
    gathered = entries.windows(rows_NF)
    assert gathered.data_ptr() != rows_NF.data_ptr()
    assert torch.equal(viewed, gathered)


def test_windows_after_a_document_that_leaves_tokens_over_are_gathered():
    entries = documents((5, 4)).entries(4)
    assert entries.token_TC.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]


def columns(entries: Entries, start: int, stop: int, beside: int) -> int:
    low, high = entries.span(start, stop)
    return high - low + beside


@pytest.mark.parametrize("room", [1, 200, 1500, 10**9])
@pytest.mark.parametrize("lengths", [(200,), (9,) * 22, (1, 60, 3, 100, 7)], ids=str)
def test_a_tile_ends_a_whole_step_on_and_fits_its_room_if_one_step_does(lengths, room):
    entries, start, total = documents(lengths).entries(4), 0, sum(lengths)
    while start < total:
        stop = entries.tile_end(start, room, 8, 5)
        assert stop == total or (stop > start and (stop - start) % 8 == 0)
        fits = (stop - start) * columns(entries, start, stop, 5) <= room
        assert fits or stop == min(start + 8, total)
        assert room < 10**9 or stop == total
        start = stop


@pytest.mark.parametrize("by", [1, 2, 3, 9])
@pytest.mark.parametrize("lengths", STREAMS, ids=str)
def test_shortening_takes_the_last_tokens_of_each_document(lengths, by):
    cut = documents(lengths).shortened(by)
    kept = [n for n, (d, place, _) in enumerate(tokens(lengths)) if place < lengths[d] - by]
    assert cut.kept_P.tolist() == cut.kept.tolist() == kept
    left = tuple(length - by for length in lengths if length > by)
    assert (cut.documents.lengths if cut.documents else ()) == left


@pytest.mark.parametrize("lengths", STREAMS, ids=str)
def test_shortening_twice_by_one_is_shortening_once_by_two(lengths):
    once = documents(lengths).shortened(1)
    both = documents(lengths).shortened(2)
    if once.documents is None:
        assert both.documents is None
        return
    twice = once.documents.shortened(1)
    assert once.kept[twice.kept].tolist() == both.kept.tolist()
    assert (twice.documents and twice.documents.lengths) == (
        both.documents and both.documents.lengths
    )


def test_what_is_derived_from_a_stream_is_made_once():
    stream = documents((9, 4))
    assert stream.entries(4) is stream.entries(4)
    assert stream.entries(4) is not stream.entries(2)
    assert stream.shortened(1) is stream.shortened(1)
    assert stream.shortened(1) is not stream.shortened(2)


MASKS = {
    "right": [[1, 1, 1, 0], [1, 0, 0, 0]],
    "left": [[0, 1, 1, 1], [0, 0, 0, 1]],
    "both": [[0, 1, 1, 0], [1, 1, 1, 1]],
    "holes": [[1, 0, 1, 1], [0, 1, 0, 1]],
}


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize("side", MASKS)
def test_the_documents_of_a_padded_batch_are_its_rows_without_pads(side, dtype):
    mask = MASKS[side]
    stream, token_N = unpad(torch.tensor(mask, dtype=dtype), CPU)
    flat = [4 * row + column for row in range(2) for column in range(4) if mask[row][column]]
    assert token_N.tolist() == flat
    assert stream.lengths == (sum(mask[0]), sum(mask[1]))


def test_unpadding_gives_the_documents_back_wherever_the_pads_stood():
    draw = random.Random(0)
    texts = [[10 * row + n for n in range(draw.randint(1, 9))] for row in range(20)]
    rows, mask = [], []
    for text in texts:
        left = draw.randint(0, 9 - len(text))
        rows.append([-1] * left + text + [-1] * (9 - len(text) - left))
        mask.append([int(token >= 0) for token in rows[-1]])
    stream, token_N = unpad(torch.tensor(mask), CPU)
    flat = torch.tensor(rows).flatten()[token_N]
    assert [part.tolist() for part in flat.split(list(stream.lengths))] == texts


def test_a_row_of_pads_alone_is_refused():
    with pytest.raises(ShapeError, match=r"mask_BS\[1\] masks every token; a document has at lea"):
        unpad(torch.tensor([[1, 1], [0, 0]]), CPU)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3), r"mask_BS is \(3,\) on cpu; give a tensor \[rows, columns\]"),
        (torch.ones(1, 2, 3), r"mask_BS is \(1, 2, 3\) on cpu; give a tensor"),
        (torch.ones(1, 2, device="meta"), r"mask_BS is \(1, 2\) on meta; give .* on the CPU"),
        ([[1, 1]], "mask_BS is of type list; give a tensor"),
        (torch.tensor([[1, 2]]), "mask_BS has a value that is neither 0 nor 1"),
        (torch.tensor([[0.5, 1.0]]), "mask_BS has a value that is neither 0 nor 1"),
        (torch.tensor([[0.0, float("-inf")]]), "mask_BS has a value that is neither 0 nor 1"),
        (torch.tensor([[1.0, float("nan")]]), "mask_BS has a value that is neither 0 nor 1"),
        (torch.ones(0, 3), "lengths is empty"),
        (torch.ones(2, 0), r"mask_BS\[0\] masks every token"),
    ],
)
def test_what_is_no_mask_of_a_padded_batch_is_refused(mask, message):
    with pytest.raises(ShapeError, match=message):
        unpad(mask, CPU)
