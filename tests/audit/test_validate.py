"""Each model in the suspect's place: who is found, who is not accused, what is not looked at."""

import csv
import json
from pathlib import Path

import pytest

from audit.bank import load
from audit.errors import AuditError, InputError
from audit.evidence import Verdict
from audit.lineup.ruling import Rules
from audit.validate import COLUMNS, validate
from tests.fakes import banks, lineups

PEOPLE = [
    *lineups.teachers(4),
    *lineups.unrelated(10),
    *lineups.unrelated(4, "control"),
    *[lineups.student(f"s{n}", n % 4, family=f"school{n // 2}") for n in range(8)],
    *[lineups.student(f"d{n}", n % 4, 0.9, relation="derivative", body=True) for n in range(4)],
]


def run(bank: Path, out: Path, *, cache: Path | None = None, least_prompts: int = 20):
    return validate(
        bank,
        out,
        rules=Rules(),
        least_prompts=least_prompts,
        cache=cache,
        say=lambda text: None,
        progress=lambda *told: None,
    )


def with_pairs(path: Path) -> Path:
    """Write into a bank the pairs.csv that its other tables imply."""
    from audit.lineup.known import truth

    bank = load(path)
    rows = [
        {"suspect": m.name, "group": g.name, "truth": truth(bank, m, g), "basis": "documented"}
        for m in bank.models
        for g in bank.groups
    ]
    banks.table(path / "pairs.csv", rows)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a bank, its validation and where that was written."""
    place = tmp_path_factory.mktemp("validate")
    bank = with_pairs(lineups.write(place / "bank", PEOPLE, seed=5))
    before = {path: path.read_bytes() for path in sorted(bank.rglob("*")) if path.is_file()}
    found = run(bank, place / "out", cache=place / "cache")
    after = {path: path.read_bytes() for path in sorted(bank.rglob("*")) if path.is_file()}
    assert before == after  # a bank is never written to
    return bank, found, place / "out"


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "verdicts.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_there_is_one_row_for_every_model_and_group_it_is_no_member_of(world):
    bank, _, out = world
    known = load(bank)
    wanted = [(m.name, g.name) for m in known.models for g in known.groups if g.name != m.group]
    rows = rows_of(out)
    assert [(row["suspect"], row["teacher_group"]) for row in rows] == wanted
    assert tuple(rows[0]) == COLUMNS


def test_numbers_are_there_where_something_was_judged(world):
    for row in rows_of(world[2]):
        assert 0 < float(row["p_value"]) <= float(row["p_adjusted"]) <= 1
        assert float(row["score"]) == float(row["score"])
        assert int(row["rank"]) >= 1
        assert row["verdict"] in {verdict.value for verdict in Verdict}


def test_students_are_found_and_nobody_else_is_accused(world):
    metrics = json.loads((world[2] / "metrics.json").read_text())
    assert metrics["by_relation"]["single"]["top_1"] == 1
    # Of 8 whose likeness is in the first words alone, and among so few families.
    assert metrics["by_relation"]["single"]["supported"] >= 4
    assert metrics["by_relation"]["derivative"]["supported"] == 4
    assert set(metrics["false_supported"].values()) == {0}
    assert metrics["auc"] > 0.99


def test_metrics_say_what_they_are_of(world):
    bank, found, out = world
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["schema"] == "spiritsafe.validation/1"
    assert metrics["bank"] == {"name": "bank", "sha256": load(bank).sha256()}
    assert metrics["rules"] == {
        "alpha": 0.05, "margin": 1.0, "clear": 0.2, "separated": 4.0, "served": 0.5,
        "least_prompts": 20
    }  # fmt: skip
    assert metrics["suspects"] == len(PEOPLE)
    assert {row["name"] for row in metrics["calibration"]} >= {"all", "human-data controls"}
    assert found.models == len(PEOPLE)
    assert (out / "validation.html").read_text().startswith("<!doctype html>")


def test_findings_say_why(world):
    lines = (world[2] / "findings.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) == len(rows_of(world[2]))
    assert all(row["reason"] for row in found)
    assert {"truth", "checks", "p_own", "p_own_floor"} <= set(found[0])


def test_a_second_run_reads_the_index_and_finds_the_same(world, tmp_path):
    bank, _, out = world
    run(bank, tmp_path / "again", cache=out.parent / "cache")
    for name in ("verdicts.csv", "metrics.json", "validation.html"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


BLANKED = ("documented_teachers", "relation", "confidence", "source", "same_base_as")


# A teacher that was taught itself: what its own label says decides findings on its teacher.
HEIR = lineups.Someone(
    name="heir",
    learnt={"v0": 0.6},
    labels={
        "role": "teacher",
        "group": "g9",
        "documented_teachers": "g0",
        "relation": "single",
        "vendor_or_family": "heir",
    },
)


def blank(bank: Path, family: str, out: Path) -> Path:
    """Write the bank once more without the labels of one family."""
    out.mkdir()
    (out / "responses").symlink_to(bank / "responses")
    (out / "groups.csv").write_bytes((bank / "groups.csv").read_bytes())
    with (bank / "models.csv").open(encoding="utf-8", newline="") as stream:
        models = list(csv.DictReader(stream))
    own = {row["model"] for row in models if row["vendor_or_family"] == family}
    for row in models:
        if row["model"] in own:
            row |= {name: "" for name in BLANKED if name in row}
    banks.table(out / "models.csv", models)
    with (bank / "pairs.csv").open(encoding="utf-8", newline="") as stream:
        pairs = [row for row in csv.DictReader(stream) if row["suspect"] not in own]
    banks.table(out / "pairs.csv", pairs)
    return out


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a bank of few families that have labels to lose, and its rows."""
    people = [
        *lineups.teachers(3, 1),
        *lineups.unrelated(4),
        *lineups.unrelated(2, "control"),
        *[lineups.student(f"s{n}", n % 3, family=f"school{n // 2}") for n in range(4)],
        lineups.student("d0", 1, 0.9, relation="derivative", body=True),
        HEIR,
    ]
    place = tmp_path_factory.mktemp("blank")
    bank = with_pairs(lineups.write(place / "bank", people, prompts=25))
    run(bank, place / "out")
    return bank, rows_of(place / "out")


def test_a_suspects_rows_do_not_depend_on_the_labels_of_its_own_family(small, tmp_path):
    bank, whole = small
    families = {model.name: model.family for model in load(bank).models}
    for number, family in enumerate(dict.fromkeys(families.values())):
        run(blank(bank, family, tmp_path / f"bank{number}"), tmp_path / f"out{number}")
        mine = [row for row in whole if families[row["suspect"]] == family]
        found = rows_of(tmp_path / f"out{number}")
        assert [row for row in found if families[row["suspect"]] == family] == mine


def test_labels_of_other_families_do_matter(small, tmp_path):
    """Else the test above could not fail."""
    bank, whole = small
    run(blank(bank, "vendor0", tmp_path / "bank"), tmp_path / "out")
    assert rows_of(tmp_path / "out") != whole


@pytest.mark.parametrize("seed", range(4))
def test_where_nobody_was_taught_nobody_is_accused(tmp_path, seed):
    people = [*lineups.teachers(3), *lineups.unrelated(9), *lineups.unrelated(3, "control")]
    found = run(lineups.write(tmp_path / "bank", people, seed=seed, prompts=40), tmp_path / "out")
    assert not [one for one in found.judged if one.ruling.verdict is Verdict.SUPPORTED]


def test_a_group_launched_after_the_answers_is_never_supported(tmp_path):
    people = [
        *lineups.teachers(4),
        *lineups.unrelated(14),
        *[lineups.student(f"s{n}", n % 4) for n in range(6)],
        lineups.Someone(
            name="early",
            learnt={"v0": 0.8},
            labels={"role": "student", "outputs_published_by": "2020-01-01"},
        ),
    ]
    path = lineups.write(tmp_path / "bank", people, launches={"g0": "2021-01-01"})
    found = run(path, tmp_path / "out")
    row = next(
        j.ruling for j in found.judged if (j.ruling.suspect, j.ruling.group) == ("early", "g0")
    )
    assert row.score is not None and row.score > 3
    assert row.verdict is Verdict.NOT_SUPPORTED
    assert "2020-01-01" in row.reason


def bank_of(tmp_path: Path, answers: dict[str, dict[str, str]]) -> Path:
    """Write a bank of five teachers' groups and what is given, as controls."""
    people = [*lineups.teachers(5, 1), *lineups.unrelated(6)]
    said = {p.name: {f"q{n}": lineups.answer(p, n, 0) for n in range(25)} for p in people}
    labels = {p.name: p.labels for p in people}
    labels |= {name: {"role": "control", "relation": "none"} for name in answers}
    groups = {f"g{n}": {"vendor": f"v{n}", "public_launch": ""} for n in range(5)}
    return banks.write(tmp_path / "bank", {**said, **answers}, labels=labels, groups=groups)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({f"q{n}": "It is so." for n in range(19)}, "answers 19 of the bank's prompts"),
        ({f"x{n}": "It is so." for n in range(25)}, "answers 0 of the bank's prompts"),
        ({f"q{n}": " \n" for n in range(25)}, "answers 0 of the bank's prompts"),
    ],
    ids=["too few prompts", "no prompt in common", "empty answers"],
)
def test_who_says_too_little_is_not_judged(tmp_path, answers, reason):
    found = run(bank_of(tmp_path, {"silent": answers}), tmp_path / "out")
    mine = [one.ruling for one in found.judged if one.ruling.suspect == "silent"]
    assert {one.verdict for one in mine} == {Verdict.INSUFFICIENT}
    assert all(reason in one.reason for one in mine)
    row = next(r for r in rows_of(tmp_path / "out") if r["suspect"] == "silent")
    assert [row[name] for name in COLUMNS[2:7]] == [""] * 5


@pytest.mark.parametrize(
    "text",
    ["\u5f88\u9ad8\u5174\u56de\u7b54\u4f60\u7684\u95ee\u9898\u3002", "no " * 2_000_000, "\ud800 ?"],
    ids=["another language", "a very long answer", "a lone surrogate"],
)
def test_strange_answers_are_judged_and_accuse_nobody(tmp_path, text):
    found = run(bank_of(tmp_path, {"odd": {f"q{n}": text for n in range(25)}}), tmp_path / "out")
    mine = [one.ruling for one in found.judged if one.ruling.suspect == "odd"]
    assert len(mine) == 5
    assert Verdict.SUPPORTED not in {one.verdict for one in mine}


def test_a_population_of_one_model_decides_nothing(tmp_path):
    people = [*lineups.teachers(1, 1), *lineups.unrelated(1)]
    found = run(lineups.write(tmp_path / "bank", people, prompts=25), tmp_path / "out")
    assert {one.ruling.verdict for one in found.judged} == {Verdict.INSUFFICIENT}


def test_a_bank_without_teachers_is_refused(tmp_path):
    path = banks.write(tmp_path / "bank", {"one": {"q0": "a"}, "two": {"q0": "b"}})
    with pytest.raises(AuditError, match=r"no group of teachers; add groups\.csv"):
        run(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    path = bank_of(tmp_path, {})
    (tmp_path / "out").write_text("a file")
    with pytest.raises(AuditError, match="cannot write"):
        run(path, tmp_path / "out")


def test_no_bank_is_said(tmp_path):
    with pytest.raises(InputError, match="is not a directory"):
        run(tmp_path / "none", tmp_path / "out")
