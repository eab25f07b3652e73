"""What a served model can be relied on for, seen from a few small questions before many large ones.

Servers leave out or alter silently what they do not support: logprobs that never come, a
temperature that is always 0, a prompt of which only the generated token is scored, scores that are
one position late. Each check says ok, failed (it misbehaves) or unsupported (it says so, or gives
nothing), and what was seen. Whoever uses the endpoint names its needs, and `require` refuses.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from audit import checks, score_checks
from audit.checks import Check, Desk
from audit.endpoint import Endpoint
from audit.errors import EndpointError

Need = Literal["text", "sampling", "top_logprobs", "raw_logprobs", "prompt_logprobs"]

# The checks that each need rests on. Text is refused only for what fails: a server may well state
# no usage and name no model. A system message counts where the config has one.
NEEDS: Mapping[Need, tuple[str, ...]] = {
    "text": ("answer", "model", "max_tokens"),
    "sampling": ("temperature",),
    "top_logprobs": ("top_logprobs",),
    "raw_logprobs": ("logprobs without temperature",),
    "prompt_logprobs": ("prompt_logprobs", "prompt_logprobs agree"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Preflight:
    """The table.

    Attributes:
        system: whether the config has a system message.
    """

    url: str
    model: str
    system: bool
    checks: tuple[Check, ...]

    def find(self, name: str) -> Check:
        """Return the row of that name."""
        return next(check for check in self.checks if check.name == name)

    def missing(self, need: Need) -> list[Check]:
        """Return the rows for which the endpoint does not meet a need."""
        names = [*NEEDS[need], *(["system message"] if self.system else [])]
        wrong = ("failed",) if need == "text" else ("failed", "unsupported")
        return [row for name in names if (row := self.find(name)).outcome in wrong]

    def require(self, needs: Iterable[Need]) -> None:
        """Refuse an endpoint that does not meet a need.

        Raises:
            EndpointError: names the first need and what was seen.
        """
        for need in needs:
            for row in self.missing(need):
                raise EndpointError(
                    f"{self.url} as {self.model!r} cannot be used for {need}: {row.name} "
                    f"{row.outcome}: {row.seen}."
                )


def run(endpoint: Endpoint, *, tokens: Sequence[int] | None = None, top: int = 20) -> Preflight:
    """Ask some 25 small questions and return what was seen.

    A log that holds them already answers for the server, so a new start wants a new log.

    Args:
        endpoint: whose own log is for this alone.
        tokens: a text in the ids of the teacher's tokenizer, to see that prompts may be ids.
        top: alternatives a user of `top_logprobs` or `prompt_logprobs` means to ask for.

    Raises:
        EndpointError: nobody is let in, the server is gone, or the model changes on the way.
        BudgetError: a limit is reached.
    """
    desk = Desk(endpoint)
    fields = {"temperature": 0.0}
    greedy = [desk.ask(fields, sample) for sample in range(3)]
    first = greedy[0]
    if isinstance(first, EndpointError):
        raise first
    varied = checks.temperature(desk, first)
    scored = score_checks.top_logprobs(desk, top)
    ahead = score_checks.written_ahead(desk)
    table = (
        checks.listed(endpoint),
        checks.answer(first),
        checks.model(first, endpoint),
        checks.deterministic(greedy),
        varied,
        checks.seed(desk, varied),
        checks.max_tokens(desk),
        checks.system_message(desk, first),
        checks.several(desk),
        scored,
        score_checks.without_temperature(desk, scored),
        score_checks.echo(desk, ahead),
        score_checks.prompt_logprobs(desk, tokens, top),
        score_checks.agree(desk, ahead),
    )
    config = endpoint.config
    system = config.system is not None
    return Preflight(url=config.base, model=config.model, system=system, checks=table)
