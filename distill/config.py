"""The configuration of a run: YAML to frozen dataclasses.

Each section is one room of the pipeline. `distill init` writes these defaults with comments; the
resolved form, every key explicit, is saved beside the run and hashed into its manifest.
"""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from audit import strict_yaml
from audit.errors import ConfigError
from distill.errors import InputError
from distill.resources import shipped
from student.config import MLAConfig, StudentConfig
from student.errors import ConfigError as StudentConfigError

Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # what torch's generators take
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class TeacherConfig:
    """Who teaches: a local model directory, or `embedded`."""

    name: str = "SmolLM2-135M-Instruct (Q4_1 dequantised)"
    path: str = "embedded"
    licence: str = "Apache-2.0"


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class TextConfig:
    """What is read: `pydoc`, `prompts`, or paths of .txt, .md and .jsonl files."""

    sources: tuple[str, ...] = ("pydoc", "prompts")
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    sequence_length: Annotated[int, Field(ge=8)] = 256

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; name at least one text")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class SignalConfig:
    """What is kept of the teacher: the `head` likeliest tokens exactly, `tail` sampled ones."""

    head: Positive = 24
    tail: Natural = 8
    shard_tokens: Positive = 4096
    path: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class LossConfig:
    """Weights of the loss terms; a control has forward_kl: 0.

    Prediction layers learn the same mixture of terms, weighted by `mtp` and, in the last part of
    the run, by `mtp_late`.
    """

    forward_kl: Weight = 0.9
    cross_entropy: Weight = 0.1
    balance: Weight = 1e-4
    indexer: Weight = 1.0
    mtp: Weight = 0.3
    mtp_late: Weight = 0.1
    mtp_late_from: Fraction = 0.7

    def __post_init__(self) -> None:
        if self.forward_kl + self.cross_entropy == 0:
            raise ValueError("forward_kl and cross_entropy are both 0; nothing would be learnt")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class OptimizerConfig:
    """AdamW or Muon, with linear warm-up and a cosine to `final_fraction` of the peak rate.

    Under `muon`, embedding, head and vectors stay with AdamW, and betas, epsilon, momentum and
    weight decay are those of the DeepSeek-V4 report; the fields here are AdamW's alone.
    """

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: PositiveFloat = 2e-3
    warmup_steps: Natural = 20
    final_fraction: Fraction = 0.1
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    weight_decay: Weight = 0.1
    clip_norm: PositiveFloat = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class TrainConfig:
    """How long: `steps` of `batch_size` sequences; and how the network is run."""

    steps: Positive = 90
    batch_size: Positive = 8
    bias_update_speed: Weight = 0.03
    dense_steps: Natural = 0
    routing_delay: Natural = 0
    recompute: bool = False


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class CheckpointConfig:
    """How often the whole training state is kept, and how often it is forced to the disk."""

    every_steps: Positive = 1
    sync_seconds: PositiveFloat = 30.0


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class EvaluateConfig:
    """What is measured on held-out text, and what is set aside for an audit."""

    tokens: Positive = 4096
    samples: Natural = 6
    sample_tokens: Positive = 48
    probe_prompts: Positive = 96
    prompt_tokens: Positive = 48
    continuation_tokens: Positive = 48


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class RunConfig:
    """One run, whole."""

    seed: Seed = 0
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    text: TextConfig = field(default_factory=TextConfig)
    student: StudentConfig = field(default_factory=MLAConfig)
    signal: SignalConfig = field(default_factory=SignalConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        longest, asked = self.student.max_position_embeddings, self.evaluate
        passage = asked.prompt_tokens + asked.continuation_tokens
        for name, tokens in (
            ("text.sequence_length", self.text.sequence_length),
            ("evaluate.prompt_tokens with evaluate.continuation_tokens", passage),
        ):
            if tokens > longest:
                raise ValueError(
                    f"{name} ({tokens}) is above student.max_position_embeddings ({longest})"
                )

    @property
    def uses_teacher(self) -> bool:
        """Whether the teacher's signal enters the loss; a control's does not."""
        return self.loss.forward_kl > 0


def load(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the config in `path`, or the shipped quick start, with `key.path=value` overrides.

    Raises:
        InputError: the file is missing, empty or not UTF-8.
        ConfigError: a key or value is wrong; names file, line and the nearest name.
    """
    if path is None:
        path = shipped("presets/quickstart.yaml")
    try:
        return strict_yaml.load(RunConfig, read_text(path), source=path.name, overrides=overrides)
    except StudentConfigError as error:
        raise ConfigError(f"{path.name}: student: {error}") from error


def read_text(path: Path) -> str:
    """Return a user's text file.

    Raises:
        InputError: the file is missing, a directory, empty or not UTF-8; says which.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the name.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a directory; name a file.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start}); convert it, for example with iconv."
        ) from error
    if not text.strip():
        raise InputError(f"{path} is empty; put something in it or name another file.")
    return text
