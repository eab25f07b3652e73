"""How long `--help` takes: the first thing anyone sees. `python tests/bench/cli.py --json PATH`.

Wall-clock seconds of a fresh process, median of several, and whether torch was imported.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 7
APPS = {"distill": "cli.distill_app", "audit": "cli.audit_app"}


def help_seconds(module: str) -> float:
    """Return the wall-clock seconds of one `--help` in a fresh interpreter."""
    code = f"from {module} import main; main(['--help'])"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def imports_torch(module: str) -> bool:
    """Tell whether `--help` loads torch."""
    code = (
        f"import sys; from {module} import main; main(['--help'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False)
    return done.returncode != 0


def main() -> None:
    """Measure both commands and write flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    path = parser.parse_args().json
    figures: dict[str, float | bool | str] = {"python": sys.version.split()[0]}
    for name, module in APPS.items():
        seconds = [help_seconds(module) for _ in range(REPEATS)]
        figures[f"{name}_help_seconds"] = round(statistics.median(seconds), 3)
        figures[f"{name}_help_imports_torch"] = imports_torch(module)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
