"""What of a dense teacher a student begins with, as a run file asks for it, in either family.

`student.warm_start` makes it.
"""

from dataclasses import dataclass
from typing import Literal

from student.bounds import FORBID, Positive, PositiveFloat, Span, check_fields
from student.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class InheritedExperts:
    """A dense teacher's feed-forward layers as a mixture: each part has as many neurons.

    Attributes:
        shared: parts that serve every token.
        routed: parts that are experts.
        active: experts that serve a token.
    """

    __pydantic_config__ = FORBID

    shared: Positive = 16
    routed: Span = 16
    active: Positive = 8

    def __post_init__(self) -> None:
        """Refuse more active experts than there are.

        Raises:
            ConfigError: names the field and the rule it breaks.
        """
        check_fields(self)
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

    __pydantic_config__ = FORBID

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
        check_fields(self)
        _check_share("cache", self.cache)
        _check_share("depth", self.depth)


@dataclass(frozen=True, kw_only=True, slots=True)
class InheritedEntries:
    """What layers of a dense teacher see of the tokens before their window, in v4.

    Attributes:
        tokens: that an entry stands for.
        gate: what it is made of: its tokens as they are `attended`, or the `first` of them alone.
    """

    __pydantic_config__ = FORBID

    tokens: Span = 4
    gate: Literal["attended", "first"] = "attended"

    def __post_init__(self) -> None:
        """Refuse an entry of less than two tokens.

        Raises:
            ConfigError: names the field and the rule it breaks.
        """
        check_fields(self)


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

    __pydantic_config__ = FORBID

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
        check_fields(self)
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
