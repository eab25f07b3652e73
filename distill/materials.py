"""What went into a run and what came out, each line pinned by a digest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audit.attest import file_digest, tree_digest


def material(name: str, kind: str, sha256: str, note: str = "") -> dict[str, str]:
    """Return one line of the record: something that went in or came out, pinned by digest."""
    return {"name": name, "kind": kind, "sha256": sha256, "note": note}


def outputs(out: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """Return a line for each file or directory `names` of the run directory `out`."""
    rows = []
    for name in names:
        path = out / name
        tree = path.is_dir()
        sha256 = tree_digest(path) if tree else file_digest(path)
        rows.append(material(name, "directory" if tree else "file", sha256))
    return rows


def changed(out: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the outputs of `manifest` that are gone from `out` or are not what was written."""
    return [
        row["name"]
        for row in manifest["outputs"]
        if not (out / row["name"]).exists() or outputs(out, [row["name"]])[0] != row
    ]
