"""Whether a served teacher says what the same model says on disk, or what a store has of it.

A server may run another template, precision, temperature or model than was meant, or give its
scores one position late; the loss would still fall. So a few positions are scored both ways and
compared by the KL over the tokens both sides name and one bucket for all others, which is at most
the KL of the whole distributions (data processing inequality).

Shapes: N positions, H tokens a server names, K tokens a store names, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from distill.errors import MismatchError, TeacherError
from distill.heads import logits
from distill.signals import Dense, Hidden, Signal, Sparse
from distill.store import shard
from distill.store.store import Store
from distill.teachers.stored import Signals

# Between what precision does and what is wrong (tests/campaigns/agreement.py, SmolLM2-135M, nats a
# token): bfloat16 0.001, 8-bit integers 0.004, a begin token too many 0.075, a system message
# before the text 0.29, temperature 0.7 0.31, scores one position late 1.7. Temperature 0.9 passes
# with 0.03; float8 of so small a model does not, with 0.05 to 0.07.
THRESHOLD = 0.05
POSITIONS = 32

_LEAST = (
    1e-8  # what a bucket holds at least, so that a certain server is far off and not infinitely
)

Score = Callable[[torch.Tensor], Signal]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far two ways to ask one teacher are apart.

    Attributes:
        positions: compared.
        kl: mean KL of the reference to the server, nats a token.
        worst: the largest of them.
        same_best: share of positions where both hold the same token likeliest.
        late: the mean KL when the server's scores are read one position earlier or later,
            whichever is less.
    """

    positions: int
    kl: float
    worst: float
    same_best: float
    late: float

    def require(self, name: str, threshold: float = THRESHOLD) -> None:
        """Refuse a teacher that disagrees with itself.

        Raises:
            TeacherError: says by how much, and what may be the matter.
        """
        if self.kl <= threshold:
            return
        advice = "check its model, chat template, temperature and precision"
        if self.late <= threshold:
            advice = "its scores are one position off, so the server aligns them wrongly"
        raise TeacherError(
            f"teacher {name!r}: what is served disagrees with the reference by {self.kl:.3g} nats "
            f"a token at {self.positions} positions, and {threshold:.3g} are allowed (the "
            f"likeliest token is the same at {self.same_best:.0%}); {advice}, or allow more by "
            "agreement."
        )


def self_test(
    served: Score, reference: Score, token_BS: torch.Tensor, *, positions: int = POSITIONS
) -> Agreement:
    """Score sequences both ways and compare some positions, spread over all of them.

    Args:
        served: gives a `Sparse` of `[B (S - 1)]` rows, as `EndpointTeacher.score` does.
        reference: gives `Hidden`, `Dense` or an exact-headed `Sparse` of the same rows.
        token_BS: int64; a few short sequences, for each of them is one request.
        positions: at most so many are compared.

    Raises:
        MismatchError: the sides have not the same rows, or are of other kinds.
    """
    said, known = served(token_BS), reference(token_BS)
    rows = token_BS[:, 1:].numel()
    if not isinstance(said, Sparse) or len(said.head_ids_NH) != rows or _length(known) != rows:
        raise MismatchError(f"both sides have to say something of {rows} positions each.")
    row_P = torch.linspace(0, rows - 1, min(positions, rows)).round().long()
    kl_P, same_P = compare(said.take(row_P), known.take(row_P))
    inner_P = row_P[(row_P > 0) & (row_P < rows - 1)]
    shifts = [compare(said.take(inner_P), known.take(inner_P + by))[0] for by in (-1, 1)]
    return Agreement(
        positions=len(row_P),
        kl=float(kl_P.mean()),
        worst=float(kl_P.max()),
        same_best=float(same_P.float().mean()),
        late=min(float(kl.mean()) for kl in shifts) if len(inner_P) else float("inf"),
    )


def kept(store: Store, *, sequences: int, tokens: int) -> tuple[torch.Tensor, Sparse]:
    """Return the beginnings of a store's first sequences, and what is kept of them.

    Args:
        store: of mode `head_tail` or `topk`.
        sequences: how many at most.
        tokens: of each; ones that are shorter or begin anew inside are left out.

    Returns:
        int64 `[B, tokens]`, and a signal of `B (tokens - 1)` rows.

    Raises:
        MismatchError: the store keeps no likeliest tokens, or has no sequence that long.
    """
    if store.key.mode not in ("head_tail", "topk") or not store.shards:
        raise MismatchError(
            f"{store.path} holds no likeliest tokens (mode {store.key.mode}, {store.tokens} "
            "positions), so nothing can be compared with it; name a store of mode head_tail or "
            "topk, or a model directory."
        )
    text = shard.decode_text(store.key, store.load(0))
    first_B = text.length_B.cumsum(0) - text.length_B
    lengths = text.length_B.tolist()
    # A server reads a text as one context, so none may begin anew inside.
    chosen = [
        (int(first), row[:tokens])
        for first, row, starts in zip(
            first_B, text.split(), text.start_N.split(lengths), strict=True
        )
        if len(row) >= tokens and not starts[1 : tokens - 1].any()
    ][:sequences]
    if not chosen:
        raise MismatchError(
            f"{store.path} has no sequence whose first {tokens} tokens are one context; name "
            "another store, or a model directory."
        )
    row_P = torch.cat([first + torch.arange(tokens - 1) for first, _ in chosen])
    said = Signals(store).at(row_P, torch.device("cpu"))
    assert isinstance(said, Sparse)
    return torch.stack([row.long() for _, row in chosen]), said


def compare(served: Sparse, reference: Signal) -> tuple[torch.Tensor, torch.Tensor]:
    """Return KL(reference || served) `[N]` in nats, and whether both have the same likeliest token.

    Both are taken over the tokens that both sides name and one bucket for the rest.

    Raises:
        MismatchError: the reference is of a kind that has no probabilities to compare.
    """
    served_NH = served.head_p_NH
    known_NH, best_N = _at(reference, served.head_ids_NH)
    # NaN: a token the reference does not name; what both say of it is in the bucket.
    named_NH = ~known_NH.isnan() & (served_NH > 0)
    q_NH, p_NH = served_NH.where(named_NH, 0.0), known_NH.where(named_NH, 0.0)
    rest_q_N1 = (1 - q_NH.sum(-1, keepdim=True)).clamp_min(_LEAST)
    rest_p_N1 = (1 - p_NH.sum(-1, keepdim=True)).clamp_min(_LEAST)
    q_NC = torch.cat([q_NH, rest_q_N1], dim=1).clamp_min(_LEAST)
    p_NC = torch.cat([p_NH, rest_p_N1], dim=1)
    kl_N = (p_NC * (p_NC.clamp_min(_LEAST) / q_NC).log()).sum(-1).clamp_min(0.0)
    own_N = served.head_ids_NH.gather(1, served_NH.argmax(-1, keepdim=True)).squeeze(1)
    return kl_N, own_N == best_N


def _at(reference: Signal, ids_NH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the reference says of `ids_NH`, NaN where nothing, and its likeliest tokens."""
    match reference:
        case Hidden():
            p_NV = logits(reference.states_NT, reference.head).softmax(-1)
        case Dense():
            p_NV = reference.logits_NV.float().softmax(-1)
        case Sparse() if reference.head_ids_NH.shape[1] > 0:
            same_NHK = ids_NH[:, :, None] == reference.head_ids_NH[:, None, :]
            same_NHK &= reference.head_p_NH[:, None, :] > 0
            p_NH = (same_NHK * reference.head_p_NH[:, None, :]).sum(-1)
            best_N1 = reference.head_p_NH.argmax(-1, keepdim=True)
            best_N = reference.head_ids_NH.gather(1, best_N1).squeeze(1)
            return p_NH.where(same_NHK.any(-1), torch.nan), best_N
        case _:
            raise MismatchError(
                f"a {type(reference).__name__} signal has no probabilities to compare a served "
                "teacher with; use a local teacher, or a store of mode head_tail or topk."
            )
    inside_NH = ids_NH < p_NV.shape[1]
    p_NH = p_NV.gather(1, ids_NH.where(inside_NH, 0))
    return p_NH.where(inside_NH, torch.nan), p_NV.argmax(-1)


def _length(signal: Signal) -> int:
    match signal:
        case Hidden():
            return len(signal.states_NT)
        case Dense():
            return len(signal.logits_NV)
        case Sparse():
            return len(signal.head_ids_NH)
    return -1
