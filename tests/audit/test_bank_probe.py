"""One suspect against a bank: the report, what it rests on, and what is refused."""

import json
from pathlib import Path

import pytest

from audit.config import AuditConfig
from audit.errors import ConfigError, InputError
from audit.evidence import Verdict, from_json
from audit.probe import probe
from tests.fakes import banks, lineups

PEOPLE = [
    *lineups.teachers(4),
    *lineups.unrelated(10),
    *lineups.unrelated(4, "control"),
    *[lineups.student(f"s{n}", n % 4) for n in range(6)],
]
SUSPECT = lineups.student("pupil", 2, 0.7)
STRANGER = lineups.Someone(name="stranger")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a directory with a bank, a student's answers and a stranger's."""
    place = tmp_path_factory.mktemp("probe")
    lineups.write(place / "bank", PEOPLE)
    for someone in (SUSPECT, STRANGER):
        texts = {f"q{n}": lineups.answer(someone, n, 0) for n in range(60)}
        banks.answers_file(place / f"{someone.name}.jsonl", texts)
    return place


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep indices out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def audit(world: Path, out: Path, who: str = "pupil", **settings):
    given = {"suspect": str(world / f"{who}.jsonl"), "bank": str(world / "bank"), **settings}
    said: list[str] = []
    outcome = probe(
        AuditConfig(**given),
        out,
        command="audit probe",
        say=said.append,
        progress=lambda *told: None,
    )
    return outcome, said


def test_a_students_teacher_is_found_and_no_other(world, tmp_path):
    report = audit(world, tmp_path / "out")[0].report
    verdicts = {finding.group: finding.verdict for finding in report.findings}
    assert [group for group, v in verdicts.items() if v is Verdict.SUPPORTED] == ["g2"]
    found = next(finding for finding in report.findings if finding.group == "g2")
    assert report.suspect.greetings == ()
    assert found.low < found.score < found.high
    assert found.log10_lr_low <= found.log10_lr
    assert found.p_value < found.p_adjusted <= 0.05
    main, *checks = found.probes
    assert main.population[0].role == "suspect"
    assert main.rank == 1 and main.rank_of == len(main.population)
    assert {member.role for member in main.population[1:]} == {"reference"}
    names = {member.name for member in main.population}
    assert not names & {"t2-0", "t2-1"}  # nobody is a reference for its own group
    assert [check.probe for check in checks] == [
        "contrast, format stripped",
        "contrast, length matched",
        "contrast, after the first words",
        "contrast, long spans",
        "permuted teachers",
        "equality",
        "attribution, 75 words",
        "attribution, 75 words, format stripped",
        "attribution, 20 words of answers that have as many",
        "self_identity",
    ]


def test_a_greeting_before_every_answer_hides_nobody_and_is_named(world, tmp_path):
    rows = [json.loads(line) for line in (world / "pupil.jsonl").read_text().splitlines()]
    for row in rows:
        row["response"] = f"Ahoy, dear reader, said <b>he</b>: {row['response']}"
    path = world / "pirate.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome, _ = audit(world, tmp_path / "out", "pirate")
    verdicts = {finding.group: finding.verdict for finding in outcome.report.findings}
    assert [group for group, v in verdicts.items() if v is Verdict.SUPPORTED] == ["g2"]
    (greeting,) = outcome.report.suspect.greetings
    assert greeting == "ahoy , dear reader , said < b > he < / b > :"
    assert "ahoy , dear reader , said &lt; b &gt; he" in outcome.page.read_text()


def test_a_stranger_is_not_accused(world, tmp_path):
    report = audit(world, tmp_path / "out", "stranger")[0].report
    assert Verdict.SUPPORTED not in {finding.verdict for finding in report.findings}


def test_error_rates_and_known_students_stand_in_report_and_page(world, tmp_path):
    outcome, _ = audit(world, tmp_path / "out")
    report = outcome.report
    assert {rate.name for rate in report.error_rates} >= {"all", "human-data controls"}
    assert {one.name for one in report.known_students} == {f"s{n}" for n in range(6)}
    caught = sum(one.verdict is Verdict.SUPPORTED for one in report.known_students)
    assert f"{caught} of 6 single" in report.power[0].note
    assert [row.probe for row in report.power[1:]] == [f"contrast, g{n}" for n in range(4)]
    of_g0 = [one.verdict for one in report.known_students if one.group == "g0"]
    assert report.power[1].note == f"{of_g0.count(Verdict.SUPPORTED)} of {len(of_g0)} single"
    control = report.known_students[0]
    assert (
        f"Positive control: {control.name}, a documented student of {control.group} and the first "
        f"in the bank, comes out as {control.verdict}" in report.controls.description
    )
    page = outcome.page.read_text(encoding="utf-8")
    assert "Known students in the suspect" in page and "s3 / g3" in page
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert from_json(data) == report


def test_a_bank_that_documents_no_student_of_a_group_says_so(world, tmp_path):
    answers = {f"q{n}": lineups.answer(SUSPECT, n, 5) for n in range(60)}
    path = banks.answers_file(tmp_path / "new.jsonl", answers)
    report = audit(world, tmp_path / "out", teachers={"new": str(path)})[0].report
    assert "There is no positive control: the bank documents no student" in (
        report.controls.description
    )
    assert report.power[1].note.startswith("the bank documents no student, so what")


def test_a_suspect_that_serves_a_teacher_is_found_to_be_it(world, tmp_path):
    member = next(one for one in PEOPLE if one.name == "t1-0")
    answers = {f"q{n}": lineups.answer(member, n, 0) for n in range(60)}
    path = banks.answers_file(tmp_path / "resold.jsonl", answers)
    report = audit(world, tmp_path / "out", suspect=str(path))[0].report
    found = next(finding for finding in report.findings if finding.group == "g1")
    assert (found.verdict, found.relation) == (Verdict.SUPPORTED, "same model served")
    equality = next(probe for probe in found.probes if probe.probe == "equality")
    assert equality.score == 1
    assert "100% of the answers" in equality.reason


def test_a_classifier_is_asked_beside_it(world, tmp_path):
    report = audit(world, tmp_path / "out")[0].report
    shares = {
        finding.group: next(p for p in finding.probes if p.probe == "attribution, 75 words").score
        for finding in report.findings
    }
    assert set(shares) == {f"g{n}" for n in range(4)}
    assert sum(shares.values()) == pytest.approx(1)  # nobody's words outlive a prompt here


def test_exhibits_show_both_answers(world, tmp_path):
    report = audit(world, tmp_path / "out")[0].report
    found = next(finding for finding in report.findings if finding.group == "g2")
    shown = found.probes[0].exhibits
    assert len(shown) == 4
    number = int(shown[0].id.removeprefix("q"))
    assert shown[0].answers["suspect"] == lineups.answer(SUSPECT, number, 0)
    (teacher,) = set(shown[0].answers) - {"suspect"}
    member = next(one for one in PEOPLE if one.name == teacher)
    assert shown[0].answers[teacher] == lineups.answer(member, number, 0)


def test_a_finished_audit_is_read_and_a_changed_one_is_not(world, tmp_path):
    audit(world, tmp_path / "out")
    again, said = audit(world, tmp_path / "out")
    assert again.reused and "finished already" in said[-1]
    other, _ = audit(world, tmp_path / "out", suspect_date="2024-05-01")
    assert not other.reused


def test_the_date_of_the_answers_rules_groups_out(tmp_path, world):
    people = lineups.write(tmp_path / "bank", PEOPLE, launches={"g2": "2024-01-01"})
    settings = {"bank": str(people), "suspect_date": "2023-06-30"}
    report = audit(world, tmp_path / "out", **settings)[0].report
    found = next(finding for finding in report.findings if finding.group == "g2")
    assert found.verdict is Verdict.NOT_SUPPORTED
    assert "2023-06-30" in found.reason


def test_families_of_the_suspect_and_its_relatives_are_no_references(world, tmp_path):
    settings = {"suspect_family": "vendor3", "related": ("vendor4", "control1")}
    report = audit(world, tmp_path / "out", **settings)[0].report
    names = {m.name for finding in report.findings for m in finding.probes[0].population}
    assert not names & {"vendor3", "vendor4", "control1"}
    assert "vendor5" in names


def test_a_named_teacher_is_asked_about_alone(world, tmp_path):
    answers = {f"q{n}": lineups.answer(SUSPECT, n, 0) for n in range(60)}
    banks.answers_file(tmp_path / "new.jsonl", answers)
    settings = {"teachers": {"new": str(tmp_path / "new.jsonl")}}
    report = audit(world, tmp_path / "out", **settings)[0].report
    (found,) = report.findings
    assert (found.group, found.verdict) == ("new", Verdict.SUPPORTED)
    stranger = audit(world, tmp_path / "other", "stranger", **settings)[0].report
    assert stranger.findings[0].verdict is not Verdict.SUPPORTED


def test_several_files_of_one_teacher_are_one_group(world, tmp_path):
    files = []
    for number, vendor in enumerate((2, 3)):
        member = next(one for one in PEOPLE if one.name == f"t{vendor}-0")
        texts = {f"q{n}": lineups.answer(member, n, 0) for n in range(60)}
        files.append(str(banks.answers_file(tmp_path / f"{number}.jsonl", texts)))
    report = audit(world, tmp_path / "out", teachers={"both": tuple(files)})[0].report
    (finding,) = report.findings
    assert (finding.group, finding.teacher) == ("both", "both")
    alone = audit(world, tmp_path / "alone", teachers={"one": files[1]})[0].report.findings[0]
    assert finding.score > alone.score + 0.5  # the likest member stands for the group
    named = [row.name for row in report.materials if row.kind == "teacher: answers"]
    assert named == ["both 1", "both 2"]
    (exhibit, *_) = finding.probes[0].exhibits
    assert "both 1" in exhibit.answers


def test_a_teacher_named_as_another_s_file_is_refused(world, tmp_path):
    path = str(world / "stranger.jsonl")
    teachers = {"both": (path, path), "both 1": path}
    with pytest.raises(ConfigError, match="files of teacher 'both' are called both 1, both 2"):
        audit(world, tmp_path / "out", teachers=teachers)


def test_a_named_reference_joins_the_population(world, tmp_path):
    settings = {"reference_models": {"beside": str(world / "stranger.jsonl")}}
    report = audit(world, tmp_path / "out", **settings)[0].report
    for finding in report.findings:
        assert "beside" in {member.name for member in finding.probes[0].population}


def test_too_few_answers_decide_nothing(world, tmp_path):
    texts = {f"q{n}": lineups.answer(SUSPECT, n, 0) for n in range(12)}
    banks.answers_file(tmp_path / "few.jsonl", texts)
    report = audit(world, tmp_path / "out", suspect=str(tmp_path / "few.jsonl"))[0].report
    assert {finding.verdict for finding in report.findings} == {Verdict.INSUFFICIENT}
    assert "12 of the bank's prompts" in report.findings[0].reason
    assert report.findings[0].score is None


def test_answers_to_other_prompts_are_an_error(world, tmp_path):
    banks.answers_file(tmp_path / "other.jsonl", {"x1": "Hello.", "q1": " "})
    with pytest.raises(InputError, match="answers none of the bank's prompts with a text"):
        audit(world, tmp_path / "out", suspect=str(tmp_path / "other.jsonl"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"related": ("nobody",)}, InputError, "--related nobody: the bank has no such model"),
        ({"suspect_family": "none"}, InputError, "the bank has no such family"),
        ({"suspect": "runs"}, InputError, "is no file of answers"),
        ({"bank": "nowhere"}, InputError, "is not a directory"),
        ({"teachers": {"g1": "pupil.jsonl"}}, ConfigError, "already; choose another name"),
        ({"teachers": {"vendor1": "pupil.jsonl"}}, ConfigError, "already; choose another name"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    world, tmp_path, monkeypatch, settings, error, message
):
    monkeypatch.chdir(world)
    with pytest.raises(error, match=message):
        audit(world, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bank": None}, "no teacher is named; give --teacher NAME=PATH at least once, or --bank"),
        ({"controls": {"c": "c.jsonl"}}, "leave out controls"),
        ({"bank": None, "teachers": {"t": "t"}, "suspect_family": "f"}, "need a bank"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AuditConfig(**{"suspect": "s.jsonl", "bank": "b", **settings})
