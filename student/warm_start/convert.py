"""A dense teacher's weights in a student of the mla family: the exact map, and what is cut of it.

Read this first. `dense` reads the teacher, `calibration` what its layers see, `slots` and `latent`
make its attention latent. `convert_v4` is the same of the other family.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from student.config import MLAConfig
from student.errors import WarmStartError
from student.inherited import InheritConfig
from student.vocabulary import Vocabulary
from student.warm_start import calibration, experts, latent, slots
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
from student.warm_start.experts import Carving


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
    plan = Plan(
        rotary=rotary,
        latent=values - rotary + int(exact),
        layers=max(1, round(asked.depth * size.layers)),
        positions=asked.max_position_embeddings,
        carving=None if asked.experts is None else Carving.of(asked.experts),
    )
    require_plan(size, plan)
    return plan


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
    require_vocabulary(dense, vocabulary)
    dense, seen = pruned(dense, seen, plan.layers)
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
    state, loads = ends(dense), []
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
    student = built(config_of(dense.numbers, plan, frequencies), vocabulary, state)
    return Begun(student=student, seen=seen, loads=tuple(loads))


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
    require_positions(size, plan.positions)
    if plan.carving is not None:
        require_parts(size, plan.carving)


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
