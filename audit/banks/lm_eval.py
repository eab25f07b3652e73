"""lm-evaluation-harness with --log_samples: `<model>/samples_<task>_<time>.jsonl`.

The id is the task and the document's number: the prompt itself has the model's template applied,
so that models asked the same differ in it. Of several samples or filters the first row counts, and
of several runs of a task the latest. Tasks that score given continuations have no answers.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audit.banks.rows import Item, items
from audit.responses import Response

_NAME = re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d{2}-\d{2}T[-\d.:]+)?\.jsonl(?:\.gz)?")


def belongs(path: Path) -> bool:
    """Tell by its name whether `path` is a file of this format."""
    return _NAME.fullmatch(path.name) is not None


def model(path: Path) -> str:
    """Return whose answers `path` holds: the folder is the model's."""
    return path.absolute().parent.name


def read(path: Path) -> Iterator[Response | None]:
    """Yield the answers in `path`, None for a row of scores; an InputError names a bad row."""
    found = _NAME.fullmatch(path.name)
    task = found["task"] if found else path.stem
    for item in items(path):
        yield _answer(item, task)


def _answer(item: Item, task: str) -> Response | None:
    asked = _arguments(item)
    if len(asked) == 1 or (asked and not isinstance(asked[1], dict)):
        return None  # only a request to write comes with settings
    name = f"{task}:{item.own_id('doc_id')}"
    said = item.row["resps"] if "resps" in item.row else item.dig("filtered_resps")
    prompt = item.text(asked[0]) if asked else ""
    return Response(id=name, prompt=prompt, response=item.text(said), document=name)


def _arguments(item: Item) -> list[Any]:
    """Return the arguments of the first request, as far as they were logged."""
    requests = _listed(item.row.get("arguments"))
    return _listed(requests[0]) if requests else []


def _listed(value: Any) -> list[Any]:
    """Return a list's items; newer versions write a list as an object with numbered keys."""
    match value:
        case dict():
            return list(value.values())
        case list():
            return value
    return []
