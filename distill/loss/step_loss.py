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
from distill.loss.fused_loss import Piece, distillation_losses
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
        with clock.stage("loss"):
            label_N = batch.label_N.to(output.hidden_ND.device)
            tally = _Tally()
            total = self._over_vocabulary(batch.parts, output.hidden_ND, label_N, clock, tally)
            total = total + self._matched(batch.parts, output.hidden_ND, clock, tally)
            values, sides = tally.values, self._sides(batch, tally)
            total = total + self._of_network(output, values)
            if output.ahead:
                depths = [self._ahead(made, batch.parts, label_N, clock) for made in output.ahead]
                values["mtp"] = torch.stack(depths).mean()
                total = total + ahead_weight * values["mtp"]
        return Terms(total, {name: value.detach() for name, value in values.items()}, sides)

    def _over_vocabulary(
        self,
        parts: Sequence[Part],
        hidden_ND: torch.Tensor,
        label_N: torch.Tensor,
        clock: Stopwatch,
        tally: "_Tally",
    ) -> torch.Tensor:
        """Return the loss over the vocabulary, its terms added to the tally."""
        rows = [torch.arange(len(part.at_M)) for part in parts]
        pieces = [
            self._piece(part, part.at_M, row_M, hidden_ND.device, clock)
            for part, row_M in zip(parts, rows, strict=True)
        ]
        head = Head(self.model.head_weight())
        found = distillation_losses(hidden_ND, head, label_N, pieces, dtype=self.dtype)
        for part, means in zip(parts, found.parts, strict=True):
            side = _OWN if part.own else _GIVEN
            names = [name for name, term in self._named() if _applies(term, part)]
            for name, mean in zip(names, means, strict=True):
                tally.add(name, mean, len(part.at_M))
                tally.add(side + name, mean, len(part.at_M))
        return found.total

    def _piece(
        self,
        part: Part,
        at_M: torch.Tensor,
        row_M: torch.Tensor,
        device: torch.device,
        clock: Stopwatch,
    ) -> Piece:
        """Return some positions of a part, which are these of a stream, as the engine takes them.

        Args:
            part: they are of.
            at_M: int64 places in the stream.
            row_M: int64 places among the part's own.
            device: of the stream.
            clock: told of the time it takes to hear the teachers.
        """

        def hear() -> Signal | None:
            with clock.apart("data", inside="loss"):
                return part.signal(device)

        terms = (term for _, term in self._named() if _applies(term, part))
        return Piece(
            at_M=at_M.to(device),
            row_M=row_M.to(device),
            terms=tuple(term for term in terms if isinstance(term, VocabularyTerm)),
            hear=hear,
        )

    def _sides(self, batch: Batch, tally: "_Tally") -> dict[str, torch.Tensor]:
        """Return the first divergence by whose text it was measured on."""
        first = next((name for name, term in self._named() if isinstance(term, Divergence)), None)
        if first is None or not any(part.own for part in batch.parts):
            return {}
        found = {"kl_on": tally.mean(_OWN + first), "kl_off": tally.mean(_GIVEN + first)}
        return {name: mean for name, mean in found.items() if mean is not None}

    def _matched(
        self, parts: Sequence[Part], hidden_ND: torch.Tensor, clock: Stopwatch, tally: "_Tally"
    ) -> torch.Tensor:
        """Return the weighted terms of hidden states, where the teacher gives its own."""
        total = hidden_ND.new_zeros(())
        named = [(name, term) for name, term in self._named() if isinstance(term, HiddenMatch)]
        if self.projector is None or not named:
            return total
        count = max(sum(len(part.at_M) for part in parts), 1)
        for part in parts:
            if part.kind is not Hidden:
                continue
            with clock.apart("data", inside="loss"):
                signal = part.signal(hidden_ND.device)
            assert isinstance(signal, Hidden)
            hidden_MD = _wide(hidden_ND[part.at_M.to(hidden_ND.device)])
            every_M = torch.arange(len(hidden_MD), device=hidden_ND.device)
            for name, term in named:
                value = hidden_match(
                    term.kind, hidden_MD, self.projector.weight, signal.states_NT, every_M
                )
                tally.add(name, value.detach(), len(hidden_MD))
                total = total + term.weight * value * len(hidden_MD) / count
        return total

    def _named(self) -> list[tuple[str, Term]]:
        return list(zip(objective.names(self.terms), self.terms, strict=True))

    def _of_network(self, output: Output, values: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted terms that come from inside the network."""
        values["balance"], values["indexer"] = output.balance_loss, output.index_loss
        balance = objective.router_weight(self.terms, "balance") * output.balance_loss
        return balance + objective.router_weight(self.terms, "indexer") * output.index_loss

    def _ahead(
        self, made: Ahead, parts: Sequence[Part], label_N: torch.Tensor, clock: Stopwatch
    ) -> torch.Tensor:
        """Return a prediction layer's loss: the main head's terms over the vocabulary."""
        device, pieces = label_N.device, []
        row_N = torch.full(label_N.shape, -1)
        for part in parts:
            row_N.fill_(-1)
            row_N[part.at_M] = torch.arange(len(part.at_M))
            row_P = row_N[torch.from_numpy(made.target)]
            (there_Q,) = torch.nonzero(row_P >= 0, as_tuple=True)
            if len(there_Q):
                pieces.append(self._piece(part, there_Q, row_P[there_Q], device, clock))
        head = Head(self.model.head_weight())
        label_P = label_N[made.target_P]
        return distillation_losses(made.hidden_PD, head, label_P, pieces, dtype=self.dtype).total


class _Tally:
    """Sums of terms over the parts of a batch, as they come in."""

    def __init__(self) -> None:
        self._values: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, mean: torch.Tensor, count: int) -> None:
        """Add a term's mean over `count` positions."""
        self._values[name] = self._values.get(name, torch.zeros_like(mean)) + mean * count
        self._counts[name] = self._counts.get(name, 0) + count

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


def _applies(term: Term, part: Part) -> bool:
    """Tell whether a term over the vocabulary is for a part."""
    match term:
        case CrossEntropy():
            return not part.own
        case SampledReverseKL():
            return part.own and serves(term, part.kind)
        case Divergence():
            where = term.on in ("all", "own" if part.own else "text")
            return where and serves(term, part.kind)
        case ChunkLikelihood() | SortedL1():
            return serves(term, part.kind)
        case HiddenMatch() | Router() | Prediction():
            return False
