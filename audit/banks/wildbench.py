"""WildBench and its like: `<model>.json`, a list of {session_id, chat_history, output: [text]}.

`model_input` is what a model's own template made of the prompt, so it differs between models and is
no prompt to match answers by: where the chat is missing, the session's id takes its place.
"""

from collections.abc import Iterator
from pathlib import Path

from audit.banks.rows import Item, answer_to, items
from audit.responses import Response

_BETWEEN_TURNS = "\n\n"


def belongs(path: Path) -> bool:
    """Tell by its first bytes whether `path` is a file of this format."""
    if path.suffix != ".json":
        return False
    with path.open("rb") as stream:
        # The id comes first; judgements have one, too, but no "output" of their own.
        beginning = stream.read(4096)
        return b'"session_id"' in beginning and b'"output"' in beginning + stream.read(1 << 20)


def model(path: Path) -> str:
    """Return whose answers `path` holds."""
    return path.stem


def read(path: Path) -> Iterator[Response]:
    """Yield the answers in `path`; an InputError names the row that is none."""
    for item in items(path):
        answer = item.text(item.dig("output"))
        yield answer_to(_prompt(item), answer, own_id=item.own_id("session_id"))


def _prompt(item: Item) -> str:
    """Return all turns before the answer, texts or messages, one below the other."""
    turns = item.row.get("chat_history") or []
    if not isinstance(turns, list):
        raise item.error("chat_history is no list of turns.")
    return _BETWEEN_TURNS.join(item.text(turn) for turn in turns)
