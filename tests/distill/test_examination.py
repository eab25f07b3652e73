"""Student and teachers are asked the same, so what lies between them has its interval."""

import math
from dataclasses import replace

import pytest
import torch

from distill.errors import InputError
from distill.examination import Examination, history, load
from distill.files import write_json
from distill.loss import objective
from distill.prepare import prepare
from student.model import Student
from tests.fakes.endpoints import Server, TinyModel
from tests.fakes.sessions import (
    CPU,
    answers,
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


def test_a_run_to_be_seen_beside_must_have_a_curve(place, tmp_path):
    made = config(place)
    made = replace(made, evaluate=replace(made.evaluate, beside=(str(tmp_path),)))
    with pytest.raises(InputError, match="has no held-out curve; finish that run with"):
        load(made, tiny_tokenizer())
    write_json(tmp_path / "eval.json", {"held_out": [{"name": "it", "tokens": [0, 1]}]})
    assert load(made, tiny_tokenizer()) == []


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


def test_a_glance_leaves_the_student_training(alone):
    _, exam, student = alone
    student.train()
    glanced = exam.glance(student)
    assert student.training
    measured = exam.measure(student).measured
    assert glanced.keys() == GLANCED
    assert glanced["kl"] == measured.kl and glanced["bits_per_byte"] == measured.bits_per_byte


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
    assert exam.tasks(student) == []  # a served teacher is asked none


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


# Curves.


def steps(*looked):
    """Return rows of metrics: tokens, and the KL of those steps that had a glance."""
    found = []
    for number, kl in enumerate(looked, start=1):
        row = {"step": number, "tokens": 100 * number}
        found.append(row if kl is None else row | {"held_out": figures(kl)})
    return found


def figures(kl):
    return {"kl": kl, "reverse_kl": 2 * kl, "top1_agreement": 0.5, "bits_per_byte": 3.0}


def test_a_curve_begins_before_the_first_step(place):
    (curve,) = history("run", figures(9.0), steps(None, 5.0, None, 4.0), config(place))
    assert curve == {
        "name": "run",
        "tokens": [0, 200, 400],
        "kl": [9.0, 5.0, 4.0],
        "reverse_kl": [18.0, 10.0, 8.0],
        "top1_agreement": [0.5] * 3,
        "bits_per_byte": [3.0] * 3,
    }


def test_what_was_not_measured_has_no_curve(place):
    before = figures(1.0) | {"kl": None, "reverse_kl": None, "top1_agreement": None}
    (curve,) = history("run", before, steps(None, 5.0), config(place))
    assert curve.keys() == {"name", "tokens", "bits_per_byte"}


def test_without_a_glance_there_is_no_curve_but_others(place, tmp_path):
    made = config(place)
    assert history("run", figures(9.0), steps(None, None), made) == []
    other = {"name": "other", "tokens": [0, 50], "kl": [3.0, 2.0]}
    write_json(tmp_path / "eval.json", {"held_out": [other, {"name": "a third"}]})
    made = replace(made, evaluate=replace(made.evaluate, beside=(str(tmp_path),)))
    assert history("run", figures(9.0), steps(None, None), made) == [other]
    own, beside = history("run", figures(9.0), steps(4.0), made)
    assert (own["name"], beside) == ("run", other)
