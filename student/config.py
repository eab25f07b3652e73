"""What a student is made of, and how large that is.

Family `mla`: multi-head latent attention and a mixture of experts with bias routing, as in the
DeepSeek-V3 report (arXiv 2412.19437, sections 2.1.1 and 2.1.2). Sizes are computed from the
formulas there and tested against the published 671B/37B parameters and 70,272 cache bytes a token.
"""

from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from student.errors import ConfigError

Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class StudentConfig:
    """One student. Widths are in values, ranks in latent dimensions, counts in pieces."""

    family: Literal["mla"] = "mla"
    hidden_size: Positive = 256
    num_layers: Positive = 4
    num_heads: Positive = 4
    q_lora_rank: Positive = 128
    kv_lora_rank: Positive = 64
    qk_rope_head_dim: Positive = 32
    qk_nope_head_dim: Positive = 32
    v_head_dim: Positive = 64
    num_dense_layers: Natural = 1
    intermediate_size: Positive = 768
    num_routed_experts: Annotated[int, Field(ge=2)] = 8
    num_shared_experts: Natural = 1
    num_experts_per_token: Positive = 2
    moe_intermediate_size: Positive = 128
    routed_scaling_factor: Annotated[float, Field(gt=0)] = 1.0
    # 0.001 in the report, over a million steps; a run of a hundred steps needs a faster one.
    bias_update_speed: Annotated[float, Field(ge=0)] = 0.03
    max_position_embeddings: Positive = 2048
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ConfigError: names the field and the rule it breaks.
        """
        if self.num_experts_per_token > self.num_routed_experts:
            raise ConfigError(
                f"num_experts_per_token is {self.num_experts_per_token}, more than "
                f"num_routed_experts ({self.num_routed_experts}); choose at most that many."
            )
        if self.num_dense_layers > self.num_layers:
            raise ConfigError(
                f"num_dense_layers is {self.num_dense_layers}, more than num_layers "
                f"({self.num_layers}); choose at most that many."
            )
        if self.qk_rope_head_dim % 2:
            raise ConfigError(
                f"qk_rope_head_dim is {self.qk_rope_head_dim}; rotary dimensions come in pairs, "
                "so make it even."
            )


def presets() -> dict[str, StudentConfig]:
    """Return the named students: `tiny` for tests, `quickstart` for the demo."""
    quickstart = StudentConfig()
    tiny = replace(
        quickstart,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        q_lora_rank=16,
        kv_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
        intermediate_size=64,
        num_routed_experts=4,
        moe_intermediate_size=16,
        max_position_embeddings=256,
    )
    return {"tiny": tiny, "quickstart": quickstart}


class Parameters(NamedTuple):
    """How many parameters a student has, and how many of them work on one token."""

    total: int
    active: int


def count_parameters(config: StudentConfig, vocab_size: int) -> Parameters:
    """Count weights, norms and router included, routing bias (a buffer) and MTP excluded.

    Of the input embedding one row works on a token; as the output head, the whole table does.
    """
    d = config.hidden_size
    expert = 3 * d * config.moe_intermediate_size
    per_token = config.num_experts_per_token + config.num_shared_experts
    in_layer = config.num_routed_experts + config.num_shared_experts
    router = d * config.num_routed_experts
    num_moe = config.num_layers - config.num_dense_layers
    shared = config.num_layers * (_attention_parameters(config) + 2 * d) + d
    shared += config.num_dense_layers * 3 * d * config.intermediate_size
    table = vocab_size * d
    tied = config.tie_word_embeddings
    return Parameters(
        total=shared + num_moe * (in_layer * expert + router) + (table if tied else 2 * table),
        active=shared + num_moe * (per_token * expert + router) + (table if tied else table + d),
    )


def _attention_parameters(config: StudentConfig) -> int:
    """Count one layer's attention: W_DQ, W_UQ, W_DKV with W_KR, W_UK with W_UV, W_O, two norms."""
    d, heads = config.hidden_size, config.num_heads
    q_head = config.qk_nope_head_dim + config.qk_rope_head_dim
    kv_head = config.qk_nope_head_dim + config.v_head_dim
    return (
        d * config.q_lora_rank
        + config.q_lora_rank * heads * q_head
        + d * (config.kv_lora_rank + config.qk_rope_head_dim)
        + config.kv_lora_rank * heads * kv_head
        + heads * config.v_head_dim * d
        + config.q_lora_rank
        + config.kv_lora_rank
    )


def kv_cache_bytes_per_token(config: StudentConfig, bytes_per_value: int = 2) -> int:
    """Return the cache of one token: the latent and the shared rope key of every layer."""
    values = config.kv_lora_rank + config.qk_rope_head_dim
    return config.num_layers * values * bytes_per_value
