"""A term that a teacher cannot serve is refused in a sentence, before anything is computed."""

from dataclasses import replace

import pytest
import torch

from distill.errors import MismatchError
from distill.loss.compatibility import check
from distill.loss.fused_loss import distillation_loss
from distill.loss.objective import (
    ChunkLikelihood,
    CrossEntropy,
    SampledReverseKL,
    SortedL1,
)
from distill.signals import Chunks, Dense, Hidden, Mixture, Sparse, Text
from tests.fakes import losses
from tests.fakes.losses import DIVERGENCES, ROWS, VOCAB, drawn, inputs

KINDS = (Hidden, Dense, Mixture, Sparse, Text, Chunks, None)
WHOLE = {Hidden, Dense, Mixture}
SERVED = (
    *((term, WHOLE | {Sparse}) for term in (*DIVERGENCES, SortedL1())),
    (CrossEntropy(), set(KINDS)),
    (SampledReverseKL(), WHOLE | {Text}),
    (ChunkLikelihood(), {Chunks}),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("term", "served"), SERVED, ids=[term.kind for term, _ in SERVED])
def test_each_term_is_served_by_these_signals_and_no_others(term, served, kind):
    if kind in served:
        check([CrossEntropy(), term], kind)
    else:
        with pytest.raises(MismatchError, match=f"^loss: {term.kind} needs .*take a teacher that"):
            check([CrossEntropy(), term], kind)


def test_the_sentence_says_what_is_missing():
    with pytest.raises(MismatchError) as refused:
        check([DIVERGENCES[0]], Text)
    assert str(refused.value) == (
        "loss: forward_kl needs hidden states or all logits or a mixture of teachers or the "
        "likeliest tokens, and the teacher gives text; leave the term out or take a teacher that "
        "gives them."
    )
    with pytest.raises(MismatchError, match="and there is no teacher;"):
        check([DIVERGENCES[0]], None)


def test_the_likeliest_tokens_have_one_temperature():
    warm = replace(DIVERGENCES[0], temperature=2.0)
    check([warm], Hidden)
    with pytest.raises(MismatchError, match="temperature 2, and the likeliest tokens are known at"):
        check([warm], Sparse)


def fused(signal, *terms) -> None:
    given = inputs()
    distillation_loss(
        given.hidden_ND,
        given.head,
        given.labels_N,
        given.kept_M,
        signal,
        terms,
        dtype=torch.float64,
    )


def test_the_loss_refuses_what_check_refuses():
    with pytest.raises(MismatchError, match="forward_kl needs"):
        fused(Text(), DIVERGENCES[0])


def test_text_of_unknown_likelihood_does_not_serve_its_sampled_divergence():
    fused(Text(), CrossEntropy())
    with pytest.raises(MismatchError, match="log-probability of the text"):
        fused(Text(), SampledReverseKL())


def test_draws_alone_serve_forward_kl_alone():
    signal = losses.sparse_teacher(0, 4)
    fused(signal, DIVERGENCES[0], CrossEntropy())
    with pytest.raises(MismatchError, match="reverse_kl and sorted_l1 needs the teacher's"):
        fused(signal, DIVERGENCES[0], DIVERGENCES[1], SortedL1())
    with pytest.raises(MismatchError, match="forward_kl needs the teacher's likeliest"):
        fused(losses.sparse_teacher(0, 0), DIVERGENCES[0])


@pytest.mark.parametrize("vocab", [VOCAB - 5, VOCAB + 5])
def test_only_sorted_probabilities_cross_vocabularies(vocab):
    dense = Dense(drawn(0, ROWS, vocab))
    fused(dense, SortedL1(), CrossEntropy())
    one = losses.hidden_teacher()
    hidden = replace(one, head=replace(one.head, weight_VT=drawn(1, vocab, 5), bias_V=None))
    for signal in (dense, hidden, Mixture(((0.5, losses.hidden_teacher()), (0.5, dense)))):
        with pytest.raises(MismatchError, match=f"over {vocab} tokens and the student's over"):
            fused(signal, SortedL1(), DIVERGENCES[0])


@pytest.mark.parametrize("vocab", [VOCAB - 5, VOCAB + 5])
def test_sorted_l1_across_vocabularies_is_its_definition(vocab):
    given, signal = inputs(), Dense(drawn(0, ROWS, vocab))
    found = distillation_loss(
        given.hidden_ND,
        given.head,
        given.labels_N,
        given.kept_M,
        signal,
        (SortedL1(),),
        dtype=torch.float64,
    )
    expected = losses.plain(given, signal, (SortedL1(),))
    torch.testing.assert_close(found.total, expected.total, rtol=1e-10, atol=1e-10)
    left = torch.autograd.grad(found.total, given.leaves())
    right = torch.autograd.grad(expected.total, given.leaves())
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)
