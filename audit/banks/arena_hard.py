"""Arena-Hard: `model_answer/<model>.jsonl`, both forms, and MT-bench's, which they grew from.

Version 0.1 has `question_id` and `choices[0].turns`, and its prompts in `question.jsonl` beside the
folder; 2.0 has `uid` and `messages` with the prompt among them. Of several turns the first counts.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from audit.banks.rows import Item, answer_to, items
from audit.responses import Response

_FOLDER = "model_answer"
_IDS = ("question_id", "uid")


def belongs(path: Path) -> bool:
    """Tell by its place whether `path` is a file of this format."""
    return path.suffix == ".jsonl" and path.absolute().parent.name == _FOLDER


def model(path: Path) -> str:
    """Return whose answers `path` holds."""
    return path.stem


def read(path: Path) -> Iterator[Response]:
    """Yield the answers in `path`; an InputError names the row that is none."""
    questions = path.absolute().parent.parent / "question.jsonl"
    prompts = _prompts(questions) if questions.is_file() else {}
    for item in items(path):
        yield _from_messages(item) if "messages" in item.row else _from_choices(item, prompts)


def _prompts(path: Path) -> dict[str, str]:
    """Return the first turn of every question, by id."""
    found = {}
    for item in items(path):
        asked = item.row.get("prompt") or item.dig("turns", 0)
        found[item.own_id(*_IDS)] = item.text(asked)
    return found


def _from_choices(item: Item, prompts: Mapping[str, str]) -> Response:
    name = item.own_id(*_IDS)
    said = item.text(item.dig("choices", 0, "turns", 0))
    return answer_to(prompts.get(name, ""), said, own_id=name)


def _from_messages(item: Item) -> Response:
    asked, said = item.text(_first(item, "user")), item.text(_first(item, "assistant"))
    return answer_to(asked, said, own_id=item.own_id(*_IDS))


def _first(item: Item, role: str) -> Any:
    """Return what the first message of `role` says."""
    messages = item.row["messages"]
    if isinstance(messages, list):
        for message in messages:
            if isinstance(message, dict) and message.get("role") == role:
                return message.get("content")
    raise item.error(f"has no message of the {role}.")
