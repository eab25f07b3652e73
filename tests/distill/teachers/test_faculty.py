"""Teachers teach only where their terms, as stated, permit it; then it is known where they are."""

from dataclasses import replace
from pathlib import Path

import pytest

from audit.question import EndpointConfig
from distill.config import EMBEDDED, AnswersConfig, RunConfig, SignalConfig, TeacherConfig
from distill.errors import InputError, MismatchError
from distill.loss.objective import (
    ChunkLikelihood,
    CrossEntropy,
    Divergence,
    HiddenMatch,
    SampledReverseKL,
)
from distill.rollout.config import RolloutConfig
from distill.teachers import embedded, faculty
from distill.teachers.faculty import admit, locate
from distill.terms import TermsError
from tests.fakes.runs import quiet
from tests.fakes.sessions import OBLIGATION, TERMS, Said

ALONE = (CrossEntropy(),)
OWN = TeacherConfig(name="own", path="own", owned=True)
STATED = TeacherConfig(name="stated", path="stated", terms=TERMS)
NO_TERMS = TeacherConfig(name="silent", path="silent")
SAYS_NO = TeacherConfig(name="no", path="no", terms=replace(TERMS, permits_training=False))
NO_CONDITIONS = TeacherConfig(
    name="vague", path="vague", terms=replace(TERMS, permits_training="conditional", obligations=())
)
SERVED = EndpointConfig(url="http://127.0.0.1:9/v1", model="far")
ANSWERS = AnswersConfig(prompts="prompts.jsonl")
HIDDEN = SignalConfig(mode="hidden")
FULL = RolloutConfig(fraction=0.5)
SAMPLED = RolloutConfig(fraction=0.5, estimator="sampled")
CHUNKS = (ChunkLikelihood(), CrossEntropy())


def config(*teachers: TeacherConfig, **changes) -> RunConfig:
    return RunConfig(teachers=teachers, **changes)


def test_each_obligation_is_said_with_its_teachers_name():
    said = Said()
    second = replace(STATED, name="other", owned=True)  # owned, but made from what obliges
    admit(config(OWN, STATED, second), said)
    assert said.sentences == [
        f"stated obliges to: {OBLIGATION}",
        f"other obliges to: {OBLIGATION}",
    ]


@pytest.mark.parametrize(
    ("teacher", "why"),
    [
        (NO_TERMS, "teacher 'silent' is not marked as your own and states no terms"),
        (SAYS_NO, "teacher 'no': the terms at https://example.org/terms.*do not permit"),
        (NO_CONDITIONS, "teacher 'vague': .*lists none"),
    ],
)
def test_a_teacher_that_may_not_teach_is_refused_wherever_it_stands(teacher, why):
    for teachers in ((teacher,), (OWN, STATED, teacher)):
        with pytest.raises(TermsError, match=why) as refused:
            admit(config(*teachers), quiet)
        assert refused.value.exit_code == 2


def test_a_server_that_answers_in_the_students_place_has_terms_like_a_teacher():
    written = replace(FULL, endpoint=SERVED)
    with pytest.raises(TermsError, match="'the writer of rollouts' is not marked as your own"):
        admit(config(OWN, rollout=written), quiet)
    said = Said()
    admit(config(OWN, rollout=replace(written, terms=TERMS)), said)
    assert said.sentences == [f"the writer of rollouts obliges to: {OBLIGATION}"]
    admit(config(OWN, rollout=replace(written, fraction=0.0)), quiet)  # it is not asked


def test_a_control_asks_nobody_for_terms_but_those_who_wrote_its_text():
    admit(config(SAYS_NO, loss=ALONE), quiet)
    admit(config(SAYS_NO, loss=(*ALONE, Divergence(kind="forward_kl", weight=0))), quiet)
    for writer in (
        replace(SAYS_NO, answers=ANSWERS),
        TeacherConfig(name="far", endpoint=SERVED, answers=ANSWERS),
    ):
        with pytest.raises(TermsError):
            admit(config(OWN, writer, loss=ALONE), quiet)


def test_a_teacher_on_disk_has_a_directory_and_a_served_one_has_none(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(embedded, "ensure", lambda say: Path("kept", "here"))
    teachers = [
        TeacherConfig(name="here", path=str(tmp_path)),
        TeacherConfig(name="far", endpoint=SERVED, answers=ANSWERS),
        TeacherConfig(name="in", path=EMBEDDED),
    ]
    assert locate(teachers, quiet) == [tmp_path, None, Path("kept", "here")]


def test_a_directory_without_a_model_is_refused_by_name(tmp_path):
    teachers = [TeacherConfig(name="gone", path=str(tmp_path / "gone"))]
    with pytest.raises(InputError, match=r"teacher 'gone': .*gone holds no model"):
        locate(teachers, quiet)


def endpoint_teacher(says):
    answers = None if says == "prompt_logprobs" else ANSWERS
    return TeacherConfig(name="far", endpoint=SERVED, says=says, answers=answers, owned=True)


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        RunConfig(loss=(CrossEntropy(),), teachers=(endpoint_teacher("text"),)),
        RunConfig(teachers=(endpoint_teacher("top_logprobs"),)),
        RunConfig(teachers=(endpoint_teacher("prompt_logprobs"),)),
        RunConfig(loss=(Divergence(kind="jsd", mix=0.5, temperature=2.0),), signal=HIDDEN),
        RunConfig(loss=(SampledReverseKL(),), rollout=SAMPLED),
        RunConfig(loss=(SampledReverseKL(),), rollout=FULL),
        RunConfig(loss=(Divergence(kind="reverse_kl", on="own"),), rollout=FULL),
        RunConfig(loss=CHUNKS),
        RunConfig(loss=(SampledReverseKL(weight=0), CrossEntropy())),
        RunConfig(loss=(HiddenMatch(kind="hidden_mse"), CrossEntropy()), signal=HIDDEN),
    ],
)
def test_terms_that_a_teacher_serves_are_accepted(config):
    faculty.require_heard(config)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (RunConfig(teachers=(endpoint_teacher("text"),)), "forward_kl has a weight, but no"),
        (RunConfig(loss=(SampledReverseKL(),)), "sampled_reverse_kl .* of own answers"),
        (RunConfig(loss=(Divergence(kind="tvd", on="own"),), rollout=SAMPLED), "tvd has a weight"),
        (RunConfig(loss=(Divergence(kind="tvd", on="own"),)), "of own answers"),
        (RunConfig(loss=(Divergence(kind="tvd", temperature=2.0),)), "has temperature 2"),
        (RunConfig(teachers=(endpoint_teacher("top_logprobs"),), loss=CHUNKS), "chunk_likelihood"),
        (
            RunConfig(
                teachers=(endpoint_teacher("text"),),
                loss=(HiddenMatch(kind="hidden_cosine"), CrossEntropy()),
                signal=HIDDEN,
            ),
            "hidden_cosine has a weight",
        ),
    ],
)
def test_a_term_that_no_teacher_serves_is_refused(config, said):
    with pytest.raises(MismatchError, match=said):
        faculty.require_heard(config)
