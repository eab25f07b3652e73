"""The package's door: every name it offers is found, and nothing heavy is loaded for it."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import student


def named_for_type_checkers() -> dict[str, str]:
    """Return the names imported under TYPE_CHECKING, and the modules they are from."""
    tree = ast.parse(Path(student.__file__).read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname: node.module.removeprefix("student.")
        for node in guarded.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname == alias.name
    }


def test_type_checkers_see_what_the_package_offers():
    assert named_for_type_checkers() == student._HOMES
    assert list(student._HOMES) == sorted(student._HOMES)


@pytest.mark.parametrize("name", student.__all__)
def test_every_name_is_the_one_of_its_module(name):
    found = getattr(student, name)
    assert found is getattr(import_module(f"student.{student._HOMES[name]}"), name)
    assert callable(found)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'student' has no attribute 'pupil'"):
        student.pupil  # noqa: B018


def test_configurations_and_sizes_need_no_torch():
    code = (
        "import sys\n"
        "from student import count_parameters, presets\n"
        "count_parameters(presets()['tiny'], 300)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
