"""What was seen of served teachers before they were relied on: the preflight's table, agreement.

Both lie beside a teacher's signals (`teachers/served.py`) and are copied into `eval.json`, so that
the page shows them where signals were kept elsewhere or are gone.
"""

from pathlib import Path
from typing import Any

from distill import files
from distill.rollout import served
from distill.rollout.config import WRITER
from distill.session import Session


def seen(session: Session) -> list[dict[str, Any]]:
    """Return a row for each server that a run relied on: teachers, and who writes on the way.

    A row has `teacher`, `says` (what it is asked for), `model`, `checks` (rows of `name`, `seen`
    and `outcome`: ok, failed or unsupported), and `agreement` (fields of `agreement.Agreement`,
    and the KL that is allowed as `threshold`), None where it was not compared.
    """
    rows = [_writer(session)] if session.config.rollout.endpoint else []
    for one in session.config.teachers:
        if one.endpoint is None:
            continue
        place = session.place(one.name)
        found = files.read_json(place / "agreement.json") if one.agrees_with else {}
        compared = {**found, "threshold": one.agreement} if found else None
        rows.append(
            {
                "teacher": one.name,
                "says": one.says,
                "model": one.endpoint.model,
                "checks": _checks(place),
                "agreement": compared,
            }
        )
    return rows


def _writer(session: Session) -> dict[str, Any]:
    """Return the row of the server that answers in the student's place."""
    endpoint = session.config.rollout.endpoint
    assert endpoint is not None
    return {
        "teacher": WRITER,
        "says": "text",
        "model": endpoint.model,
        "checks": _checks(served.place_of(session)),
        "agreement": None,
    }


def _checks(place: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = files.read_json(place / "preflight.json").get("checks", [])
    return found
