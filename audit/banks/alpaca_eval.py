"""AlpacaEval: `results/<model>/model_outputs.json`, a list of {instruction, output, generator}."""

from collections.abc import Iterator
from pathlib import Path

from audit.banks.rows import Item, answer_to, items
from audit.responses import Response

FILE = "model_outputs.json"


def belongs(path: Path) -> bool:
    """Tell by its name whether `path` is a file of this format."""
    return path.name == FILE


def model(path: Path) -> str:
    """Return whose answers `path` holds: its folder's name, for `generator` is not always that."""
    return path.absolute().parent.name if path.name == FILE else path.stem


def read(path: Path) -> Iterator[Response]:
    """Yield the answers in `path`; an InputError names the row that is none."""
    for item in items(path):
        yield _answer(item)


def _answer(item: Item) -> Response:
    prompt = item.text(item.dig("instruction"))
    if not prompt:
        raise item.error("instruction is empty, so the answer is to no prompt.")
    return answer_to(prompt, item.text(item.dig("output")))
