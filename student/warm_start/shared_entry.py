"""Grouped-query attention as DeepSeek-V4's, of one shared entry (arXiv 2606.19348, section 2.3).

One head serves as key and value for all queries there, and queries and entry are normalised. So
values, pads and keys of all groups stand side by side in the entry, `F = G V + P + G V`: a query
asks for its own group's keys alone, the output takes its own group's values alone, and pads exist
only to keep the norms from meaning anything. The input is normed itself; with pads that are the
rest of its length, what a norm divides by is the same number for every token, and the next weight
gives it back.

With as many pads as the input has values they are exact: for rows R that make a query of the
input, the root of `1 - R^T R`, with R scaled to a largest singular value of 1. No pad is then
larger than what the longest query is made of, so training finds nothing that drowns the rest. With
fewer, some of them see the root along the input's principal directions and some along a random
sketch of all others, each weighted so that the norms of a text differ least.

Shapes: N tokens, D hidden size, H query heads, G key-value heads, V values of a head, F of the
shared entry, P pads, E rows that a norm sees.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from student.errors import WarmStartError
from student.warm_start.calibration import product
from student.warm_start.dense import DenseLayer, Numbers

SINK = -1e4  # a logit whose exponential is 0, and finite in every dtype
BIASED = (
    "the teacher's attention has biases, which have no place in v4: its queries and its one entry "
    "are linear in the input and normalised; the mla family has room for them."
)
_CEILINGS = (0.25, 1.0)  # from the mean square to the longest: what few pads may fill up to
_RIDGE = 1e-3  # of each weight's own moment
_ROUNDS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How wide a student's shared entry is.

    Attributes:
        head_dim: of all queries and the entry.
        eps: of the student's norms.
        amplitude: of the teacher's cosine and sine.
        seed: of the sketch.
    """

    head_dim: int
    eps: float
    amplitude: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shared:
    """One layer's attention.

    Attributes:
        weights: float32, by the names of `student.v4_attention.V4Attention`.
        fluctuation: relative deviation of what the norms divide by, over tokens, in root mean
            square over queries and entry; 0 where the map is exact.
    """

    weights: dict[str, torch.Tensor]
    fluctuation: float


def exact_width(size: Numbers) -> int:
    """Return the `head_dim` at which nothing is lost: keys, values and a pad an input value."""
    return size.cache_values + size.hidden_size


def convert(layer: DenseLayer, unit_ND: torch.Tensor, shape: Shape) -> Shared:
    """Return V4 attention that does what the layer's own does, norm before it included.

    The norm's weight goes into the matrices, for its pads need an input of constant length.

    Args:
        layer: the teacher's.
        unit_ND: float64, what its attention reads before the norm's weight.
        shape: of the student.

    Raises:
        WarmStartError: the layer has biases.
    """
    if any(bias is not None for bias in (layer.q_HF, layer.k_GF, layer.v_GF, layer.o_D)):
        raise WarmStartError(BIASED)
    heads, width, size = layer.q_HFD.shape
    groups, own = len(layer.k_GFD), len(layer.k_GFD) * width
    norm_D = layer.attn_norm_D.double()
    pads = _pads(unit_ND, shape.head_dim - 2 * own, shape.seed)
    entry = _entry(layer, norm_D, unit_ND, pads, shape)
    # What is read by queries has gone through one more norm, of their latent.
    latent_N1 = (unit_ND.square().mean(1, keepdim=True) + shape.eps).rsqrt()
    q_HFD = torch.zeros(heads, shape.head_dim, size, dtype=torch.float64)
    restored_GF = torch.empty(groups, width, dtype=torch.float64)
    fluctuations = [entry.fluctuation] * heads  # a score is of one query and one entry
    asked_GJFD = _interleaved(layer.q_HFD.double() * norm_D).unflatten(0, (groups, -1))
    for group, rows_JFD in enumerate(asked_GJFD):
        made = _normed(rows_JFD, unit_ND * latent_N1, pads, shape, latent_N1.squeeze(1))
        first = shape.head_dim - own + group * width
        for head, one in enumerate(made.heads, start=group * len(rows_JFD)):
            q_HFD[head, own : own + pads.count] = one.pad_PD
            q_HFD[head, first : first + width] = one.row_ED
            fluctuations.append(one.fluctuation)
        scale = math.sqrt(shape.head_dim / width) * shape.amplitude**2
        restored_GF[group] = scale * made.undone
    weight_F = entry.weight_F.clone()
    weight_F[-own:] *= restored_GF.flatten()
    weights = {
        "q_a.weight": torch.eye(size, dtype=torch.float64),
        "q_norm.weight": torch.ones(size, dtype=torch.float64),
        "q_b.weight": q_HFD.flatten(0, 1),
        "kv.weight": entry.row_FD,
        "kv_norm.weight": weight_F,
        "o_a.weight": _taken(heads, groups, width, shape.head_dim),
        "o_b.weight": layer.o_DHF.double().flatten(1),
        "sinks": torch.full((heads,), SINK, dtype=torch.float64),
    }
    return Shared(
        weights={name: weight.float().contiguous() for name, weight in weights.items()},
        fluctuation=math.sqrt(sum(one**2 for one in fluctuations) / len(fluctuations)),
    )


def _interleaved(heads_GFD: torch.Tensor) -> torch.Tensor:
    """Return rows of halves as neighbouring pairs, as `student.rotary` turns them."""
    return torch.stack(heads_GFD.chunk(2, 1), 2).flatten(1, 2)


def _taken(heads: int, groups: int, width: int, head_dim: int) -> torch.Tensor:
    """Return what takes each head's own values out of the entry it returned, `[H V, F]`."""
    taken_HFE = torch.zeros(heads, width, head_dim, dtype=torch.float64)
    for head in range(heads):
        first = head // (heads // groups) * width
        taken_HFE[head, :, first : first + width] = torch.eye(width, dtype=torch.float64)
    return taken_HFE.flatten(0, 1)


# Pads


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pads:
    """What pads can be made of.

    Attributes:
        count: of them.
        direction_PD: what few pads read; None where there are enough to be exact.
    """

    count: int
    direction_PD: torch.Tensor | None


def _pads(unit_ND: torch.Tensor, count: int, seed: int) -> _Pads:
    """Choose directions: principal ones, and random ones of the space that is left.

    Principal ones alone leave out what differs most from token to token, a sketch alone hits large
    directions too roughly. Of few pads half are principal, of nearly enough nearly all.
    """
    size = unit_ND.shape[1]
    if count >= size:
        return _Pads(count=count, direction_PD=None)
    vector_DD = torch.linalg.eigh(product(unit_ND, unit_ND)).eigenvectors.flip(1)
    principal = count * (size + count) // (2 * size)
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(
        size - principal, count - principal, generator=generator, dtype=torch.float64
    )
    sketch_DP = vector_DD[:, principal:] @ torch.linalg.qr(mixed).Q
    # A sketch of fewer directions than there are finds so much less of them.
    sketch_DP *= math.sqrt((size - principal) / (count - principal))
    direction_PD = torch.cat((vector_DD[:, :principal], sketch_DP), 1).T
    return _Pads(count=count, direction_PD=direction_PD)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Head:
    """Rows and pads that are normed together.

    Attributes:
        row_ED: scaled.
        pad_PD: for them.
        fluctuation: of the norm.
    """

    row_ED: torch.Tensor
    pad_PD: torch.Tensor
    fluctuation: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Normed:
    """Heads of one scale.

    Attributes:
        heads: in order.
        undone: what gives the rows back as they were, after the norm.
    """

    heads: Sequence[_Head]
    undone: float


def _normed(
    row_HED: torch.Tensor,
    x_ND: torch.Tensor,
    pads: _Pads,
    shape: Shape,
    before_N: torch.Tensor | float,
) -> _Normed:
    """Return heads with pads, at a mean square of about 1 when they reach their norm.

    Args:
        row_HED: of all heads that one number must restore.
        x_ND: what they read.
        pads: to make pads of.
        shape: of the student.
        before_N: what x_ND had been multiplied with, which is undone with the rest.
    """
    longest = float(torch.linalg.matrix_norm(row_HED, ord=2).max().clamp_min(1e-30))
    row_HED = row_HED / longest
    square_N = x_ND.square().sum(1)
    ceiling, found = _filled(row_HED, x_ND, pads)
    scale = math.sqrt(shape.head_dim / (ceiling * float(square_N.mean())))
    divided_HN = torch.stack(
        [(scale**2 / shape.head_dim * total_N + shape.eps).sqrt() for _, total_N in found]
    )
    kept_HN = before_N / divided_HN
    return _Normed(
        heads=[
            _Head(
                row_ED=scale * row_ED,
                pad_PD=scale * pad_PD,
                fluctuation=float(kept_N.std(correction=0) / kept_N.mean()),
            )
            for row_ED, (pad_PD, _), kept_N in zip(row_HED, found, kept_HN, strict=True)
        ],
        undone=longest / (scale * float(kept_HN.mean())),
    )


def _filled(
    row_HED: torch.Tensor, x_ND: torch.Tensor, pads: _Pads
) -> tuple[float, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return what the squares are filled up to, a share of the input's own, and pads that do it.

    Low, few pads do it with least, but the longest queries stand out above it; high, pads are
    large, which training suffers from, and so is taken where it is far better alone.

    Returns:
        ceiling: the share.
        found: a head each, pads `[P, D]` and the squares they make with the rows, `[N]`.
    """
    square_N = x_ND.square().sum(1)
    if pads.direction_PD is None:
        return 1.0, [(_padded(_root(row_ED, 1.0), pads.count), square_N) for row_ED in row_HED]
    ask_HN = torch.stack([_seen(x_ND, row_ED).sum(1) for row_ED in row_HED])
    most = float(ask_HN.mean(1).max() / square_N.mean())
    tried = []
    for share in _CEILINGS:
        ceiling = most + share * (1 - most)
        found = []
        for row_ED, ask_N in zip(row_HED, ask_HN, strict=True):
            pad_PD = pads.direction_PD @ _root(row_ED, ceiling)
            fills_NP = _seen(x_ND, pad_PD)
            weight_P = _fitted(fills_NP, ceiling * square_N - ask_N)
            found.append((weight_P.sqrt()[:, None] * pad_PD, ask_N + fills_NP @ weight_P))
        error = sum(float((total_N / square_N).var()) for _, total_N in found) / ceiling**2
        tried.append((error, ceiling, found))
    low, high = tried
    _, ceiling, found = high if high[0] < low[0] / 2 else low
    return ceiling, found


def _root(row_ED: torch.Tensor, ceiling: float) -> torch.Tensor:
    """Return the symmetric root of `ceiling - R^T R`, less what of it is negative, `[D, D]`."""
    size = row_ED.shape[1]
    _, value_E, vector_ED = torch.linalg.svd(row_ED, full_matrices=False)
    missing_E = math.sqrt(ceiling) - (ceiling - value_E.square()).clamp_min(0).sqrt()
    whole_DD = math.sqrt(ceiling) * torch.eye(size, dtype=row_ED.dtype)
    return whole_DD - vector_ED.T @ (missing_E[:, None] * vector_ED)


def _padded(pad_DD: torch.Tensor, count: int) -> torch.Tensor:
    return torch.cat((pad_DD, pad_DD.new_zeros(count - len(pad_DD), pad_DD.shape[1])))


def _seen(x_ND: torch.Tensor, row_ED: torch.Tensor) -> torch.Tensor:
    """Return the squares of what rows make of inputs, `[N, E]`."""
    return (x_ND.float() @ row_ED.float().T).square().double()


def _fitted(fills_NP: torch.Tensor, wanted_N: torch.Tensor) -> torch.Tensor:
    """Return weights from 0 on, 1 or near it, with which squares of pads are nearly `wanted_N`.

    Least squares; whatever would be negative is left out and the rest solved for again. At last
    the mean is made right, so that all heads of a group are restored by one number.
    """
    moment_PP = fills_NP.T @ fills_NP
    held_P = _RIDGE * moment_PP.diagonal() + 1e-30
    asked_P = fills_NP.T @ wanted_N + held_P
    moment_PP.diagonal().add_(held_P)
    weight_P = torch.zeros_like(asked_P)
    kept_P = torch.ones_like(asked_P, dtype=torch.bool)
    for _ in range(_ROUNDS):
        weight_P.zero_()
        weight_P[kept_P] = torch.linalg.solve(moment_PP[kept_P][:, kept_P], asked_P[kept_P])
        if bool((weight_P >= 0).all()):
            break
        kept_P = weight_P > 0
    weight_P.clamp_min_(0)
    mean = float((fills_NP @ weight_P).mean())
    return weight_P * (max(float(wanted_N.mean()), 0.0) / mean if mean > 0 else 1.0)


# The entry


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Entry:
    """The shared entry.

    Attributes:
        row_FD: of values, pads and keys.
        weight_F: that gives values and keys back as they were, and nothing of pads.
        fluctuation: of its norm.
    """

    row_FD: torch.Tensor
    weight_F: torch.Tensor
    fluctuation: float


def _entry(
    layer: DenseLayer, norm_D: torch.Tensor, unit_ND: torch.Tensor, pads: _Pads, shape: Shape
) -> _Entry:
    """Return the entry, each of whose rows is as long as any other: the weight restores each."""
    v_ED = (layer.v_GFD.double() * norm_D).flatten(0, 1)
    k_ED = _interleaved(layer.k_GFD.double() * norm_D).flatten(0, 1)
    row_ED = torch.cat((v_ED, k_ED))
    long_E = row_ED.norm(dim=1).clamp_min(1e-30)
    made = _normed((row_ED / long_E[:, None])[None], unit_ND, pads, shape, 1.0)
    (one,), own = made.heads, len(v_ED)
    weight_F = torch.zeros(shape.head_dim, dtype=torch.float64)
    weight_F[:own], weight_F[-own:] = (made.undone * part_E for part_E in long_E.chunk(2))
    row_FD = torch.cat((one.row_ED[:own], one.pad_PD, one.row_ED[own:]))
    return _Entry(row_FD=row_FD, weight_F=weight_F, fluctuation=one.fluctuation)
