"""`audit validate` and `audit probe --bank` as a user meets them."""

import json
from pathlib import Path

import pytest

from tests.fakes import banks, lineups
from tests.fakes.commands import call, refusal


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep indices out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    people = [
        *lineups.teachers(3),
        *lineups.unrelated(20),
        *[lineups.student(f"s{n}", n % 3) for n in range(5)],
    ]
    return lineups.write(tmp_path_factory.mktemp("cli") / "bank", people, prompts=30)


@pytest.fixture(scope="module")
def suspect(tmp_path_factory) -> Path:
    someone = lineups.student("pupil", 1, 0.7)
    texts = {f"q{n}": lineups.answer(someone, n, 0) for n in range(30)}
    path = tmp_path_factory.mktemp("suspect") / "pupil.jsonl"
    banks.answers_file(path, texts)
    return path


def test_a_validation_says_what_it_found_and_where(bank, tmp_path):
    done = call("audit", "validate", "--bank", bank, "--out", tmp_path / "out", "--quiet")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("31 suspects, 87 pairs: 5 documented positives, ")
    assert lines[1] == "false SUPPORTED: 0 on controls, 0 on vendors, 0 on teachers, 0 on students"
    assert lines[-1] == f"page: {tmp_path / 'out' / 'validation.html'}"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("verdicts.csv", "findings.jsonl", "metrics.json", "validation.html", "statement.json")
    }


def test_json_is_the_metrics(bank, tmp_path):
    done = call("audit", "validate", "--bank", bank, "--out", tmp_path / "out", "--json", "-q")
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_progress_and_time_go_to_stderr(bank, tmp_path):
    done = call("audit", "validate", "--bank", bank, "--out", tmp_path / "out")
    assert "31 models of 28 families, 3 groups of teachers, 30 prompts" in done.stderr
    assert "time: validation" in done.stderr
    assert "time:" not in done.stdout


def test_an_index_is_kept_unless_told_otherwise(bank, tmp_path):
    kept = tmp_path / "cache" / "spiritsafe" / "banks"
    call("audit", "validate", "--bank", bank, "--out", tmp_path / "a", "--no-cache", "-q")
    assert not kept.exists()
    call("audit", "validate", "--bank", bank, "--out", tmp_path / "b", "-q")
    assert len(list(kept.iterdir())) == 1


def test_settings_are_those_given(bank, tmp_path):
    call(
        *("audit", "validate", "--bank", bank, "--out", tmp_path / "out", "-q"),
        *("--alpha", "0.01", "--min-prompts", "31"),
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["rules"]["alpha"], metrics["rules"]["least_prompts"]) == (0.01, 31)
    assert metrics["verdicts"]["positive"]["INSUFFICIENT"] == 5


def test_no_bank_is_one_sentence(tmp_path):
    given = ("validate", "--bank", tmp_path / "none", "--out", tmp_path / "out")
    assert refusal("audit", *given, code=2) == (
        f"error: {tmp_path / 'none'} is not a directory; name the one that holds models.csv."
    )


def test_a_suspect_is_held_against_a_bank(bank, suspect, tmp_path):
    done = call("audit", "probe", "--suspect", suspect, "--bank", bank, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert [line.split(":")[0] for line in done.stdout.splitlines()[:3]] == [
        *("pupil / g0", "pupil / g1", "pupil / g2")
    ]
    assert "g1: SUPPORTED" in done.stdout.splitlines()[1]
    assert done.stdout.splitlines()[-1] == f"page: {tmp_path / 'out' / 'report.html'}"


def test_a_supported_finding_can_fail_a_pipeline(bank, suspect, tmp_path):
    given = ("audit", "probe", "--suspect", suspect, "--bank", bank, "--out", tmp_path / "out")
    assert call(*given, "--fail-on", "supported", "-q").exit_code == 3


def test_all_findings_insufficient_exit_4(bank, tmp_path):
    banks.answers_file(tmp_path / "few.jsonl", {f"q{n}": "So it is." for n in range(10)})
    given = ("--suspect", tmp_path / "few.jsonl", "--bank", bank, "--out", tmp_path / "out")
    assert call("audit", "probe", *given, "-q").exit_code == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--suspect-date", "last May"], "suspect_date"),
        (["--related", "nobody"], "--related nobody: the bank has no such model"),
        (["--suspect-family", "nobody"], "the bank has no such family"),
        (["--control", "a=b"], "leave out controls"),
    ],
)
def test_options_that_do_not_fit_are_refused(bank, suspect, tmp_path, options, said):
    given = ("--suspect", suspect, "--bank", bank, "--out", tmp_path / "out")
    assert said in refusal("audit", "probe", *given, *options, code=2)
