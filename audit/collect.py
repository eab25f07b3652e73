"""Ask the parties for their answers once, and keep what they said under `responses/`.

An answer is kept under a name that pins who was asked what, so that a changed model, prompt or
setting is asked again and nothing else is.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from audit import responses
from audit.attest import digest
from audit.config import AuditConfig
from audit.errors import InputError
from audit.parties import Party
from audit.report.reveal import reveal_halves
from audit.responses import Response

Progress = Callable[[str, int, int, str], None]


class Desk:
    """Collects each party's answers once, and keeps them under `responses/`."""

    def __init__(
        self, config: AuditConfig, place: Path, prompts: list[Response], progress: Progress
    ) -> None:
        self.config = config
        self.place = place
        self.prompts = prompts
        self.progress = progress

    def answers(self, party: Party) -> dict[str, str]:
        """Return the party's answers by prompt id; an answers file gives what it has."""
        if party.files is None:
            given = {row.id: row.response for row in responses.read(party.path)}
            if not any(prompt.id in given for prompt in self.prompts):
                raise InputError(
                    f"{party.path} answers none of the {len(self.prompts)} prompts; ids must match."
                )
            return given
        path = self.place / f"{_file_name(party.name)}.{self._key(party)[:12]}.jsonl"
        if not path.is_file():
            responses.write(path, self._ask(party))
        return {row.id: row.response for row in responses.read(path)}

    def _key(self, party: Party) -> str:
        settings = self.config
        asked = reveal_halves([prompt.prompt for prompt in self.prompts])
        return digest(
            [party.sha256(), asked, settings.max_tokens, settings.temperature, settings.seed]
        )

    def _ask(self, party: Party) -> list[Response]:
        from audit import local

        assert party.files is not None
        empty = [prompt.id for prompt in self.prompts if not prompt.prompt]
        if empty:
            raise InputError(
                f"prompt {empty[0]!r} is empty; {party.name} is a model and needs a text to go "
                "on from, or give its answers as a .jsonl file."
            )
        stage, total = f"asking {party.name}", len(self.prompts)
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            self.progress(stage, done, total, "prompts")

        self.progress(stage, 0, total, "prompts")
        model = local.load(party.files.model, self.config.device, exact=False)
        texts = model.continuations(
            [prompt.prompt for prompt in self.prompts],
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
            seed=self.config.seed,
            tick=tick,
        )
        return [
            replace(prompt, response=text) for prompt, text in zip(self.prompts, texts, strict=True)
        ]


def _file_name(name: str) -> str:
    """Return `name` as a file name: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.") or "model"
