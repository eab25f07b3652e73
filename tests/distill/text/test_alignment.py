"""Chunks are the same bytes on both sides, whole, smallest, and never across windows."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from distill.errors import InputError
from distill.loss.fused_loss import distillation_loss
from distill.loss.objective import ChunkLikelihood
from distill.signals import Head, Text
from distill.text.alignment import Alignment, Likelihoods, align
from distill.text.corpus import pack
from distill.text.places import Stream, loose_ends, place
from distill.text.sources import Document
from distill.text.vocabulary import token_bytes
from tests.fakes.teachers import BOS, byte_pairs, sentences, tiny_tokenizer

LENGTH = 24
STRANGE = "na\u00efve \u65e5\u672c\u8a9e \U0001f600 e\u0301 \u200b\t\r\n  "


def documents(count: int = 6) -> list[Document]:
    """Return documents of a few sentences, each with characters of several bytes in the middle."""
    texts = [sentences(2, seed) + STRANGE + sentences(1, seed + 50) for seed in range(count)]
    return [Document(id=f"text/{n}", text=text) for n, text in enumerate(texts)]


def spaced(*, lower: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer of characters and bytes that writes a space first, and may lower text."""
    pieces = ["<unk>", BOS, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    pieces += [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    table = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(table, [], byte_fallback=True, unk_token="<unk>"))
    steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    made.normalizer = normalizers.Sequence([*([normalizers.Lowercase()] if lower else []), *steps])
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback()])
    made.add_special_tokens([BOS])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BOS)


STUDENT = tiny_tokenizer()
TEACHERS = {
    "other pairs": byte_pairs([sentences(40, seed=9) + " the yard. A key"], 340),
    "bytes": byte_pairs(["a"], 259),
    "space first": spaced(),
    "itself": STUDENT,
}


def aligned(teacher, texts: list[Document], length: int = LENGTH, **more) -> Alignment:
    windows = pack(texts, STUDENT, length)
    return align(windows, place(texts, STUDENT), place(texts, teacher), **more)


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


def likelihoods(found: Alignment, seed: int = 0) -> tuple[Text, Likelihoods]:
    logp_M = -torch.rand(len(found.chunk_M), generator=torch.Generator().manual_seed(seed)) * 5
    return Text(logp_M), Likelihoods(found, Text(logp_M))


CPU = torch.device("cpu")


def test_whole_windows_give_the_teachers_sums_over_chunks():
    found = aligned(TEACHERS["other pairs"], documents())
    said, source = likelihoods(found)
    rows = torch.arange(2 * LENGTH, 4 * LENGTH)
    chunks = source.at(rows, CPU)
    numbers = found.chunk_N[2 * LENGTH : 4 * LENGTH]
    first = int(numbers[numbers >= 0].min())
    assert chunks.chunk_N.dtype == torch.int64
    assert chunks.logp_C.dtype == torch.float32
    assert np.array_equal(chunks.chunk_N.numpy(), np.where(numbers < 0, -1, numbers - first))
    for chunk in range(len(chunks.logp_C)):
        total = said.logp_N[torch.from_numpy(found.chunk_M == chunk + first)].sum()
        torch.testing.assert_close(chunks.logp_C[chunk], total)


def test_a_chunk_that_lost_a_row_is_none():
    found = aligned(TEACHERS["other pairs"], documents())
    long = int(np.flatnonzero(found.size_C >= 2)[0])
    members = np.flatnonzero(found.chunk_N == long)
    _, source = likelihoods(found)
    rows = np.arange(len(found.chunk_N))
    whole = source.at(torch.from_numpy(rows), CPU)
    less = source.at(torch.from_numpy(np.delete(rows, members[0])), CPU)
    assert len(less.logp_C) == len(whole.logp_C) - 1
    assert (less.chunk_N[members[0] : members[0] + len(members) - 1] == -1).all()
    assert torch.equal(less.logp_C, torch.cat([whole.logp_C[:long], whole.logp_C[long + 1 :]]))
    assert less.chunk_N.max() == len(less.logp_C) - 1


def test_rows_in_another_order_are_numbered_as_they_come():
    found = aligned(TEACHERS["other pairs"], documents())
    _, source = likelihoods(found)
    late, early = torch.arange(3 * LENGTH, 4 * LENGTH), torch.arange(LENGTH)
    both = source.at(torch.cat([late, early, early]), CPU)
    parts = [source.at(rows, CPU) for rows in (late, early, early)]
    assert torch.equal(both.logp_C, torch.cat([part.logp_C for part in parts]))
    numbers = both.chunk_N[both.chunk_N >= 0]
    assert (numbers.diff() >= 0).all()
    assert numbers.unique().tolist() == list(range(len(both.logp_C)))


def test_no_rows_in_chunks_give_no_chunks():
    found = aligned(TEACHERS["other pairs"], documents())
    _, source = likelihoods(found)
    none = source.at(torch.from_numpy(np.flatnonzero(found.chunk_N < 0)[:1]), CPU)
    assert none.chunk_N.tolist() == [-1]
    assert none.logp_C.shape == (0,)


def test_a_chunk_of_unknown_likelihood_is_none():
    found = aligned(TEACHERS["other pairs"], documents())
    said, source = likelihoods(found)
    said.logp_N[int(np.flatnonzero(found.chunk_M == 1)[0])] = torch.nan
    rows = torch.arange(LENGTH)
    whole, less = source.at(rows, CPU), Likelihoods(found, said).at(rows, CPU)
    assert torch.equal(less.logp_C, torch.cat([whole.logp_C[:1], whole.logp_C[2:]]))
    assert (less.chunk_N[whole.chunk_N == 1] == -1).all()


def plain_chunk_loss(logits, labels, chunk_N, logp_C, temperature: float) -> torch.Tensor:
    """Return the mean over chunks of the binary KL between two likelihoods, written out."""
    logq_N = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    found = []
    for chunk, logp in enumerate(logp_C.double()):
        p = (logp / temperature).exp()
        q = (logq_N[chunk_N == chunk].sum() / temperature).exp()
        found.append(p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    return torch.stack(found).mean()


@pytest.mark.parametrize("temperature", [1.0, 10.0, 100.0])
def test_the_loss_holds_the_student_against_the_teachers_chunks(temperature):
    found = aligned(TEACHERS["other pairs"], documents())
    _, source = likelihoods(found)
    rows = torch.arange(5, 3 * LENGTH - 4)  # cuts chunks at both ends
    chunks = source.at(rows, CPU)
    windows = pack(documents(), STUDENT, LENGTH)
    labels = torch.from_numpy(windows.tokens[:, 1:].reshape(-1)).long()[rows]
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(len(rows), 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(len(STUDENT), 8, generator=generator, dtype=torch.float64)
    hidden.requires_grad_(True)
    expected = plain_chunk_loss(
        hidden @ weight.t(), labels, chunks.chunk_N, chunks.logp_C, temperature
    )
    term = ChunkLikelihood(temperature=temperature, weight=3.0)
    every = torch.arange(len(rows))
    loss = distillation_loss(
        hidden, Head(weight), labels, every, chunks, [term], dtype=torch.float64
    )
    torch.testing.assert_close(loss.parts[0], expected, rtol=1e-6, atol=0)
    (grad,) = torch.autograd.grad(loss.total, hidden)
    (plain,) = torch.autograd.grad(3 * expected, hidden)
    torch.testing.assert_close(grad, plain, rtol=1e-5, atol=1e-9)
