"""Interrupt a real run again and again; nothing but the step in flight may be lost.

`python tests/campaigns/interrupt.py --work DIR --json PATH`: one uninterrupted `distill run` of
`quick-scratch` with fewer steps, then the same run stopped by SIGKILL and SIGINT in capture and in
training, each time noting what was on disk, until it finishes. The finished students must be equal
to the byte. Minutes, so not a test: `make campaign`.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from audit.attest import tree_digest
from distill.resources import shipped

STEPS = 24
# Stage, signal, and how far the stage gets before it is stopped: shards or steps.
STOPS = (
    ("capture", signal.SIGKILL, 3),
    ("capture", signal.SIGINT, 8),
    ("training", signal.SIGKILL, 5),
    ("training", signal.SIGINT, 11),
    ("training", signal.SIGKILL, 17),
)


def start(out: Path) -> subprocess.Popen[bytes]:
    """Start the run in `out`."""
    # A shell that runs this in the background has its children ignore SIGINT; a user's does not.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = listen + "from cli.distill_app import main; main()"
    preset = str(shipped("presets/quick-scratch.yaml"))
    arguments = ["run", preset, "-s", f"train.steps={STEPS}", "--out", str(out), "-q"]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL)


def shards(out: Path) -> int:
    """Return how many shards of the training signal are finished."""
    return len(list(out.glob("signals/*/train/shard-*.safetensors")))


def steps(out: Path) -> int:
    """Return how many steps have a row of metrics."""
    path = out / "metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def kept_step(out: Path) -> int:
    """Return the step of the newest checkpoint."""
    path = out / "checkpoints" / "latest.json"
    return int(json.loads(path.read_text())["latest"]["step"]) if path.is_file() else 0


def stop_at(out: Path, stage: str, kind: signal.Signals, far: int) -> dict[str, object]:
    """Run until `stage` got `far`, stop it by `kind`, and return what was done and what is kept."""
    process = start(out)
    reached = shards if stage == "capture" else steps
    while reached(out) < far:
        if process.poll() is not None:
            raise SystemExit(f"the run ended by itself with {process.returncode}")
        time.sleep(0.05)
    process.send_signal(kind)
    code = process.wait()
    kept = shards(out) if stage == "capture" else kept_step(out)
    done = shards(out) if stage == "capture" else steps(out)
    return {"stage": stage, "signal": kind.name, "exit": code, "done": done, "kept": kept}


def main() -> None:
    """Run the campaign; exit 1 if anything but the step in flight was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    whole, broken = options.work / "whole", options.work / "broken"
    assert start(whole).wait() == 0
    rows = [stop_at(broken, *stop) for stop in STOPS]
    assert start(broken).wait() == 0
    numbers = [json.loads(line)["step"] for line in (broken / "metrics.jsonl").open()]
    result = {
        "stops": rows,
        "most_lost": max(int(str(row["done"])) - int(str(row["kept"])) for row in rows),
        "every_step_once": numbers == list(range(1, STEPS + 1)),
        "students_equal": tree_digest(whole / "student") == tree_digest(broken / "student"),
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    good = result["every_step_once"] and result["students_equal"] and result["most_lost"] <= 1
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
