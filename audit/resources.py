"""The one way to find what ships with audit: the probe prompts and their card.

The top-level `data/` is copied into the wheel as `audit/_shipped/data`; in an editable install it
is read from the repository, one level up. distill/resources.py does the same for distill: either
package must find its own files where the other knows nothing of them.
"""

from pathlib import Path

from audit.errors import AuditError

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Return the path of a shipped file such as `data/probe_prompts.jsonl`.

    Raises:
        AuditError: the installation is incomplete.
    """
    for place in (_PACKAGE, _PACKAGE / "_shipped", _PACKAGE.parent):
        if (place / name).is_file():
            return place / name
    raise AuditError(f"{name} is missing from this installation; install spiritsafe again.")
