"""What findings from answers cost. `python tests/bench/audit.py --json PATH [--bank DIR]`.

Each command runs in a process of its own, with an empty cache at first: `audit validate`, which
indexes the bank; the same again from the index; `audit probe` of one of its models; `audit plan`.
Wall-clock and CPU-seconds and the peak memory of each.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

# This file has the name of the package it measures, and its own directory comes first.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from audit.bank import load
from audit.lineup import known
from audit.resources import shipped

CODE = "from cli.audit_app import main; main()"


def measured(arguments: list[str], cache: Path) -> dict[str, float]:
    """Return what one command takes."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    began = time.perf_counter()
    with open(os.devnull, "wb") as nowhere:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", CODE, *arguments, "--quiet"],
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)],
        )
        _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"audit {arguments[0]} failed; see above.")
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gigabytes": round(usage.ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Measure every command and write flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--bank", type=Path, default=shipped("data/bank/models.csv").parent)
    given = parser.parse_args()
    bank = load(given.bank)
    taught = known.truths(bank)["positive"].any(1)
    model = bank.models[int(taught.argmax())]
    figures: dict[str, float | str] = {
        "python": sys.version.split()[0],
        "models": len(bank.models),
        "groups": len(bank.groups),
    }
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        of_bank = ["--bank", str(given.bank)]
        suspect = ["--suspect", str(bank.files[model.name]), "--suspect-family", model.family]
        commands = {
            "validate_and_index": ["validate", *of_bank, "--out", str(work / "first")],
            "validate": ["validate", *of_bank, "--out", str(work / "second")],
            "probe": ["probe", *suspect, *of_bank, "--out", str(work / "probe")],
            "plan": ["plan", *of_bank],
        }
        for name, arguments in commands.items():
            for unit, value in measured(arguments, work / "cache").items():
                figures[f"{name}_{unit}"] = value
        kept = [path for path in (work / "cache").rglob("*") if path.is_file()]
        figures["index_gigabytes"] = round(sum(path.stat().st_size for path in kept) / 2**30, 3)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
