"""Compressed entries that a dense teacher's layer can have (arXiv 2606.19348, sections 2.3.1-2).

Nothing in a dense teacher compresses, but an entry can be solved for. It is the mean of its
window's keys and values, weighted by a softmax of how much attention a token is likely to be
given: a ridge regression. For the first token of a text, which most attention beyond a window goes
to, that softmax leaves nothing of its neighbours.

Three things more are made of one row that is nearly 1 for every input, as a regression finds it.
It fills the pads of an entry, so that the norm after pooling divides by nearly the same number
whatever was pooled. It gives an entry the entropy of its softmax as a logit, for an entry stands
for several tokens. And it makes a mask: rotary pairs whose keys are 0 for tokens, and which in
entries add up, over the distance, to a logit that hides an entry while its tokens are in the
sliding window, where they would count twice.

Shapes: N tokens, B windows of S tokens, D hidden size, G key-value heads, F features of the
shared entry, of which K are keys, K values and J further ones, E of some of them, C tokens an
entry, T entries a window, H query heads, M rotary pairs of the mask, L distances.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from student.warm_start import calibration
from student.warm_start.dense import Dense
from student.warm_start.shared_entry import Shape, Shared, convert

Gate = Literal["attended", "first"]

_ONLY = 40.0  # a gate's lead that leaves nothing of the others in float32
_FIRST = 20.0  # times that a text's first token counts in regressions
_CONSTANT_RIDGE, _RIDGE, _MASK_RIDGE = 1e-4, 1e-3, 1e-4  # of the mean square
_LATER = 8  # tokens between a token and the queries whose attention makes its gate
_FILLED = 9.0  # constant squares of an entry for one of keys and values
_PERIOD = 2.3  # of the slowest pair, in reaches: nothing comes round again within one
_ROUNDS = 30
_SURELY = 0.92  # share of the window within which an entry must be hidden
_SLACK = 0.05  # weight of the distances at which an entry is partly in the window


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooling:
    """How windows of tokens become entries.

    Attributes:
        tokens: an entry.
        gate: what an entry is made of: of its window's tokens as they are `attended`, or of the
            `first` alone.
        pairs: rotary pairs that hide entries within the sliding window; 0 hides nothing.
        sharpness: of the gate; 1 is what the regression foretells of attention.
        reach: tokens of the longest text for which they are fitted; beyond it they mean nothing.
        hiding: by how much a hidden entry's logit is lowered, in nats.
    """

    tokens: int
    gate: Gate = "attended"
    pairs: int = 8
    sharpness: float = 2.5
    reach: int = 260
    hiding: float = 6.0

    @property
    def features(self) -> int:
        """J: the entropy's, and two a pair."""
        return 1 + 2 * self.pairs

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Radians a token of the mask's pairs, as they are in float32."""
        slowest = 2 * math.pi / (_PERIOD * self.reach)
        made = torch.arange(1, self.pairs + 1, dtype=torch.float64) * slowest
        return tuple(made.float().tolist())


@torch.no_grad()
def convert_with_entries(
    dense: Dense,
    number: int,
    seen: calibration.Seen,
    shape: Shape,
    pooling: Pooling,
    sliding_window: int,
) -> Shared:
    """Return V4 attention that does what a layer's own does, and has entries.

    Args:
        dense: the teacher.
        number: of the layer.
        seen: what the teacher's layers read on some text.
        shape: of the student, further features included.
        pooling: how entries are made.
        sliding_window: tokens attended to as they are.

    Raises:
        WarmStartError: the layer has biases.
    """
    layer, size = dense.layers[number], dense.numbers
    unit_ND = calibration.normed(seen.before[number], torch.ones(size.hidden_size), size.eps)
    narrow = Shape(
        head_dim=shape.head_dim - pooling.features,
        eps=shape.eps,
        amplitude=shape.amplitude,
        seed=shape.seed,
    )
    plain = convert(layer, unit_ND, narrow)
    unit_BSD = unit_ND.unflatten(0, seen.token_BS.shape)
    first_BS = torch.ones(seen.token_BS.shape, dtype=torch.float64)
    first_BS[:, 0] = _FIRST
    one_D = _ridge(unit_ND, torch.ones_like(unit_ND[:, :1]), first_BS.flatten(), _CONSTANT_RIDGE)[0]
    base = {name: weight.double() for name, weight in plain.weights.items()}
    own = size.cache_values // 2
    widened = _widened(base, one_D, own, shape.head_dim, pooling)
    gate_GD = unit_ND.new_zeros(size.kv_heads, size.hidden_size)
    if pooling.gate == "attended":
        x_ND = seen.attention(dense, number)
        windows, tokens = seen.token_BS.shape
        later = min(_LATER, tokens // 4)  # of a short text some tokens must have later ones
        given_BSG = calibration.given_later(dense, layer, x_ND, windows, later)
        gate_GD = pooling.sharpness * _gates(unit_BSD, given_BSG, first_BS)
    compressor = _compressor(
        base["kv.weight"],
        widened["kv_norm.weight"],
        _Pooled.of(unit_BSD, gate_GD, pooling),
        one_D,
        _Goal(unit_ND=unit_ND, own=own, eps=shape.eps, sliding_window=sliding_window),
        pooling,
    )
    weights = widened | {f"compressor.{name}": weight for name, weight in compressor.items()}
    return Shared(
        weights={name: weight.float().contiguous() for name, weight in weights.items()},
        fluctuation=plain.fluctuation,
    )


# The tokens' own attention, with room for what only entries use


def _widened(
    base: dict[str, torch.Tensor],
    one_D: torch.Tensor,
    own: int,
    head_dim: int,
    pooling: Pooling,
) -> dict[str, torch.Tensor]:
    """Return a layer with further features before its keys: constant in queries, 0 in keys.

    Norms divide by what they divided by, for the further squares are a constant share; the logits'
    scale is of wider heads, which keys make up for.
    """
    more, size = pooling.features, base["q_a.weight"].shape[1]
    ask_JD = one_D.new_zeros(more, size)
    ask_JD[_asked(pooling)] = math.sqrt(more / (1 + pooling.pairs)) * one_D
    q_HFD = base["q_b.weight"].unflatten(0, (len(base["sinks"]), -1))
    q_HFD = _before_keys(q_HFD, ask_JD.expand(len(q_HFD), -1, -1), own, 1)
    norm_F = _before_keys(base["kv_norm.weight"], one_D.new_zeros(more), own, 0)
    norm_F[-own:] *= math.sqrt(head_dim / (head_dim - more))
    taken_EJ = one_D.new_zeros(len(base["o_a.weight"]), more)
    return base | {
        "q_b.weight": q_HFD.flatten(0, 1),
        "kv.weight": _before_keys(base["kv.weight"], one_D.expand(more, -1), own, 0),
        "kv_norm.weight": norm_F,
        "o_a.weight": _before_keys(base["o_a.weight"], taken_EJ, own, 1),
    }


def _asked(pooling: Pooling) -> list[int]:
    """Return the further features that queries ask for: the entropy's, the first of each pair."""
    return [0, *range(1, pooling.features, 2)]


def _before_keys(x: torch.Tensor, more: torch.Tensor, own: int, dim: int) -> torch.Tensor:
    before, keys = x.split((x.shape[dim] - own, own), dim)
    return torch.cat((before, more, keys), dim)


# Entries


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Goal:
    """What an entry is to be like.

    Attributes:
        unit_ND: what tokens are made of.
        own: K, values and as many keys of all groups.
        eps: of the norms.
        sliding_window: tokens attended to as they are.
    """

    unit_ND: torch.Tensor
    own: int
    eps: float
    sliding_window: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pooled:
    """The calibration text as entries see it.

    Attributes:
        gate_GD: of keys and values, a group each.
        of_group: what each group's gate makes of the inputs, `[B, T, D]`.
        even_BTD: the same by the mean of the gates.
        entropy_BT: of the softmax in nats, a mean over groups.
    """

    gate_GD: torch.Tensor
    of_group: tuple[torch.Tensor, ...]
    even_BTD: torch.Tensor
    entropy_BT: torch.Tensor

    @classmethod
    def of(cls, unit_BSD: torch.Tensor, gate_GD: torch.Tensor, pooling: Pooling) -> "_Pooled":
        """Pool a text of windows at least an entry long."""
        bias_C = unit_BSD.new_zeros(pooling.tokens)
        if pooling.gate == "first":
            bias_C[0] = _ONLY
        entries = unit_BSD.shape[1] // pooling.tokens
        window_BTCD = unit_BSD[:, : entries * pooling.tokens].unflatten(1, (entries, -1))

        def shares(gate_D: torch.Tensor) -> torch.Tensor:
            return torch.softmax(window_BTCD @ gate_D + bias_C, -1)

        def pooled(share_BTC: torch.Tensor) -> torch.Tensor:
            return (share_BTC.unsqueeze(2) @ window_BTCD).squeeze(2)

        share = [shares(gate_D) for gate_D in gate_GD]
        entropy = [-torch.xlogy(one_BTC, one_BTC).sum(-1) for one_BTC in share]
        return cls(
            gate_GD=gate_GD,
            of_group=tuple(pooled(share_BTC) for share_BTC in share),
            even_BTD=pooled(shares(gate_GD.mean(0))),
            entropy_BT=torch.stack(entropy).mean(0),
        )


def _compressor(
    row_ED: torch.Tensor,
    norm_F: torch.Tensor,
    pooled: _Pooled,
    one_D: torch.Tensor,
    goal: _Goal,
    pooling: Pooling,
) -> dict[str, torch.Tensor]:
    """Return a compressor by the names of `student.compressor.Compressor`.

    Args:
        row_ED: of the narrower entry of tokens.
        norm_F: the tokens' norm, further features included.
        pooled: the text as entries see it.
        one_D: what makes 1 of an input.
        goal: what an entry is to be like.
        pooling: how entries are made.
    """
    groups, more, width, own = len(pooled.gate_GD), pooling.features, len(norm_F), goal.own
    pads = width - more - 2 * own
    narrow_N = (goal.unit_ND @ row_ED.T).square().sum(1) / len(row_ED)
    of_tokens = float((narrow_N + goal.eps).rsqrt().mean())
    v_KD, k_KD = row_ED[:own], row_ED[-own:]
    group_K = torch.arange(own) // (own // groups)
    square_BT = torch.zeros_like(pooled.entropy_BT)
    for group, x_BTD in enumerate(pooled.of_group):
        rows = torch.cat((v_KD[group_K == group], k_KD[group_K == group]))
        square_BT += (x_BTD @ rows.T).square().sum(-1)
    filling = math.sqrt(_FILLED * float(square_BT.mean()) / pads)
    square_BT += (pooled.even_BTD @ one_D).square() * (filling**2 * pads + more)
    of_entries = float((square_BT / width + goal.eps).rsqrt().mean())
    mask = _mask(pooling, goal.sliding_window) if pooling.pairs else one_D.new_zeros(1)
    # The first of the further features is a logit; the others are the mask's cosines and sines.
    extra_JD = one_D.expand(more, -1).clone()
    extra_JD[0] = mask[0] * one_D + _entropy(pooled)
    unit = math.sqrt(width * (1 + pooling.pairs) / more) / of_entries  # of one nat
    extra_J = torch.cat((mask.new_ones(1), mask[1:])) * unit
    restored_F = norm_F * (of_tokens / of_entries)
    gate_KD, even_D = pooled.gate_GD[group_K], pooled.gate_GD.mean(0)
    bias_CF = one_D.new_zeros(pooling.tokens, width)
    if pooling.gate == "first":
        bias_CF[0] = _ONLY
    return {
        "kv.weight": torch.cat((v_KD, (filling * one_D).expand(pads, -1), extra_JD, k_KD)),
        "gate.weight": torch.cat((gate_KD, even_D.expand(pads + more, -1), gate_KD)),
        "position_bias": bias_CF,
        "norm.weight": torch.cat((restored_F[: own + pads], extra_J, restored_F[-own:])),
    }


def _gates(unit_BSD: torch.Tensor, given_BSG: torch.Tensor, first_BS: torch.Tensor) -> torch.Tensor:
    """Return what foretells the logarithm of a token's attention, less its mean, `[G, D]`."""
    known_N = given_BSG.isfinite().all(-1).flatten()
    weight_N, given_NG = first_BS.flatten()[known_N], given_BSG.flatten(0, 1)[known_N]
    mean_G = (weight_N[:, None] * given_NG).sum(0) / weight_N.sum()
    return _ridge(unit_BSD.flatten(0, 1)[known_N], given_NG - mean_G, weight_N, _RIDGE)


def _entropy(pooled: _Pooled) -> torch.Tensor:
    """Return what makes the entropy of its softmax of a pooled input, `[D]`."""
    weight_BT = torch.ones_like(pooled.entropy_BT)
    weight_BT[:, 0] = _FIRST
    x_ND, wanted_N1 = pooled.even_BTD.flatten(0, 1), pooled.entropy_BT.flatten()[:, None]
    return _ridge(x_ND, wanted_N1, weight_BT.flatten(), _RIDGE)[0]


def _mask(pooling: Pooling, sliding_window: int) -> torch.Tensor:
    """Return a constant and the factors of cosine and sine, in turn, of each pair, `[1 + 2M]`.

    Their sum over the distance from an entry's first token is at most `-hiding` while the entry
    is in the window and 0 once it is out of it, as nearly as so few pairs can, by least squares.
    """
    distance_L = torch.arange(pooling.reach, dtype=torch.float64)
    angle_LM = distance_L[:, None] * torch.tensor(pooling.frequencies, dtype=torch.float64)
    wave_LMB = torch.stack((angle_LM.cos(), angle_LM.sin()), -1)
    basis_LJ = torch.cat((torch.ones_like(distance_L)[:, None], wave_LMB.flatten(1)), 1)
    # The change takes some tokens; it is better early, where an entry counts twice, than late.
    near_L = distance_L < sliding_window * _SURELY
    slack_L = ~near_L & (distance_L < sliding_window + pooling.tokens)
    weight_L = torch.where(slack_L, _SLACK, 1.0).double()
    wanted_L = torch.where(near_L, -pooling.hiding, 0.0).double()
    factor_J = basis_LJ.new_zeros(basis_LJ.shape[1])
    for _ in range(_ROUNDS):
        factor_J = _ridge(basis_LJ, wanted_L[:, None], weight_L, _MASK_RIDGE)[0]
        lower_L = (basis_LJ @ factor_J).clamp_max(-pooling.hiding)  # hidden better is as good
        wanted_L = torch.where(near_L, lower_L, wanted_L)
    return factor_J


def _ridge(
    x_NE: torch.Tensor, wanted_NO: torch.Tensor, weight_N: torch.Tensor, ridge: float
) -> torch.Tensor:
    """Return weighted least squares with a ridge, `[O, E]`."""
    weighted_NE = x_NE * (weight_N / weight_N.sum())[:, None]
    moment_EE = weighted_NE.T @ x_NE
    moment_EE.diagonal().add_(ridge * moment_EE.diagonal().mean() + 1e-30)
    return torch.linalg.solve(moment_EE, weighted_NE.T @ wanted_NO).T
