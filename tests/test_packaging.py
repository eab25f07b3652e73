"""The wheel: what it holds, and that both commands work from it alone, far from the sources."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from audit.attest import file_digest
from distill.resources import shipped

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = {"audit", "cli", "distill", "student"}
SHIPPED = (
    "presets/quickstart.yaml",
    "presets/quick-scratch.yaml",
    "presets/student-v4.yaml",
    "seeds/prompts.jsonl",
    "seeds/prompts.card.json",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the working tree with the build tools at hand."""
    out = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)], ROOT)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked by pip into a directory of its own."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    run([*pip, "--target", str(target), str(wheel)], target)
    return target


def run(command: list[str], directory: Path, **variables: str) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def python(installed: Path, tmp_path: Path):
    """Run code in an empty directory, with the unpacked wheel alone on PYTHONPATH."""
    head = "import distill; assert distill.__file__.startswith(" + repr(str(installed)) + ")\n"

    def call(code: str) -> str:
        return run([sys.executable, "-c", head + code], tmp_path, PYTHONPATH=str(installed))

    return call


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        *PACKAGES,
        f"spiritsafe-{PROJECT['version']}.dist-info",
    }


def test_the_wheel_holds_every_file_of_the_sources(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        files = [p for p in (ROOT / package).rglob("*") if p.is_file() and p.suffix != ".pyc"]
        assert {path.relative_to(ROOT).as_posix() for path in files} <= names
        assert f"{package}/py.typed" in names
    assert {f"distill/_shipped/{name}" for name in SHIPPED if name.startswith("seeds")} <= names


def test_the_wheel_names_no_directory_of_the_machine_that_built_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = b"".join(archive.read(name) for name in archive.namelist())
    assert str(ROOT).encode() not in held


def test_both_commands_are_entry_points(python):
    code = (
        "import importlib.metadata as m, json\n"
        "points = m.distribution('spiritsafe').entry_points\n"
        "print(json.dumps({p.name: p.value for p in points}))"
    )
    assert json.loads(python(code)) == PROJECT["scripts"]


def test_what_ships_is_found_in_the_wheel_and_equals_the_sources(python, installed):
    code = (
        "from distill.resources import shipped\n"
        "from audit.attest import file_digest\n"
        f"for name in {SHIPPED!r}: print(shipped(name), file_digest(shipped(name)))"
    )
    for name, line in zip(SHIPPED, python(code).splitlines(), strict=True):
        path, digest = line.rsplit(" ", 1)
        assert Path(path).is_relative_to(installed)
        assert digest == file_digest(shipped(name))


def test_the_sources_find_their_own_files():
    for name in SHIPPED:
        assert shipped(name).is_relative_to(ROOT)


def test_distill_works_from_the_wheel(python):
    preset = python("from cli.distill_app import main; main(['init'])")
    assert preset == shipped("presets/quickstart.yaml").read_text(encoding="utf-8")


def test_audit_works_from_the_wheel(python, tmp_path):
    for name in ("s", "t"):
        rows = [{"id": f"p{i}", "prompt": "q", "response": f"w{i} w"} for i in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert "Usage: " in python("from cli.audit_app import main; main(['--help'])")
    code = (
        "from cli.audit_app import main\n"
        "try: main(['probe', '--suspect', 's.jsonl', '--teacher', 'T=t.jsonl', '--out', 'out'])\n"
        "except SystemExit as done: assert done.code == 4, done.code"
    )
    assert "suspect / T: INSUFFICIENT" in python(code)
    assert "<style>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_no_other_distribution_provides_the_import_names(python):
    code = (
        "import importlib.metadata as m, json\n"
        "print(json.dumps({k: sorted(set(v)) for k, v in m.packages_distributions().items()}))"
    )
    found = json.loads(python(code))
    assert {name: found[name] for name in PACKAGES} == {name: ["spiritsafe"] for name in PACKAGES}


def test_the_base_install_asks_for_no_torch(python):
    code = "import importlib.metadata as m; print(*m.requires('spiritsafe'), sep='\\n')"
    base = [line for line in python(code).splitlines() if "extra ==" not in line]
    assert base and not [line for line in base if line.startswith(("torch", "transformers"))]


def test_this_environment_has_the_version_of_the_sources():
    assert importlib.metadata.version("spiritsafe") == PROJECT["version"]
