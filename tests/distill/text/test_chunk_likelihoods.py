"""A teacher's likelihoods of chunks are sums of its own, and the loss holds the student to them."""

import numpy as np
import pytest
import torch

from distill.loss.fused_loss import distillation_loss
from distill.loss.objective import ChunkLikelihood
from distill.signals import Head, Text
from distill.text.alignment import Alignment, Likelihoods
from distill.text.corpus import pack
from tests.fakes.alignments import LENGTH, STUDENT, TEACHERS, aligned, documents

CPU = torch.device("cpu")


def likelihoods(found: Alignment, seed: int = 0) -> tuple[Text, Likelihoods]:
    logp_M = -torch.rand(len(found.chunk_M), generator=torch.Generator().manual_seed(seed)) * 5
    return Text(logp_M), Likelihoods(found, Text(logp_M))


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
