"""What a student is made of: two families, the rules of their numbers, and a teacher's weights.

`mla`: multi-head latent attention and a mixture of experts with bias routing, as in the
DeepSeek-V3 report (arXiv 2412.19437, section 2). `v4`: shared-key attention over a sliding window
and compressed entries, hyper-connections and hash-routed first layers, as in the DeepSeek-V4
report (arXiv 2606.19348, section 2). Every number of the released configurations has a field here.
"""

import sys
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt
from pydantic import ConfigDict, Discriminator, Tag

from student.errors import ConfigError

Positive = Annotated[int, Gt(0)]
Natural = Annotated[int, Ge(0)]
Span = Annotated[int, Ge(2)]
PositiveFloat = Annotated[float, Gt(0)]
Base = Annotated[float, Gt(1)]
LayerType = Literal["swa", "csa", "hca"]

LARGEST = 2**63 - 1  # what a tensor's size may be

_FORBID = ConfigDict(extra="forbid")


def _check_fields(config: Any) -> None:
    """Hold each field to the type and bounds its annotation states, whoever made the object."""
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if value is None and NoneType in options:
            continue
        (hint,) = (option for option in options if option is not NoneType)
        _check_value(field.name, value, hint)


def _check_value(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Annotated:
        _check_number(name, value, *get_args(hint))
    elif get_origin(hint) is Literal:
        if value not in get_args(hint):
            known = " or ".join(get_args(hint))
            raise ConfigError(f"{name} is {value!r}; it must be {known}.")
    elif not isinstance(value, kind := get_origin(hint) or hint):
        raise ConfigError(f"{name} is {value!r}; it must be of type {kind.__name__}.")


def _check_number(name: str, value: Any, kind: type, bound: Gt | Ge) -> None:
    whole = kind is int
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    limit = LARGEST if whole else sys.float_info.max
    if number and limit < value < float("inf"):
        raise ConfigError(f"{name} is too large a number; it must be at most {limit}.")
    if not number or not abs(value) <= limit:
        wanted = "a whole number" if whole else "a finite number"
        raise ConfigError(f"{name} is {value!r}; it must be {wanted}.")
    if isinstance(bound, Gt) and not value > bound.gt:
        raise ConfigError(f"{name} is {value}; it must be above {bound.gt}.")
    if isinstance(bound, Ge) and not value >= bound.ge:
        raise ConfigError(f"{name} is {value}; it must be at least {bound.ge}.")


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

    __pydantic_config__ = _FORBID

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
        _check_fields(self)
        if self.beta_fast <= self.beta_slow:
            raise ConfigError(
                f"beta_fast is {self.beta_fast}; it must be above beta_slow ({self.beta_slow}), "
                "for it marks the faster frequencies."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MLAConfig:
    """A student of the `mla` family. Widths are in values, ranks in latent dimensions."""

    __pydantic_config__ = _FORBID

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
        _check_fields(self)
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

    __pydantic_config__ = _FORBID

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
        _check_fields(self)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class InheritedExperts:
    """A dense teacher's feed-forward layers as a mixture: each part has as many neurons.

    Attributes:
        shared: parts that serve every token.
        routed: parts that are experts.
        active: experts that serve a token.
    """

    __pydantic_config__ = _FORBID

    shared: Positive = 16
    routed: Annotated[int, Ge(2)] = 16
    active: Positive = 8

    def __post_init__(self) -> None:
        """Refuse more active experts than there are.

        Raises:
            ConfigError: names the field and the rule it breaks.
        """
        _check_fields(self)
        if self.active > self.routed:
            raise ConfigError(
                f"active is {self.active}, more than routed ({self.routed}); choose at most that "
                "many."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class InheritConfig:
    """A student of the `mla` family that begins with a dense teacher's weights.

    Attributes:
        init: marks this form of the section.
        cache: values cached a token and layer, as a share of the teacher's.
        experts: None leaves feed-forward layers dense.
        depth: share of the teacher's layers.
        calibration_tokens: of the run's text, in whose measure the student is fitted.
        max_position_embeddings: tokens of context, at most the teacher's.
    """

    __pydantic_config__ = _FORBID

    init: Literal["teacher"]
    family: Literal["mla"] = "mla"
    cache: PositiveFloat = 0.5
    experts: InheritedExperts | None = None
    depth: PositiveFloat = 1.0
    calibration_tokens: Positive = 10_240
    max_position_embeddings: Positive = 2048

    def __post_init__(self) -> None:
        """Refuse shares above 1.

        Raises:
            ConfigError: names the field and the rule it breaks.
        """
        _check_fields(self)
        _check_share("cache", self.cache)
        _check_share("depth", self.depth)


@dataclass(frozen=True, kw_only=True, slots=True)
class InheritedEntries:
    """What layers of a dense teacher see of the tokens before their window, in v4.

    Attributes:
        tokens: that an entry stands for.
        gate: what it is made of: its tokens as they are `attended`, or the `first` of them alone.
    """

    __pydantic_config__ = _FORBID

    tokens: Annotated[int, Ge(2)] = 4
    gate: Literal["attended", "first"] = "attended"

    def __post_init__(self) -> None:
        """Refuse an entry of less than two tokens.

        Raises:
            ConfigError: names the field and the rule it breaks.
        """
        _check_fields(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class InheritV4Config:
    """A student of the `v4` family that begins with a dense teacher's weights.

    Attributes:
        init: marks this form of the section.
        family: marks this family; without it a student is of `mla`.
        head_dim: values cached a token and layer; None for as many as the exact map needs.
        sliding_window: tokens attended to as they are; None for all of the context.
        entries: of the tokens before; None leaves them unseen.
        experts: of feed-forward layers, of which v4 has no dense ones.
        depth: share of the teacher's layers.
        calibration_tokens: of the run's text, to which pads and entries are fitted.
        max_position_embeddings: tokens of context, at most the teacher's.
    """

    __pydantic_config__ = _FORBID

    init: Literal["teacher"]
    family: Literal["v4"]
    head_dim: Positive | None = None
    sliding_window: Positive | None = None
    entries: InheritedEntries | None = None
    experts: InheritedExperts = InheritedExperts(shared=1, routed=3, active=3)
    depth: PositiveFloat = 1.0
    calibration_tokens: Positive = 4096
    max_position_embeddings: Positive = 2048

    def __post_init__(self) -> None:
        """Refuse a share above 1, and entries of tokens that the window holds anyway.

        Raises:
            ConfigError: names the field and the rule it breaks.
        """
        _check_fields(self)
        _check_share("depth", self.depth)
        if self.entries is not None and self.sliding_window is None:
            raise ConfigError(
                "entries stand for tokens before the window, and without sliding_window nothing "
                "is; set it, or leave entries out."
            )


Inheriting = InheritConfig | InheritV4Config
"""A student that begins with a dense teacher's weights, of either family."""


def _check_share(name: str, share: float) -> None:
    if share > 1:
        raise ConfigError(f"{name} is {share}; it is a share of the teacher's, at most 1.")


def _check_rotary(width: int) -> None:
    if width % 2:
        raise ConfigError(
            f"qk_rope_head_dim is {width}; rotary dimensions come in pairs, so make it even."
        )


def _check_frequencies(listed: tuple[float, ...] | None, width: int, yarn: Yarn | None) -> None:
    if listed is None:
        return
    for frequency in listed:
        _check_number("rope_frequencies", frequency, float, Gt(0))
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
    Discriminator(_family),
]
"""Either family, told apart by the key `family`; or, with a key `init`, a teacher's weights."""
