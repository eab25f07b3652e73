"""Feed-forward layers: a dense SwiGLU, and a mixture of experts with its routers.

DeepSeek-V3 report, section 2.1.2, and DeepSeek-V4 report, section 2.1: an expert's affinity is
sigmoid (mla) or the root of softplus (v4) of the router's logit; a bias that no gradient moves is
added for the choice alone; the chosen affinities, normalised and scaled, weight the outputs. The
first layers of v4 choose by a fixed table of the token instead. v4 clamps SwiGLU's two factors.

Shapes: N tokens, D hidden_size, E routed experts, K experts a token, I width of an expert,
P = N K pairs of token and expert, G groups of experts, B documents.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from student import device as devices
from student.config import MLAConfig, V4Config
from student.documents import Documents
from student.norm import widened

# Tokens whose products with all experts cost no more than reading the weights.
_FEW = 16


class Routing(NamedTuple):
    """Which experts serve a token, how much each counts, and how it came about.

    Attributes:
        expert_NK: int64.
        weight_NK: float32; sums to the scaling factor over K.
        affinity_NE: float32, of all experts, before the bias.
    """

    expert_NK: torch.Tensor
    weight_NK: torch.Tensor
    affinity_NE: torch.Tensor


class Router(nn.Module):
    """Chooses by affinity plus bias; in mla within the best groups of experts."""

    def __init__(self, config: MLAConfig | V4Config) -> None:
        super().__init__()
        self.v4 = isinstance(config, V4Config)
        self.top_k, self.factor = config.num_experts_per_token, config.routed_scaling_factor
        self.groups, self.group_top_k = 1, 1
        if isinstance(config, MLAConfig):
            self.groups = config.num_expert_groups
            self.group_top_k = config.num_groups_per_token
        experts = config.num_routed_experts
        self.weight = nn.Parameter(torch.empty(experts, config.hidden_size))
        self.register_buffer("bias", torch.zeros(experts, dtype=torch.float32))

    def forward(
        self, x_ND: torch.Tensor, token_N: torch.Tensor, expert_NK: torch.Tensor | None
    ) -> Routing:
        """Route each token; `expert_NK`, where given, replaces the choice (replay)."""
        affinity_NE = _affinity(x_ND, self.weight, v4=self.v4)
        if expert_NK is None:
            expert_NK = self._choose(affinity_NE.detach())
        return Routing(expert_NK, _weights(affinity_NE, expert_NK, self.factor), affinity_NE)

    def _choose(self, affinity_NE: torch.Tensor) -> torch.Tensor:
        score_NE = affinity_NE + self.get_buffer("bias")
        if self.groups > 1:
            score_NGE = score_NE.unflatten(-1, (self.groups, -1))
            best_NG = score_NGE.topk(2, dim=-1).values.sum(-1)
            group_NG = best_NG.topk(self.group_top_k, dim=-1).indices
            open_NG = torch.zeros_like(best_NG).scatter_(1, group_NG, 1.0)
            closed_NG1 = (open_NG == 0).unsqueeze(-1)
            score_NE = score_NGE.masked_fill(closed_NG1, float("-inf")).flatten(1)
        return score_NE.topk(self.top_k, dim=-1).indices


class HashRouter(nn.Module):
    """Chooses by a fixed table of the token; what the experts count is still learned."""

    def __init__(self, config: V4Config, vocab_size: int) -> None:
        super().__init__()
        self.factor = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.num_routed_experts, config.hidden_size))
        table_VK = torch.zeros(vocab_size, config.num_experts_per_token, dtype=torch.int64)
        self.register_buffer("table", table_VK)

    def forward(
        self, x_ND: torch.Tensor, token_N: torch.Tensor, expert_NK: torch.Tensor | None
    ) -> Routing:
        """Route each token; `expert_NK`, where given, replaces the table's choice."""
        affinity_NE = _affinity(x_ND, self.weight, v4=True)
        if expert_NK is None:
            expert_NK = self.get_buffer("table")[token_N]
        return Routing(expert_NK, _weights(affinity_NE, expert_NK, self.factor), affinity_NE)


def _affinity(x_ND: torch.Tensor, weight_ED: torch.Tensor, *, v4: bool) -> torch.Tensor:
    """Return affinities in at least float32: near-ties must not be decided by rounding."""
    with devices.full_precision(x_ND.device):
        logit_NE = F.linear(widened(x_ND), widened(weight_ED))
        return F.softplus(logit_NE).sqrt() if v4 else torch.sigmoid(logit_NE)


def _weights(affinity_NE: torch.Tensor, expert_NK: torch.Tensor, factor: float) -> torch.Tensor:
    chosen_NK = affinity_NE.gather(1, expert_NK)
    return chosen_NK / (chosen_NK.sum(-1, keepdim=True) + 1e-20) * factor


def hash_table(vocab_size: int, experts: int, top_k: int, rng: np.random.Generator) -> torch.Tensor:
    """Return a table `[V, K]` of distinct experts a token, equally many tokens to each expert.

    Tokens are shuffled and dealt in hands of E. Within a hand the first column is a permutation of
    the experts, and each further column is the first, moved on by a distance of its own; so every
    column of a whole hand is a permutation, and no row names an expert twice. The report gives
    only "a predefined hash function".
    """
    hands = -(-vocab_size // experts)
    first = np.stack([rng.permutation(experts) for _ in range(hands)])
    moves = np.stack([rng.permutation(np.arange(1, experts))[: top_k - 1] for _ in range(hands)])
    moves = np.concatenate([np.zeros((hands, 1), np.int64), moves], axis=1)
    dealt = (first[:, :, None] + moves[:, None, :]) % experts
    table = np.empty((vocab_size, top_k), np.int64)
    table[rng.permutation(vocab_size)] = dealt.reshape(-1, top_k)[:vocab_size]
    return torch.from_numpy(table)


class SwiGLU(nn.Module):
    """silu(gate) * up, projected down; with a limit, gate <= limit and |up| <= limit."""

    def __init__(self, hidden_size: int, width: int, limit: float | None) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_size, width, bias=False)
        self.up = nn.Linear(hidden_size, width, bias=False)
        self.down = nn.Linear(width, hidden_size, bias=False)
        self.limit = limit

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Return `[N, D]`."""
        gate_NI, up_NI = self.gate(x_ND), self.up(x_ND)
        if self.limit is not None:
            gate_NI = gate_NI.clamp(max=self.limit)
            up_NI = up_NI.clamp(-self.limit, self.limit)
        return self.down(F.silu(gate_NI) * up_NI)


class Dispatch(NamedTuple):
    """Pairs of token and expert in the order of their experts.

    Attributes:
        pair_P: int64, the pair (token * K + rank) at each place of the order.
        place_P: int64, the place of each pair: the inverse.
        counts: how many pairs each expert has, on the host.
    """

    pair_P: torch.Tensor
    place_P: torch.Tensor
    counts: list[int]


def dispatch(expert_NK: torch.Tensor, load_E: torch.Tensor) -> Dispatch:
    """Sort the pairs by expert.

    The one wait for the device in a layer: the products below have a size an expert, which the
    host must know to launch them.
    """
    expert_P = expert_NK.flatten()
    pair_P = torch.sort(expert_P, stable=True).indices
    place_P = torch.empty_like(pair_P)
    place_P[pair_P] = torch.arange(len(pair_P), device=pair_P.device)
    return Dispatch(pair_P, place_P, [int(count) for count in load_E.tolist()])


class Experts(nn.Module):
    """The routed experts, their gates and ups in one tensor (gate rows first)."""

    def __init__(self, experts: int, hidden_size: int, width: int, limit: float | None) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * width, hidden_size))
        self.down = nn.Parameter(torch.empty(experts, hidden_size, width))
        self.limit = limit

    def forward(self, x_ND: torch.Tensor, weight_NK: torch.Tensor, sent: Dispatch) -> torch.Tensor:
        """Return each token's chosen experts, weighted and summed, `[N, D]` in float32."""
        dtype = devices.grouped_product_dtype(x_ND)
        # The products' dtype is settled; the sum over experts stays in float32.
        with devices.full_precision(x_ND.device):
            out_ND: torch.Tensor = _GroupedSwiGLU.apply(
                x_ND.to(dtype), weight_NK, self.gate_up, self.down, sent, self.limit
            )
        return out_ND

    def few(self, x_ND: torch.Tensor, routing: Routing) -> torch.Tensor:
        """Return the same for the few tokens of a decoding step: every expert serves all of them.

        Nothing is sorted and nobody waits for counts; where the tokens choose most experts anyway,
        no more weights are read than they need.
        """
        experts = self.gate_up.shape[0]
        share_NE = torch.zeros_like(routing.affinity_NE)
        share_NE.scatter_add_(1, routing.expert_NK, routing.weight_NK)
        all_END = x_ND.expand(experts, -1, -1)
        act_ENI = _activate(torch.bmm(all_END, self.gate_up.transpose(1, 2)), self.limit)
        out_END = torch.bmm(act_ENI, self.down.transpose(1, 2))
        share_N1E = share_NE.unsqueeze(1).to(out_END.dtype)
        return torch.bmm(share_N1E, out_END.transpose(0, 1)).squeeze(1).to(x_ND.dtype)


class _GroupedSwiGLU(torch.autograd.Function):
    """Every expert on its own tokens, without a copy of its weights or a gradient of zeros."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: torch.Tensor,
        weight_NK: torch.Tensor,
        gate_up_EJD: torch.Tensor,
        down_EDI: torch.Tensor,
        sent: Dispatch,
        limit: float | None,
    ) -> torch.Tensor:
        top_k = weight_NK.shape[1]
        wide = torch.promote_types(x_ND.dtype, torch.float32)
        x_PD = x_ND[sent.pair_P // top_k]
        gate_up_PJ = _grouped(x_PD, gate_up_EJD, sent.counts, transpose=True)
        act_PI = _activate(gate_up_PJ, limit)
        y_PD = _grouped(act_PI, down_EDI, sent.counts, transpose=True)
        y_NKD = y_PD[sent.place_P].unflatten(0, (-1, top_k))
        out_ND = torch.bmm(weight_NK.unsqueeze(1), y_NKD.to(wide)).squeeze(1)
        ctx.save_for_backward(x_ND, weight_NK, gate_up_EJD, down_EDI, gate_up_PJ, y_NKD)
        ctx.sent, ctx.limit = sent, limit
        return out_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_ND, weight_NK, gate_up_EJD, down_EDI, gate_up_PJ, y_NKD = ctx.saved_tensors
        sent: Dispatch = ctx.sent
        top_k, counts = weight_NK.shape[1], sent.counts
        g_ND = grads[0]
        dweight_NK = torch.bmm(y_NKD.to(g_ND.dtype), g_ND.unsqueeze(-1)).squeeze(-1)
        dy_PD = (weight_NK.unsqueeze(-1) * g_ND.unsqueeze(1)).flatten(0, 1)[sent.pair_P]
        dy_PD = dy_PD.to(x_ND.dtype)
        dact_PI = _grouped(dy_PD, down_EDI, counts, transpose=False)
        act_PI, dgate_up_PJ = _activate_back(gate_up_PJ, ctx.limit, dact_PI)
        ddown_EDI = _outer(dy_PD, act_PI, counts, down_EDI)
        x_PD = x_ND[sent.pair_P // top_k]
        dgate_up_EJD = _outer(dgate_up_PJ, x_PD, counts, gate_up_EJD)
        dx_PD = _grouped(dgate_up_PJ, gate_up_EJD, counts, transpose=False)
        dx_ND = dx_PD[sent.place_P].unflatten(0, (-1, top_k)).sum(1)
        return dx_ND, dweight_NK.to(weight_NK.dtype), dgate_up_EJD, ddown_EDI, None, None


def _activate(gate_up_PJ: torch.Tensor, limit: float | None) -> torch.Tensor:
    gate_PI, up_PI = gate_up_PJ.chunk(2, dim=-1)
    if limit is not None:
        gate_PI, up_PI = gate_PI.clamp(max=limit), up_PI.clamp(-limit, limit)
    return F.silu(gate_PI) * up_PI


def _activate_back(
    gate_up_PJ: torch.Tensor, limit: float | None, dact_PI: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `_activate` returned, and the gradient of its input."""
    gate_PI, up_PI = gate_up_PJ.chunk(2, dim=-1)
    dgate_up_PJ = torch.empty_like(gate_up_PJ)
    dgate_PI, dup_PI = dgate_up_PJ.chunk(2, dim=-1)
    held_PI = gate_PI if limit is None else gate_PI.clamp(max=limit)
    bound_PI = up_PI if limit is None else up_PI.clamp(-limit, limit)
    sigmoid_PI = torch.sigmoid(held_PI)
    silu_PI = held_PI * sigmoid_PI
    torch.mul(dact_PI, silu_PI, out=dup_PI)
    # silu' = sigmoid + silu (1 - sigmoid) = silu + sigmoid (1 - silu).
    slope_PI = torch.addcmul(silu_PI, sigmoid_PI, 1 - silu_PI)
    torch.mul(slope_PI.mul_(bound_PI), dact_PI, out=dgate_PI)
    if limit is not None:
        dgate_PI.mul_(gate_PI <= limit)
        dup_PI.mul_(up_PI.abs() <= limit)
    return silu_PI.mul_(bound_PI), dgate_up_PJ


def _grouped(
    x_PF: torch.Tensor, weight_EJF: torch.Tensor, counts: list[int], *, transpose: bool
) -> torch.Tensor:
    """Multiply each expert's rows with its matrix (transposed: `[J, F]` is stored)."""
    if transpose:
        weight_EJF = weight_EJF.transpose(1, 2)
    out_PJ = x_PF.new_empty(x_PF.shape[0], weight_EJF.shape[2])
    same, start = weight_EJF.dtype == x_PF.dtype, 0
    for expert, count in enumerate(counts):
        if count:  # of many experts few have tokens in a decoding step
            rows, weight_FJ = slice(start, start + count), weight_EJF[expert]
            start += count
            torch.mm(x_PF[rows], weight_FJ if same else weight_FJ.to(x_PF.dtype), out=out_PJ[rows])
    return out_PJ


def _outer(
    left_PJ: torch.Tensor, right_PF: torch.Tensor, counts: list[int], like_EJF: torch.Tensor
) -> torch.Tensor:
    """Return the gradient of every expert's matrix; zero for those without tokens."""
    out_EJF = torch.empty_like(like_EJF)
    start = 0
    for expert, count in enumerate(counts):
        rows = slice(start, start + count)
        if not count:
            out_EJF[expert].zero_()
        elif left_PJ.dtype == out_EJF.dtype:
            torch.mm(left_PJ[rows].t(), right_PF[rows], out=out_EJF[expert])
        else:
            out_EJF[expert] = left_PJ[rows].t() @ right_PF[rows]
        start += count
    return out_EJF


class Mixed(NamedTuple):
    """What a mixture layer returns.

    Attributes:
        output_ND: the layer's output.
        expert_NK: the experts that served each token.
        load_E: float32, tokens each expert was given.
        balance_loss: the sequence-wise balance loss, or None where it was not asked for.
    """

    output_ND: torch.Tensor
    expert_NK: torch.Tensor
    load_E: torch.Tensor
    balance_loss: torch.Tensor | None


class Mixture(nn.Module):
    """A router, its experts, and the experts that serve every token."""

    def __init__(
        self, config: MLAConfig | V4Config, router: Router | HashRouter, shared_width: int
    ) -> None:
        super().__init__()
        limit = config.swiglu_limit if isinstance(config, V4Config) else None
        d, width = config.hidden_size, config.moe_intermediate_size
        self.router = router
        self.experts = Experts(config.num_routed_experts, d, width, limit)
        self.shared = SwiGLU(d, shared_width, limit)

    def forward(
        self,
        x_ND: torch.Tensor,
        token_N: torch.Tensor,
        *,
        expert_NK: torch.Tensor | None,
        balanced_over: Documents | None,
    ) -> Mixed:
        """Serve each token by its experts.

        Args:
            x_ND: normed input.
            token_N: int64, for a table of tokens.
            expert_NK: a choice to replay, or None.
            balanced_over: the documents to compute the balance loss over, or None for no loss.
        """
        routing = self.router(x_ND, token_N, expert_NK)
        ones_NK = torch.ones_like(routing.weight_NK)
        hits_NE = torch.zeros_like(routing.affinity_NE).scatter_add_(1, routing.expert_NK, ones_NK)
        load_E = hits_NE.sum(0)
        sent = dispatch(routing.expert_NK, load_E)
        out_ND = self.experts(x_ND, routing.weight_NK, sent) + self.shared(x_ND)
        # A table's choice is balanced by construction; there is nothing for a loss to move.
        loss = None
        if balanced_over is not None and isinstance(self.router, Router):
            loss = balance_loss(routing, hits_NE, balanced_over)
        return Mixed(out_ND, routing.expert_NK, load_E, loss)

    def step(self, x_BD: torch.Tensor, token_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Serve one token of each sequence; return the output and the experts that served."""
        routing = self.router(x_BD, token_B, None)
        chosen = routing.expert_NK.numel()
        if len(x_BD) <= _FEW and chosen >= routing.affinity_NE.shape[1]:
            out_BD = self.experts.few(x_BD, routing)
        else:
            ones_P = torch.ones_like(routing.weight_NK.flatten())
            load_E = torch.zeros_like(routing.affinity_NE[0])
            load_E.scatter_add_(0, routing.expert_NK.flatten(), ones_P)
            sent = dispatch(routing.expert_NK, load_E)
            out_BD = self.experts(x_BD, routing.weight_NK, sent)
        return out_BD + self.shared(x_BD), routing.expert_NK


def balance_loss(routing: Routing, hits_NE: torch.Tensor, documents: Documents) -> torch.Tensor:
    """Return the sequence-wise balance loss (DeepSeek-V3 report, eq. 17 to 20), without alpha.

    Within each document, the share of tokens an expert is given times its mean normalised
    affinity, summed over experts; 1 when both are even. Documents count by their tokens.
    """
    share_NE = routing.affinity_NE / routing.affinity_NE.sum(-1, keepdim=True)
    total, experts = hits_NE.shape
    count, of_N = len(documents.lengths), documents.document_N
    hits_BE = hits_NE.new_zeros(count, experts).index_add_(0, of_N, hits_NE)
    share_BE = share_NE.new_zeros(count, experts).index_add_(0, of_N, share_NE)
    # f = E hits / (K T), P = share / T, weighted by T / N.
    lengths_B1 = torch.zeros_like(hits_BE[:, :1]).index_add_(
        0, of_N, torch.ones_like(hits_NE[:, :1])
    )
    top_k = routing.expert_NK.shape[1]
    return (hits_BE * share_BE / lengths_B1).sum() * (experts / (top_k * total))
