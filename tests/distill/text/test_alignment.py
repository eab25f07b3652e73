"""Chunks are the same bytes on both sides, whole, smallest, and never across windows."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from distill.errors import InputError
from distill.text.alignment import align
from distill.text.corpus import pack
from distill.text.places import Stream, loose_ends, place
from distill.text.sources import Document
from distill.text.vocabulary import token_bytes
from tests.fakes.alignments import LENGTH, STRANGE, STUDENT, TEACHERS, aligned, documents, spaced
from tests.fakes.teachers import sentences


def chunk_bytes(tokenizer, token_X, chunk_X) -> list[bytes]:
    """Return the bytes of each chunk, from the tokens of its targets."""
    table = token_bytes(tokenizer)
    found = [b""] * (int(chunk_X.max()) + 1)
    for token, chunk in zip(token_X.reshape(-1).tolist(), chunk_X.tolist(), strict=True):
        if chunk >= 0:
            found[chunk] += table[token]
    return found


def token_places(tokenizer, text: str) -> list[tuple[int, int]]:
    """Return from where to where each token goes in a document, by going along its bytes."""
    table, raw = token_bytes(tokenizer), text.encode()
    spelt = [table[i] for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    at = len(raw) - sum(map(len, spelt))  # -1 with a space before the text
    places = []
    for token in spelt:
        places.append((max(at, 0), at + len(token)))
        at += len(token)
    return places


def plain_chunks(teacher, texts: list[Document], length: int) -> list[set[tuple[int, ...]]]:
    """Return the chunks of each window: from, to, student's tokens and teacher's.

    A second writing of `align`: token by token over documents end to end.
    """
    streams = []
    for tokenizer in (STUDENT, teacher):
        stream, base = [], 0
        for document in texts:
            stream.append((base, base + 1, True))
            base += 1
            for start, end in token_places(tokenizer, document.text):
                stream.append((base + start, base + end, False))
            base += len(document.text.encode())
        streams.append(stream)
    ours, theirs = streams
    ends = {end for _, end, _ in ours} & {end for _, end, _ in theirs}
    windows = []
    for first in range(0, len(ours) - length, length):
        inside = ours[first : first + length + 1]
        limit = inside[-1][1]
        begin = min(end for end in ends | {0} if end >= inside[0][0])
        heard = [token for token in theirs if token[0] >= begin and token[1] <= limit]
        marks = sorted(e for e in ends if inside[0][0] <= e <= limit)
        found = set()
        for low, high in pairwise(marks):
            mine = [t for t in inside[1:] if low <= t[0] and t[1] <= high]
            said = [t for t in heard[1:] if low <= t[0] and t[1] <= high]
            whole = all(
                min((t[0] for t in side), default=-1) == low and side[-1][1] == high
                for side in (mine, said)
            )
            if whole and not any(t[2] for t in mine):
                found.add((low, high, len(mine), len(said)))
        windows.append(found)
    return windows


@pytest.mark.parametrize("teacher", TEACHERS.values(), ids=TEACHERS)
def test_a_chunk_is_the_same_bytes_on_both_sides(teacher):
    texts = documents()
    found = aligned(teacher, texts)
    windows = pack(texts, STUDENT, LENGTH)
    ours = chunk_bytes(STUDENT, windows.tokens[:, 1:], found.chunk_N)
    theirs = chunk_bytes(teacher, found.teacher.tokens[:, 1:], found.chunk_M)
    differ = [(mine, said) for mine, said in zip(ours, theirs, strict=True) if mine != said]
    # The space that one tokenizer writes before a text is nobody's byte.
    assert all(said == b" " + mine for mine, said in differ)
    assert len(differ) <= (len(texts) if teacher is TEACHERS["space first"] else 0)
    assert len(ours) == len(found.size_C) > 100
    assert np.bincount(found.chunk_N[found.chunk_N >= 0]).tolist() == found.size_C.tolist()


@pytest.mark.parametrize("length", [8, LENGTH, 100])
@pytest.mark.parametrize("teacher", TEACHERS.values(), ids=TEACHERS)
def test_chunks_are_those_a_plain_search_finds(teacher, length):
    texts = documents()
    found = aligned(teacher, texts, length)
    expected = plain_chunks(teacher, texts, length)
    ours, theirs = (
        found.chunk_N.reshape(len(expected), -1),
        found.chunk_M.reshape(len(expected), -1),
    )
    for window, chunks in enumerate(expected):
        numbers = sorted(set(ours[window].tolist()) - {-1})
        sizes = [
            (int((ours[window] == n).sum()), int((theirs[window] == n).sum())) for n in numbers
        ]
        assert sizes == [(mine, said) for _, _, mine, said in sorted(chunks)]


def test_almost_all_of_a_text_is_in_chunks():
    found = aligned(TEACHERS["other pairs"], documents())
    windows = pack(documents(), STUDENT, LENGTH)
    assert (found.chunk_N >= 0).sum() > 0.93 * windows.weights.sum()
    assert found.record()["student_tokens_in_chunks"] == int((found.chunk_N >= 0).sum())


def test_a_tokenizer_with_itself_has_a_chunk_a_token():
    found = aligned(STUDENT, documents())
    windows = pack(documents(), STUDENT, LENGTH)
    assert (found.size_C == 1).all()
    assert ((found.chunk_N >= 0) == (windows.weights.reshape(-1) > 0)).all()
    assert np.array_equal(found.teacher.tokens, windows.tokens)
    assert np.array_equal(found.teacher.weights, windows.weights)


def test_the_teachers_windows_hold_the_bytes_of_the_students_and_begin_at_a_boundary():
    teacher = TEACHERS["other pairs"]
    found, windows = aligned(teacher, documents()), pack(documents(), STUDENT, LENGTH)
    ours, theirs = token_bytes(STUDENT), token_bytes(teacher)
    kept = found.teacher.weights > 0
    for row, heard, keeps in zip(windows.tokens, found.teacher.tokens, kept, strict=True):
        last = int(np.flatnonzero(keeps)[-1]) + 1
        said = b"".join(theirs[token] for token in heard[: last + 1])
        assert said in b"".join(ours[token] for token in row)


def test_what_fills_up_a_row_does_not_count():
    found = aligned(TEACHERS["other pairs"], documents())
    counts = found.teacher.weights > 0
    assert (counts.sum(1) < counts.shape[1]).any()
    width = counts.shape[1]
    for row in counts:
        last = int(np.flatnonzero(row)[-1])
        assert not row[last + 1 :].any()
    assert (found.chunk_M.reshape(-1, width)[~counts] == -1).all()


def test_chunks_of_more_tokens_than_the_longest_are_none():
    teacher = TEACHERS["bytes"]
    whole = aligned(teacher, documents())
    few = aligned(teacher, documents(), longest=4)
    long = np.bincount(whole.chunk_M[whole.chunk_M >= 0]) > 4
    assert 0 < long.sum() < len(long)
    assert len(few.size_C) == len(long) - long.sum()
    assert np.bincount(few.chunk_M[few.chunk_M >= 0]).max() == 4


def test_a_document_whose_bytes_are_not_given_back_is_named_and_has_no_chunks():
    texts = [
        Document(id="text/low", text="a small cask by the river " * 3),
        Document(id="text/high", text="A Small Cask By The River " * 3),
        Document(id="text/last", text="the key is in the yard " * 3),
    ]
    found = aligned(spaced(lower=True), texts)
    assert found.lost == ("text/high",)
    assert found.record()["documents_without_chunks"] == ["text/high"]
    windows = pack(texts, STUDENT, LENGTH)
    of = windows.document.reshape(-1)
    counted = windows.weights.reshape(-1) > 0
    assert (found.chunk_N[of == 1] == -1).all()
    assert (found.chunk_N[(of != 1) & counted] >= 0).mean() > 0.8
    # Not even when it is one chunk from end to end.
    short = [texts[0], replace(texts[1], text="A Key"), texts[2]]
    found = aligned(spaced(lower=True), short)
    of = pack(short, STUDENT, LENGTH).document.reshape(-1)
    assert (found.chunk_N[of == 1] == -1).all()


def test_positions_of_a_lost_document_are_paired_where_both_have_read_the_same_characters():
    texts = [Document(id="text/high", text=f"{sentences(3, 7)}{STRANGE.upper()}{sentences(2, 8)}")]
    teacher = spaced(lower=True)
    found, windows = aligned(teacher, texts), pack(texts, STUDENT, LENGTH)
    assert found.lost == ("text/high",)
    assert found.lost_P.all()
    assert len(found.student_P) > 0.5 * windows.weights.sum()
    ours, theirs = token_bytes(STUDENT), token_bytes(teacher)
    width = found.teacher.weights.shape[1]
    for student, other in zip(found.student_P.tolist(), found.teacher_P.tolist(), strict=True):
        row, inner = divmod(student, LENGTH)
        mine = b"".join(ours[token] for token in windows.tokens[row, : inner + 1])
        assert row == other // width
        said = b"".join(theirs[t] for t in found.teacher.tokens[row, : other % width + 1])
        # The last few characters: windows may begin a few bytes apart.
        tail = said.decode(errors="ignore")[-3:]
        assert mine.decode(errors="ignore").lower().endswith(tail)


def test_of_a_split_character_in_a_lost_document_the_last_token_has_the_pair():
    student, texts = spaced(lower=True), [Document(id="text/high", text="A \U0001f600 KEY " * 4)]
    stream = place(texts, student)
    windows = pack(texts, student, LENGTH)
    found = align(windows, stream, place(texts, STUDENT))
    assert found.lost == ("text/high",)
    ends = stream.end_I[found.student_P]  # the windows follow one another
    assert (np.diff(ends) > 0).all()
    assert (stream.end_I[found.student_P + 1] > ends).all()
    assert (np.diff(stream.end_I) == 0).any()


def test_every_pair_has_read_as_far_on_both_sides():
    teacher = TEACHERS["bytes"]
    found, windows = aligned(teacher, documents()), pack(documents(), STUDENT, LENGTH)
    assert len(found.student_P) == windows.weights.size  # the others are single bytes
    assert not found.lost_P.any()
    ours, theirs = place(documents(), STUDENT), place(documents(), teacher)
    width = found.teacher.weights.shape[1]
    # Windows of the student follow one another by LENGTH tokens.
    token_P = theirs.token_I[np.searchsorted(theirs.end_I, ours.end_I[found.student_P])]
    assert np.array_equal(token_P, found.teacher.tokens[:, :width].reshape(-1)[found.teacher_P])


def test_a_token_of_no_bytes_belongs_to_the_chunk_after_it():
    teacher = spaced()
    texts = [Document(id="text/0", text="\n" + "by the river " * 9)]
    stream = place(texts, teacher)
    ids = teacher(texts[0].text, add_special_tokens=False)["input_ids"]
    assert token_bytes(teacher)[ids[0]] == b" "  # which the text does not have
    assert stream.start_I[1] == stream.end_I[1] == 1
    found = aligned(teacher, texts)
    width = found.teacher.weights.shape[1]
    assert found.chunk_M.reshape(-1, width)[0, :2].tolist() == [0, 0]


def test_windows_may_be_left_out_repeated_and_in_another_order():
    teacher, texts = TEACHERS["other pairs"], documents()
    windows = pack(texts, STUDENT, LENGTH)
    ours, theirs = place(texts, STUDENT), place(texts, teacher)
    order = np.array([5, 2, 2, 0])
    some = align(windows.take(order), ours, theirs)
    for row_S, window in zip(some.chunk_N.reshape(-1, LENGTH), order.tolist(), strict=True):
        alone = align(windows.take(np.array([window])), ours, theirs)
        kept = row_S >= 0
        assert kept.any()
        assert np.array_equal(np.where(kept, row_S - row_S[kept].min(), -1), alone.chunk_N)
    assert (np.diff(some.chunk_N[some.chunk_N >= 0]) >= 0).all()
    assert len(some.size_C) == some.chunk_N.max() + 1 == some.chunk_M.max() + 1


def test_a_window_that_is_repeated_has_chunks_of_its_own_each_time():
    texts = documents()
    windows = pack(texts, STUDENT, 1).take(np.array([3, 3, 3]))
    found = align(windows, place(texts, STUDENT), place(texts, STUDENT))
    assert found.chunk_N.tolist() == found.chunk_M.tolist() == [0, 1, 2]


def test_windows_of_other_documents_have_nothing():
    teacher = TEACHERS["other pairs"]
    windows = pack(documents(), STUDENT, LENGTH)
    others = [Document(id="text/x", text=sentences(9, seed=77))]
    found = align(windows, place(others, STUDENT), place(others, teacher))
    assert found.unread == len(windows.tokens)
    assert (found.chunk_N == -1).all()
    assert (found.chunk_M == -1).all()
    assert not found.teacher.weights.any()
    assert len(found.size_C) == len(found.student_P) == len(found.teacher_P) == 0


def test_a_text_shorter_than_a_window_has_none_of_its_own():
    windows = pack(documents(), STUDENT, LENGTH)
    short = [Document(id="text/x", text="a key")]
    found = align(windows, place(short, STUDENT), place(short, STUDENT))
    assert found.unread == len(windows.tokens)


def test_a_chat_is_named_and_has_no_chunks():
    said = ({"role": "user", "content": "a key"}, {"role": "assistant", "content": "the yard"})
    texts = [*documents(2), Document(id="chats/0", text="a key\n\nthe yard", messages=said)]
    stream = place(texts, STUDENT)
    assert stream.lost == ("chats/0",)
    assert np.array_equal(stream.exact_I, stream.end_I <= stream.opens_D[2])


class Reordering:
    """Stands in for a tokenizer that puts characters in another order."""

    def __call__(self, text: str, **_: bool) -> dict[str, list[tuple[int, int]]]:
        return {"offset_mapping": [(0, 1), (2, 3), (1, 2), (3, 4)]}


def test_places_never_step_back():
    assert loose_ends("a\u00e9b\u00e9", Reordering()).tolist() == [1, 4, 4, 6]


def test_a_token_of_no_bytes_where_a_document_ends_is_no_begin_token():
    stream = Stream(
        token_I=np.array([0, 5, 9, 0, 5], dtype=np.int32),
        start_I=np.array([0, 1, 3, 3, 4]),
        end_I=np.array([1, 3, 3, 4, 6]),
        exact_I=np.ones(5, dtype=bool),
        opens_D=np.array([0, 3]),
        lost=(),
    )
    assert stream.begins().tolist() == [True, False, False, True, False]


def test_windows_that_go_on_to_the_streams_last_token_have_each_chunk_once():
    teacher = TEACHERS["other pairs"]
    text = sentences(9, seed=1)
    ids = STUDENT(text, add_special_tokens=False)["input_ids"]
    text = STUDENT.decode(ids[: 6 * LENGTH])  # and the begin token
    found = aligned(teacher, [Document(id="text/0", text=text)])
    counts = (found.teacher.weights > 0).sum(1)
    assert counts[-1] < counts.max()
    theirs = chunk_bytes(teacher, found.teacher.tokens[:, 1:], found.chunk_M)
    assert text.endswith(b"".join(theirs[-5:]).decode())


def test_documents_kept_apart_are_apart_on_both_sides():
    teacher, texts = TEACHERS["other pairs"], documents()
    ours, theirs = place(texts, STUDENT), place(texts, teacher)
    windows = pack(texts, STUDENT, LENGTH, apart=True)
    found = align(windows, ours, theirs)
    begins = found.teacher.tokens[:, :-1] == teacher.bos_token_id
    begins[:, 0] = True
    filled = np.zeros_like(begins)
    filled[:, 1:] = found.teacher.weights[:, :-1] == 0
    filled[:, 1:] &= found.teacher.tokens[:, 1:-1] != teacher.bos_token_id
    assert np.array_equal(found.teacher.starts[~filled], begins[~filled])
    joined = align(pack(texts, STUDENT, LENGTH), ours, theirs)
    assert joined.teacher.starts.sum() == len(windows.tokens)
    counts = found.teacher.weights > 0
    names = found.teacher.document[counts]
    assert set(names.tolist()) == set(range(len(texts)))


def test_streams_of_different_documents_are_refused():
    windows = pack(documents(), STUDENT, LENGTH)
    with pytest.raises(AssertionError, match="not the same documents"):
        align(windows, place(documents(), STUDENT), place(documents(5), STUDENT))


def test_a_tokenizer_without_a_begin_token_is_refused():
    bare = PreTrainedTokenizerFast(tokenizer_object=STUDENT.backend_tokenizer)
    with pytest.raises(InputError, match="names no begin token; add bos_token"):
        place(documents(1), bare)
