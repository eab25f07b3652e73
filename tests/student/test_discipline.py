"""Rules that keep the sources portable, read from the sources themselves.

Device names stand in one file; what torch_npu documents as missing or slow is not used; the
command line starts without torch.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("audit", "cli", "distill", "student")
DEVICE_FILE = "student/device.py"
DEVICE_NAME = re.compile(r"(?<![a-z])(cuda|npu)(?![a-z])")
# The algebra of a warm start is done once, on the CPU.
HOT = re.compile(r"student/(?!warm_start/)|distill/train\.py$")
BANNED_IN_HOT_PATHS = frozenset({"float64", "double", "complex64", "complex128", "histc"})


def sources() -> list[str]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path.relative_to(ROOT).as_posix() for path in files]


def read(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def prose(tree: ast.Module) -> set[int]:
    """Return the identities of string nodes that a person reads: docstrings, help, messages.

    A sentence has spaces; what the code itself could use as the name of a device has none.
    """
    return {
        id(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if " " in node.value.strip()
    }


def words(node: ast.AST) -> Iterator[str]:
    """Yield the names and texts that one node of a syntax tree brings into the code."""
    match node:
        case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word):
            yield word
        case ast.FunctionDef(name=word) | ast.ClassDef(name=word):
            yield word
        case ast.Constant(value=str(word)):
            yield word
        case ast.keyword(arg=str(word)):
            yield word
        case ast.alias(name=word, asname=other):
            yield word
            yield other or ""
        case ast.ImportFrom(module=str(word)):
            yield word


def devices_named(tree: ast.Module) -> list[tuple[int, str]]:
    """Return line and word of every device named in code."""
    skip = prose(tree)
    return [
        (node.lineno, word)  # type: ignore[attr-defined]
        for node in ast.walk(tree)
        if id(node) not in skip
        for word in words(node)
        if DEVICE_NAME.search(word.lower())
    ]


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield the last name of what is called, and the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    yield name, node


def unsorted_topk(tree: ast.Module) -> list[int]:
    """Return the lines of topk calls that do not leave `sorted` at true."""
    return [
        call.lineno
        for name, call in calls(tree)
        if name == "topk"
        for keyword in call.keywords
        if keyword.arg == "sorted"
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is True)
    ]


def kl_div(tree: ast.Module) -> list[int]:
    """Return the lines that call torch's kl_div, under whatever module name."""
    return [call.lineno for name, call in calls(tree) if name in ("kl_div", "KLDivLoss")]


def banned_in_hot_paths(tree: ast.Module) -> list[tuple[int, str]]:
    """Return line and name of what a training step must not use on a device."""
    return [
        (node.lineno, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in BANNED_IN_HOT_PATHS
    ]


def imported_at_import(tree: ast.Module) -> set[str]:
    """Return the top-level modules that importing this file imports."""
    found: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        pending.extend(ast.iter_child_nodes(node))
    return found


def test_all_four_packages_are_read():
    assert {name.partition("/")[0] for name in sources()} == set(PACKAGES)
    assert DEVICE_FILE in sources()


@pytest.mark.parametrize("name", sources())
def test_devices_are_named_in_one_file(name):
    named = devices_named(read(name))
    if name == DEVICE_FILE:
        assert named, "the lint does not see what it is for"
    else:
        assert named == []


@pytest.mark.parametrize("name", sources())
def test_topk_is_sorted_and_kl_is_written_out(name):
    tree = read(name)
    assert unsorted_topk(tree) == []
    assert kl_div(tree) == []


@pytest.mark.parametrize("name", [name for name in sources() if HOT.match(name)])
def test_a_training_step_uses_no_wide_dtype_and_no_histogram(name):
    assert banned_in_hot_paths(read(name)) == []


@pytest.mark.parametrize("name", [name for name in sources() if name.startswith("cli/")])
def test_the_command_line_starts_without_torch(name):
    heavy = {"torch", "transformers", "safetensors", "distill", "student"}
    assert not imported_at_import(read(name)) & heavy


GUILTY = '''
"""This docstring may say cuda and npu."""
import torch
import torch_npu
from torch.cuda import synchronize
def f(x, cuda=False):
    """So may this one: npu."""
    click.option("--device", help="auto, cpu, cuda or npu")
    x.cuda(); x.to("npu:0"); device_npu = 1
    x.topk(2, sorted=False); torch.topk(x, 2, sorted=flag); x.topk(2, sorted=True)
    F.kl_div(x, x); kl_div(x, x)
    torch.float64; x.double(); torch.histc(x)
class G:
    import transformers
'''


def test_the_lint_finds_what_it_looks_for_and_lets_prose_be():
    tree = ast.parse(GUILTY)
    named = sorted(word for _, word in devices_named(tree))
    assert named == ["cuda", "cuda", "device_npu", "npu:0", "torch.cuda", "torch_npu"]
    assert len(unsorted_topk(tree)) == 2
    assert len(kl_div(tree)) == 2
    assert sorted(word for _, word in banned_in_hot_paths(tree)) == ["double", "float64", "histc"]
    assert imported_at_import(tree) == {"torch", "torch_npu", "transformers"}
