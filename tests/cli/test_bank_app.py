"""`audit bank` as a user meets it: what it prints, where, and how it fails."""

import json
from pathlib import Path

import pytest

from audit.banks.importing import FORMATS
from cli import bank_app
from tests.fakes import banks
from tests.fakes.commands import call, modules_after, refusal


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Answers of two models as AlpacaEval keeps them."""
    for name in ("one", "two"):
        path = tmp_path / "clone" / "results" / name / "model_outputs.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps([{"instruction": "ask", "output": name, "generator": name}]))
    return tmp_path / "clone"


def test_an_imported_bank_can_be_described(clone, tmp_path):
    done = call("audit", "bank", "import", clone, tmp_path / "bank")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'bank'}: 2 models, 2 answers\n"
    assert "fill in families" in done.stderr and done.stderr.count("\n") == 1
    shown = call("audit", "bank", "describe", tmp_path / "bank")
    assert shown.exit_code == 0 and shown.stderr == ""
    assert shown.stdout.splitlines()[1].split()[:3] == ["one", "one", "vendor"]


def test_json_is_one_object_on_stdout(clone, tmp_path):
    done = call("audit", "bank", "import", clone, tmp_path / "bank", "--json")
    found = json.loads(done.stdout)
    assert (found["path"], found["format"]) == (str(tmp_path / "bank"), "alpaca-eval")
    assert (found["models"], found["answers"], found["labelled"]) == (2, 2, False)
    shown = json.loads(call("audit", "bank", "describe", tmp_path / "bank", "--json").stdout)
    assert shown["schema"] == "spiritsafe.bank/1"
    assert [model["model"] for model in shown["models"]] == ["one", "two"]


def test_labels_groups_and_pairs_are_carried_along(clone, tmp_path):
    labels = {"one": {"role": "teacher", "group": "G"}, "two": {"role": "student"}}
    pairs = [("two", "G", "positive", "documented")]
    given = banks.write(
        tmp_path / "given", {"one": {}, "two": {}}, labels=labels, groups={"G": {}}, pairs=pairs
    )
    options = [f"--{o}={given / t}.csv" for o, t in
               (("labels", "models"), ("groups", "groups"), ("pairs", "pairs"))]  # fmt: skip
    done = call("audit", "bank", "import", clone, tmp_path / "bank", *options)
    assert (done.exit_code, done.stderr) == (0, "")
    shown = json.loads(call("audit", "bank", "describe", tmp_path / "bank", "--json").stdout)
    assert shown["groups"] == 1
    assert shown["pairs"] == [{"truth": "positive", "basis": "documented", "pairs": 1}]


@pytest.mark.parametrize("option", ["--groups", "--pairs"])
def test_groups_and_pairs_need_labels(clone, tmp_path, option):
    said = refusal("audit", "bank", "import", clone, tmp_path / "bank", option, "x.csv", code=2)
    assert "need --labels" in said
    assert not (tmp_path / "bank").exists()


def test_a_given_format_is_used(clone, tmp_path):
    arguments = ("bank", "import", clone, tmp_path / "bank", "--format", "wildbench")
    assert "session_id" in refusal("audit", *arguments, code=2)


def test_what_cannot_be_used_is_one_sentence_and_exit_2(clone, tmp_path):
    assert "no models.csv" in refusal("audit", "bank", "describe", clone, code=2)
    assert "not empty" in refusal("audit", "bank", "import", clone, clone, code=2)
    assert "does not exist" in refusal("audit", "bank", "import", "nowhere", "bank", code=2)


def test_formats_of_the_option_are_those_there_are():
    assert set(bank_app.FORMATS) == set(FORMATS)


def test_help_explains_every_option_and_imports_nothing_heavy():
    for verb in ("import", "describe"):
        shown = call("audit", "bank", verb, "--help")
        assert shown.exit_code == 0
        assert all(name in shown.stdout for name in ("Usage: ", "--json", "--verbose"))
    assert "model_answer/*.jsonl" in call("audit", "bank", "import", "--help").stdout
    modules = modules_after("audit", [["bank", verb, "--help"] for verb in ("import", "describe")])
    assert not modules & {"torch", "transformers", "numpy", "sklearn", "scipy", "pydantic"}


def test_a_bank_is_described_without_torch(tmp_path):
    banks.tiny(tmp_path)
    modules = modules_after("audit", [["bank", "describe", str(tmp_path)]])
    assert "audit" in modules and not modules & {"torch", "transformers"}
