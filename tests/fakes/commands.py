"""The two commands as a user meets them, in this process or in one that can be killed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from click.testing import CliRunner, Result

from cli import audit_app, distill_app

APPS = {"distill": distill_app.main, "audit": audit_app.main}
ROOT = Path(__file__).resolve().parents[2]


def call(app: str, *arguments: object) -> Result:
    """Run a command in this process; fail if anything but an exit code came out of it."""
    result = CliRunner().invoke(APPS[app], [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def refusal(app: str, *arguments: object, code: int) -> str:
    """Run a command that must fail with `code`; return the one sentence it says."""
    result = call(app, *arguments)
    assert result.exit_code == code, result.output
    last = result.stderr.splitlines()[-1]
    assert last.lower().startswith("error: "), result.stderr
    assert result.stdout == ""
    return last


def start(app: str, *arguments: object, before: str = "") -> "subprocess.Popen[str]":
    """Start a command in a process of its own, on one thread; `before` is code it runs first."""
    code = f"{before}\nfrom cli.{app}_app import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def finish(process: "subprocess.Popen[str]", seconds: float = 120) -> tuple[int, str, str]:
    """Wait for a started command; return its exit code, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err


# Code for `before`: a process in which these packages are not installed.
WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "safetensors", "tokenizers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def modules_after(app: str, calls: Sequence[Sequence[str]]) -> set[str]:
    """Return the top-level modules a fresh process has imported after these calls of a command."""
    code = (
        f"import io, sys, contextlib\nfrom cli.{app}_app import main\n"
        f"for arguments in {[list(call) for call in calls]!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        try:\n            main(arguments, standalone_mode=False)\n"
        "        except SystemExit:\n            pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return set(done.stdout.split())
