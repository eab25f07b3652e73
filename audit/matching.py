"""Are the controls what a control must be? Read from the runs' own records, fact by fact."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from audit.attest import digest

_SAME = {
    "architecture": ("config", "student"),
    "number of steps": ("config", "train"),
    "text": ("config", "text"),
    "optimizer": ("config", "optimizer"),
}


# Terms of the loss that need no teacher.
_UNTAUGHT = ("cross_entropy", "balance", "indexer", "mtp")


class Facts(NamedTuple):
    """What suspect and controls share as they must, and where they differ though they must not."""

    matched: tuple[str, ...]
    unmatched: tuple[str, ...]


def matched(suspect: Path | None, controls: Mapping[str, Path | None]) -> Facts:
    """Compare the suspect's run with its controls'.

    A control must share architecture, steps, text and optimizer with the suspect, start from
    another seed, and have seen no teacher. A control without an intact record of its training is
    not known to be one, so it counts as not matched.
    """
    good: list[str] = []
    bad: list[str] = []
    mine = _record(suspect)
    for name, path in controls.items():
        theirs = _record(path)
        if mine is None or theirs is None:
            whose = name if theirs is None else "the suspect"
            bad.append(f"{name}: no intact record of how {whose} was trained")
            continue
        same = [fact for fact, keys in _SAME.items() if _get(mine, keys) == _get(theirs, keys)]
        other = [fact for fact in _SAME if fact not in same]
        if theirs["text_sha256"] != mine["text_sha256"]:
            other.append("contents of the text")
        if theirs["config"]["seed"] == mine["config"]["seed"]:
            other.append("seed, which must differ")
        if _taught(theirs["config"]["loss"]):
            other.append("teacher: this control was trained with one")
        good.append(f"{name}: same {', '.join(same)}; seed {theirs['config']['seed']}")
        bad += [f"{name}: differs in {fact}" for fact in other]
    return Facts(matched=tuple(good), unmatched=tuple(bad))


def _taught(loss: list[dict[str, Any]]) -> bool:
    """Tell whether a term of the loss that has a weight is none of a run's without a teacher."""
    return any(term["weight"] > 0 and term["kind"] not in _UNTAUGHT for term in loss)


def _get(record: dict[str, Any], keys: tuple[str, ...]) -> Any:
    for key in keys:
        record = record[key]
    return record


def _record(run: Path | None) -> dict[str, Any] | None:
    """Return config and text digest of a finished run, or None without an intact record."""
    import yaml

    if run is None or not (run / "manifest.json").is_file():
        return None
    try:
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        text = (run / "config.yaml").read_text(encoding="utf-8")
        if digest(text) != manifest["config_sha256"]:
            return None
        config = yaml.safe_load(text)
        texts = [row["sha256"] for row in manifest["inputs"] if row["kind"] == "text"]
        _ = config["seed"], _taught(config["loss"]), [config[k[1]] for k in _SAME.values()]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    return {"config": config, "text_sha256": texts}
