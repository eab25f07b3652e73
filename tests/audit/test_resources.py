"""What ships with audit is found beside the sources and in an installed package alike."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from audit.errors import AuditError
from audit.resources import shipped

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = "data/probe_prompts.jsonl"
FIND = f"from audit.resources import shipped; print(shipped({PROMPTS!r}))"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory that holds audit as a wheel leaves it, less what the resolver does not need."""
    package = tmp_path / "site" / "audit"
    package.mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "resources.py"):
        shutil.copy(ROOT / "audit" / name, package)
    return package.parent


def found(site: Path) -> "subprocess.CompletedProcess[str]":
    """What the resolver of the installed copy says, asked from a directory without sources."""
    return subprocess.run(
        [sys.executable, "-c", FIND],
        cwd=site.parent,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(site)},
    )


def test_the_sources_find_the_prompts_of_the_repository() -> None:
    assert shipped(PROMPTS) == ROOT / PROMPTS
    assert shipped("report/frame.py") == ROOT / "audit" / "report" / "frame.py"


def test_an_installed_package_finds_its_own_copy(site: Path) -> None:
    shutil.copytree(ROOT / "data", site / "audit" / "_shipped" / "data")
    done = found(site)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path == site / "audit" / "_shipped" / PROMPTS
    assert path.read_bytes() == (ROOT / PROMPTS).read_bytes()


def test_an_incomplete_installation_is_named_as_such(site: Path) -> None:
    done = found(site)
    assert done.returncode == 1
    assert f"{PROMPTS} is missing from this installation; install spiritsafe again." in done.stderr


def test_a_file_that_never_shipped_is_refused_with_exit_code_1() -> None:
    with pytest.raises(AuditError) as caught:
        shipped("data/absent.jsonl")
    assert caught.value.exit_code == 1


def test_a_directory_is_no_shipped_file() -> None:
    with pytest.raises(AuditError):
        shipped("data")


def test_the_wheel_and_the_source_archive_take_the_data_along() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = built["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["force-include"]["data"] == "audit/_shipped/data"
    assert "/data" in targets["sdist"]["include"]
