"""What a run or a store is said to be is held against every byte of it."""

import json
import os
import shutil
from dataclasses import replace

import pytest

from audit.attest import canonical_bytes
from audit.inspection import Row
from audit.statement import ENVELOPE, OWN, STATEMENT, statement, write
from distill.errors import InputError
from distill.papers import pinned, provenance, record
from distill.papers.inspection import inspect
from distill.rollout.config import RolloutConfig
from distill.rollout.writings import Writings
from distill.run import control_of
from distill.store.verify import verify
from tests.fakes import stores
from tests.fakes.endpoints import TINY
from tests.fakes.files import bytes_of
from tests.fakes.recorded_runs import everything
from tests.fakes.sessions import (
    carried_out,
    small_config,
)

WRITES = RolloutConfig(fraction=0.5, max_new_tokens=4, prompt_tokens=4)
AWAY = "not there: it lies elsewhere or was deleted"
DISTANT = "not there: lies elsewhere or was deleted"
OTHER = "are gone, or not those that the run read"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with signals and answers of its own."""
    place = tmp_path_factory.mktemp("inspection")
    config = small_config(place, rollout=WRITES)
    config = replace(config, train=replace(config.train, steps=2))
    return carried_out(config, place / "run").out


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def wrong(path):
    """Return what is not as it should be, by name; of several reasons the first."""
    return {row.what: row.seen for row in reversed(inspect(path).rows) if row.ok is False}


def absent(path):
    """Return what is not there, by name."""
    rows = inspect(path).rows
    return {row.what: row.seen for row in rows if row.ok is None and row.what != ENVELOPE}


def spoil(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_an_untouched_run_is_intact_and_looking_changes_nothing(out):
    before = bytes_of(out)
    found = inspect(out)
    assert found.ok and wrong(out) == absent(out) == {}
    looked_at = [row.what for row in found.rows]
    for name in ("config.yaml", "metrics.jsonl", "eval.json", "heldout.jsonl", "student"):
        assert name in looked_at
    assert {"training signals, tiny", "held-out signals, tiny", "rollouts"} <= set(looked_at)
    assert "statement.sig.json unsigned" in found.summary()
    for place in ("signals/tiny/train", "signals/tiny/heldout", "rollouts/part-00000"):
        assert place in looked_at
    assert bytes_of(out) == before


def test_every_file_has_a_row(out):
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files <= {row.what for row in inspect(out).rows}


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("config.yaml", "config.yaml"),
        ("metrics.jsonl", "metrics.jsonl"),
        ("student/model.safetensors", "student"),
        ("checkpoints/step-000000/config.json", "checkpoints/step-000000"),
    ],
)
def test_a_changed_output_is_found_and_so_is_one_that_is_gone(out, name, what):
    spoil(out / name)
    assert wrong(out)[name] and wrong(out)[what]
    (out / name).unlink()
    assert wrong(out)[name] == "is gone" and wrong(out)[what]
    assert not inspect(out).ok


@pytest.mark.parametrize("name", ["run.html", "README.md", "training-content.md", "bom.cdx.json"])
def test_a_paper_that_the_records_do_not_give_is_found_though_the_statement_names_it(out, name):
    data = (out / name).read_bytes()
    (out / name).write_bytes(data.replace(b"tiny", b"tidy"))
    provenance.write(out)
    assert wrong(out) == {name: "is not what the records give"}


def test_a_statement_that_claims_other_than_the_records_say_is_found(out):
    value = json.loads((out / STATEMENT).read_text())
    claim = {name: said for name, said in value["predicate"].items() if name != OWN}
    claim["runDetails"]["metadata"]["startedOn"] = "2020-01-01T00:00:00Z"
    write(out, statement(value["subject"], value["predicateType"], claim))
    assert wrong(out) == {STATEMENT: "is not what the records give"}


def test_papers_of_another_version_are_told_apart_from_changed_ones(out, monkeypatch):
    monkeypatch.setattr(record, "code_digest", lambda: "0" * 64)
    spoil(out / "README.md")
    provenance.write(out)
    assert wrong(out) == {}
    assert absent(out)["README.md"].startswith("was made by another version of this package")


def test_a_record_in_other_bytes_is_found_though_it_says_the_same(out):
    value = json.loads((out / "eval.json").read_text())
    (out / "eval.json").write_text(json.dumps(value, indent=1))
    provenance.write(out)
    assert wrong(out)["eval.json"] == "its bytes are not canonical JSON (RFC 8785)"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"{", "cannot be read as JSON"),
        (b"[]", "does not have the shape of a manifest: it: "),
        (b'{"schema":"spiritsafe.run/3"}', "does not have the shape of a manifest: tool: "),
        (b"\xff", "cannot be read as JSON"),
        (b"[" * 9999, "cannot be read as JSON"),
    ],
)
def test_a_damaged_manifest_of_a_run_is_a_row_and_all_else_is_still_looked_at(out, damage, said):
    (out / "manifest.json").write_bytes(damage)
    assert any(
        row.what == "manifest.json" and row.ok is False and row.seen.startswith(said)
        for row in inspect(out).rows
    )
    spoil(out / "student/config.json")
    assert "student/config.json" in wrong(out)
    (out / "manifest.json").unlink()
    assert {"manifest.json", "student/config.json"} <= set(wrong(out))


@pytest.mark.parametrize("name", ["eval.json", "metrics.jsonl", "config.yaml"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff\xfe", b"{" * 5000])
def test_records_in_any_state_are_rows_and_never_a_traceback(out, name, damage):
    (out / name).write_bytes(damage)
    assert name in wrong(out)
    (out / name).unlink()
    (out / name).mkdir()
    assert name in wrong(out)


@pytest.mark.parametrize(
    "name", ["run.html", "config.yaml", "metrics.jsonl", "manifest.json", "eval.json", STATEMENT]
)
def test_a_pipe_in_a_files_place_is_not_waited_for(out, name):
    (out / name).unlink()
    os.mkfifo(out / name)
    os.mkfifo(out / "signals/tiny/responses.jsonl")
    assert name in wrong(out)


def test_an_output_outside_of_the_run_is_not_read(out):
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["outputs"][0]["name"] = "../elsewhere"
    (out / "manifest.json").write_bytes(canonical_bytes(manifest))
    assert wrong(out)["../elsewhere"] == "lies outside of the run"


def test_a_config_of_aliases_is_not_unfolded(out):
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 64))]
    (out / "config.yaml").write_text("\n".join(lines) + "\n")
    assert any("no config of a run has one" in row.seen for row in inspect(out).rows)


def test_a_file_that_nobody_names_is_told_and_one_beside_signals_is_no_fault(out):
    (out / "notes.txt").write_text("added")
    (out / "student" / "extra.bin").write_bytes(b"added")
    (out / "signals" / "other").mkdir()
    (out / "signals" / "other" / "samples.json").write_text("{}")
    added = "is not named by the statement: added, or renamed"
    assert {"notes.txt": added, "student/extra.bin": added}.items() <= wrong(out).items()
    assert list(absent(out)) == ["signals/other/samples.json"]


def test_a_control_of_a_run_leaves_it_intact(out, tmp_path):
    carried_out(control_of(out, seed=9), tmp_path / "control")
    assert inspect(out).ok and absent(out) == {}
    assert inspect(tmp_path / "control").ok


@pytest.mark.parametrize(
    "place", ["signals/tiny/train", "signals/tiny/heldout", "rollouts/part-00000"]
)
def test_a_changed_shard_is_found_and_so_is_one_that_is_gone(out, place):
    shard = f"{place}/shard-00000.safetensors"
    spoil(out / shard)
    assert wrong(out).keys() == {shard}
    (out / shard).rename(out / place / "shard-00009.safetensors")
    assert wrong(out)[shard] == "is gone"


def test_signals_in_another_stores_place_are_found_though_they_are_whole(out, tmp_path):
    train = out / "signals/tiny/train"
    shutil.rmtree(train)
    stores.filled(train, range(2))
    assert wrong(out)["training signals, tiny"] == OTHER
    shutil.rmtree(train)
    assert wrong(out) == {}
    assert absent(out) == {"training signals, tiny": AWAY, "signals/tiny/train": DISTANT}


def test_a_damaged_manifest_of_a_store_is_said_of_the_store(out):
    (out / "signals/tiny/train/manifest.json").write_text("{")
    named = {"signals/tiny/train/manifest.json", "signals/tiny/train", "training signals, tiny"}
    assert set(wrong(out)) == named


def test_signals_that_lie_elsewhere_are_not_looked_for(out, tmp_path):
    shutil.move(out / "signals", tmp_path / "elsewhere")
    assert inspect(out).ok
    inputs = {"training signals, tiny": AWAY, "held-out signals, tiny": AWAY}
    assert inputs.items() <= absent(out).items()
    # But where they are, they can be looked at, all at once or one by one.
    (one, *_) = [row.what for row in inspect(tmp_path / "elsewhere").rows]
    assert one == str(tmp_path / "elsewhere/tiny/heldout")
    assert inspect(tmp_path / "elsewhere").ok and len(inspect(tmp_path / "elsewhere").rows) == 2
    spoil(tmp_path / "elsewhere/tiny/train/shard-00000.safetensors")
    assert not inspect(tmp_path / "elsewhere").ok
    assert not inspect(tmp_path / "elsewhere/tiny/train").ok
    assert inspect(tmp_path / "elsewhere/tiny/heldout").ok


def test_a_run_of_before_there_were_statements_is_checked_as_far_as_it_goes(out):
    manifest = json.loads((out / "manifest.json").read_text()) | {"schema": "spiritsafe.run/2"}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for name in (STATEMENT, "training-content.md"):
        (out / name).unlink()
    assert inspect(out).ok and wrong(out) == {}
    assert absent(out) == {STATEMENT: "is not there: the run was made before runs had statements"}
    spoil(out / "student/model.safetensors")
    assert wrong(out) == {"student": "is gone or was changed"}


def test_a_run_that_lost_its_statement_is_not_intact(out):
    (out / STATEMENT).unlink()
    assert wrong(out)[STATEMENT] == "is gone"


# What was written on the way.


def test_answers_of_the_students_that_were_swapped_are_found_though_they_are_whole(out, tmp_path):
    part = out / "rollouts" / "part-00000"
    found = Writings.open(out / "rollouts")
    other = Writings(tmp_path / "other", found.key)
    for number in reversed(range(len(found))):
        other.add(found.read(number), seconds=1.0)
    shutil.rmtree(part)
    shutil.copytree(tmp_path / "other" / "part-00000", part)
    assert wrong(out)["rollouts"] == OTHER
    (part / "manifest.json").write_text("{")
    assert {"rollouts", "rollouts/part-00000"} <= wrong(out).keys()
    shutil.rmtree(out / "rollouts")
    assert inspect(out).ok and absent(out)["rollouts"] == AWAY


@pytest.fixture(scope="module")
def taught_by_servers(tmp_path_factory):
    """A finished run with teachers that write, on disk and served, and a server on the way."""
    return everything(tmp_path_factory.mktemp("served"))


@pytest.fixture
def served(taught_by_servers, tmp_path):
    return shutil.copytree(taught_by_servers, tmp_path / "run")


OF_FAR = {"far"}
OF_SCORED = {"scored", "answers, scored"}


def test_logs_and_answers_are_looked_at(served):
    rows = {row.what: row.ok for row in inspect(served).rows if row.what != ENVELOPE}
    known = {"far", "scored", "answers, tiny", "answers, far", "answers, scored", "rollouts"}
    assert known <= set(rows) and all(rows.values())
    (asked,) = [name for name in rows if name.startswith(f"{TINY} at http://127.0.0.1:")]
    spoil_line(served / "rollouts" / "served" / "responses.jsonl")
    log = "rollouts/served/responses.jsonl"
    assert wrong(served).keys() == {asked, log} and wrong(served)[asked] == OTHER


def spoil_line(path):
    """Change a byte in the midst of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("far/responses.jsonl", OF_FAR),
        ("scored/responses.jsonl", OF_SCORED),
        ("far/answers/accepted.jsonl", {"answers, far"}),
        ("tiny/answers/accepted.jsonl", {"answers, tiny"}),
    ],
)
def test_a_changed_byte_of_what_a_teacher_answered_is_found(served, file, named):
    spoil_line(served / "signals" / file)
    assert wrong(served).keys() == named | {f"signals/{file}"}
    (served / "signals" / file).unlink()
    assert wrong(served) == {f"signals/{file}": "is gone"}
    assert absent(served) == dict.fromkeys(named, AWAY)


def test_of_two_stores_that_were_alike_one_is_missed(out):
    manifest = json.loads((out / "manifest.json").read_text())
    row = next(row for row in manifest["inputs"] if row["kind"] == "teacher signals")
    manifest["inputs"].append(row | {"name": "training signals, twin"})
    reports = [verify(out / "signals/tiny" / name) for name in ("train", "heldout")]
    rows = list(pinned.inputs(out, manifest, reports))
    assert [row.what for row in rows if row.ok is None] == ["training signals, twin"]
    rows = list(pinned.inputs(out, manifest, [*reports, reports[0]]))
    assert all(row.ok for row in rows)


def test_a_log_that_was_added_to_still_begins_with_what_the_run_was_told(served):
    log = served / "signals" / "far" / "responses.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines, lines[0]]))
    assert inspect(served).ok and absent(served) == {}
    for more in (b"\n", lines[0][:-1], b"{\n", b"[]\n"):  # no entry, or a part of one
        log.write_bytes(b"".join([*lines, more]))
        assert wrong(served).keys() == {"signals/far/responses.jsonl"}
    log.write_bytes(b"".join(lines[:-1]))
    assert wrong(served).keys() == OF_FAR | {"signals/far/responses.jsonl"}


def test_a_log_of_the_run_alone_may_not_grow(served):
    log = served / "rollouts" / "served" / "responses.jsonl"
    log.write_bytes(log.read_bytes() + log.read_bytes())
    assert "rollouts/served/responses.jsonl" in wrong(served)


def test_signals_that_were_deleted_are_not_there(served):
    shutil.rmtree(served / "signals")
    assert inspect(served).ok
    names = {"training signals, tiny", "held-out signals, tiny", "training signals, scored"}
    writers = {f"answers, {name}" for name in ("tiny", "far", "scored")}
    inputs = dict.fromkeys(names | writers | {"far", "scored"}, AWAY)
    assert inputs.items() <= absent(served).items()


@pytest.mark.parametrize("mode", stores.MODES)
def test_a_store_of_any_mode_is_looked_at(tmp_path, mode):
    stores.filled(tmp_path / "store", range(3), mode)
    (row,) = inspect(tmp_path / "store").rows
    said = f"3 shards, {3 * stores.POSITIONS} tokens"
    assert row == Row(what=str(tmp_path / "store"), ok=True, seen=said)
    (tmp_path / "store" / "shard-00007.safetensors").write_bytes(b"left")
    (_, row) = inspect(tmp_path / "store").rows
    assert row.what.endswith("shard-00007.safetensors") and row.ok is None


def test_where_there_is_nothing_that_is_one_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match=r"has no manifest\.json; name a finished run, a st"):
            inspect(path)
