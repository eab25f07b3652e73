"""Which signals serve which terms: told before a run begins, and again by the loss itself."""

from collections.abc import Sequence

from distill.errors import MismatchError
from distill.loss.objective import (
    ChunkLikelihood,
    CrossEntropy,
    Divergence,
    SampledReverseKL,
    SortedL1,
    Term,
    VocabularyTerm,
    from_a_teacher,
)
from distill.signals import Chunks, Dense, Hidden, Mixture, Signal, Sparse, Text

# Signals that tell the teacher's whole distribution.
WHOLE = (Hidden, Dense, Mixture)

_SAYS = {
    Hidden: "hidden states",
    Dense: "all logits",
    Mixture: "a mixture of teachers",
    Sparse: "the likeliest tokens",
    Text: "text",
    Chunks: "likelihoods of stretches",
}


def check(terms: Sequence[VocabularyTerm], kind: type[Signal] | None) -> None:
    """See that a kind of signal serves all terms; None stands for no teacher.

    Raises:
        MismatchError: it does not serve one of them.
    """
    for term in terms:
        served = _served_by(term)
        if served is not None and kind not in served:
            gives = "there is no teacher" if kind is None else f"the teacher gives {_SAYS[kind]}"
            wanted = " or ".join(_SAYS[one] for one in served)
            raise MismatchError(
                f"loss: {term.kind} needs {wanted}, and {gives}; leave the term out or take a "
                "teacher that gives them."
            )
        if kind is Sparse and isinstance(term, Divergence) and term.temperature != 1:
            raise MismatchError(
                f"loss: {term.kind} has temperature {term.temperature:g}, and the likeliest tokens "
                "are known at 1 alone; set it to 1 or take a teacher that gives hidden states."
            )


def require_served(
    terms: Sequence[Term], given: Sequence[type[Signal]], own: Sequence[type[Signal]]
) -> None:
    """See that every term with a weight that needs a teacher is served somewhere.

    Args:
        terms: of a run.
        given: kinds of signals that its teachers give of the text.
        own: the same of the student's own answers; none where it writes none.

    Raises:
        MismatchError: a term would never apply, or a kind that it applies to cannot serve it.
    """
    for term in from_a_teacher(terms):
        kinds = [kind for kind in _where(term, given, own) if _serves(term, kind)]
        if not kinds:
            where = "own answers" if _where(term, [Hidden], []) == [] else "this text"
            raise MismatchError(
                f"loss: {term.kind} has a weight, but no teacher gives what it needs of {where}; "
                "leave it out, or change teachers, signal.mode or rollout.fraction."
            )
        for kind in kinds:
            if isinstance(term, VocabularyTerm):
                check([term], kind)


def _where(
    term: Term, given: Sequence[type[Signal]], own: Sequence[type[Signal]]
) -> list[type[Signal]]:
    """Return the kinds of signals on the text that a term is for."""
    on = term.on if isinstance(term, Divergence) else "all"
    on = "own" if isinstance(term, SampledReverseKL) else on
    return [*(given if on != "own" else ()), *(own if on != "text" else ())]


def _serves(term: Term, kind: type[Signal]) -> bool:
    if isinstance(term, VocabularyTerm):
        return serves(term, kind)
    return kind is Hidden


def serves(term: VocabularyTerm, kind: type[Signal] | None) -> bool:
    """Tell whether a kind of signal (None for no teacher) serves a term."""
    served = _served_by(term)
    return served is None or kind in served


def _served_by(term: VocabularyTerm) -> tuple[type[Signal], ...] | None:
    match term:
        case CrossEntropy():
            return None
        case Divergence() | SortedL1():
            return (*WHOLE, Sparse)
        case SampledReverseKL():
            return (*WHOLE, Text)
        case ChunkLikelihood():
            return (Chunks,)


def check_sizes(terms: Sequence[VocabularyTerm], signal: Signal | None, vocab: int) -> None:
    """See that a signal has what its kind alone does not promise, for a student of so many tokens.

    Raises:
        MismatchError: it has not.
    """
    samples = any(isinstance(term, SampledReverseKL) for term in terms)
    if isinstance(signal, Text) and signal.logp_N is None and samples:
        raise MismatchError(
            "loss: sampled_reverse_kl needs the teacher's log-probability of the text, which this "
            "teacher does not give; leave the term out or take a teacher that gives it."
        )
    if isinstance(signal, Sparse) and signal.head_ids_NH.shape[1] == 0:
        needy = [t.kind for t in terms if not isinstance(t, CrossEntropy) and not _sampled(t)]
        if needy or signal.tail_ids_NR.shape[1] == 0:
            raise MismatchError(
                f"loss: {' and '.join(needy) or 'forward_kl'} needs the teacher's likeliest tokens "
                "and this signal is draws alone; keep a head or take forward_kl."
            )
    if all(isinstance(term, CrossEntropy | SortedL1) for term in terms):
        return
    for size in _vocabularies(signal):
        if size != vocab:
            raise MismatchError(
                f"the teacher's logits are over {size} tokens and the student's over {vocab}; "
                "align the vocabularies first, or take sorted_l1."
            )


def _sampled(term: VocabularyTerm) -> bool:
    return isinstance(term, Divergence) and term.kind == "forward_kl"


def _vocabularies(signal: Signal | None) -> list[int]:
    match signal:
        case Hidden():
            return [len(signal.head.weight_VT)]
        case Dense():
            return [signal.logits_NV.shape[1]]
        case Mixture():
            return [size for _, part in signal.parts for size in _vocabularies(part)]
    return []
