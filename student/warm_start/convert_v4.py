"""A dense teacher's weights in a student of the v4 family: the exact map, and what is cut of it.

`shared_entry` gives all heads one key and value, `entries` has what stands in for tokens beyond the
window, and `residual` makes the one residual several streams.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from student.config import LayerType, V4Config
from student.errors import WarmStartError
from student.inherited import InheritV4Config
from student.vocabulary import Vocabulary
from student.warm_start import calibration, entries, experts, residual, shared_entry
from student.warm_start.begun import (
    Begun,
    built,
    ends,
    pruned,
    require_parts,
    require_positions,
    require_vocabulary,
)
from student.warm_start.calibration import Seen
from student.warm_start.dense import Dense, Numbers
from student.warm_start.entries import Pooling
from student.warm_start.experts import Carving

_LEAST_PAIRS, _RESOLVED = 8, 32  # rotary pairs of a mask, and tokens for which each is one
LIMIT = 6e4  # of SwiGLU's factors: what clamps nothing, and is a number in every dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class V4Plan:
    """How a teacher is to become a student of the v4 family.

    Attributes:
        carving: of feed-forward layers; v4 has no dense ones, and one shared part.
        head_dim: of queries and the shared entry; None for `shared_entry.exact_width`.
        sliding_window: tokens attended to; None for all of the context.
        entries: in every layer, of all that came before; None leaves the window alone.
        noise: of hyper-connections, which parts the streams; see `residual.plain`.
        layers: that are kept; None for all.
        positions: tokens of context; None for the teacher's.
    """

    carving: Carving
    head_dim: int | None = None
    sliding_window: int | None = None
    entries: Pooling | None = None
    noise: float = 0.0
    layers: int | None = None
    positions: int | None = None


def v4_plan_of(size: Numbers, asked: InheritV4Config) -> V4Plan:
    """Return the plan that an `init: teacher` section of the v4 family asks for.

    The mask of entries is fitted for the whole of the student's context.

    Raises:
        WarmStartError: the teacher cannot be cut so.
    """
    context, pooling = asked.max_position_embeddings, None
    if asked.entries is not None and asked.sliding_window is not None:
        tokens, gate = asked.entries.tokens, asked.entries.gate
        # When so long an entry shows, the first of its tokens has left the window.
        is_apart = gate == "first" and tokens >= asked.sliding_window
        pairs = 0 if is_apart else max(_LEAST_PAIRS, round(context / _RESOLVED))
        pooling = Pooling(tokens=tokens, gate=gate, pairs=pairs, reach=context)
    plan = V4Plan(
        carving=Carving.of(asked.experts),
        head_dim=asked.head_dim,
        sliding_window=asked.sliding_window,
        entries=pooling,
        layers=max(1, round(asked.depth * size.layers)),
        positions=context,
    )
    require_v4_plan(size, plan)
    return plan


@torch.no_grad()
def inherit_v4(
    dense: Dense,
    seen: Seen,
    plan: V4Plan,
    vocabulary: Vocabulary,
    *,
    tell: Callable[[int, int], None] = lambda done, layers: None,
) -> Begun:
    """Return a student of the v4 family with the teacher's weights.

    Where a window holds the whole text, all experts are asked and heads are as wide as
    `shared_entry.exact_width` it is its teacher. Indexer, hash tables and prediction layers have
    nothing to inherit, so there are none. Compressors are solved for, where the plan has entries;
    those are hidden within the window as well as a few rotary pairs can, so the student is its
    teacher less exactly.

    Args:
        dense: the teacher.
        seen: what its layers read on some text.
        plan: how it is to be cut.
        vocabulary: the teacher's.
        tell: told after each layer how many are made, of how many.

    Raises:
        WarmStartError: the plan does not fit the teacher, its attention has biases, or the
            vocabulary is another.
    """
    require_v4_plan(dense.numbers, plan)
    require_vocabulary(dense, vocabulary)
    if plan.entries is not None and plan.entries.tokens > seen.token_BS.shape[1]:
        raise WarmStartError(
            f"entries: tokens is {plan.entries.tokens}, more than the {seen.token_BS.shape[1]} of "
            "a window of the text to fit on; give longer windows."
        )
    dense, seen = pruned(dense, seen, plan.layers)
    size = dense.numbers
    config = v4_config_of(size, plan, dense.frequency_P)
    shape = shared_entry.Shape(
        head_dim=config.head_dim, eps=config.rms_norm_eps, amplitude=dense.amplitude
    )
    one_D = torch.ones(size.hidden_size)
    state, loads, fluctuations = ends(dense) | residual.plain(config, plan.noise), [], []
    for number, layer in enumerate(dense.layers):
        at = f"layers.{number}."
        if plan.entries is None:
            unit_ND = calibration.normed(seen.before[number], one_D, size.eps)
            shared = shared_entry.convert(layer, unit_ND, shape)
        else:
            shared = entries.convert_with_entries(
                dense, number, seen, shape, plan.entries, config.sliding_window
            )
        fluctuations.append(shared.fluctuation)
        carved = experts.carve(layer, seen.network(dense, number), plan.carving, "v4")
        loads.append(carved.load_E)
        state |= {f"{at}attn.{name}": weight for name, weight in shared.weights.items()}
        state |= {f"{at}ffn.{name}": weight for name, weight in carved.weights.items()}
        # The weight of the norm before attention is in attention's matrices.
        state |= {f"{at}attn_norm.weight": one_D, f"{at}ffn_norm.weight": layer.ffn_norm_D}
        tell(number + 1, len(dense.layers))
    return Begun(
        student=built(config, vocabulary, state),
        seen=seen,
        loads=tuple(loads),
        fluctuations=tuple(fluctuations),
    )


def require_v4_plan(size: Numbers, plan: V4Plan) -> None:
    """Refuse a plan that no student of this teacher can have.

    Raises:
        WarmStartError: names what is too wide or too narrow.
    """
    if size.biased:
        raise WarmStartError(shared_entry.BIASED)
    more = 0 if plan.entries is None else plan.entries.features
    least, most = size.cache_values + 1 + more, shared_entry.exact_width(size) + more
    if plan.head_dim is not None and not least <= plan.head_dim <= most:
        raise WarmStartError(
            f"head_dim is {plan.head_dim}; it must be from {least}, the teacher's keys and values "
            f"and a pad{', and what entries need for so long a context' if more else ''}, to "
            f"{most}, where the map is exact."
        )
    require_positions(size, plan.positions)
    context = plan.positions or size.max_positions
    if plan.sliding_window is not None and not 1 <= plan.sliding_window <= context:
        raise WarmStartError(
            f"sliding_window is {plan.sliding_window}; it must be from 1 to the {context} tokens "
            "of context."
        )
    if plan.entries is not None:
        _require_entries(plan.entries, context)
    if plan.carving.shared != 1:
        raise WarmStartError(
            f"experts: shared is {plan.carving.shared}; v4 has one shared expert, so make it 1."
        )
    require_parts(size, plan.carving)


def _require_entries(pooling: Pooling, context: int) -> None:
    if not 2 <= pooling.tokens <= context:
        raise WarmStartError(
            f"entries: tokens is {pooling.tokens}; an entry stands for 2 to the {context} tokens "
            "of context."
        )
    if pooling.pairs < 0 or pooling.reach < 1:
        raise WarmStartError(
            f"entries: pairs is {pooling.pairs} and reach {pooling.reach}; make pairs 0 or more "
            "and reach the tokens of the longest text."
        )


def v4_config_of(size: Numbers, plan: V4Plan, frequency_P: torch.Tensor | None) -> V4Config:
    """Return what a v4 student of this teacher and plan is made of.

    Args:
        size: the teacher's.
        plan: how it is cut.
        frequency_P: radians a token of a teacher's head; None where sizes alone are wanted.
    """
    how, context = plan.carving, plan.positions or size.max_positions
    kind: LayerType = "swa" if plan.entries is None else "hca"
    pooling = plan.entries or Pooling(tokens=128, pairs=0)  # of which no layer has any
    more = 0 if plan.entries is None else pooling.features
    frequencies = None
    if frequency_P is not None:
        # The mask's, and then group after group, as keys stand in the entry; as turned by, in
        # float32.
        frequencies = pooling.frequencies + tuple(frequency_P.float().tolist()) * size.kv_heads
    return V4Config(
        layer_types=(kind,) * (plan.layers or size.layers),
        hidden_size=size.hidden_size,
        num_heads=size.heads,
        head_dim=plan.head_dim or shared_entry.exact_width(size) + more,
        qk_rope_head_dim=size.cache_values // 2 + 2 * pooling.pairs,
        q_lora_rank=size.hidden_size,
        o_groups=size.heads,
        o_lora_rank=size.head_dim,
        sliding_window=plan.sliding_window or context,
        hca_compression=pooling.tokens,
        num_hash_layers=0,
        num_routed_experts=how.routed,
        num_experts_per_token=how.active,
        moe_intermediate_size=size.intermediate_size // (how.shared + how.routed),
        routed_scaling_factor=float(how.active),
        swiglu_limit=LIMIT,
        num_mtp_layers=0,
        max_position_embeddings=context,
        rope_theta=size.rope_theta,
        compress_rope_theta=size.rope_theta,
        rope_frequencies=frequencies,
        rms_norm_eps=size.eps,
        tie_word_embeddings=size.tied,
    )
