"""One call of a run: its config, its directory, its device, and where it reports.

The directory belongs to one config; a call that finds another config's run there is refused, and a
call that finds its own run finished changes nothing.
"""

import fcntl
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from distill import files, materials
from distill.config import RunConfig, load
from distill.errors import MismatchError, StorageError
from distill.store.capture import Worker

Say = Callable[[str], None]
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """What every stage of a run is given.

    Attributes:
        config: the resolved config.
        out: the run directory.
        device: where teacher and student run.
        say: told one sentence at a time.
        progress: told `(stage, done, total, note)`.
        worker: which of several processes that capture together; a run is alone.
    """

    config: RunConfig
    out: Path
    device: torch.device
    say: Say
    progress: Progress
    worker: Worker = field(default_factory=Worker)

    @property
    def signals(self) -> Path:
        """Where the teacher's signals are: the run's own place, or one shared between runs."""
        return Path(self.config.signal.path) if self.config.signal.path else self.out / "signals"

    def place(self, teacher: str) -> Path:
        """Return where the signals of the teacher of this name are."""
        slug = re.sub(r"[^a-z0-9]+", "-", teacher.lower()).strip("-")[:80]
        return self.signals / (slug or "teacher")


class Notes:
    """`eval.json`: figures added as they are measured, on disk at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = files.read_json(path)

    def add(self, **figures: Any) -> None:
        """Add or replace figures."""
        self.values.update(figures)
        files.write_json(self.path, self.values)


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Keep other processes out of the run directory; a killed process lets go by itself.

    Raises:
        MismatchError: another process is at work there.
        StorageError: the directory cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("a")
    except OSError as error:
        raise StorageError(
            f"cannot write to {out}: {error.strerror or error}; choose another --out."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MismatchError(
                f"another process is at work in {out}; wait for it, or choose another --out."
            ) from error
        yield


def claim(out: Path, config: RunConfig) -> dict[str, Any] | None:
    """See whether `out` is free for this config, or holds its run.

    Args:
        out: the run directory, which need not exist.
        config: the resolved config.

    Returns:
        The manifest of the run there, when it is finished and intact; None when it is not finished.

    Raises:
        MismatchError: another config ran there, or a finished run was changed since.
    """
    kept = out / "config.yaml"
    if kept.is_file():
        differs = _differences(asdict(load(kept).lasting()), asdict(config.lasting()))
        if differs:
            raise MismatchError(
                f"{out} holds a run with another config ({'; '.join(differs[:3])}); choose another "
                "--out, or delete that directory."
            )
    manifest = files.read_json(out / "manifest.json")
    changed = materials.changed(out, manifest) if manifest else []
    if changed:
        raise MismatchError(
            f"{out} was finished, but {', '.join(changed)} changed since; restore it, or delete "
            "manifest.json there to finish the run anew."
        )
    return manifest or None


def _differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    """Return `key: old there, new here` for every setting that differs."""
    found = []
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            found += _differences(old[key], value, f"{path}{key}.")
        elif old.get(key) != value:
            found.append(f"{path}{key}: {old.get(key)} there, {value} here")
    return found
