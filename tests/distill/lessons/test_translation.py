"""Tokens that both tables spell alike carry the teacher's probability; what the text denies not."""

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from distill.lessons.translation import Translated, spelt_alike, uncontradicted
from distill.loss.divergences import forward_kl
from distill.loss.fused_loss import distillation_loss
from distill.loss.objective import Divergence
from distill.signals import Head, Sparse
from distill.text.alignment import align
from distill.text.corpus import Windows, pack
from distill.text.places import place
from distill.text.sources import Document
from distill.text.vocabulary import token_bytes
from tests.fakes.teachers import byte_pairs, sentences, tiny_tokenizer

CPU = torch.device("cpu")
STUDENT = tiny_tokenizer()
TEACHER = byte_pairs([sentences(40, seed=9) + " the yard. A key"], 340)


def documents() -> list[Document]:
    return [Document(id=f"text/{n}", text=sentences(6, seed=n)) for n in range(5)]


def test_a_token_is_translated_by_its_bytes():
    table = spelt_alike(TEACHER, STUDENT)
    theirs, ours = token_bytes(TEACHER), token_bytes(STUDENT)
    assert table.shape == (len(theirs),)
    found = np.flatnonzero(table >= 0)
    assert 259 <= len(found) < len(theirs)
    assert all(ours[table[token]] == theirs[token] for token in found)
    assert all(theirs[token] not in ours for token in np.flatnonzero(table < 0))
    assert len(set(table[found].tolist())) == len(found)


def plain_shares(windows: Windows, aligned, table) -> tuple[dict, dict]:
    """Return how often each token of either side met its translation, counted one by one."""
    ours, theirs = {}, {}
    width = aligned.teacher.weights.shape[1]
    length = windows.weights.shape[1]
    for student, teacher in zip(aligned.student_P, aligned.teacher_P, strict=True):
        row, i, j = student // length, student % length, teacher % width
        s, t = int(windows.tokens[row, i + 1]), int(aligned.teacher.tokens[row, j + 1])
        ours.setdefault(s, []).append(table[t] == s)
        theirs.setdefault(t, []).append(table[t] == s)
    return ours, theirs


def test_what_the_text_contradicts_is_not_translated():
    texts = documents()
    windows = pack(texts, STUDENT, 24)
    aligned = align(windows, place(texts, STUDENT), place(texts, TEACHER))
    table = spelt_alike(TEACHER, STUDENT)
    ours, theirs = plain_shares(windows, aligned, table)
    kept = uncontradicted(table, windows, aligned, least=0.8)
    for token, translation in enumerate(table.tolist()):
        said = np.mean(theirs.get(token, [True])), np.mean(ours.get(translation, [True]))
        assert (kept[token] == translation) == (translation < 0 or min(said) >= 0.8)
    dropped = np.flatnonzero((table >= 0) & (kept < 0))
    assert len(dropped) > 0
    assert any(np.mean(theirs[t]) >= 0.8 for t in dropped if t in theirs)
    assert any(np.mean(theirs[t]) < 0.8 for t in dropped if t in theirs)
    assert np.array_equal(uncontradicted(table, windows, aligned, least=0.0), table)


def test_what_the_text_does_not_have_is_kept():
    texts = documents()
    windows = pack(texts, STUDENT, 24)
    aligned = align(windows, place(texts, STUDENT), place(texts, TEACHER))
    table = spelt_alike(TEACHER, STUDENT)
    kept = uncontradicted(table, windows, aligned, least=1.0)
    (token,) = TEACHER("%", add_special_tokens=False)["input_ids"]
    assert kept[token] == table[token] >= 0


def test_a_lost_document_contradicts_nothing():
    texts = [Document(id="text/0", text="A KEY IN THE YARD " * 9)]
    backend = Tokenizer.from_str(TEACHER.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Lowercase()
    lower = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=TEACHER.bos_token)
    windows = pack(texts, STUDENT, 24)
    aligned = align(windows, place(texts, STUDENT), place(texts, lower))
    assert len(aligned.student_P) > 0
    table = spelt_alike(lower, STUDENT)
    assert np.array_equal(uncontradicted(table, windows, aligned), table)


def test_of_two_spellings_of_the_same_bytes_the_last_is_translated():
    backend = Tokenizer(models.BPE({"<0x61>": 0, "a": 1, "b": 2}, [], byte_fallback=True))
    twice = PreTrainedTokenizerFast(tokenizer_object=backend)
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1}, [])))
    assert spelt_alike(twice, plain).tolist() == [-1, 0, 1]
    assert spelt_alike(plain, twice).tolist() == [1, 2]


def test_ids_that_name_nothing_have_no_translation():
    holed = Tokenizer(models.WordLevel({"a": 0, "c": 2}, unk_token="a"))
    empty = Tokenizer(models.WordLevel({"": 0, "c": 1}, unk_token="c"))
    both = (PreTrainedTokenizerFast(tokenizer_object=one) for one in (holed, empty))
    assert spelt_alike(*both).tolist() == [-1, -1, 1]


class Fixed:
    """A source of one signal."""

    def __init__(self, said: Sparse) -> None:
        self.said = said
        self.kind = type(said)

    def at(self, row_P: torch.Tensor, device: torch.device) -> Sparse:
        return self.said.take(row_P)


def said() -> Sparse:
    return Sparse(
        head_ids_NH=torch.tensor([[4, 0, 2], [1, 3, 0], [3, 1, 5]]),
        head_p_NH=torch.tensor([[0.5, 0.2, 0.1], [0.6, 0.4, 0.0], [0.25, 0.25, 0.0]]),
        tail_ids_NR=torch.zeros(3, 2, dtype=torch.int64),
        tail_mass_N=torch.tensor([0.2, 0.0, 0.5]),
        entropy_N=torch.zeros(3),
    )


TABLE = torch.tensor([7, 2, -1, 0, 5, -1])


def test_what_has_no_translation_joins_the_rest():
    found = Translated(Fixed(said()), TABLE).at(torch.tensor([0, 1]), CPU)
    torch.testing.assert_close(found.head_p_NH, torch.tensor([[0.5, 0.2, 0.0], [0.6, 0.4, 0.0]]))
    assert found.head_ids_NH[0, :2].tolist() == [5, 7]
    assert found.head_ids_NH[1, :2].tolist() == [2, 0]
    torch.testing.assert_close(found.tail_mass_N, torch.tensor([0.3, 0.0]))
    assert found.tail_ids_NR.shape == (2, 0)
    assert found.entropy_N.isnan().all()


def test_rows_are_those_of_the_source():
    found = Translated(Fixed(said()), TABLE).at(torch.tensor([2, 0]), CPU)
    torch.testing.assert_close(found.tail_mass_N, torch.tensor([0.5, 0.3]))


def test_the_loss_over_a_translation_is_that_over_its_tokens_and_one_bucket():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    found = Translated(Fixed(said()), TABLE).at(torch.tensor([0, 1, 2]), CPU)
    q = (hidden @ weight.t()).softmax(-1)
    # The student's tokens of each row, and the rest, which row 1 does not have.
    rows = [([5, 7], [0.5, 0.2, 0.3]), ([2, 0], [0.6, 0.4]), ([0, 2], [0.25, 0.25, 0.5])]
    expected = torch.zeros((), dtype=torch.float64)
    for row, (tokens, p) in enumerate(rows):
        picked = q[row, tokens]
        outcomes = torch.cat([picked, 1 - picked.sum(0, keepdim=True)])[: len(p)]
        logp = torch.tensor(p, dtype=torch.float64).log()
        expected = expected + forward_kl(logp[None], outcomes.log()[None])[0] / 3
    every, term = torch.arange(3), Divergence(kind="forward_kl")
    loss = distillation_loss(hidden, Head(weight), every, every, found, [term], dtype=weight.dtype)
    torch.testing.assert_close(loss.total, expected, rtol=1e-6, atol=1e-9)
    (grad,) = torch.autograd.grad(loss.total, hidden)
    (plain,) = torch.autograd.grad(expected, hidden)
    torch.testing.assert_close(grad, plain, rtol=1e-5, atol=1e-7)
