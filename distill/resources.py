"""The one way to find what ships with distill: presets, page templates, the seed prompts.

Package files lie beside this module. The top-level `seeds/` is copied into the wheel as
`distill/_shipped/seeds`; in an editable install it is read from the repository, one level up.
"""

from pathlib import Path

from distill.errors import StorageError

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Return the path of a shipped file such as `presets/quickstart.yaml` or `seeds/prompts.jsonl`.

    Raises:
        StorageError: the installation is incomplete.
    """
    for place in (_PACKAGE, _PACKAGE / "_shipped", _PACKAGE.parent):
        if (place / name).is_file():
            return place / name
    raise StorageError(f"{name} is missing from this installation; install spiritsafe again.")
