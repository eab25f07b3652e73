"""What a student is made of: either of two families, or a teacher's weights.

`mla`: multi-head latent attention and a mixture of experts with bias routing, as in the
DeepSeek-V3 report (arXiv 2412.19437, section 2). `v4`: shared-key attention over a sliding window
and compressed entries, hyper-connections and hash-routed first layers, as in the DeepSeek-V4
report (arXiv 2606.19348, section 2). Every number of the released configurations has a field here.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt
from pydantic import Discriminator, Tag

from student.bounds import (
    FORBID,
    Base,
    Natural,
    Positive,
    PositiveFloat,
    Span,
    check_fields,
    check_number,
)
from student.errors import ConfigError
from student.inherited import InheritConfig, Inheriting, InheritV4Config

LayerType = Literal["swa", "csa", "hca"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Yarn:
    """YaRN's stretching of rotary frequencies (Peng et al., arXiv 2309.00071).

    Attributes:
        factor: how many times longer the context becomes.
        original_positions: context length trained before stretching, in tokens.
        beta_fast: turns over the original context above which a frequency is left alone.
        beta_slow: turns below which a frequency is divided by `factor`.
        mscale_all_dim: DeepSeek-V3's correction of the softmax scale; 0 turns it off, as in V4.
    """

    __pydantic_config__ = FORBID

    factor: Annotated[float, Ge(1)] = 16.0
    original_positions: Positive = 65_536
    beta_fast: PositiveFloat = 32.0
    beta_slow: PositiveFloat = 1.0
    mscale_all_dim: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        """Refuse a ramp that runs backwards.

        Raises:
            ConfigError: names the field and the rule it breaks.
        """
        check_fields(self)
        if self.beta_fast <= self.beta_slow:
            raise ConfigError(
                f"beta_fast is {self.beta_fast}; it must be above beta_slow ({self.beta_slow}), "
                "for it marks the faster frequencies."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MLAConfig:
    """A student of the `mla` family. Widths are in values, ranks in latent dimensions."""

    __pydantic_config__ = FORBID

    family: Literal["mla"] = "mla"
    hidden_size: Positive = 256
    num_layers: Positive = 4
    num_heads: Positive = 4
    q_lora_rank: Positive | None = 128  # None: queries are not compressed
    kv_lora_rank: Positive = 64
    qk_rope_head_dim: Positive = 32
    qk_nope_head_dim: Positive = 32
    v_head_dim: Positive = 64
    num_dense_layers: Natural = 1
    intermediate_size: Positive = 768
    num_routed_experts: Annotated[int, Ge(2)] = 8
    num_shared_experts: Positive = 1
    num_experts_per_token: Positive = 2
    num_expert_groups: Positive = 1
    num_groups_per_token: Positive = 1
    moe_intermediate_size: Positive = 128
    routed_scaling_factor: PositiveFloat = 1.0
    num_mtp_layers: Natural = 0
    max_position_embeddings: Positive = 2048
    rope_theta: Base = 10_000.0
    yarn: Yarn | None = None
    rope_frequencies: tuple[float, ...] | None = None  # radians a token; a pair each
    attention_bias: bool = False  # of what reads and writes the residual; not of a plain query
    rms_norm_eps: PositiveFloat = 1e-6
    initializer_range: PositiveFloat = 0.02  # of most matrices; see student.beginning.deviation
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ConfigError: names the field and the rule it breaks.
        """
        check_fields(self)
        _check_rotary(self.qk_rope_head_dim)
        _check_frequencies(self.rope_frequencies, self.qk_rope_head_dim, self.yarn)
        _check_top_k(self.num_experts_per_token, self.num_routed_experts)
        if self.num_dense_layers > self.num_layers:
            raise ConfigError(
                f"num_dense_layers is {self.num_dense_layers}, more than num_layers "
                f"({self.num_layers}); choose at most that many."
            )
        if self.num_routed_experts % self.num_expert_groups:
            raise ConfigError(
                f"num_routed_experts is {self.num_routed_experts}; it must divide evenly into "
                f"num_expert_groups ({self.num_expert_groups})."
            )
        if self.num_groups_per_token > self.num_expert_groups:
            raise ConfigError(
                f"num_groups_per_token is {self.num_groups_per_token}, more than "
                f"num_expert_groups ({self.num_expert_groups}); choose at most that many."
            )
        within = self.num_routed_experts // self.num_expert_groups
        if self.num_expert_groups > 1 and within < 2:
            raise ConfigError(
                f"num_expert_groups is {self.num_expert_groups}; a group needs at least 2 of the "
                f"{self.num_routed_experts} routed experts, for its two best are its score."
            )
        if self.num_experts_per_token > self.num_groups_per_token * within:
            raise ConfigError(
                f"num_experts_per_token is {self.num_experts_per_token}, but "
                f"num_groups_per_token ({self.num_groups_per_token}) groups hold only "
                f"{self.num_groups_per_token * within} experts."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class V4Config:
    """A student of the `v4` family. Widths are in values, compressions in tokens an entry.

    `layer_types` names the attention of each layer: `swa`, the sliding window alone; `csa`, the
    window and the entries an indexer chooses; `hca`, the window and all of far fewer entries.
    """

    __pydantic_config__ = FORBID

    family: Literal["v4"] = "v4"
    layer_types: tuple[LayerType, ...] = ("swa", "csa", "hca", "csa")
    hidden_size: Positive = 256
    num_heads: Positive = 4
    head_dim: Positive = 64
    qk_rope_head_dim: Positive = 16
    q_lora_rank: Positive = 128
    o_groups: Positive = 2
    o_lora_rank: Positive = 64
    sliding_window: Positive = 128
    csa_compression: Span = 4
    hca_compression: Span = 128
    index_num_heads: Positive = 4
    index_head_dim: Positive = 32
    index_top_k: Positive = 64
    num_hash_layers: Natural = 1
    num_routed_experts: Annotated[int, Ge(2)] = 8
    num_experts_per_token: Positive = 2
    moe_intermediate_size: Positive = 128
    routed_scaling_factor: PositiveFloat = 1.5
    swiglu_limit: PositiveFloat = 10.0
    hc_streams: Positive = 4
    hc_sinkhorn_iterations: Positive = 20
    hc_eps: PositiveFloat = 1e-6
    hc_initial_gate: Annotated[float, Ge(0)] = 0.01
    num_mtp_layers: Natural = 1
    max_position_embeddings: Positive = 2048
    rope_theta: Base = 10_000.0
    compress_rope_theta: Base = 160_000.0
    yarn: Yarn | None = None
    rope_frequencies: tuple[float, ...] | None = None  # as in mla; of tokens and entries alike
    rms_norm_eps: PositiveFloat = 1e-6
    initializer_range: PositiveFloat = 0.02  # of most matrices; see student.beginning.deviation
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ConfigError: names the field and the rule it breaks.
        """
        check_fields(self)
        _check_rotary(self.qk_rope_head_dim)
        _check_frequencies(self.rope_frequencies, self.qk_rope_head_dim, self.yarn)
        _check_top_k(self.num_experts_per_token, self.num_routed_experts)
        known = get_args(LayerType)
        if not self.layer_types:
            raise ConfigError("layer_types is empty; name the attention of each layer.")
        for layer, kind in enumerate(self.layer_types):
            if kind not in known:
                raise ConfigError(
                    f"layer_types[{layer}] is {kind!r}; it must be one of {', '.join(known)}."
                )
        self._check_heads()
        if self.yarn is not None and self.yarn.mscale_all_dim:
            raise ConfigError(
                f"yarn.mscale_all_dim is {self.yarn.mscale_all_dim}; it must be 0, for v4 does not "
                "correct the softmax scale."
            )
        self._check_windows()
        if self.num_hash_layers > self.num_layers:
            raise ConfigError(
                f"num_hash_layers is {self.num_hash_layers}, more than the {self.num_layers} "
                "layers of layer_types; choose at most that many."
            )

    def _check_heads(self) -> None:
        if self.qk_rope_head_dim > self.head_dim:
            raise ConfigError(
                f"qk_rope_head_dim is {self.qk_rope_head_dim}, more than head_dim "
                f"({self.head_dim}), of which it is the rotated part."
            )
        if "csa" in self.layer_types and self.qk_rope_head_dim > self.index_head_dim:
            raise ConfigError(
                f"index_head_dim is {self.index_head_dim}, less than qk_rope_head_dim "
                f"({self.qk_rope_head_dim}), which is rotated inside it."
            )
        if self.num_heads % self.o_groups:
            raise ConfigError(
                f"num_heads is {self.num_heads}; it must divide evenly into o_groups "
                f"({self.o_groups})."
            )

    def _check_windows(self) -> None:
        windows = {"sliding_window": self.sliding_window}
        for kind in ("csa", "hca"):
            if kind in self.layer_types:
                windows[f"{kind}_compression"] = self.compression(kind)
        for name, tokens in windows.items():
            if tokens > self.max_position_embeddings:
                raise ConfigError(
                    f"{name} is {tokens}, more than max_position_embeddings "
                    f"({self.max_position_embeddings}); choose at most that many tokens."
                )

    @property
    def num_layers(self) -> int:
        """How many layers there are, prediction layers not counted."""
        return len(self.layer_types)

    def compression(self, kind: LayerType) -> int:
        """Return the tokens an entry stands for in a layer of this kind; 0 without entries."""
        return {"swa": 0, "csa": self.csa_compression, "hca": self.hca_compression}[kind]


def _check_rotary(width: int) -> None:
    if width % 2:
        raise ConfigError(
            f"qk_rope_head_dim is {width}; rotary dimensions come in pairs, so make it even."
        )


def _check_frequencies(listed: tuple[float, ...] | None, width: int, yarn: Yarn | None) -> None:
    if listed is None:
        return
    for frequency in listed:
        check_number("rope_frequencies", frequency, float, Gt(0))
    pairs = width // 2
    if len(listed) != pairs:
        raise ConfigError(
            f"rope_frequencies has {len(listed)} numbers; qk_rope_head_dim ({width}) has {pairs} "
            "pairs, so give one for each."
        )
    if yarn is not None:
        raise ConfigError("rope_frequencies and yarn are both set; keep one of them.")


def _check_top_k(chosen: int, experts: int) -> None:
    if chosen > experts:
        raise ConfigError(
            f"num_experts_per_token is {chosen}, more than num_routed_experts ({experts}); "
            "choose at most that many."
        )


def _family(value: Any) -> str:
    """Return the family of a mapping or a config; `mla` where it is not said.

    Of a student that begins with a teacher's weights, it comes after `teacher's`.
    """
    if isinstance(value, Inheriting):
        return f"teacher's {value.family}"
    if isinstance(value, MLAConfig | V4Config):
        return value.family
    if not isinstance(value, dict):
        return "mla"
    family = str(value.get("family", "mla"))
    return f"teacher's {family}" if "init" in value else family


StudentConfig = Annotated[
    Annotated[MLAConfig, Tag("mla")]
    | Annotated[V4Config, Tag("v4")]
    | Annotated[InheritConfig, Tag("teacher's mla")]
    | Annotated[InheritV4Config, Tag("teacher's v4")],
    Discriminator(
        _family,
        custom_error_type="family",
        custom_error_message="family must be mla or v4",
    ),
]
"""Either family, told apart by the key `family`; or, with a key `init`, a teacher's weights."""
