"""The lightning indexer: which compressed entries a token attends to, and how it learns to tell.

DeepSeek-V4 report, section 2.3.1, equations 13 to 17. A few narrow heads score every entry a
token may see, and the best are kept. No gradient of the language-model loss passes through that
choice, so the indexer has a loss of its own: the divergence from the weight the attention itself
gave those entries, in a softmax that includes window and sink, summed over heads and normalised
(DeepSeek-V3.2 report, arXiv 2512.02556, equations 3 and 4). Its inputs are detached.

Scoring is the one part whose cost grows with the square of the length, by design; it goes in
tiles and keeps nothing.

Shapes: N tokens, D hidden_size, R q_lora_rank, I indexer heads, F features of one, T entries,
K chosen entries a token, Q tokens and E entries of a tile.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from student import device as devices
from student.compressor import Compressor
from student.config import V4Config
from student.documents import Documents, Entries
from student.norm import widened
from student.rotary import Angles, Turn, rotate
from student.sparse_attention import Plan, Tile

_STEP = 16  # the fewest tokens scored at a time


class Queries(NamedTuple):
    """What scores are made of: query heads, their weights (all scales in them), entry keys."""

    q_NIF: torch.Tensor
    weight_NI: torch.Tensor
    key_TF: torch.Tensor


class Indexer(nn.Module):
    """Query heads, their weights, and a compressor of its own over the same windows."""

    def __init__(self, config: V4Config) -> None:
        super().__init__()
        heads, width = config.index_num_heads, config.index_head_dim
        self.heads, self.top_k = heads, config.index_top_k
        self.scale = (heads * width) ** -0.5
        self.q_b = nn.Linear(config.q_lora_rank, heads * width, bias=False)
        self.weights = nn.Linear(config.hidden_size, heads, bias=False)
        self.compressor = Compressor(
            config.hidden_size, width, config.csa_compression, config.rms_norm_eps, overlap=True
        )

    def queries(
        self, x_ND: torch.Tensor, latent_NR: torch.Tensor, turn: Angles
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return query heads `[N, I, F]` and their weights `[N, I]`."""
        return rotate(self._heads(latent_NR), turn), self._weights(x_ND)

    def _heads(self, latent_NR: torch.Tensor) -> torch.Tensor:
        return self.q_b(latent_NR).unflatten(-1, (self.heads, -1))

    def _weights(self, x_ND: torch.Tensor) -> torch.Tensor:
        return self.weights(x_ND) * self.scale

    def choose_step(
        self,
        x_BD: torch.Tensor,
        latent_BR: torch.Tensor,
        turn: Turn,
        key_BTF: torch.Tensor,
        hidden_BT: torch.Tensor,
    ) -> torch.Tensor:
        """Choose for one more token of each sequence: places `[B, K]`, -1 for none.

        `hidden_BT` is 0 for entries the sequence has, minus infinity for others.
        """
        q_BIF, weight_BI = turn.forth(self._heads(latent_BR)), self._weights(x_BD)
        product_BIT = torch.bmm(q_BIF, key_BTF.transpose(1, 2)).relu_()
        weight_B1I = weight_BI.unsqueeze(1).to(product_BIT.dtype)
        score_BT = widened(torch.bmm(weight_B1I, product_BIT).squeeze(1)) + hidden_BT
        best = score_BT.topk(self.top_k, dim=-1)
        nothing = torch.full_like(best.indices, -1)
        return torch.where(best.values > float("-inf"), best.indices, nothing)

    def binds(self, entries: Entries) -> bool:
        """Whether any token sees more entries than it may choose."""
        return entries.most > self.top_k


@torch.no_grad()
def choose(queries: Queries, documents: Documents, entries: Entries, top_k: int) -> torch.Tensor:
    """Return the places `[N, K]` of each token's best entries, -1 where it sees fewer than K.

    K is the smaller of `top_k` and the most entries any token sees.
    """
    q_NIF, _, key_TF = queries
    total, heads, _ = q_NIF.shape
    chosen = min(top_k, entries.most)
    device = q_NIF.device
    choice_NK = torch.empty(total, chosen, dtype=torch.int64, device=device)
    rank_K = torch.arange(chosen, device=device)
    room, start = devices.tile_elements(device) // heads, 0
    while start < total:
        rows = slice(start, entries.tile_end(start, room, _STEP, 1))
        start = rows.stop
        first_Q1, end_Q1 = entries.first_N[rows, None], entries.end_N[rows, None]
        if entries.most_seen(rows.start, rows.stop) <= chosen:
            place_QK = first_Q1 + rank_K
        else:
            low, high = entries.span(rows.start, rows.stop)
            score_QE = _scores(q_NIF[rows], queries.weight_NI[rows], key_TF[low:high])
            place_E = torch.arange(low, high, device=device)
            seen_QE = (place_E >= first_Q1) & (place_E < end_Q1)
            score_QE = score_QE.masked_fill(~seen_QE, float("-inf"))
            place_QK = score_QE.topk(chosen, dim=-1).indices + low
            # Where fewer are seen than chosen, the rest of the ranking is of unseen ones.
        inside_QK = (place_QK >= first_Q1) & (place_QK < end_Q1)
        choice_NK[rows] = torch.where(inside_QK, place_QK, torch.full_like(place_QK, -1))
    return choice_NK


def _scores(q_QIF: torch.Tensor, weight_QI: torch.Tensor, key_EF: torch.Tensor) -> torch.Tensor:
    """Equation 16: heads' products, negative ones cut off, summed with the heads' weights."""
    product_QIE = (q_QIF.flatten(0, 1) @ key_EF.t()).relu_().unflatten(0, q_QIF.shape[:2])
    return torch.bmm(weight_QI.unsqueeze(1).to(product_QIE.dtype), product_QIE).squeeze(1)


def index_loss(
    queries: Queries, choice_NK: torch.Tensor | None, mass: list[torch.Tensor], cut: Plan
) -> torch.Tensor:
    """Return KL(attention || indexer) over the attended entries, in nats, a mean over tokens.

    Args:
        queries: with gradient; made from detached inputs.
        choice_NK: the entries attended to, or None for all that were seen.
        mass: what `attend` returned with the same `cut`.
        cut: the tiles.
    """
    loss: torch.Tensor = _IndexLoss.apply(*queries, choice_NK, mass, cut)
    return loss


class _IndexLoss(torch.autograd.Function):
    """Loss and gradient tile by tile in the forward pass; no score outlives its tile."""

    @staticmethod
    def forward(
        ctx: Any,
        q_NIF: torch.Tensor,
        weight_NI: torch.Tensor,
        key_TF: torch.Tensor,
        choice_NK: torch.Tensor | None,
        mass: list[torch.Tensor],
        cut: Plan,
    ) -> torch.Tensor:
        wide = torch.promote_types(q_NIF.dtype, torch.float32)
        q_NIF, weight_NI, key_TF = q_NIF.to(wide), weight_NI.to(wide), key_TF.to(wide)
        dq_NIF, dweight_NI = torch.zeros_like(q_NIF), torch.zeros_like(weight_NI)
        dkey_TF = torch.zeros_like(key_TF)
        loss = torch.zeros((), dtype=wide, device=q_NIF.device)
        count = torch.zeros_like(loss)
        with devices.full_precision(q_NIF.device):
            for tile, mass_QE in zip(cut.tiles(), mass, strict=True):
                if not mass_QE.shape[1]:
                    continue
                rows = slice(tile.start, tile.stop)
                keys = _TileKeys(key_TF, choice_NK, tile, cut)
                product_QIE = keys.products(q_NIF[rows])
                open_QIE = product_QIE.clamp_min(0)
                score_QE = torch.bmm(weight_NI[rows].unsqueeze(1), open_QIE).squeeze(1)
                tile_loss, tile_count, dscore_QE = _divergence(score_QE, mass_QE, keys.seen_QE)
                loss += tile_loss
                count += tile_count
                dweight_NI[rows] = torch.bmm(open_QIE, dscore_QE.unsqueeze(-1)).squeeze(-1)
                dproduct_QIE = weight_NI[rows].unsqueeze(-1) * dscore_QE.unsqueeze(1)
                dproduct_QIE.mul_(product_QIE > 0)
                dq_NIF[rows] = keys.add_gradients(dkey_TF, dproduct_QIE, q_NIF[rows])
        ctx.save_for_backward(dq_NIF, dweight_NI, dkey_TF, count)
        return loss / count.clamp_min(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dq_NIF, dweight_NI, dkey_TF, count = ctx.saved_tensors
        factor = grads[0] / count.clamp_min(1)
        return dq_NIF * factor, dweight_NI * factor, dkey_TF * factor, None, None, None


class _TileKeys:
    """The entries that the tokens of one tile attended to."""

    def __init__(
        self, key_TF: torch.Tensor, choice_NK: torch.Tensor | None, tile: Tile, cut: Plan
    ) -> None:
        self.tile = tile
        rows = slice(tile.start, tile.stop)
        self.place_QK: torch.Tensor | None = None
        if choice_NK is not None:
            self.seen_QE = choice_NK[rows] >= 0
            self.place_QK = choice_NK[rows].clamp_min(0)
            taken = key_TF.index_select(0, self.place_QK.flatten())
            self.key_QKF = taken.unflatten(0, self.place_QK.shape)
        else:
            assert cut.entries is not None
            place_E = torch.arange(tile.low, tile.high, device=key_TF.device)
            first_Q1, end_Q1 = cut.entries.first_N[rows, None], cut.entries.end_N[rows, None]
            self.seen_QE = (place_E >= first_Q1) & (place_E < end_Q1)
            self.key_EF = key_TF[tile.low : tile.high]

    def products(self, q_QIF: torch.Tensor) -> torch.Tensor:
        """Return `[Q, I, E]`, each head's product with each entry."""
        if self.place_QK is not None:
            return torch.bmm(q_QIF, self.key_QKF.transpose(1, 2))
        return (q_QIF.flatten(0, 1) @ self.key_EF.t()).unflatten(0, q_QIF.shape[:2])

    def add_gradients(
        self, dkey_TF: torch.Tensor, dproduct_QIE: torch.Tensor, q_QIF: torch.Tensor
    ) -> torch.Tensor:
        """Add the gradient of the keys to `dkey_TF`; return that of the queries."""
        if self.place_QK is not None:
            part = torch.bmm(dproduct_QIE.transpose(1, 2), q_QIF).flatten(0, 1)
            dkey_TF.index_add_(0, self.place_QK.flatten(), part)
            return torch.bmm(dproduct_QIE, self.key_QKF)
        flat = dproduct_QIE.flatten(0, 1)
        dkey_TF[self.tile.low : self.tile.high] += flat.t() @ q_QIF.flatten(0, 1)
        return (flat @ self.key_EF).unflatten(0, q_QIF.shape[:2])


def _divergence(
    score_QE: torch.Tensor, mass_QE: torch.Tensor, seen_QE: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the summed KL, how many tokens it is of, and its gradient in the scores.

    A token that sees no entry, or whose attention gave them nothing, counts for nothing; its row
    is neutralised before the softmax, where a row of minus infinities would become NaN.
    """
    total_Q1 = mass_QE.sum(-1, keepdim=True)
    counts_Q1 = total_Q1 > 0
    teacher_QE = mass_QE / torch.where(counts_Q1, total_Q1, torch.ones_like(total_Q1))
    score_QE = score_QE.masked_fill(~seen_QE & counts_Q1, float("-inf"))
    log_QE = F.log_softmax(widened(score_QE), dim=-1)
    finite_QE = torch.where(seen_QE, log_QE, torch.zeros_like(log_QE))
    entropy_QE = torch.xlogy(teacher_QE, teacher_QE)
    loss = (entropy_QE - teacher_QE * finite_QE).sum()
    gradient_QE = (log_QE.exp() - teacher_QE) * counts_Q1
    return loss, counts_Q1.sum(), gradient_QE
