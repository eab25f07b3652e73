"""What a run file says of the student's own answers, and of keeping a teacher's by checkers.

On-policy distillation learns from what the student writes (Agarwal et al., arXiv 2306.13649); the
share of such rows, how they are written and for how many steps they serve is all there is to say.
Rejection sampling keeps those of a teacher's answers that a checker accepts (DeepSeek-R1 report,
arXiv 2501.12948, section 2.3.3). Checkers are named here and are data: nothing of a user's is run.
"""

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from audit.question import EndpointConfig
from distill.terms import Terms

Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# What records call a server that answers in the student's place.
WRITER = "the writer of rollouts"

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class RolloutConfig:
    """The student's own answers among what it learns from.

    Attributes:
        fraction: of each step's rows; 0 is off-policy, 1 is on-policy alone.
        first_step: before it all rows are text, so that there is a writer worth correcting.
        max_new_tokens: an answer is cut there, without an end token.
        temperature: 1 draws from the student as it is; 0 takes its likeliest token.
        top_p: only the likeliest tokens that together reach this probability are drawn from.
        refresh_steps: how many steps the answers of one writing serve; those of the last are as
            many steps old, less one.
        batch_size: rows written together.
        prompt_tokens: of plain text, how many of its first tokens are the prompt.
        estimator: `full` compares whole distributions (DeepSeek-V4 report, arXiv 2606.19348,
            equation 29); `sampled` has the teacher's log-probability of the written token alone.
        endpoint: an OpenAI-compatible server that answers in the student's place; None for the
            student itself. Which weights it serves, the student's of some step or another model's,
            is the user's statement: nothing here sends it new ones, and staleness counts from the
            step at which it was asked.
        owned: whether what that server runs is the user's own; otherwise `terms` are needed.
        terms: of training on what it answers, as stated.
    """

    fraction: Fraction = 0.0
    first_step: Positive = 1
    max_new_tokens: Positive = 128
    temperature: Amount = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    refresh_steps: Positive = 1
    batch_size: Positive = 64
    prompt_tokens: Positive = 32
    estimator: Literal["full", "sampled"] = "full"
    endpoint: EndpointConfig | None = None
    owned: bool = False
    terms: Terms | None = None

    def rows(self, batch_size: int) -> int:
        """Return how many of `batch_size` rows the student writes itself.

        Raises:
            ValueError: the fraction is above 0 but not a row, or below 1 but all of them.
        """
        count = round(self.fraction * batch_size)
        if 0 < self.fraction < 1 and count in (0, batch_size):
            which = "none" if count == 0 else "all"
            raise ValueError(
                f"rollout.fraction ({self.fraction}) of train.batch_size ({batch_size}) is {which} "
                "of its rows; raise train.batch_size or change the fraction"
            )
        return count


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class Same:
    """`exact`: the whole answer is the reference; `contains`: the reference is somewhere in it.

    Both sides are stripped, and a run of white space is one space.
    """

    kind: Literal["exact", "contains"]
    ignore_case: bool = False


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class Number:
    """The answer's last number is the reference's, within `tolerance` (absolute)."""

    kind: Literal["number"] = "number"
    tolerance: Amount = 0.0


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class Pattern:
    """What a group of the pattern's last match holds is the reference, as `exact` compares."""

    pattern: str
    kind: Literal["regex"] = "regex"
    group: Natural = 1
    ignore_case: bool = False

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} cannot be read: {error}") from error
        if self.group > groups:
            raise ValueError(
                f"pattern {self.pattern!r} has {groups} groups, so there is no group {self.group}"
            )


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class Anything:
    """`any`: every answer that is not empty; no reference is needed."""

    kind: Literal["any"] = "any"


Checker = Annotated[Same | Number | Pattern | Anything, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class RejectionConfig:
    """How a teacher's answers are drawn and which are kept.

    Attributes:
        samples: answers asked for a prompt.
        keep: at most so many different accepted ones a prompt are kept, the first that came.
        checkers: an answer is kept that any of them accepts; the first one is noted.
        batch_size: prompts asked together; what was answered is on disk after each.
    """

    samples: Positive = 1
    keep: Positive = 1
    checkers: Annotated[tuple[Checker, ...], Field(min_length=1)] = (Anything(),)
    batch_size: Positive = 64
