"""What a teacher's layers read on some text: the measure in which a student is fitted to it.

Shapes: B windows, S tokens of each, N = B S tokens, D hidden size, H query heads, G key-value
heads, F values of a head, P = F / 2 pairs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from student.warm_start.dense import Dense, DenseLayer

_ROWS = 1024  # tokens whose products are summed in float32
_LITTLE = 1e-7  # attention below which it matters no more how little it is


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """What a teacher made of windows of text: its residual, float32, on the CPU.

    Attributes:
        token_BS: int64.
        before: a layer each and the end, `[N, D]`: the residual that attention reads.
        middle: a layer each, `[N, D]`: the residual that the feed-forward layer reads.
    """

    token_BS: torch.Tensor
    before: tuple[torch.Tensor, ...]
    middle: tuple[torch.Tensor, ...]

    def first(self, windows: int) -> "Seen":
        """Return the same of the first windows alone."""
        tokens = windows * self.token_BS.shape[1]
        return Seen(
            token_BS=self.token_BS[:windows],
            before=tuple(x_ND[:tokens] for x_ND in self.before),
            middle=tuple(x_ND[:tokens] for x_ND in self.middle),
        )

    def attention(self, dense: Dense, layer: int) -> torch.Tensor:
        """Return the normed input of a layer's attention, `[N, D]`, float64."""
        return normed(self.before[layer], dense.layers[layer].attn_norm_D, dense.numbers.eps)

    def network(self, dense: Dense, layer: int) -> torch.Tensor:
        """Return the normed input of a layer's feed-forward layer, `[N, D]`, float64."""
        return normed(self.middle[layer], dense.layers[layer].ffn_norm_D, dense.numbers.eps)


def normed(x_ND: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """Return rows at root mean square 1 times a weight, in float64."""
    x_ND = x_ND.double()
    return x_ND * (x_ND.square().mean(-1, keepdim=True) + eps).rsqrt() * weight_D.double()


@torch.no_grad()
def watch(model: nn.Module, token_BS: torch.Tensor) -> Seen:
    """Run a transformers model on windows of text and keep its residual.

    Args:
        model: a teacher that `dense.read` reads; run in its own dtype.
        token_BS: int64.
    """
    body: Any = model.get_submodule("model")
    layers = len(body.layers)
    before: list[list[torch.Tensor]] = [[] for _ in range(layers + 1)]
    middle: list[list[torch.Tensor]] = [[] for _ in range(layers)]
    norms = [layer.input_layernorm for layer in body.layers]
    with _listening([*norms, body.norm], before):
        with _listening([layer.post_attention_layernorm for layer in body.layers], middle):
            for window_S in token_BS.to(body.embed_tokens.weight.device):
                body(input_ids=window_S[None], use_cache=False)
    return Seen(
        token_BS=token_BS.cpu(),
        before=tuple(torch.cat(parts) for parts in before),
        middle=tuple(torch.cat(parts) for parts in middle),
    )


@contextmanager
def _listening(norms: Sequence[nn.Module], kept: list[list[torch.Tensor]]) -> Iterator[None]:
    """Keep what norms read while they run, a window at a time."""

    def listen(into: list[torch.Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, given: into.append(given[0][0].to("cpu", torch.float32, copy=True))

    hooks = [
        norm.register_forward_pre_hook(listen(into)) for norm, into in zip(norms, kept, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measure:
    """One layer's inputs, each with a 1 behind it so that biases are a column: C = D + 1.

    Attributes:
        x_NC: float64.
        weight_N: how much each token counts as a key and value, summing to 1; as a query all are
            even.
        even_CC: second moment of the inputs.
        given_CC: the same with `weight_N`.
    """

    x_NC: torch.Tensor
    weight_N: torch.Tensor
    even_CC: torch.Tensor
    given_CC: torch.Tensor


def measure(x_ND: torch.Tensor, weight_N: torch.Tensor) -> Measure:
    """Return the measure of inputs `[N, D]` of which key and value count `weight_N`."""
    x_NC = torch.cat((x_ND, torch.ones_like(x_ND[:, :1])), 1)
    return Measure(
        x_NC=x_NC,
        weight_N=weight_N,
        even_CC=product(x_NC, x_NC) / len(x_NC),
        given_CC=product(x_NC * weight_N[:, None], x_NC),
    )


def with_bias(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return a weight with its bias, or zeros, as the last column, in float64."""
    column = weight.new_zeros(weight.shape[:-1]) if bias is None else bias
    return torch.cat((weight, column.unsqueeze(-1)), -1).double()


def product(left_NE: torch.Tensor, right_NF: torch.Tensor) -> torch.Tensor:
    """Return `left^T right`, `[E, F]`, in float64: products in float32, sums of them in float64."""
    parts = zip(left_NE.split(_ROWS), right_NF.split(_ROWS), strict=True)
    total_EF = left_NE.new_zeros(left_NE.shape[1], right_NF.shape[1], dtype=torch.float64)
    for left, right in parts:
        total_EF += left.float().T @ right.float()
    return total_EF


def attended(
    dense: Dense, layer: DenseLayer, x_ND: torch.Tensor, windows: int, share: float
) -> torch.Tensor:
    """Return how much each token counts, `[N]`, float64, summing to 1.

    An error in a key or value matters where it is attended to, and few tokens, the first of a
    text before all, are attended to by most. `share` of the weight goes by the attention that a
    token is given, summed over queries and heads; the rest is even.
    """
    count = len(x_ND)
    even_N = torch.full((count,), 1 / count, dtype=torch.float64)
    if share == 0:
        return even_N
    given_BHS = _attention(dense, layer, x_ND, windows).sum(2)
    given_N = given_BHS.mean(1).flatten().double()
    return (1 - share) * even_N + share * given_N / given_N.sum()


def given_later(
    dense: Dense, layer: DenseLayer, x_ND: torch.Tensor, windows: int, least: int
) -> torch.Tensor:
    """Return the logarithm of the attention that a token is given, `[B, S, G]`, float64.

    A mean over a group's heads and over queries at least `least` tokens later; minus infinity
    where there are fewer than `least` of those.
    """
    share_BHSS = _attention(dense, layer, x_ND, windows)
    later_SS = torch.ones(share_BHSS.shape[-2:], dtype=share_BHSS.dtype).tril(-least)
    count_S = later_SS.sum(0)
    given_BHS = (share_BHSS * later_SS).sum(2) / count_S.clamp_min(1)
    given_BGS = given_BHS.unflatten(1, (len(layer.k_GFD), -1)).mean(2).double()
    log_BGS = given_BGS.clamp_min(_LITTLE).log()
    return log_BGS.masked_fill(count_S < least, float("-inf")).mT


def _attention(dense: Dense, layer: DenseLayer, x_ND: torch.Tensor, windows: int) -> torch.Tensor:
    """Return what each query gives to each key, `[B, H, S, S]`."""
    groups, width, _ = layer.k_GFD.shape
    x_BSD = x_ND.float().unflatten(0, (windows, -1))
    q_BHSF = _turned(dense, x_BSD, layer.q_HFD, layer.q_HF)
    k_BGSF = _turned(dense, x_BSD, layer.k_GFD, layer.k_GF)
    k_BHSF = k_BGSF.repeat_interleave(q_BHSF.shape[1] // groups, 1)
    score_BHSS = q_BHSF @ k_BHSF.mT * (width**-0.5 * dense.amplitude**2)
    later_SS = torch.ones(score_BHSS.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(score_BHSS.masked_fill(later_SS, float("-inf")), -1)


def _turned(
    dense: Dense, x_BSD: torch.Tensor, weight_HFD: torch.Tensor, bias_HF: torch.Tensor | None
) -> torch.Tensor:
    """Return heads turned by their positions, `[B, H, S, F]`."""
    heads_BSHF = torch.einsum("bsd,hfd->bshf", x_BSD, weight_HFD.float())
    if bias_HF is not None:
        heads_BSHF = heads_BSHF + bias_HF.float()
    first, second = heads_BSHF.transpose(1, 2).chunk(2, -1)
    place_S = torch.arange(x_BSD.shape[1], dtype=torch.float64)
    angle_SP = (place_S[:, None] * dense.frequency_P).float()
    cos, sin = angle_SP.cos(), angle_SP.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
