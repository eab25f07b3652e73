"""`audit plan` as a user meets it."""

import json
from pathlib import Path

import pytest

from tests.fakes import lineups
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
        *[lineups.student(f"s{n}", n % 3, 0.7, body=True) for n in range(5)],
    ]
    return lineups.write(tmp_path_factory.mktemp("plan") / "bank", people, prompts=40)


PRICES = ("--input-price", "1", "--output-price", "10")


def test_it_says_what_a_power_needs_and_what_a_budget_buys(bank, tmp_path):
    out = tmp_path / "ask.jsonl"
    done = call(
        *("audit", "plan", "--bank", bank, "--quiet", "--out", out),
        *(*PRICES, "--answer-tokens", "100", "--budget", "0.0255"),
    )
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "bank: known pairs that would be SUPPORTED"
    assert lines[1].split() == ["prompts", "single", "unrelated"]
    assert [line.split()[:4] for line in lines[2:5]] == [
        [count, "5", "of", "5"] for count in ("20", "30", "40")
    ]
    needs = "a power of 80% (single) needs 20 prompts: 5 of 5, 95 % interval 57% to 100%"
    assert lines[5] == needs
    assert lines[6].startswith("20 prompts cost about 0.02")
    assert "the budget buys 25 of 40 prompts" in lines
    asked = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines[-1] == f"{len(asked)} prompts to ask: {out}"
    assert len(asked) == 20
    assert all(row["prompt"] == f"prompt {row['id']}" for row in asked)


def test_json_has_every_figure(bank):
    done = call("audit", "plan", "--bank", bank, "--json", "--quiet", *PRICES)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [point["prompts"] for point in found["points"]] == [20, 30, 40]
    assert found["points"][0]["related"]["single"]["pairs"] == 5
    assert (found["bought"], found["prompts"], found["written"]) == (None, 40, 0)


def test_a_power_that_is_not_reached_is_said_to_be_so(bank):
    done = call("audit", "plan", "--bank", bank, "--quiet", "--alpha", "0.001")
    assert done.exit_code == 0, done.output
    assert "a power of 80% (single) is not reached with all 40 prompts: 0 of 5" in done.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--budget", "3"), "--budget needs --input-price and --output-price."),
        (("--input-price", "3"), "--input-price and --output-price go together."),
        (("--relation", "edited"), "documents no student of relation 'edited'; it has single."),
        (("--language", "en"), "--language is of the shipped prompts; leave it out with --bank."),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(bank, given, said):
    assert said in refusal("audit", "plan", "--bank", bank, "--quiet", *given, code=2)


def test_a_bank_that_is_not_there_is_named(tmp_path):
    assert str(tmp_path / "no") in refusal("audit", "plan", "--bank", tmp_path / "no", code=2)


def test_a_bank_without_students_is_refused_before_anything_is_compared(tmp_path):
    people = [*lineups.teachers(3), *lineups.unrelated(5)]
    path = lineups.write(tmp_path / "bank", people, prompts=8)
    said = refusal("audit", "plan", "--bank", path, "--quiet", code=2)
    assert "it has none of any relation, so there is no power to count." in said
    assert not (tmp_path / "cache").exists()
