"""Bytes changed, files renamed, cut short and added, over all that an audit, and a run, leave.

`python tests/campaigns/tamper.py --work DIR --json PATH [--run RUN]`: an audit of answers, a
validation and, if none is named, a run with teachers on disk and served are made; each unsigned
and signed, a run's weights as well. In a copy one thing is changed at a time, the directory is
looked at, and it is put back. Counted is whether the inspection found it and named the file, and
whether untouched copies were called intact. Offsets are drawn over all bytes, and as often over the
files, so that a small file is not missed beside large ones. What is added among a run's signals,
where other runs may write, is no fault; it has to be told.
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit import verify
from audit.envelope import keygen
from audit.inspection import Inspection
from audit.signing import sign
from distill.papers import inspection, signing
from tests.fakes import audits
from tests.fakes.keys import pair
from tests.fakes.recorded_runs import everything

Inspect = Callable[[Path, Path | None], Inspection]


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A directory that is tampered with.

    Attributes:
        kind: audit, validation or run.
        place: the directory.
        inspect: looks at it, given a key or none.
        key: the public key it is signed by, if it is.
    """

    kind: str
    place: Path
    inspect: Inspect
    key: Path | None

    def is_shared(self, name: str) -> bool:
        """Tell whether other runs may add a file of this name."""
        return self.kind == "run" and name.startswith("signals/")

    def files(self) -> list[str]:
        """Return the names of all files."""
        found = (path for path in self.place.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.place).as_posix() for path in found)


@dataclass(kw_only=True, slots=True)
class Tally:
    """What came of one kind of change."""

    made: int = 0
    found: int = 0
    named: int = 0
    missed: list[str] = field(default_factory=list)

    def count(
        self, inspection: Inspection, names: list[str], what: str, *, told: Sequence[str] = ()
    ) -> None:
        """Count one change of the files `names`; those that are only to be told are `told`."""
        # A row is of a file, or of something in it, said after a colon.
        rows = [(row.what.partition(": ")[0], row.ok) for row in inspection.rows]
        bad = {name for name, ok in rows if ok is False}
        found = not names or not inspection.ok
        named = bad.issuperset(names) and {name for name, ok in rows if not ok}.issuperset(told)
        self.made += 1
        self.found += found
        self.named += named
        if not (found and named):
            self.missed.append(what)


def other_bytes(subject: Subject, count: int, drawn: random.Random) -> Iterator[tuple[str, int]]:
    """Yield a file and an offset in it, `count` times."""
    sizes = {name: (subject.place / name).stat().st_size for name in subject.files()}
    names = [name for name, size in sizes.items() if size]
    weights = [sizes[name] for name in names]
    for number in range(count):
        name = drawn.choices(names, weights)[0] if number % 2 else drawn.choice(names)
        yield name, drawn.randrange(sizes[name])


def changed_bytes(subject: Subject, count: int, drawn: random.Random) -> Tally:
    """Change one byte at a time."""
    tally = Tally()
    for name, offset in other_bytes(subject, count, drawn):
        path = subject.place / name
        data = path.read_bytes()
        other = (data[offset] + drawn.randrange(1, 256)) % 256
        path.write_bytes(data[:offset] + bytes([other]) + data[offset + 1 :])
        what = f"{name}, byte {offset}: {data[offset]} to {other}"
        tally.count(subject.inspect(subject.place, subject.key), [name], what)
        path.write_bytes(data)
    return tally


def cut(subject: Subject, drawn: random.Random) -> Tally:
    """Cut every file to nothing, by its last byte, and somewhere; and lengthen it by one byte."""
    tally = Tally()
    for name in subject.files():
        path = subject.place / name
        data = path.read_bytes()
        some = drawn.randrange(len(data)) if data else 0
        for left in {data[:0], data[:-1], data[:some], data + b"\n"} - {data}:
            path.write_bytes(left)
            what = f"{name}: {len(left)} of {len(data)} bytes"
            tally.count(subject.inspect(subject.place, subject.key), [name], what)
        path.write_bytes(data)
    return tally


def renamed(subject: Subject) -> Tally:
    """Rename every file, and remove it; both must be told."""
    tally = Tally()
    for name in subject.files():
        path = subject.place / name
        other = path.with_name(f"other-{path.name}")
        path.rename(other)
        added = other.relative_to(subject.place).as_posix()
        gone, told = ([name], [added]) if subject.is_shared(name) else ([name, added], [])
        found = subject.inspect(subject.place, subject.key)
        tally.count(found, gone, f"{name} renamed", told=told)
        aside = subject.place.with_name("aside")
        other.rename(aside)
        tally.count(subject.inspect(subject.place, subject.key), [name], f"{name} removed")
        aside.rename(path)
    return tally


def added(subject: Subject) -> Tally:
    """Add a file beside every file."""
    tally = Tally()
    for name in subject.files():
        path = (subject.place / name).with_name("added.json")
        path.write_bytes(b"{}")
        what = path.relative_to(subject.place).as_posix()
        bad, told = ([], [what]) if subject.is_shared(what) else ([what], [])
        found = subject.inspect(subject.place, subject.key)
        tally.count(found, bad, f"{what} added", told=told)
        path.unlink()
    return tally


def false_alarms(subject: Subject, copies: int) -> int:
    """Return how many untouched copies are not called intact."""
    wrong = 0
    for number in range(copies):
        copy = subject.place.with_name(f"copy-{number}")
        shutil.copytree(subject.place, copy)
        wrong += not subject.inspect(copy, subject.key).ok
        shutil.rmtree(copy)
    return wrong


def subjects(work: Path, run: Path | None) -> list[Subject]:
    """Return each kind of directory, unsigned and signed."""
    audit = audits.answered(work / "answers", references=20)
    audits.add_log(audit)
    made = [
        ("audit", audit),
        ("validation", audits.validated(work)),
        ("run", run or everything(work / "run")),
    ]
    private, public, _ = keygen(work / "key")
    weights, weights_public = pair(work, "weights")

    def of_run(place: Path, key: Path | None) -> Inspection:
        return inspection.inspect(place, key, weights_public if key else None)

    found = []
    for kind, place in made:
        inspect = of_run if kind == "run" else verify.inspect
        for is_signed in (False, True):
            copy = work / ("signed" if is_signed else "unsigned") / kind
            shutil.copytree(place, copy)
            if is_signed and kind == "run":
                signing.sign(copy, private, weights)
            elif is_signed:
                sign(copy, private, verify.inspect)
            key = public if is_signed else None
            found.append(Subject(kind=kind, place=copy, inspect=inspect, key=key))
    return found


def struck(subject: Subject, flips: int, drawn: random.Random) -> dict[str, Any]:
    """Do everything to one directory, and count."""
    began = time.perf_counter()
    alarms = false_alarms(subject, 5)
    tallies = {
        "bytes": changed_bytes(subject, flips, drawn),
        "cut": cut(subject, drawn),
        "renamed_and_removed": renamed(subject),
        "added": added(subject),
    }
    assert subject.inspect(subject.place, subject.key).ok, "not everything was put back"
    return {
        "kind": subject.kind,
        "signed": subject.key is not None,
        "files": len(subject.files()),
        "size": sum((subject.place / name).stat().st_size for name in subject.files()),
        "false_alarms_of_5_copies": alarms,
        **{
            name: {"made": one.made, "found": one.found, "named": one.named, "missed": one.missed}
            for name, one in tallies.items()
        },
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Run the campaign and write what came of it; exit 1 if anything was missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="a finished run; it is copied and not touched")
    parser.add_argument("--flips", type=int, default=1000, help="over all directories")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.work.exists():
        shutil.rmtree(asked.work)
    asked.work.mkdir(parents=True)
    drawn = random.Random(asked.seed)
    found = subjects(asked.work, asked.run)
    each = -(-asked.flips // len(found))
    rows = []
    for subject in found:
        rows.append(struck(subject, each, drawn))
        print(json.dumps(rows[-1]), flush=True)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps({"seed": asked.seed, "directories": rows}, indent=1) + "\n")
    changes = ("bytes", "cut", "renamed_and_removed", "added")
    wrong = [row for row in rows if row["false_alarms_of_5_copies"]]
    wrong += [row for row in rows for name in changes if row[name]["missed"]]
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
