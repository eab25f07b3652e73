"""What the README shows runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_library_example_trains_a_step_writes_and_comes_back_from_disk(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = re.fullmatch(r"\[\[(.*)\], \[(.*)\]\]\n", done.stdout)
    assert written is not None
    assert [len(row.split(",")) for row in written.groups()] == [4, 4]
    assert (tmp_path / "runs/mine/student/config.json").exists()


def test_the_tree_names_every_module_of_the_packages():
    tree = README.split("## The tree")[1].split("```")[1]
    for package in ("student", "distill", "audit"):
        root = Path(__file__).parents[1] / package
        for path in [*root.glob("*.py"), *root.glob("*/*.py")]:
            known = path.name in tree or path.name.startswith(("released_", "__"))
            assert known or path.name == "errors.py", path
