"""What a run minimises: a weighted list of loss terms, as it stands under `loss:` in a run file.

Every term has a `kind`. Terms over the vocabulary compare the student's next-token distribution
q with the teacher's p, or with the text; all of them are computed in one pass over the logits
(`fused_loss.py`, formulas in `divergences.py`). The others come from inside the network.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Between = Annotated[float, Field(gt=0, lt=1)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class Divergence:
    """How far q is from the teacher's p, both softened by `temperature`.

    Kinds:
        forward_kl: KL(p || q).
        reverse_kl: KL(q || p).
        jsd: mix KL(p || m) + (1 - mix) KL(q || m) with m = mix p + (1 - mix) q (Agarwal et al.,
            arXiv 2306.13649).
        skew_forward_kl: KL(p || mix p + (1 - mix) q) (Ko et al., arXiv 2402.03898).
        skew_reverse_kl: KL(q || mix q + (1 - mix) p).
        tvd: half the sum of |p - q|.
        adaptive_kl: forward and reverse KL, weighed by where p and q differ: among the tokens that
            hold half of p, or among the rest (Wu et al., arXiv 2404.02657).

    Attributes:
        temperature: divides both sets of logits.
        squared: whether the term is multiplied by temperature^2, which keeps the size of its
            gradient (Hinton et al., arXiv 1503.02531).
        mix: of `jsd` and of the skewed kinds; others have none.
        on: the positions it is for: the `text`, the student's `own` answers, or `all`.
    """

    kind: Literal[
        "forward_kl",
        "reverse_kl",
        "jsd",
        "skew_forward_kl",
        "skew_reverse_kl",
        "tvd",
        "adaptive_kl",
    ]
    weight: Weight = 1.0
    temperature: Temperature = 1.0
    squared: bool = False
    mix: Between | None = None
    on: Literal["all", "text", "own"] = "all"

    def __post_init__(self) -> None:
        mixes = self.kind in ("jsd", "skew_forward_kl", "skew_reverse_kl")
        if mixes and self.mix is None:
            raise ValueError(f"{self.kind} needs a mix, for example 0.5 for jsd, 0.1 for skewed")
        if not mixes and self.mix is not None:
            raise ValueError(f"{self.kind} has no mix; leave it out")


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class CrossEntropy:
    """-log q of the tokens of the text, at temperature 1."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    weight: Weight = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class SampledReverseKL:
    """Reverse KL from the written token alone, as a policy gradient: for a teacher of log-probs.

    The loss whose gradient is (log q(y) - log p(y)) grad log q(y), the factor held fixed: unbiased
    for grad KL(q || p) on the student's own samples y, with a high variance.
    """

    kind: Literal["sampled_reverse_kl"] = "sampled_reverse_kl"
    weight: Weight = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class ChunkLikelihood:
    """Approximate likelihood matching across tokenizers (Minixhofer et al., arXiv 2503.20083).

    The binary forward KL between the two models' chunk likelihoods, each to the power
    1 / `temperature`.
    """

    kind: Literal["chunk_likelihood"] = "chunk_likelihood"
    weight: Weight = 1.0
    temperature: Temperature = 100.0


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class SortedL1:
    """Universal logit distillation: sum |sorted p - sorted q| (Boizard et al., arXiv 2402.12030).

    What is left where texts cannot be aligned by bytes.
    """

    kind: Literal["sorted_l1"] = "sorted_l1"
    weight: Weight = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class HiddenMatch:
    """The student's last hidden state, through a trained projector, against the teacher's.

    `hidden_mse` is the mean squared difference over the teacher's width; `hidden_cosine` is one
    minus the cosine.
    """

    kind: Literal["hidden_mse", "hidden_cosine"]
    weight: Weight = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class Router:
    """`balance`: sequence-wise balance of the experts; `indexer`: v4's indexer to its attention."""

    kind: Literal["balance", "indexer"]
    weight: Weight = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class Prediction:
    """The prediction layers learn the vocabulary terms too; `late` takes over near the end.

    Attributes:
        late: the weight from the share `late_from` of the steps on.
    """

    kind: Literal["mtp"] = "mtp"
    weight: Weight = 0.3
    late: Weight = 0.1
    late_from: Fraction = 0.7


VocabularyTerm = Divergence | CrossEntropy | SampledReverseKL | ChunkLikelihood | SortedL1
Term = Annotated[VocabularyTerm | HiddenMatch | Router | Prediction, Field(discriminator="kind")]

DEFAULT: tuple[Term, ...] = (
    Divergence(kind="forward_kl", weight=0.9),
    CrossEntropy(weight=0.1),
    Router(kind="balance", weight=1e-4),
    Router(kind="indexer", weight=1.0),
    Prediction(),
)


def over_vocabulary(terms: Sequence[Term]) -> tuple[VocabularyTerm, ...]:
    """Return the terms that compare next-token distributions, in order."""
    return tuple(term for term in terms if isinstance(term, VocabularyTerm))


def from_a_teacher(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Return the terms that need a teacher and have a weight; a control has none."""
    own = CrossEntropy | Router | Prediction
    return tuple(term for term in terms if term.weight > 0 and not isinstance(term, own))


def router_weight(terms: Sequence[Term], kind: Literal["balance", "indexer"]) -> float:
    """Return the weight of a router's term; 0 where the list has none."""
    return sum(term.weight for term in terms if isinstance(term, Router) and term.kind == kind)


def prediction_weight(terms: Sequence[Term], progress: float) -> float:
    """Return the weight of the prediction layers at this share of the steps."""
    found = [term for term in terms if isinstance(term, Prediction)]
    return sum(term.late if progress > term.late_from else term.weight for term in found)


def names(terms: Sequence[Term]) -> tuple[str, ...]:
    """Return a name for each term: its kind, numbered where a kind comes again."""
    kinds = [term.kind for term in terms]
    seen = [kinds[:place].count(kind) + 1 for place, kind in enumerate(kinds)]
    return tuple(k if n == 1 else f"{k}_{n}" for k, n in zip(kinds, seen, strict=True))


def without_teacher(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Return the terms of a control: the teacher's weight goes to the cross-entropy.

    The scale of the loss and the network's own terms stay as they were.
    """
    taught = from_a_teacher(terms)
    whole = sum(term.weight for term in terms if term in taught or isinstance(term, CrossEntropy))
    own = [term for term in terms if isinstance(term, Router | Prediction)]
    return (CrossEntropy(weight=whole), *own)
