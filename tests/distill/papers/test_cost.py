"""A run's bill is made out from what lessons and steps say of themselves, and nothing twice."""

from dataclasses import replace

import pytest

from distill.config import TrainConfig
from distill.lessons.lesson import Lesson
from distill.loss import objective
from distill.papers.cost import of_run
from distill.prepare import prepare
from distill.prices import Asked, Prices
from distill.rollout.config import RolloutConfig
from student import sizes
from student.vocabulary import Vocabulary
from tests.fakes.endpoints import Server, TinyModel
from tests.fakes.sessions import served_teacher, session, small_config
from tests.fakes.teachers import tiny_teacher

VOCABULARY = Vocabulary(size=320, bos=0, eos=1, pad=2)
SECONDS = {"capture": 1.0, "training": 2.0, "evaluation": 3.0}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = tmp_path_factory.mktemp("cost")
    tiny_teacher(made / "teacher")
    return made


@pytest.fixture(scope="module")
def ready(place, tmp_path_factory):
    return prepare(session(small_config(place), tmp_path_factory.mktemp("run")))


def billed(config, lessons, *, own=()):
    """Return the lines of a run of two steps, by name."""
    rows = [{"tokens": 128 * n, "own_tokens": tokens} for n, tokens in enumerate(own, start=1)]
    rows = rows or [{"tokens": 128}, {"tokens": 256}]
    made = of_run(config, VOCABULARY, lessons, rows, SECONDS)
    return {line["name"]: line for line in made["lines"]}


def test_tokens_are_counted_where_they_were_read(place, ready):
    lines = billed(small_config(place), ready.lessons)
    assert lines["Tokens trained on"]["value"] == 256
    read = ready.text.train.weights.size + ready.text.held.weights.size
    assert lines["Tokens captured"]["value"] == read
    assert "Tokens generated" not in lines


def test_operations_are_those_of_the_passes_that_were_made(place, ready):
    config = small_config(place)
    lines = billed(config, ready.lessons)
    trained = sizes.training_flops_per_token(config.student, 320, 32)
    assert lines["Student, training"]["value"] == pytest.approx(256 * trained)
    forward = sizes.forward_flops_per_token(config.student, 320, 16).total
    evaluated = 2 * config.evaluate.tokens
    assert lines["Student, evaluating"]["value"] == pytest.approx(evaluated * forward)
    # A tiny Llama: 2 layers of 4 x 32 x 32 and 3 x 32 x 64 weights, a head of 320 x 32,
    # and 2 heads of 16 + 16 that reach 16.5 tokens back.
    matrices = 2 * (4 * 32 * 32 + 3 * 32 * 64) + 320 * 32
    a_token = 2 * matrices + 2 * 2 * 2 * 32 * 16.5
    captured = lines["Tokens captured"]["value"]
    assert lines["tiny, forward"]["value"] == pytest.approx(captured * a_token)
    parts = [line["value"] for name, line in lines.items() if line["group"] == "operations"]
    assert lines["Operations together"]["value"] == pytest.approx(sum(parts) / 2)


def test_more_passes_of_training_are_more_operations(place, ready):
    config = small_config(place)
    plain = billed(config, ready.lessons)["Student, training"]["value"]
    for changes, passes in (({"recompute": True}, 4), ({"routing_delay": 2}, 4)):
        other = replace(config, train=replace(TrainConfig(steps=6, batch_size=4), **changes))
        found = billed(other, ready.lessons)["Student, training"]["value"]
        assert found == pytest.approx(plain * passes / 3)


def test_what_the_student_wrote_is_billed_to_it_and_to_those_who_read_it(place, ready):
    rollout = RolloutConfig(fraction=0.5, max_new_tokens=8, prompt_tokens=4)
    config = small_config(place, rollout=rollout)
    (lesson,) = ready.lessons
    here = [replace(lesson, live=object()), replace(lesson)]
    lines = billed(config, here, own=(30, 20))
    assert lines["Tokens generated"]["value"] == 50
    forward = sizes.forward_flops_per_token(config.student, 320, 4).total
    assert lines["Student, writing"]["value"] == pytest.approx(50 * forward)
    made = of_run(config, VOCABULARY, here, [{"tokens": 256, "own_tokens": 50}], SECONDS)
    read = [line["inputs"]["tokens"] for line in made["lines"] if line["name"] == "tiny, forward"]
    assert read == [lesson.tokens_read + 50, lesson.tokens_read]


def test_a_control_is_not_billed_for_what_its_student_had_captured(place, ready, tmp_path):
    control = small_config(place, loss=(objective.CrossEntropy(),))
    lessons = prepare(session(control, tmp_path)).lessons
    lines = billed(control, lessons)
    assert "Tokens captured" not in lines
    assert lines["tiny, forward"]["value"] == 0


def test_time_energy_and_money_are_those_of_the_stages(place, ready):
    prices = Prices(currency="EUR", device_hour=36.0, device_watts=1000.0)
    lines = billed(small_config(place, prices=prices), ready.lessons)
    assert lines["Device time together"]["value"] == 6
    assert lines["Energy"]["value"] == pytest.approx(6 / 3600)
    assert (lines["Money together"]["value"], lines["Money together"]["unit"]) == (
        pytest.approx(0.06),
        "EUR",
    )
    assert billed(small_config(place), ready.lessons)["Money together"]["value"] is None


def test_what_was_asked_of_a_server_stands_in_the_bill_with_its_price(place):
    with Server(TinyModel(place / "teacher")) as server:
        far = served_teacher(server, says="prompt_logprobs")
    asked = Asked(teacher="far", read=2_000_000, written=1_000_000, input_tokens=1.0)
    lesson = Lesson(config=far, sha256="0" * 64, model="tiny", asked=asked)
    prices = Prices(currency="EUR", device_hour=0.0, output_tokens=5.0)
    lines = billed(small_config(place, teachers=(far,), prices=prices), [lesson])
    assert lines["Tokens read by far"]["value"] == 2_000_000
    assert lines["Tokens written by far"]["value"] == 1_000_000
    assert lines["Endpoint of far"]["value"] == pytest.approx(2 * 1.0 + 1 * 5.0)
    assert lines["far, served"]["value"] is None
    assert lines["Operations together"]["without"]
