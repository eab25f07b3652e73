"""The loss over the vocabulary by its definitions: all logits at once, torch's own gradients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from distill.loss import divergences
from distill.loss.fused_loss import Loss, distillation_loss
from distill.loss.objective import (
    ChunkLikelihood,
    CrossEntropy,
    Divergence,
    SampledReverseKL,
    SortedL1,
    VocabularyTerm,
)
from distill.signals import (
    Chunks,
    Dense,
    Head,
    Hidden,
    Mixture,
    Signal,
    Sparse,
    Text,
    sparsify,
)

ROWS, WIDTH, TEACHER_WIDTH, VOCAB = 24, 6, 5, 37
DIVERGENCES = (
    Divergence(kind="forward_kl"),
    Divergence(kind="reverse_kl"),
    Divergence(kind="jsd", mix=0.3),
    Divergence(kind="skew_forward_kl", mix=0.1),
    Divergence(kind="skew_reverse_kl", mix=0.2),
    Divergence(kind="tvd"),
    Divergence(kind="adaptive_kl"),
)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Return normal numbers, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Inputs:
    """A student's side of a loss: leaves that take gradients, labels and the rows that count."""

    hidden_ND: torch.Tensor
    head: Head
    labels_N: torch.Tensor
    kept_M: torch.Tensor

    def leaves(self) -> list[torch.Tensor]:
        """Return what takes gradients."""
        found = [self.hidden_ND, self.head.weight_VT, self.head.bias_V]
        return [leaf for leaf in found if leaf is not None]


def inputs(
    dtype: torch.dtype = torch.float64,
    *,
    rows: int = ROWS,
    bias: bool = True,
    softcap: float | None = None,
    scale: float = 1.0,
) -> Inputs:
    """Return a small student's side; every fifth row does not count."""
    hidden, weight, offset = drawn(0, rows, WIDTH), scale * drawn(1, VOCAB, WIDTH), drawn(2, VOCAB)
    hidden, weight, offset = (x.to(dtype).requires_grad_() for x in (hidden, weight, offset))
    labels = torch.randint(0, VOCAB, (rows,), generator=torch.Generator().manual_seed(3))
    kept = torch.tensor([row for row in range(rows) if row % 5], dtype=torch.int64)
    return Inputs(hidden, Head(weight, offset if bias else None, softcap), labels, kept)


def hidden_teacher(
    dtype: torch.dtype = torch.float64, *, seed: int = 10, rows: int = ROWS, scale: float = 1.0
) -> Hidden:
    """Return a small teacher by its states, with a bias and a cap."""
    weight, bias = scale * drawn(seed + 1, VOCAB, TEACHER_WIDTH), drawn(seed + 2, VOCAB)
    states = drawn(seed, rows, TEACHER_WIDTH)
    return Hidden(states.to(dtype), Head(weight.to(dtype), bias.to(dtype), 4.0))


def sparse_teacher(
    head: int, tail: int, dtype: torch.dtype = torch.float64, *, seed: int = 40, rows: int = ROWS
) -> Sparse:
    """Return a small teacher by its likeliest tokens and draws of the others."""
    generator = torch.Generator().manual_seed(seed + 1)
    found = sparsify(2 * drawn(seed, rows, VOCAB), head=head, tail=tail, generator=generator)
    return replace(
        found,
        head_p_NH=found.head_p_NH.to(dtype),
        tail_mass_N=found.tail_mass_N.to(dtype),
        entropy_N=found.entropy_N.to(dtype),
    )


def logits(states: torch.Tensor, head: Head) -> torch.Tensor:
    """Return all logits, by what `Head` says of itself."""
    made = states @ head.weight_VT.t()
    if head.bias_V is not None:
        made = made + head.bias_V
    return made if head.softcap is None else head.softcap * (made / head.softcap).tanh()


def plain(given: Inputs, signal: Signal | None, terms: Sequence[VocabularyTerm]) -> Loss:
    """Return what `distillation_loss` should."""
    rows = given.kept_M
    student = logits(given.hidden_ND, given.head)[rows]
    said = None if signal is None else signal.take(rows)
    parts = [_part(term, student, given.labels_N[rows], said) for term in terms]
    total = torch.stack([t.weight * part for t, part in zip(terms, parts, strict=True)]).sum()
    return Loss(total, tuple(part.detach() for part in parts))


def _part(
    term: VocabularyTerm, student: torch.Tensor, labels: torch.Tensor, said: Signal | None
) -> torch.Tensor:
    logq = student.log_softmax(-1)
    label_logq = -divergences.cross_entropy(labels, logq)
    match term:
        case CrossEntropy():
            return -label_logq.mean()
        case SampledReverseKL():
            if isinstance(said, Text):
                label_logp = said.logp_N.to(logq)
            else:
                label_logp = _logp(said, 1.0).gather(1, labels[:, None])[:, 0]
            return divergences.sampled_reverse_kl(label_logp, label_logq).mean()
        case ChunkLikelihood():
            return _chunks(term, label_logq, said)
        case SortedL1() if isinstance(said, Sparse):
            best = logq.exp().sort(-1, descending=True).values[:, : said.head_p_NH.shape[1]]
            p = said.head_p_NH.to(logq).sort(-1, descending=True).values
            return ((best - p).abs() * (p > 0)).sum(-1).mean()
        case SortedL1():
            return divergences.sorted_l1(_logp(said, 1.0).exp(), logq.exp()).mean()
        case Divergence() if isinstance(said, Sparse):
            return _sparse(term, logq, said).mean()
        case Divergence():
            softened = (student / term.temperature).log_softmax(-1)
            logp = _logp(said, term.temperature)
            return divergences.divergence(term, logp, softened).mean()


def _logp(said: Signal | None, temperature: float) -> torch.Tensor:
    match said:
        case Hidden():
            return (logits(said.states_NT, said.head) / temperature).log_softmax(-1)
        case Dense():
            return (said.logits_NV / temperature).log_softmax(-1)
        case Mixture():
            mixed = [w * _logp(one, temperature).exp() for w, one in said.parts]
            return torch.stack(mixed).sum(0).log()
    raise AssertionError(said)


def _sparse(term: Divergence, logq: torch.Tensor, said: Sparse) -> torch.Tensor:
    if term.kind == "forward_kl" and said.tail_ids_NR.shape[1] > 0:
        return divergences.sparse_forward_kl(said, logq)
    rows = []
    for row, q_V in enumerate(logq.exp()):
        used = said.head_p_NH[row] > 0
        p_head, q_head = said.head_p_NH[row][used].to(q_V), q_V[said.head_ids_NH[row][used]]
        # Where nothing is left, both sides count it as next to nothing.
        p_rest = said.tail_mass_N[row].to(q_V).clamp_min(1e-12)
        q_rest = (1 - q_head.sum()).clamp_min(1e-30)
        p, q = torch.cat([p_head, p_rest[None]]), torch.cat([q_head, q_rest[None]])
        rows.append(divergences.divergence(term, p.log()[None], q.log()[None]))
    return torch.cat(rows)


def _chunks(term: ChunkLikelihood, label_logq: torch.Tensor, said: Signal | None) -> torch.Tensor:
    assert isinstance(said, Chunks)
    values = []
    for chunk in sorted(set(said.chunk_N.tolist()) - {-1}):
        ours = label_logq[said.chunk_N == chunk].sum()
        theirs = said.logp_C[chunk].to(ours)
        p, q = (torch.exp(x / term.temperature) for x in (theirs, ours))
        values.append(p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    return torch.stack(values).mean()


def weighed(terms: Sequence[VocabularyTerm]) -> tuple[VocabularyTerm, ...]:
    """Return terms with weights that differ."""
    return tuple(replace(term, weight=math.sqrt(place + 0.5)) for place, term in enumerate(terms))


def fused(
    given: Inputs,
    signal: Signal | None,
    terms: Sequence[VocabularyTerm],
    dtype: torch.dtype | None = None,
) -> Loss:
    """Return the loss as the engine computes it, with products in `dtype`, else in the inputs'."""
    dtype = dtype or given.hidden_ND.dtype
    return distillation_loss(
        given.hidden_ND, given.head, given.labels_N, given.kept_M, signal, terms, dtype=dtype
    )


def gradients(loss: Loss, given: Inputs) -> list[torch.Tensor]:
    """Return the gradients of the inputs' leaves."""
    return list(torch.autograd.grad(loss.total, given.leaves()))


def assert_by_definition(
    terms: Sequence[VocabularyTerm],
    signal: Signal | None,
    *,
    exact: Signal | None = None,
    dtype: torch.dtype = torch.float64,
    tolerance: float = 1e-10,
    bias: bool = True,
    softcap: float | None = None,
) -> None:
    """Assert that the engine's values and gradients are those of the definitions in float64.

    Args:
        terms: of the loss.
        signal: what the engine is given.
        exact: the same in float64, where `signal` is not.
        dtype: of the student's side.
        tolerance: relative; of gradients to the largest.
        bias: whether the head has one.
        softcap: of the head.
    """
    wide, ours = (inputs(d, bias=bias, softcap=softcap) for d in (torch.float64, dtype))
    expected = plain(wide, exact or signal, terms)
    found = fused(ours, signal, terms)
    limits = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(found.total.double(), expected.total, **limits)
    for left, right in zip(found.parts, expected.parts, strict=True):
        torch.testing.assert_close(left.double(), right, **limits)
    both = zip(gradients(found, ours), gradients(expected, wide), strict=True)
    for left, right in both:
        assert left.dtype == dtype
        scale = float(right.abs().max())
        torch.testing.assert_close(left.double(), right, rtol=tolerance, atol=tolerance * scale)
