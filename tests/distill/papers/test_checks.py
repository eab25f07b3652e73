"""What was seen of a server before a run is handed to its page as it lies on disk."""

from dataclasses import replace

import pytest

from distill.papers import checks
from distill.prepare import prepare
from tests.fakes.endpoints import Server, TinyModel
from tests.fakes.sessions import served_teacher, session, small_config
from tests.fakes.teachers import tiny_teacher


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = tmp_path_factory.mktemp("checks")
    tiny_teacher(made / "teacher")
    return made


def test_a_served_teacher_has_its_preflight_and_its_agreement(place, tmp_path):
    here = str(place / "teacher")
    with Server(TinyModel(place / "teacher")) as server:
        far = served_teacher(server, says="prompt_logprobs", agrees_with=here, agreement=0.25)
        text = replace(small_config(place).text, tokenizer=here)
        run = session(small_config(place, teachers=(far,), text=text), tmp_path)
        prepare(run)
    (row,) = checks.seen(run)
    assert (row["teacher"], row["says"]) == (far.name, "prompt_logprobs")
    assert row["model"] == far.endpoint.model
    found = {check["name"]: check["outcome"] for check in row["checks"]}
    assert found["prompt_logprobs"] == found["answer"] == "ok"
    assert row["agreement"]["kl"] < 1e-3 and row["agreement"]["threshold"] == 0.25


def test_what_was_never_compared_has_no_agreement_and_a_teacher_on_disk_no_row(place, tmp_path):
    with Server(TinyModel(place / "teacher")) as server:
        far = served_teacher(server, says="prompt_logprobs")
    config = small_config(place)
    run = session(replace(config, teachers=(config.teachers[0], far)), tmp_path)
    (row,) = checks.seen(run)
    assert (row["teacher"], row["checks"], row["agreement"]) == (far.name, [], None)
