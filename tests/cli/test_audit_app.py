"""`audit` as a user meets it: exit codes, one sentence for each failure, and what --json prints."""

import errno
import json
from pathlib import Path
from typing import Any

import click
import pytest

import audit.probe
from audit.evidence import Report, Verdict, from_json
from audit.probe import Outcome
from audit.report.render import render
from cli import audit_app
from tests.fakes import reports
from tests.fakes.commands import WITHOUT_TORCH, call, finish, modules_after, refusal, start
from tests.fakes.runs import Runs


def answers_file(path: Path, word: str, count: int = 24) -> Path:
    rows = [{"id": f"p{i}", "prompt": f"q {i}", "response": f"{word} w{i}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def asked(tmp_path: Path) -> list[Any]:
    """The options of an audit of answers, with somewhere to put it."""
    suspect = answers_file(tmp_path / "suspect.jsonl", "copper")
    teacher = answers_file(tmp_path / "teacher.jsonl", "copper")
    out = ["--out", tmp_path / "out"]
    return ["probe", "--suspect", suspect, "--teacher", f"T={teacher}", *out]


def answered(monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    """Let every audit come to `report`."""

    def carry_out(config: Any, out: Path, **callbacks: Any) -> Outcome:
        return Outcome(out=out, report=report, reused=False)

    monkeypatch.setattr(audit.probe, "probe", carry_out)


# Help.


def test_help_of_every_verb_imports_no_torch():
    verbs = [[], *([name] for name in audit_app.main.commands)]
    modules = modules_after("audit", [[*verb, "--help"] for verb in verbs])
    assert "cli" in modules
    assert not modules & {"torch", "transformers", "numpy", "sklearn", "scipy", "pydantic"}


def test_the_examples_of_the_help_stand_a_line_each():
    shown = call("audit", "--help").stdout.splitlines()
    assert sum(line.startswith("  audit probe --suspect ") for line in shown) == 3
    assert "  audit validate --bank DIR" in shown


def test_every_verb_and_option_explains_itself():
    for name, command in audit_app.main.commands.items():
        result = call("audit", name, "--help")
        assert result.exit_code == 0
        assert command.help
        assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_the_version_is_the_distributions():
    assert call("audit", "--version").stdout.startswith("audit, version 0")


# Refusals.


@pytest.mark.parametrize("pair", ["teacher", "=t.jsonl", "T=", "="])
@pytest.mark.parametrize("option", ["--control", "--reference-model"])
def test_a_name_without_a_path_is_refused(asked, pair, option):
    assert "write it as NAME=PATH" in refusal("audit", *asked, option, pair, code=2)


def test_a_path_may_hold_an_equals_sign(asked, tmp_path):
    other = answers_file(tmp_path / "a=b.jsonl", "copper")
    assert call("audit", *asked, "--reference-model", f"r={other}").exit_code == 4


@pytest.mark.parametrize("option", ["--control", "--reference-model"])
def test_the_same_name_twice_is_refused(asked, tmp_path, option):
    said = refusal("audit", *asked, option, "N=a.jsonl", option, "N=b.jsonl", code=2)
    assert "the name 'N' is given twice" in said
    assert not (tmp_path / "out").exists()


def test_several_files_of_one_teacher_need_a_bank(asked):
    said = refusal("audit", *asked, "--teacher", "N=a.jsonl", "--teacher", "N=b.jsonl", code=2)
    assert "teacher 'N' has 2 files; one name for several needs a bank" in said


def test_a_name_in_two_roles_is_refused(asked):
    said = refusal("audit", *asked, "--reference-model", "T=a.jsonl", code=2)
    assert "the name 'T' is given twice" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no suspect is named; give --suspect PATH, or --config FILE"),
        (["--teacher", "T=t.jsonl"], "no suspect is named"),
        (["--suspect", "s.jsonl"], "no teacher is named; give --teacher NAME=PATH"),
        (["--suspect", "none.jsonl", "--teacher", "T=t.jsonl"], "none.jsonl does not exist"),
        (["--suspect", "s.jsonl", "--teacher", "T=none"], "T: none does not exist"),
        (["--suspect", "s.jsonl", "--teacher", "T=t.jsonl", "-s", "alpha"], "-s alpha: write it"),
        (["--suspect", "s.jsonl", "--teacher", "T=t.jsonl", "-s", "alpha=2"], "-s alpha: alpha"),
        (["--suspect", "s.jsonl", "--teacher", "T=empty.jsonl"], "empty.jsonl is empty"),
        (["--suspect", "s.jsonl", "--teacher", "T=bad.jsonl"], "bad.jsonl, line 2: not valid"),
        (["--suspect", "bad.jsonl", "--teacher", "T=t.jsonl"], "bad.jsonl, line 2: not valid"),
        (["--suspect", "latin.jsonl", "--teacher", "T=t.jsonl"], "latin.jsonl is not UTF-8"),
        (["--suspect", "s.jsonl", "--teacher", "T=t.jsonl", "--prompts", "no"], "no does not exi"),
    ],
)
def test_unusable_material_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    answers_file(Path("s.jsonl"), "a")
    answers_file(Path("t.jsonl"), "b")
    Path("empty.jsonl").write_text("")
    Path("bad.jsonl").write_text('{"id": "p0", "prompt": "q", "response": "r"}\n{"id":\n')
    Path("latin.jsonl").write_bytes(b"caf\xe9")
    assert said in refusal("audit", "probe", *arguments, code=2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "audit.yaml does not exist"),
        (b"", "audit.yaml: suspect is required and missing"),
        (b"suspect: \xff", "audit.yaml is not UTF-8 (byte 9)"),
        (b"suspect: a\nteacher: {T: t}\n", "audit.yaml:2: unknown key 'teacher'; did you mean"),
        (b"suspect: a\nteachers: {T: t}\nalpha: low\n", "audit.yaml:3: alpha"),
        (b"suspect: a\nsuspect: b\n", "audit.yaml:2: key 'suspect' is given twice"),
        (b"suspect: [a\n", "not valid YAML"),
    ],
)
def test_a_wrong_config_is_one_sentence_and_exit_code_2(tmp_path, content, said):
    path = tmp_path / "audit.yaml"
    if content is not None:
        path.write_bytes(content)
    arguments = ["probe", "--config", path, "--out", tmp_path / "out"]
    assert said in refusal("audit", *arguments, code=2)


def test_a_config_file_and_options_make_one_audit(asked, tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_text("suspect: nobody.jsonl\nteachers: {X: nothing.jsonl}\nmin_prompts: 5\n")
    assert call("audit", *asked, "--config", path, "-s", "seed=3").exit_code == 4
    kept = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert (kept["settings"]["min_prompts"], kept["settings"]["seed"]) == (5, 3)
    assert [finding["teacher"] for finding in kept["findings"]] == ["T"]


@pytest.mark.slow
def test_without_torch_an_audit_of_weights_names_the_extra(tmp_path):
    (tmp_path / "model").mkdir()
    arguments = ["probe", "--suspect", tmp_path / "model", "--teacher", f"T={tmp_path / 'model'}"]
    process = start("audit", *arguments, "--out", tmp_path / "out", before=WITHOUT_TORCH)
    code, out, err = finish(process)
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "error: torch is not installed; run: pip install 'spiritsafe[distill]'"
    ]


# Exit codes of findings.


@pytest.mark.parametrize(
    ("verdicts", "fail_on", "code"),
    [
        (["SUPPORTED"], None, 0),
        (["SUPPORTED"], "supported", 3),
        (["SUPPORTED"], "inconclusive", 3),
        (["INCONCLUSIVE"], None, 0),
        (["INCONCLUSIVE"], "supported", 0),
        (["INCONCLUSIVE"], "inconclusive", 3),
        (["NOT_SUPPORTED"], "inconclusive", 0),
        (["NOT_SUPPORTED", "SUPPORTED"], "supported", 3),
        (["INSUFFICIENT"], None, 4),
        (["INSUFFICIENT"], "inconclusive", 4),
        (["INSUFFICIENT", "NOT_SUPPORTED"], None, 0),
        (["INSUFFICIENT", "SUPPORTED"], "supported", 3),
    ],
)
def test_exit_codes_follow_the_findings(asked, monkeypatch, verdicts, fail_on, code):
    findings = tuple(reports.finding(Verdict(verdict)) for verdict in verdicts)
    answered(monkeypatch, reports.report(findings=findings))
    option = ["--fail-on", fail_on] if fail_on else []
    result = call("audit", *asked, *option)
    assert result.exit_code == code
    assert len(result.stdout.splitlines()) == len(verdicts) + 2 + 1


def test_a_supported_control_does_not_fail_the_audit_of_a_suspect(asked, monkeypatch):
    false_alarm = reports.finding(Verdict.SUPPORTED, suspect="control-0")
    report = reports.report(findings=(reports.finding(Verdict.NOT_SUPPORTED),))
    controls = type(report.controls)(
        description="", findings=(false_alarm,), matched=(), unmatched=()
    )
    answered(monkeypatch, reports.report(findings=report.findings, controls=controls))
    result = call("audit", *asked, "--fail-on", "supported")
    assert result.exit_code == 0
    assert "control-0 / teacher-a: SUPPORTED" in result.stdout


def test_answers_alone_are_insufficient_and_exit_with_4(asked, tmp_path):
    result = call("audit", *asked)
    assert result.exit_code == 4
    first, page = result.stdout.splitlines()
    assert first.startswith("suspect / T: INSUFFICIENT; ")
    assert page == f"page: {tmp_path / 'out' / 'report.html'}"
    again = call("audit", *asked)
    assert (again.exit_code, again.stdout) == (4, result.stdout)
    assert "finished already; nothing to do" in again.stderr


def test_json_is_the_report_and_nothing_else(asked, tmp_path):
    result = call("audit", *asked, "--json", "-q")
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    kept = (tmp_path / "out" / "report.json").read_text(encoding="utf-8")
    assert json.loads(result.stdout) == json.loads(kept)


def test_the_report_keeps_the_command_that_made_it(asked, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["anything", *map(str, asked), "--out", "a b"])
    call("audit", *asked)
    kept = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert kept["command"].startswith("audit probe --suspect ")
    assert kept["command"].endswith("--out 'a b'")


# Interruptions and a full disk.


def test_an_interrupted_audit_exits_with_130(asked, monkeypatch):
    def interrupted(*arguments: Any, **named: Any) -> Outcome:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(audit.probe, "probe", interrupted)
        result = call("audit", *asked)
    assert result.exit_code == 130
    assert "interrupted; what was collected is saved" in result.stderr
    assert call("audit", *asked).exit_code == 4


@pytest.mark.parametrize("name", ["audit.yaml", "report.html", "report.json", "statement.json"])
def test_a_full_disk_leaves_the_former_report_as_it_was(asked, tmp_path, monkeypatch, name):
    assert call("audit", *asked).exit_code == 4
    out = tmp_path / "out"
    before = {path: path.read_bytes() for path in out.iterdir()}
    real = Path.write_bytes

    def write_bytes(self: Path, data: bytes) -> int:
        if self.name.startswith(name):
            real(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        said = refusal("audit", *asked, "-s", "seed=1", code=1)
    assert f"{name}: No space left on device; free space" in said
    # Before anything else is overwritten, what was stated of it goes.
    assert (out / name).exists() == (name != "statement.json")
    assert name == "statement.json" or (out / name).read_bytes() == before[out / name]
    assert not list(out.glob("*.partial"))
    for seed in (0, 1):
        assert call("audit", *asked, "-s", f"seed={seed}").exit_code == 4
        kept = from_json(json.loads((out / "report.json").read_text(encoding="utf-8")))
        assert kept.settings["seed"] == seed
        assert (out / "report.html").read_text(encoding="utf-8") == render(kept)


# Real models, in a process of their own.


@pytest.mark.slow
def test_an_audit_of_weights_finds_the_teacher_and_prints_only_the_report(runs: Runs, tmp_path):
    controls = [f"--control={name}={path}" for name, path in runs.controls.items()]
    arguments = [
        "probe", "--suspect", runs.student, "--teacher", f"tiny={runs.teacher}", *controls,
        "-s", "max_tokens=8", "-s", "device=cpu", "--out", tmp_path / "out",
        "--json", "--fail-on", "supported",
    ]  # fmt: skip
    code, out, err = finish(start("audit", *arguments, "-q"))
    assert (code, err) == (3, "")
    said = json.loads(out)
    assert said["findings"][0]["verdict"] == "SUPPORTED"
    assert "SUPPORTED" not in {row["verdict"] for row in said["controls"]["findings"]}
    assert out.count("\n") == 1
