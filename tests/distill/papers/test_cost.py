"""A run's bill is made out from what lessons and steps say of themselves, and nothing twice."""

from dataclasses import replace

import pytest

from audit.question import EndpointConfig
from distill.config import AnswersConfig, SignalConfig, TrainConfig
from distill.evaluation.answering import Effort
from distill.evaluation.tasks import Answer
from distill.examination import Examination, Examined
from distill.lessons.lesson import Lesson
from distill.loss import objective
from distill.papers.cost import of_run
from distill.prepare import prepare
from distill.prices import Asked, Prices
from distill.rollout.config import RolloutConfig
from distill.store import shard
from distill.store.store import Store
from student import sizes
from student.vocabulary import Vocabulary
from tests.fakes.endpoints import Server, TinyModel
from tests.fakes.sessions import carried_out, metrics, served_teacher, session, small_config
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


STEPS = ({"tokens": 128}, {"tokens": 256})
EXAMINED = Examined(looks=3, positions=96, counted=90, heard={"tiny": 90})


def billed(config, lessons, rows=STEPS, examined=EXAMINED, **more):
    """Return the lines of a run, of two steps on text alone, by name."""
    made = of_run(config, config.student, VOCABULARY, lessons, rows, SECONDS, examined, **more)
    return {line["name"]: line for line in made["lines"]}


def head(hidden):
    return 2 * 320 * hidden


def body(config, length):
    """Return the mean of a position's forward pass without the head, by its definition."""
    every = [sizes.forward_flops_per_token(config, 320, n) for n in range(1, length + 1)]
    return sum(one.total - one.head for one in every) / length


# A tiny Llama: 2 layers of 4 x 32 x 32 and 3 x 32 x 64 weights, a head of 320 x 32, and 2 heads of
# 16 + 16 that reach 16.5 tokens back.
TINY = 2 * 2 * (4 * 32 * 32 + 3 * 32 * 64) + 2 * 2 * 2 * 32 * 16.5
TINY_HEAD = head(32)


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
    width = config.student.hidden_size
    expected = 3 * (96 * body(config.student, 32) + 90 * head(width))
    assert lines["Student, evaluating"]["value"] == pytest.approx(expected)
    assert lines["Tokens evaluated"]["value"] == 3 * 96
    # What is kept of the training text went through its head; held-out states do at every look.
    read, train = lines["Tokens captured"]["value"], ready.text.train.weights.size
    taught = read * TINY + (train + 3 * 90) * TINY_HEAD
    assert lines["tiny, forward"]["value"] == pytest.approx(taught)
    parts = [line["value"] for name, line in lines.items() if line["group"] == "operations"]
    assert len(parts) == 4
    assert lines["Operations together"]["value"] == pytest.approx(sum(parts) / 2)
    assert "left out" in lines["Operations together"]["source"]


def test_states_that_are_kept_go_through_their_head_at_every_step(place, tmp_path):
    config = small_config(place, signal=SignalConfig(mode="hidden", shard_tokens=1024))
    lessons = prepare(session(config, tmp_path)).lessons
    lines = billed(config, lessons)
    read = lines["Tokens captured"]["value"]
    assert lines["tiny, forward"]["value"] == pytest.approx(read * TINY + 3 * 90 * TINY_HEAD)
    assert lines["tiny, its head over kept states"]["value"] == 256 * TINY_HEAD
    # With tags, whose windows a step had is not known.
    (lesson,) = lessons
    tagged = replace(lesson, config=replace(lesson.config, tags=("a",)))
    line = billed(config, [tagged])["tiny, its head over kept states"]
    assert line["value"] is None and "does not record" in line["unknown"]


def test_recomputing_and_routing_ahead_are_more_operations(place, ready):
    config = small_config(place)
    plain = billed(config, ready.lessons)
    again = replace(config, train=replace(TrainConfig(steps=6, batch_size=4), recompute=True))
    found = billed(again, ready.lessons)["Student, training"]["value"]
    assert found == pytest.approx(plain["Student, training"]["value"] * 4 / 3)
    assert "Student, routing ahead" not in plain
    # The last steps route nobody ahead.
    ahead = replace(config, train=TrainConfig(steps=8, batch_size=4, routing_delay=2))
    line = billed(ahead, ready.lessons)["Student, routing ahead"]
    assert line["value"] == pytest.approx(256 * 6 / 8 * body(config.student, 32))


OWN = RolloutConfig(fraction=0.5, max_new_tokens=8, prompt_tokens=4, refresh_steps=2)
# Two rows of text, and two of 11 positions in all with 6 tokens written, then one of each.
WRITING = (
    {"tokens": 64 + 11, "own_rows": 2.0, "own_tokens": 6.0},
    {"tokens": 2 * 64 + 11 + 13, "own_rows": 2.0, "own_tokens": 8.0},
)


def test_what_the_student_wrote_is_billed_to_it_and_to_those_who_read_it(place, ready):
    config = small_config(place, rollout=OWN)
    (lesson,) = ready.lessons
    lines = billed(config, [replace(lesson, live=object())], WRITING)
    assert lines["Tokens trained on"]["value"] == 152
    assert lines["Tokens generated"]["value"] == 14
    assert lines["Tokens read as prompts"]["value"] == 24 - 14 + 4
    student, width = config.student, config.student.hidden_size
    text, own = (sizes.training_flops_per_token(student, 320, n) for n in (32, 6))
    assert lines["Student, training"]["value"] == pytest.approx(128 * text)
    assert lines["Student, training on its own answers"]["value"] == pytest.approx(24 * own)
    written = 24 * body(student, 6) + 14 * head(width)
    assert lines["Student, writing"]["value"] == pytest.approx(written)
    near = TINY - 2 * 2 * 2 * 32 * (16.5 - 3.5)  # rows of six tokens
    heard = 24 * near + 14 * TINY_HEAD
    assert lines["tiny, on the student's answers"]["value"] == pytest.approx(heard)
    plain = billed(config, [lesson], WRITING)
    assert "tiny, on the student's answers" not in plain
    assert plain["tiny, forward"] == lines["tiny, forward"] | {"key": plain["tiny, forward"]["key"]}


def test_which_teacher_read_an_answer_is_not_known_where_tags_say_it(place, ready):
    (lesson,) = ready.lessons
    tagged = replace(lesson, live=object(), config=replace(lesson.config, tags=("a",)))
    lines = billed(small_config(place, rollout=OWN), [tagged], WRITING)
    assert lines["tiny, on the student's answers"]["value"] is None
    assert "tiny, on the student's answers" in lines["Operations together"]["without"]


def test_rows_that_no_step_came_to_read_are_said_to_be_missing(place, ready):
    config = small_config(place, rollout=OWN)
    line = billed(config, ready.lessons, WRITING[:1])["Student, writing what no step read"]
    assert line["value"] is None and line["unknown"].startswith("2 rows were written")
    assert "Student, writing what no step read" not in billed(config, ready.lessons, WRITING)
    three = replace(config, rollout=replace(OWN, refresh_steps=3))
    line = billed(three, ready.lessons, WRITING)["Student, writing what no step read"]
    assert line["unknown"].startswith("2 rows were written")  # of one step, not of two


def test_a_server_that_writes_is_billed_in_the_students_place(place, ready):
    endpoint = EndpointConfig(url="http://127.0.0.1:9/v1", model="older")
    config = small_config(place, rollout=replace(OWN, endpoint=endpoint))
    asked = Asked(teacher="the writer", read=70, written=14, input_tokens=1.0, output_tokens=1.0)
    lines = billed(config, ready.lessons, WRITING, writer=asked)
    assert lines["Tokens read by the writer"]["value"] == 70
    assert lines["Tokens written by the writer"]["value"] == 14
    assert lines["the writer, served"]["value"] is None
    assert "Student, writing" not in lines and "Tokens read as prompts" not in lines
    assert "Student, training on a server's answers" in lines


def test_what_a_teacher_on_disk_wrote_is_billed_to_it(place, ready):
    (lesson,) = ready.lessons
    told = AnswersConfig(prompts="p.jsonl", max_new_tokens=12)  # so of two rows of 32 tokens
    wrote = replace(lesson, config=replace(lesson.config, answers=told), wrote=(40, 25))
    lines = billed(small_config(place), [wrote])
    assert lines["Tokens read by tiny"]["value"] == 40
    assert lines["Tokens written by tiny"]["value"] == 25
    expected = 65 * TINY + 25 * TINY_HEAD
    assert lines["tiny, writing answers"]["value"] == pytest.approx(expected)


def test_tasks_are_billed_to_the_student_and_to_its_teachers(place, ready):
    (lesson,) = ready.lessons
    effort = Effort(sequences=4, positions=80, applied=12)
    theirs = Effort(sequences=2, positions=64, applied=25)  # so of rows of 32 tokens
    rows = [[Answer(id="1", said="x", right=True)]]
    answered = replace(lesson, tasks=rows, task_effort=theirs)
    config = small_config(place)
    lines = billed(config, [answered], examined=replace(EXAMINED, tasks=effort))
    expected = 80 * body(config.student, 20) + 12 * head(config.student.hidden_size)
    assert lines["Student, answering tasks"]["value"] == pytest.approx(expected)
    taught = 64 * TINY + 25 * TINY_HEAD
    assert lines["tiny, answering tasks"]["value"] == pytest.approx(taught)
    assert "Student, answering tasks" not in billed(config, [lesson])
    # A control finds what its student's teachers answered.
    control = replace(config, loss=(objective.CrossEntropy(),))
    assert "tiny, answering tasks" not in billed(control, [answered])


def test_a_run_that_writes_is_billed_for_what_lies_in_its_store(place, tmp_path):
    wanted = replace(small_config(place).evaluate, every_steps=2)
    config = small_config(
        place, rollout=OWN, evaluate=wanted, train=TrainConfig(steps=4, batch_size=4)
    )
    out = carried_out(config, tmp_path).out
    run = session(config, tmp_path)
    again = prepare(run)
    exam = Examination(run, again.text, again.lessons, again.tokenizer, ())
    rows = metrics(out)
    lines = billed(config, again.lessons, rows, exam.examined(rows))
    store = Store.open(out / "rollouts" / "part-00000")
    kept = [shard.decode_text(store.key, store.load(n)) for n in range(len(store.shards))]
    written = sum(int(one.counted_N.sum()) for one in kept)
    whole = sum(len(row) for one in kept for row in one.split())
    assert lines["Tokens generated"]["value"] == written
    assert lines["Tokens read as prompts"]["value"] == whole - written
    assert lines["Tokens trained on"]["value"] == 4 * 2 * 32 + whole - 4 * 2
    assert lines["Tokens evaluated"]["value"] == 4 * again.text.held.weights.size
    inputs = lines["tiny, on the student's answers"]["inputs"]
    assert (inputs["tokens"], inputs["applied"]) == (whole - 4 * 2, written)


def test_a_control_is_not_billed_for_what_its_student_had_captured(place, ready, tmp_path):
    control = small_config(place, loss=(objective.CrossEntropy(),))
    lessons = prepare(session(control, tmp_path)).lessons
    lines = billed(control, lessons)
    assert "Tokens captured" not in lines
    # Its own looks put the states that are there through the head.
    assert lines["tiny, forward"]["value"] == 3 * 90 * TINY_HEAD
    unseen = replace(EXAMINED, looks=0)
    assert billed(control, lessons, examined=unseen)["tiny, forward"]["value"] == 0


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
