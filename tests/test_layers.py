"""Who may import whom, as written down in pyproject.toml and checked by import-linter."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint(directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_no_import_runs_back_up():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert f"{len(contracts['contracts'])} kept, 0 broken" in done.stdout


@pytest.mark.slow
def test_the_check_itself_sees_an_import_that_runs_back_up(tmp_path):
    for name in ("upper", "lower"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "lower" / "bad.py").write_text("import upper\n")
    (tmp_path / ".importlinter").write_text(
        "[importlinter]\nroot_packages = upper\n    lower\n"
        "[importlinter:contract:1]\nname = floors\ntype = layers\nlayers = upper\n    lower\n"
    )
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "0 kept, 1 broken" in done.stdout
