"""Student and teachers are asked the same, so what lies between them has its interval."""

import math
from dataclasses import replace

import pytest
import torch

from distill.errors import InputError
from distill.evaluation import tasks
from distill.evaluation.answering import Effort, StudentAnswers
from distill.evaluation.evaluate import write_on
from distill.evaluation.intervals import accuracy
from distill.examination import Examination, glancing_seconds, history, load
from distill.files import write_json
from distill.loss import objective
from distill.prepare import prepare
from distill.rollout.config import RolloutConfig
from student.generate import generate
from student.model import Student
from tests.fakes.endpoints import Server, TinyModel
from tests.fakes.pages import drawings
from tests.fakes.sessions import (
    CPU,
    answers,
    carried_out,
    metrics,
    prompts_file,
    rows_file,
    served_teacher,
    session,
    small_config,
    spoken,
    tagged_file,
)
from tests.fakes.teachers import tiny_teacher, tiny_tokenizer

GLANCED = {"kl", "reverse_kl", "top1_agreement", "bits_per_byte"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = tmp_path_factory.mktemp("examination")
    tiny_teacher(made / "teacher")
    tiny_teacher(made / "second", seed=1)
    tagged_file(made / "tagged.jsonl", "ab", each=10)
    choices = ["by the river", "at market", "a small cask"]
    rows = [{"prompt": f"the miller {n}", "choices": choices, "answer": n % 3} for n in range(9)]
    rows_file(made / "where.jsonl", rows)
    rows_file(made / "sums.jsonl", [{"prompt": "one and one is", "answer": "two"}] * 4)
    return made


def config(place, *tasks, **changes):
    wanted = replace(
        small_config(place).evaluate,
        tasks=tuple(str(place / f"{name}.jsonl") for name in tasks),
        task_tokens=4,
    )
    return small_config(place, evaluate=wanted, **changes)


def examined(made, out):
    """Return what is known of a run, its examination, and its new student."""
    run = session(made, out)
    ready = prepare(run)
    exam = Examination(run, ready.text, ready.lessons, ready.tokenizer, ready.tasks)
    student = Student.build(made.student, ready.vocabulary, seed=0, device=CPU)
    return ready, exam, student


@pytest.fixture(scope="module")
def alone(place, tmp_path_factory):
    """One teacher, and both tasks."""
    return examined(config(place, "where", "sums"), tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def two(place, tmp_path_factory):
    """Two teachers by tags, and one task."""
    stated = small_config(place).teachers[0]
    teachers = (
        replace(stated, name="a", tags=("a",)),
        replace(stated, name="b", tags=("b",), path=str(place / "second")),
    )
    text = replace(small_config(place).text, sources=(str(place / "tagged.jsonl"),))
    made = config(place, "where", teachers=teachers, text=text)
    return examined(made, tmp_path_factory.mktemp("two"))


# Questions.


def test_two_tasks_of_one_name_are_refused(place, tmp_path):
    other = rows_file(tmp_path / "sums.jsonl", [{"prompt": "one", "answer": "two"}])
    made = config(place, "sums")
    made = replace(made, evaluate=replace(made.evaluate, tasks=(*made.evaluate.tasks, str(other))))
    with pytest.raises(InputError, match="two task files are called 'sums'"):
        load(made, tiny_tokenizer())


def test_an_item_that_does_not_fit_the_student_is_refused(place):
    made = config(place, "sums")
    made = replace(made, evaluate=replace(made.evaluate, task_tokens=250))
    with pytest.raises(InputError, match=r"task 'sums', item '1': .* the model reads 256"):
        load(made, tiny_tokenizer())


def beside(place, path, every_steps=2):
    """Return a run that is to be seen beside the one in `path`."""
    made = config(place)
    seen = replace(made.evaluate, beside=(str(path),), every_steps=every_steps)
    return replace(made, evaluate=seen)


def test_a_run_to_be_seen_beside_must_have_a_curve(place, tmp_path):
    made = beside(place, tmp_path)
    with pytest.raises(InputError, match="has no held-out curve; finish that run with"):
        load(made, tiny_tokenizer())
    write_json(tmp_path / "eval.json", {"held_out": [{"name": "it", "tokens": [0, 1]}]})
    assert load(made, tiny_tokenizer()) == []


@pytest.mark.parametrize("every_steps", [0, 7])
def test_a_run_without_a_curve_of_its_own_is_not_seen_beside_others(place, tmp_path, every_steps):
    write_json(tmp_path / "eval.json", {"held_out": [{"name": "it", "tokens": [0, 1]}]})
    with pytest.raises(InputError, match=f"every_steps is {every_steps} and train.steps 6; set"):
        load(beside(place, tmp_path, every_steps), tiny_tokenizer())
    assert load(beside(place, tmp_path, 6), tiny_tokenizer()) == []


# Held-out text.


def test_the_student_is_measured_against_each_teacher_where_it_teaches(place, two):
    ready, exam, student = two
    held = ready.text.held
    assert set(held.tag.tolist()) == {0, 1}
    result = exam.measure(student)
    counts_N = torch.from_numpy(held.weights.reshape(-1) > 0)
    tag_N = torch.from_numpy(held.tag).repeat_interleave(held.weights.shape[1])
    a_NV, b_NV = (spoken(place / name, held) for name in ("teacher", "second"))
    logp_NV = torch.where(tag_N[:, None] == 0, a_NV, b_NV)
    label_N = torch.from_numpy(held.tokens[:, 1:].astype("int64")).flatten()
    nll_N = -logp_NV.gather(1, label_N[:, None])[:, 0]
    bits = float(nll_N[counts_N].sum()) / math.log(2) / held.sizes[held.weights > 0].sum()
    theirs = exam.teacher(result)
    assert theirs["name"] == "a, b"
    assert theirs["bits_per_byte"] == pytest.approx(bits, rel=1e-4)
    (row,) = exam.behind(result)
    assert row["teacher"] == pytest.approx(bits, rel=1e-4)
    assert row["student"] == pytest.approx(result.measured.bits_per_byte, rel=1e-6)
    assert row["difference"] == pytest.approx(row["student"] - row["teacher"], rel=1e-6)
    assert row["low"] < row["difference"] < row["high"] and row["lower_is_better"]
    assert row["clusters"] == len(ready.text.held_documents)


def test_a_glance_leaves_the_student_training(place, alone, tmp_path):
    ready, exam, student = alone
    student.train()
    glanced = exam.glance(student)
    assert student.training
    measured = exam.measure(student).measured
    assert glanced.keys() == {*GLANCED, "accuracy", "task_effort", "seconds"}
    assert glanced["kl"] == measured.kl and glanced["bits_per_byte"] == measured.bits_per_byte
    rows = {row["name"]: row["student"] for row in exam.tasks(student)}
    assert glanced["accuracy"] == rows
    quiet = Examination(
        session(config(place), tmp_path), ready.text, ready.lessons, ready.tokenizer, ()
    )
    assert quiet.glance(student).keys() == {*GLANCED, "seconds"}


def test_a_glance_asks_sixty_four_items_of_a_task_evenly_taken(place, alone, tmp_path):
    ready, _, student = alone
    items = [replace(ready.tasks[0].items[n % 9], id=str(n)) for n in range(130)]
    many = replace(ready.tasks[0], items=tuple(items))
    glances = Examination(
        session(config(place), tmp_path), ready.text, ready.lessons, ready.tokenizer, [many]
    )
    found = glances.glance(student)
    (right,) = (value for name, value in found["accuracy"].items())
    assert list(found["accuracy"]) == ["where, 64 of 130"]
    said = tasks.ask(many, StudentAnswers(student, ready.tokenizer))
    places = [round(n * 129 / 63) for n in range(64)]
    assert right == sum(said[n].right for n in places) / 64
    assert found["task_effort"]["sequences"] == 3 * 64


def test_where_no_teacher_speaks_the_text_alone_measures(place, tmp_path):
    how = answers(prompts_file(tmp_path / "prompts.jsonl"))
    with Server(TinyModel(place / "teacher")) as server:
        far = served_teacher(server, api="chat", answers=how)
        text = replace(small_config(place).text, tokenizer=str(place / "teacher"))
        made = config(place, "where", teachers=(far,), text=text, loss=(objective.CrossEntropy(),))
        _, exam, student = examined(made, tmp_path / "run")
    result = exam.measure(student)
    assert result.measured.kl is None and result.measured.bits_per_byte > 0
    assert exam.teacher(result) == {} and exam.behind(result) == []
    assert exam.glance(student)["kl"] is None
    # A served teacher is asked no questions, so the student stands alone.
    (row,) = exam.tasks(student)
    assert (row["name"], row["teacher"], row["difference"]) == ("where", None, None)
    right = [one.right for one in tasks.ask(exam.asked[0], StudentAnswers(student, exam.tokenizer))]
    assert row["student"] == row["task"]["student"] == sum(right) / 9
    assert (row["low"], row["high"]) == accuracy(right)[1:] and row["n"] == 9
    assert row["task"].keys() == {"name", "kind", "items", "student", "by_byte"}


# Tasks.


def test_a_task_has_both_accuracies_and_an_interval(place, alone, tmp_path):
    ready, _, student = alone
    (lesson,) = ready.lessons
    known = [replace(answer, right=answer.id != "9") for answer in lesson.tasks[0]]
    better = [replace(lesson, tasks=[known, lesson.tasks[1]])]
    run = session(config(place, "where", "sums"), tmp_path)
    exam = Examination(run, ready.text, better, ready.tokenizer, ready.tasks)
    where, sums = exam.tasks(student)
    assert (where["name"], sums["name"]) == ("where", "sums")
    assert where["student"] < where["teacher"] == 8 / 9
    assert where["difference"] == pytest.approx(where["student"] - where["teacher"])
    assert where["task"]["difference"]["difference"] == where["difference"]
    assert -1 <= where["low"] < where["high"] <= 1 and not where["lower_is_better"]
    assert (where["n"], where["measure"], where["level"]) == (9, "accuracy", 0.95)
    assert where["task"]["by_byte"]["difference"]["n"] == 9
    assert (sums["n"], sums["student"], sums["teacher"]) == (4, 0.0, 0.0)


def test_every_teacher_is_compared_with_by_name(two):
    ready, exam, student = two
    rows = exam.tasks(student)
    assert [row["name"] for row in rows] == ["where, a", "where, b"]
    for row, lesson in zip(rows, ready.lessons, strict=True):
        assert row["teacher"] == sum(answer.right for answer in lesson.tasks[0]) / 9
    assert rows[0]["student"] == rows[1]["student"]


# Samples.


def test_a_student_goes_on_where_each_of_its_teachers_did(two):
    ready, exam, student = two
    rows = exam.samples(student)
    assert [row["id"] for row in rows] == ["sample-1", "sample-2"]
    for place, row in enumerate(rows):
        known = {one.config.name: one.samples[place] for one in ready.lessons}
        assert all(said["prompt"] == row["prompt"] for said in known.values())
        assert row["teachers"] == {name: said["teacher"] for name, said in known.items()}
        assert row["student"] == write_on(student, ready.tokenizer, row["prompt"], 8, seed=place)


# What measuring took.


def fresh(place, made, tmp_path, *asked):
    """Return an examination that has asked nothing yet."""
    ready, exam, _ = made
    run = session(config(place, *asked), tmp_path)
    return Examination(run, ready.text, ready.lessons, ready.tokenizer, exam.asked if asked else ())


def test_held_out_text_is_read_before_after_and_at_each_glance(place, two, tmp_path):
    ready, _, _ = two
    held = ready.text.held
    rows = [{"step": 1}, {"step": 2, "held_out": {"kl": 1.0, "seconds": 0.5}}]
    found = fresh(place, two, tmp_path).examined([*rows, rows[1]])
    counts = held.weights > 0
    assert (found.looks, found.positions, found.counted) == (4, held.weights.size, counts.sum())
    assert found.heard == {"a": counts[held.tag == 0].sum(), "b": counts[held.tag == 1].sum()}
    assert 0 < found.heard["a"] < found.counted
    assert found.tasks == Effort()
    assert glancing_seconds([*rows, rows[1]]) == 1.0


def test_answering_is_counted_with_what_glances_took(place, alone, tmp_path):
    ready, _, student = alone
    exam = fresh(place, alone, tmp_path, "where", "sums")
    glance = exam.glance(student)
    taken = Effort(**glance["task_effort"])
    reader = StudentAnswers(student, ready.tokenizer).reader
    where, sums = ready.tasks
    rows = [reader.row(item.prompt, choice) for item in where.items for choice in item.choices]
    prompts = [reader.prompt(item.prompt) for item in sums.items]
    written = generate(student, prompts, max_new_tokens=4)
    picked = [min(4, len(row) + 1) for row in written]
    assert taken == Effort(
        sequences=len(rows) + len(prompts),
        positions=sum(len(row.ids) - 1 for row in rows) + sum(map(len, prompts)) + sum(picked) - 4,
        applied=sum(len(row.ids) - row.first for row in rows) + sum(picked),
    )
    exam.tasks(student)
    assert exam.examined([{"held_out": glance}]).tasks == taken + taken


# Curves.


def steps(*looked):
    """Return rows of metrics: tokens, and the KL of those steps that had a glance."""
    found = []
    for number, kl in enumerate(looked, start=1):
        row = {"step": number, "tokens": 100 * number}
        found.append(row if kl is None else row | {"held_out": figures(kl)})
    return found


def figures(kl):
    said = {"kl": kl, "reverse_kl": 2 * kl, "top1_agreement": 0.5, "bits_per_byte": 3.0}
    return said | {"tokens": 1200, "bytes": 3400, "seconds": 0.1}


OF = {"name": "run", "text": "1,200 tokens, 3,400 bytes"}


def test_a_curve_begins_before_the_first_step(place):
    (curve,) = history("run", figures(9.0), steps(None, 5.0, None, 4.0), config(place))
    assert curve == OF | {
        "tokens": [0, 200, 400],
        "kl": [9.0, 5.0, 4.0],
        "reverse_kl": [18.0, 10.0, 8.0],
        "top1_agreement": [0.5] * 3,
        "bits_per_byte": [3.0] * 3,
    }


def test_a_run_without_a_name_is_called_this_run(place):
    (curve,) = history("", figures(9.0), steps(4.0), config(place))
    assert curve["name"] == "this run"


def test_what_was_not_measured_has_no_curve(place):
    before = figures(1.0) | {"kl": None, "reverse_kl": None, "top1_agreement": None}
    (curve,) = history("run", before, steps(None, 5.0), config(place))
    assert curve.keys() == {"name", "tokens", "text", "bits_per_byte"}


def test_tasks_have_a_curve_from_the_first_glance_on(place):
    rows = steps(None, 5.0, 4.0)
    for row, share in zip(rows[1:], (0.25, 0.5), strict=True):
        row["held_out"]["accuracy"] = {"sums": share}
    (curve,) = history("run", figures(9.0), rows, config(place))
    assert curve["accuracy: sums"] == [None, 0.25, 0.5]


def test_a_run_stands_first_and_those_beside_it_by_their_own_curve(place, tmp_path):
    assert history("run", figures(9.0), steps(None, None), config(place)) == []
    other = {"name": "other", "tokens": [0, 50], "kl": [3.0, 2.0]}
    write_json(tmp_path / "eval.json", {"held_out": [other, {"name": "a third"}]})
    own, seen = history("run", figures(9.0), steps(4.0), beside(place, tmp_path))
    assert (own["name"], seen) == ("run", other)


def test_a_run_that_writes_is_drawn_beside_one_that_reads_on_the_tokens_of_each(place, tmp_path):
    made = config(place)
    glanced = replace(made, evaluate=replace(made.evaluate, every_steps=2))
    off = carried_out(glanced, tmp_path / "given text").out
    beside = replace(glanced.evaluate, beside=(str(off),))
    own = RolloutConfig(fraction=0.5, max_new_tokens=5, prompt_tokens=5)
    on = carried_out(replace(glanced, evaluate=beside, rollout=own), tmp_path / "own answers")
    mine, other = on.evaluation["held_out"]
    assert (mine["name"], other["name"]) == ("own answers", "given text")
    assert mine["text"] == other["text"]
    # Both begin with the same weights; rows of its own are shorter than windows.
    assert mine["kl"][0] == other["kl"][0] and mine["tokens"][0] == other["tokens"][0] == 0
    assert mine["tokens"][-1] == metrics(on.out)[-1]["tokens"] < other["tokens"][-1] == 6 * 4 * 32
    page = on.page.read_text()
    less = 1 - mine["tokens"][-1] / other["tokens"][-1]
    caption = (
        f"Held-out KL to the teacher; own answers ends after {mine['tokens'][-1]} of 768 tokens "
        f"({less:.0%} less)"
    )
    assert f'<figcaption><span class="en">{caption}</span>' in page
    (drawing,) = [d for d in drawings(page) if d.findtext("title") == "Held-out KL to the teacher"]
    for run in (mine, other):
        line = rf"{run['name']}: from {run['kl'][0]:.3g} to {run['kl'][-1]:.3g}"
        assert line in drawing.findtext("desc")
