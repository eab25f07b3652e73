"""One step's loss: the weighted terms of `loss:` over the parts of a batch.

A position that counts belongs to one part, of which the same teachers speak. A term over the
vocabulary is a mean over the positions it applies to, weighted by how many those are of all that
count; so the parts of a batch make one mean, and gradients do not depend on how it was split.

Not every term applies everywhere: without a teacher there is the cross-entropy alone, and the
student's own answers are no text to imitate, so they have the teacher's terms alone.

Shapes: N positions, M of them in a part, P positions of a prediction layer, D hidden size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from distill.batches import Batch, Part
from distill.loss import objective
from distill.loss.compatibility import serves
from distill.loss.fused_loss import distillation_loss
from distill.loss.hidden_match import hidden_match
from distill.loss.objective import (
    ChunkLikelihood,
    CrossEntropy,
    Divergence,
    HiddenMatch,
    Prediction,
    Router,
    SampledReverseKL,
    SortedL1,
    Term,
    VocabularyTerm,
)
from distill.signals import Head, Hidden, Signal
from distill.stopwatch import Stopwatch
from student.model import Ahead, Output, Student

# Before the names of terms in a tally, whose text they were measured on.
_OWN, _GIVEN = "own ", "given "


class Terms(NamedTuple):
    """One step's loss and its terms, on the device, nats a token where nothing else is said.

    Attributes:
        total: what is differentiated.
        values: each term that applied, by name, before its weight.
        sides: where the student wrote some of the text, the first divergence on its own answers,
            `kl_on`, and on the other text, `kl_off`.
    """

    total: torch.Tensor
    values: dict[str, torch.Tensor]
    sides: dict[str, torch.Tensor]


class _Said(NamedTuple):
    """A part with what its teachers say at its positions, on the device."""

    part: Part
    at_M: torch.Tensor
    signal: Signal | None


class StepLoss:
    """The loss of a run, from what the network made of a batch."""

    def __init__(
        self,
        terms: Sequence[Term],
        model: Student,
        projector: nn.Linear | None,
        *,
        dtype: torch.dtype,
    ) -> None:
        """Weigh `terms`; `projector` maps D to the teacher's width, for hidden-state terms."""
        self.terms = tuple(terms)
        self.model = model
        self.projector = projector
        self.dtype = dtype

    def __call__(
        self, batch: Batch, output: Output, ahead_weight: float, clock: Stopwatch
    ) -> Terms:
        """Return the loss; reading signals is counted as `data`, the rest as `loss`."""
        with clock.stage("data"):
            device = output.hidden_ND.device
            label_N = batch.label_N.to(device)
            said = [_Said(p, p.at_M.to(device), p.signal(device)) for p in batch.parts]
        with clock.stage("loss"):
            tally = _Tally(sum(len(part.at_M) for part in batch.parts))
            for one in said:
                hidden_MD = _wide(output.hidden_ND[one.at_M])
                self._part(tally, one.part, hidden_MD, label_N[one.at_M], one.signal)
                self._match(tally, hidden_MD, one.signal)
            values, sides = tally.values, self._sides(batch, tally)
            total = tally.total + self._of_network(output, values)
            if output.ahead:
                depths = [self._ahead(made, said, label_N) for made in output.ahead]
                values["mtp"] = torch.stack(depths).mean()
                total = total + ahead_weight * values["mtp"]
        return Terms(total, {name: value.detach() for name, value in values.items()}, sides)

    def _part(
        self,
        tally: "_Tally",
        part: Part,
        hidden_MD: torch.Tensor,
        label_M: torch.Tensor,
        signal: Signal | None,
    ) -> None:
        """Add a part's terms over the vocabulary to the tally."""
        chosen = [(name, term) for name, term in self._named() if _applies(term, part, signal)]
        over = [term for _, term in chosen if isinstance(term, VocabularyTerm)]
        head = Head(self.model.head_weight())
        every_M = torch.arange(len(label_M), device=label_M.device)
        found = distillation_loss(hidden_MD, head, label_M, every_M, signal, over, dtype=self.dtype)
        tally.add_total(found.total, len(label_M))
        side = _OWN if part.own else _GIVEN
        for (name, _), mean in zip(chosen, found.parts, strict=True):
            tally.add(name, mean, len(label_M))
            tally.add(side + name, mean, len(label_M))

    def _sides(self, batch: Batch, tally: "_Tally") -> dict[str, torch.Tensor]:
        """Return the first divergence by whose text it was measured on."""
        first = next((name for name, term in self._named() if isinstance(term, Divergence)), None)
        if first is None or not any(part.own for part in batch.parts):
            return {}
        found = {"kl_on": tally.mean(_OWN + first), "kl_off": tally.mean(_GIVEN + first)}
        return {name: mean for name, mean in found.items() if mean is not None}

    def _match(self, tally: "_Tally", hidden_MD: torch.Tensor, signal: Signal | None) -> None:
        """Add the terms of hidden states to the tally, where the teacher gives its own."""
        for name, term in self._named():
            if isinstance(term, HiddenMatch) and isinstance(signal, Hidden):
                assert self.projector is not None
                every_M = torch.arange(len(hidden_MD), device=hidden_MD.device)
                value = hidden_match(
                    term.kind, hidden_MD, self.projector.weight, signal.states_NT, every_M
                )
                tally.add(name, value, len(hidden_MD))
                tally.add_total(term.weight * value, len(hidden_MD))

    def _named(self) -> list[tuple[str, Term]]:
        return list(zip(objective.names(self.terms), self.terms, strict=True))

    def _of_network(self, output: Output, values: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted terms that come from inside the network."""
        values["balance"], values["indexer"] = output.balance_loss, output.index_loss
        balance = objective.router_weight(self.terms, "balance") * output.balance_loss
        return balance + objective.router_weight(self.terms, "indexer") * output.index_loss

    def _ahead(self, made: Ahead, said: Sequence[_Said], label_N: torch.Tensor) -> torch.Tensor:
        """Return a prediction layer's loss: the main head's terms over the vocabulary."""
        tally = _Tally(0)
        row_N = torch.full(label_N.shape, -1)
        for one in said:
            row_N.fill_(-1)
            row_N[one.part.at_M] = torch.arange(len(one.at_M))
            row_P = row_N[torch.from_numpy(made.target)]
            (there_Q,) = torch.nonzero(row_P >= 0, as_tuple=True)
            row_Q, there_Q = row_P[there_Q].to(label_N.device), there_Q.to(label_N.device)
            signal = None if one.signal is None else one.signal.take(row_Q)
            hidden_QD = _wide(made.hidden_PD[there_Q])
            tally.positions += len(there_Q)
            self._part(tally, one.part, hidden_QD, label_N[made.target_P[there_Q]], signal)
        return tally.total


class _Tally:
    """Sums over the parts of a batch, as they come in."""

    def __init__(self, positions: int) -> None:
        self.positions = positions
        self._sum: torch.Tensor | float = 0.0
        self._values: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add_total(self, mean: torch.Tensor, count: int) -> None:
        """Add a weighted mean over `count` positions to what is differentiated."""
        self._sum = self._sum + mean * count

    def add(self, name: str, mean: torch.Tensor, count: int) -> None:
        """Add a term's mean over `count` positions."""
        self._values[name] = self._values.get(name, torch.zeros_like(mean)) + mean * count
        self._counts[name] = self._counts.get(name, 0) + count

    @property
    def total(self) -> torch.Tensor:
        """What is differentiated, a mean over all positions."""
        return torch.as_tensor(self._sum) / max(self.positions, 1)

    @property
    def values(self) -> dict[str, torch.Tensor]:
        """The mean of each term over the positions it applied to."""
        names = (name for name in self._values if not name.startswith((_OWN, _GIVEN)))
        return {name: mean for name in names if (mean := self.mean(name)) is not None}

    def mean(self, name: str) -> torch.Tensor | None:
        """Return the mean of one of them; None where it applied nowhere."""
        if name not in self._values:
            return None
        return self._values[name] / max(self._counts[name], 1)


def _wide(hidden_MD: torch.Tensor) -> torch.Tensor:
    """Return hidden states in the dtype losses are summed in: float32, or float64 as it came."""
    return hidden_MD.to(torch.promote_types(hidden_MD.dtype, torch.float32))


def _applies(term: Term, part: Part, signal: Signal | None) -> bool:
    """Tell whether a term over the vocabulary is for a part."""
    match term:
        case CrossEntropy():
            return not part.own
        case SampledReverseKL():
            return part.own and serves(term, type(signal))
        case Divergence():
            where = term.on in ("all", "own" if part.own else "text")
            return where and serves(term, type(signal))
        case ChunkLikelihood() | SortedL1():
            return serves(term, type(signal))
        case HiddenMatch() | Router() | Prediction():
            return False
