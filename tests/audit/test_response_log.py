"""The log survives what may happen to a file, and says so where it does not."""

import json
import math
from pathlib import Path

import httpx2
import pytest

from audit.errors import InputError
from audit.response_log import ResponseLog, misfiled
from tests.fakes.wire import URL, Script, ask, body, ok, opened


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "responses.jsonl"


def test_a_torn_last_line_is_dropped_and_asked_again_alone(log):
    with opened(log, Script(ok())) as endpoint:
        endpoint.ask([ask("a"), ask("b")])
    data = log.read_bytes()
    log.write_bytes(data[:-20])
    script = Script(ok())
    with opened(log, script) as endpoint:
        endpoint.ask([ask("a"), ask("b")])
    assert len(script.asked) == 1
    assert [json.loads(line)["key"] for line in log.read_text().splitlines()] == [
        ask("a").key(URL),
        ask("b").key(URL),
    ]


def test_a_last_line_that_lacks_only_its_end_is_kept(log):
    with opened(log, Script(ok())) as endpoint:
        endpoint.ask([ask("a")])
    whole = log.read_bytes()
    log.write_bytes(whole[:-1])
    script = Script(ok())
    with opened(log, script) as endpoint:
        endpoint.ask([ask("a"), ask("b")])
    assert len(script.asked) == 1
    assert log.read_bytes().startswith(whole)


@pytest.mark.parametrize("line", ["{}", "not JSON", '{"key": "k"}'])
def test_a_damaged_line_is_named_and_nothing_is_asked(log, line):
    with opened(log, Script(ok())) as endpoint:
        endpoint.ask([ask("a")])
    log.write_text(log.read_text() + line + "\n" + log.read_text())
    with pytest.raises(InputError, match=r"responses\.jsonl, line 2: no finished request"):
        opened(log, Script(ok()))


def test_two_processes_do_not_write_one_log(log):
    with opened(log, Script(ok())):
        with pytest.raises(InputError, match="being written by another process"):
            opened(log, Script(ok()))
    opened(log, Script(ok())).close()


def test_a_disk_that_fills_up_leaves_a_log_that_can_be_read(log, monkeypatch):
    with opened(log, Script(ok())) as endpoint:
        endpoint.ask([ask("a")])

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr("audit.response_log.os.fsync", full)
            endpoint.ask([ask("b")])
        endpoint.ask([ask("c")])
    held = ResponseLog(log)
    assert [entry.key for entry in held] == [ask("a").key(URL), ask("c").key(URL)]
    held.close()


def test_numbers_that_are_no_numbers_come_back_as_they_came(log):
    content = json.dumps(body(score=math.nan)).encode()
    with opened(log, Script(httpx2.Response(200, content=content))) as endpoint:
        (reply,) = endpoint.ask([ask()])
    assert math.isnan(reply.body["score"])
    assert json.loads(log.read_text())["body"] == content.decode()


def test_every_line_of_a_log_is_filed_under_what_it_asked(log):
    with opened(log, Script(ok())) as endpoint:
        endpoint.ask([ask("a"), ask("b"), ask("c")])
    assert misfiled(log) == (3, [])
    lines = log.read_bytes().splitlines(keepends=True)
    for changed in (
        lines[1].replace(b"b", b"c", 1),
        lines[1][:-20],
        b"null\n",
        b"[" * 99_999,
        b"\n",
    ):
        log.write_bytes(lines[0] + changed.rstrip(b"\n") + b"\n" + lines[2])
        assert misfiled(log) == (3, [2])
    log.write_bytes(b"")
    assert misfiled(log) == (0, [])
