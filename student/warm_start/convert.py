"""A dense teacher's weights in a student of either family: the exact map, and what is cut of it.

Read this first. `dense` reads the teacher, `calibration` what its layers see. For mla, `slots` and
`latent` make its attention latent; for v4, `shared_entry` gives all heads one key and value and
`residual` makes its one residual several streams.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from student.config import InheritConfig, LayerType, MLAConfig, V4Config
from student.errors import WarmStartError
from student.model import Student
from student.vocabulary import Vocabulary
from student.warm_start import (
    calibration,
    depth,
    entries,
    experts,
    latent,
    residual,
    shared_entry,
    slots,
)
from student.warm_start.calibration import Seen
from student.warm_start.dense import Dense, Numbers
from student.warm_start.entries import Pooling
from student.warm_start.experts import Carving

SPREAD = 0.02  # of routers' logits: wide enough to be ordered in any dtype, nearly even weights
LIMIT = 6e4  # of SwiGLU's factors in v4: what clamps nothing, and is a number in every dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a teacher is to be cut.

    Attributes:
        rotary: values of the shared rotary key, two a slot.
        latent: values of the latent, of which one is constant.
        value_weight: of errors in values against errors in keys.
        attended: share of a token's weight that goes by the attention it is given.
        by: how slots are chosen.
        constant: whether a latent value keeps the norm linear.
        carving: of feed-forward layers into experts; None leaves them dense.
        layers: that are kept; None for all.
        positions: tokens of context; None for the teacher's.

    What was cut is best fitted again afterwards, by `compensation.compensate`.
    """

    rotary: int
    latent: int
    value_weight: float = 0.3
    attended: float = 0.9
    by: slots.Choice = "sensitivity"
    constant: bool = True
    carving: Carving | None = None
    layers: int | None = None
    positions: int | None = None


def plan_of(size: Numbers, asked: InheritConfig) -> Plan:
    """Return the plan that an `init: teacher` section asks for.

    A third of the cache is the rotary key. At the full cache, of which the constant takes one value
    more, the map is exact.

    Raises:
        WarmStartError: the teacher cannot be cut so.
    """
    exact = asked.cache == 1
    values = round(asked.cache * size.cache_values)
    rotary = size.cache_values // 2 if exact else 2 * max(1, round(values / 6))
    carving = None
    if (how := asked.experts) is not None:
        carving = Carving(shared=how.shared, routed=how.routed, active=how.active, spread=SPREAD)
    plan = Plan(
        rotary=rotary,
        latent=values - rotary + int(exact),
        layers=max(1, round(asked.depth * size.layers)),
        positions=asked.max_position_embeddings,
        carving=carving,
    )
    require_plan(size, plan)
    return plan


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Begun:
    """A student that begins as its teacher.

    Attributes:
        student: on the CPU, in float32.
        seen: what its layers should make of the text, those that were dropped left out.
        loads: a mixture layer each, `[E]`, load of its experts relative to an even share.
        fluctuations: a layer each in v4, what pads leave to the norms; see `shared_entry.Shared`.
    """

    student: Student
    seen: Seen
    loads: tuple[torch.Tensor, ...]
    fluctuations: tuple[float, ...] = ()


@torch.no_grad()
def inherit(
    dense: Dense,
    seen: Seen,
    plan: Plan,
    vocabulary: Vocabulary,
    *,
    tell: Callable[[int, int], None] = lambda done, layers: None,
) -> Begun:
    """Return a student with the teacher's weights.

    Args:
        dense: the teacher.
        seen: what its layers read on some text.
        plan: how it is to be cut.
        vocabulary: the teacher's.
        tell: told after each layer how many are made, of how many.

    Raises:
        WarmStartError: the plan is wider than the teacher, or the vocabulary another.
    """
    require_plan(dense.numbers, plan)
    _require_vocabulary(dense, vocabulary)
    dense, seen = _pruned(dense, seen, plan.layers)
    weights, mixings = [], []
    for number, layer in enumerate(dense.layers):
        x_ND = seen.attention(dense, number)
        weights.append(calibration.attended(dense, layer, x_ND, len(seen.token_BS), plan.attended))
        mixings.append(slots.mixing(layer, calibration.measure(x_ND, weights[-1])))
    chosen = slots.choose(dense, mixings, plan.rotary // 2, plan.by)
    shape = latent.Shape(
        latent=plan.latent,
        value_weight=plan.value_weight,
        amplitude=dense.amplitude,
        constant=plan.constant,
    )
    # As they are turned by, in float32.
    frequencies = tuple(float(dense.frequency_P[slot.pair].float()) for slot in chosen)
    state, loads = _ends(dense), []
    for number, (layer, mixed, weight_N) in enumerate(
        zip(dense.layers, mixings, weights, strict=True)
    ):
        at = f"layers.{number}."
        measure = calibration.measure(seen.attention(dense, number), weight_N)
        attn = latent.convert(layer, mixed, chosen, measure, shape)
        state |= {f"{at}attn.{name}": weight for name, weight in attn.items()}
        state |= {
            f"{at}attn_norm.weight": layer.attn_norm_D,
            f"{at}ffn_norm.weight": layer.ffn_norm_D,
        }
        if plan.carving is None:
            ffn = {"gate": layer.gate_ID, "up": layer.up_ID, "down": layer.down_DI}
            state |= {f"{at}ffn.{name}.weight": weight for name, weight in ffn.items()}
        else:
            carved = experts.carve(layer, seen.network(dense, number), plan.carving)
            loads.append(carved.load_E)
            state |= {f"{at}ffn.{name}": weight for name, weight in carved.weights.items()}
        tell(number + 1, len(dense.layers))
    student = _student(config_of(dense.numbers, plan, frequencies), vocabulary, state)
    return Begun(student=student, seen=seen, loads=tuple(loads))


def _require_vocabulary(dense: Dense, vocabulary: Vocabulary) -> None:
    if vocabulary.size != len(dense.embed_VD):
        raise WarmStartError(
            f"the student has {vocabulary.size:,} tokens and the teacher {len(dense.embed_VD):,}; "
            "weights can be inherited with the teacher's own vocabulary alone."
        )


def _pruned(dense: Dense, seen: Seen, layers: int | None) -> tuple[Dense, Seen]:
    if layers is None or layers >= dense.numbers.layers:
        return dense, seen
    return depth.prune(dense, seen, layers)


def _ends(dense: Dense) -> dict[str, torch.Tensor]:
    """Return what stands before and after all layers, by the names of `student.model.Student`."""
    state = {"embed.weight": dense.embed_VD, "norm.weight": dense.norm_D}
    return state if dense.head_VD is None else state | {"head.weight": dense.head_VD}


def _student(
    config: MLAConfig | V4Config, vocabulary: Vocabulary, state: dict[str, torch.Tensor]
) -> Student:
    student = Student.build(config, vocabulary)
    student.load_state_dict({name: weight.float() for name, weight in state.items()})
    return student.eval()


def require_plan(size: Numbers, plan: Plan) -> None:
    """Refuse a plan that no student of this teacher can have.

    Raises:
        WarmStartError: names what is too wide or too narrow.
    """
    most = size.kv_heads * size.head_dim
    if plan.rotary < 2 or plan.rotary % 2 or plan.rotary > most:
        raise WarmStartError(
            f"rotary is {plan.rotary}; it must be even and from 2 to {most}, the values of the "
            "teacher's keys."
        )
    widest = size.cache_values + 1 - plan.rotary
    if not 2 <= plan.latent <= widest:
        raise WarmStartError(
            f"latent is {plan.latent}; beside {plan.rotary} rotary values it must be from 2 to "
            f"{widest}, what is left of the teacher's keys and values and one constant."
        )
    _require_positions(size, plan.positions)
    if plan.carving is not None:
        _require_parts(size, plan.carving)


def _require_positions(size: Numbers, positions: int | None) -> None:
    if positions is not None and positions > size.max_positions:
        raise WarmStartError(
            f"max_position_embeddings is {positions}, more than the teacher's "
            f"({size.max_positions}); choose at most that."
        )


def _require_parts(size: Numbers, how: Carving) -> None:
    parts, inner = how.shared + how.routed, size.intermediate_size
    if inner % parts:
        raise WarmStartError(
            f"experts: {how.shared} shared and {how.routed} routed are {parts} parts, which the "
            f"teacher's {inner} inner values do not divide into; choose a divisor."
        )


def config_of(size: Numbers, plan: Plan, frequencies: tuple[float, ...] | None) -> MLAConfig:
    """Return what a student of this teacher and plan is made of."""
    mixture: dict[str, Any] = {"num_dense_layers": plan.layers or size.layers}
    if (how := plan.carving) is not None:
        mixture = {
            "num_dense_layers": 0,
            "num_routed_experts": how.routed,
            "num_shared_experts": how.shared,
            "num_experts_per_token": how.active,
            "moe_intermediate_size": size.intermediate_size // (how.shared + how.routed),
            "routed_scaling_factor": float(how.active),
        }
    return MLAConfig(
        hidden_size=size.hidden_size,
        num_layers=plan.layers or size.layers,
        num_heads=size.heads,
        q_lora_rank=size.hidden_size + 1 if size.biased else None,
        kv_lora_rank=plan.latent,
        qk_rope_head_dim=plan.rotary,
        qk_nope_head_dim=size.head_dim,
        v_head_dim=size.head_dim,
        intermediate_size=size.intermediate_size,
        max_position_embeddings=plan.positions or size.max_positions,
        rope_theta=size.rope_theta,
        rope_frequencies=frequencies,
        attention_bias=True,
        rms_norm_eps=size.eps,
        tie_word_embeddings=size.tied,
        **mixture,
    )


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
    _require_vocabulary(dense, vocabulary)
    if plan.entries is not None and plan.entries.tokens > seen.token_BS.shape[1]:
        raise WarmStartError(
            f"entries: tokens is {plan.entries.tokens}, more than the {seen.token_BS.shape[1]} of "
            "a window of the text to fit on; give longer windows."
        )
    dense, seen = _pruned(dense, seen, plan.layers)
    size = dense.numbers
    config = v4_config_of(size, plan, dense.frequency_P)
    shape = shared_entry.Shape(
        head_dim=config.head_dim, eps=config.rms_norm_eps, amplitude=dense.amplitude
    )
    one_D = torch.ones(size.hidden_size)
    state, loads, fluctuations = _ends(dense) | residual.plain(config, plan.noise), [], []
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
        student=_student(config, vocabulary, state),
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
            f"and a pad{', and what entries need' if more else ''}, to {most}, where the map is "
            "exact."
        )
    _require_positions(size, plan.positions)
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
    _require_parts(size, plan.carving)


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


def v4_config_of(size: Numbers, plan: V4Plan, frequency_P: torch.Tensor) -> V4Config:
    """Return what a v4 student of this teacher and plan is made of.

    Args:
        size: the teacher's.
        plan: how it is cut.
        frequency_P: radians a token of a teacher's head.
    """
    how, context = plan.carving, plan.positions or size.max_positions
    kind: LayerType = "swa" if plan.entries is None else "hca"
    pooling = plan.entries or Pooling(tokens=128, pairs=0)  # of which no layer has any
    more = 0 if plan.entries is None else pooling.features
    # The mask's, and then group after group, as keys stand in the entry; as turned by, in float32.
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
