"""A task file is read, asked and compared item by item, and a malformed row is named."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from distill.errors import InputError
from distill.evaluation import tasks
from distill.evaluation.tasks import Answer, Item, Task

CHOICES = [
    {"id": "sum", "prompt": "2 + 2 =", "choices": [" 3", " 4", " 22"], "answer": 1},
    {"prompt": "Sky?", "choices": [" blue", " a very bright red"], "answer": " blue"},
]
EXACT = [
    {"prompt": "A:", "answer": "four"},
    {"prompt": "B:", "answer": ["Five", "5"], "casefold": True, "stop": [".", ";"]},
    {"messages": [{"role": "user", "content": "C?"}], "answer": "six\nseven"},
]


def file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Fixed:
    """An answerer with answers prepared, which notes what it was asked."""

    def __init__(self, likely=None, written=None):
        self.likely, self.written, self.asked = likely or {}, written or {}, []

    def log_likelihoods(self, pairs):
        return [self.likely[pair] for pair in pairs]

    def write(self, prompts, *, max_new_tokens, stop):
        self.asked.append((list(prompts), max_new_tokens, tuple(stop)))
        return [self.written[str(prompt)] for prompt in prompts]


def choosing(*nats, choices=("ab", "abcd", "abcdef"), answer="ab") -> Answer:
    item = Item(
        id="i", prompt="p", choices=tuple(choices), answers=(answer,), casefold=False, stop=()
    )
    who = Fixed({("p", choice): n for choice, n in zip(choices, nats, strict=True)})
    (made,) = tasks.ask(Task(name="t", kind="multiple choice", items=(item,)), who)
    return made


def test_multiple_choice_loads_with_answers_by_place_or_by_text(tmp_path):
    task = tasks.load(file(tmp_path / "sums.jsonl", CHOICES))
    assert (task.name, task.kind) == ("sums", "multiple choice")
    assert [item.id for item in task.items] == ["sum", "2"]
    assert [item.answers for item in task.items] == [(" 4",), (" blue",)]
    assert task.items[0].choices == (" 3", " 4", " 22")


def test_exact_match_loads_with_its_options(tmp_path):
    task = tasks.load(file(tmp_path / "names.jsonl", EXACT))
    assert task.kind == "exact match"
    assert [item.answers for item in task.items] == [("four",), ("Five", "5"), ("six\nseven",)]
    assert [item.casefold for item in task.items] == [False, True, False]
    assert [item.stop for item in task.items] == [("\n",), (".", ";"), ()]
    assert task.items[2].prompt == ({"role": "user", "content": "C?"},)
    none = tasks.load(file(tmp_path / "none.jsonl", [{**EXACT[0], "stop": []}]))
    assert none.items[0].stop == ()


def test_a_task_may_lie_in_parquet(tmp_path):
    rows = {key: [row.get(key) for row in CHOICES] for key in ("prompt", "choices")}
    parquet.write_table(pyarrow.table({**rows, "answer": [1, 0]}), tmp_path / "sums.parquet")
    task = tasks.load(tmp_path / "sums.parquet")
    assert [item.answers for item in task.items] == [(" 4",), (" blue",)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": "x"}, "needs a text under 'prompt'"),
        ({"prompt": 3, "answer": "x"}, "needs a text under 'prompt'"),
        ({"messages": [], "answer": "x"}, "a chat must be a list of messages"),
        ({"prompt": "p"}, "'answer' must be a text or a list of texts"),
        ({"prompt": "p", "answer": ""}, "'answer' must be a text or a list of texts"),
        ({"prompt": "p", "answer": []}, "'answer' must be a text or a list of texts"),
        ({"prompt": "p", "answer": 4}, "'answer' must be a text or a list of texts"),
        ({"prompt": "p", "answer": "x", "casefold": 1}, "'casefold' must be true or false"),
        ({"prompt": "p", "answer": "x", "stop": [""]}, "'stop' must be a text or a list"),
        ({"prompt": "p", "choices": ["a"], "answer": 0}, "at least two, and all different"),
        ({"prompt": "p", "choices": ["a", "a"], "answer": 0}, "at least two, and all different"),
        ({"prompt": "p", "choices": ["a", ""], "answer": 0}, "'choices' must be a text or a list"),
        ({"prompt": "p", "choices": ["a", "b"], "answer": 2}, "its place, 0 to 1, not 2"),
        ({"prompt": "p", "choices": ["a", "b"], "answer": -1}, "its place, 0 to 1, not -1"),
        ({"prompt": "p", "choices": ["a", "b"], "answer": True}, "its place, 0 to 1, not True"),
        ({"prompt": "p", "choices": ["a", "b"], "answer": "c"}, "its place, 0 to 1, not 'c'"),
        ({"prompt": "p", "choices": ["a", "b"]}, "its place, 0 to 1, not None"),
        ({"prompt": "half of a pair: \ud83d", "answer": "x"}, "half of a surrogate pair"),
        ({"prompt": "A:", "answer": "x", "stop": ["\ud83d"]}, "half of a surrogate pair"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path, row, reason):
    with pytest.raises(InputError) as caught:
        tasks.load(file(tmp_path / "task.jsonl", [row]))
    assert str(caught.value).startswith(f"{tmp_path / 'task.jsonl'}, line 1: ")
    assert reason in str(caught.value)


def test_kinds_and_ids_are_not_mixed_up(tmp_path):
    with pytest.raises(InputError, match="line 2: 'choices' must be in all rows of a task, or in"):
        tasks.load(file(tmp_path / "task.jsonl", [CHOICES[0], EXACT[0]]))
    twice = [{**row, "id": 7} for row in EXACT[:2]]
    with pytest.raises(InputError, match=r"line 2: the id '7' is that of .*line 1, too"):
        tasks.load(file(tmp_path / "task.jsonl", twice))


def test_the_likeliest_choice_is_taken_whole_and_a_byte():
    assert choosing(-4.0, -6.0, -7.0) == Answer(id="i", said="ab", right=True, right_by_byte=False)
    made = choosing(-4.0, -6.0, -7.0, answer="abcdef")  # -2, -1.5 and -1.17 a byte
    assert (made.right, made.right_by_byte) == (False, True)


def test_bytes_are_of_utf_8():
    made = choosing(-4.0, -4.5, choices=("ab", "漢"), answer="漢")  # -2 and -1.5 a byte
    assert (made.right, made.right_by_byte) == (False, True)


def test_a_tie_and_a_broken_model_answer_nothing():
    assert choosing(-4.0, -4.0, -7.0).said == ""
    assert not choosing(-4.0, -4.0, -7.0).right
    assert not choosing(-4.0, float("nan"), -7.0).right
    assert not choosing(-4.0, float("nan"), -7.0).right_by_byte
    assert choosing(-4.0, -5.0, -5.0).right


def test_written_answers_are_right_up_to_white_space_and_to_case_where_asked(tmp_path):
    task = tasks.load(file(tmp_path / "names.jsonl", EXACT))
    written = {"A:": " four \n", "B:": "FIVE", str(task.items[2].prompt): "six seven"}
    who = Fixed(written=written)
    made = tasks.ask(task, who, max_new_tokens=9)
    assert [(a.id, a.right, a.right_by_byte) for a in made] == [
        ("1", True, None),
        ("2", True, None),
        ("3", False, None),
    ]
    assert [a.said for a in made] == [" four \n", "FIVE", "six seven"]
    assert who.asked == [
        (["A:"], 9, ("\n",)),
        (["B:"], 9, (".", ";")),
        ([task.items[2].prompt], 9, ()),
    ]
    for text in ("Four", "four.", "", "4"):
        assert not tasks.ask(task, Fixed(written={**written, "A:": text}))[0].right
    assert tasks.ask(task, Fixed(written={**written, "B:": "5"}))[1].right


def test_items_of_one_stop_are_asked_together(tmp_path):
    rows = [{"prompt": f"{n}:", "answer": "x", "stop": ["\n", "."][n % 2]} for n in range(4)]
    who = Fixed(written={f"{n}:": "x" if n < 3 else "y" for n in range(4)})
    made = tasks.ask(tasks.load(file(tmp_path / "task.jsonl", rows)), who)
    assert [prompts for prompts, _, _ in who.asked] == [["0:", "2:"], ["1:", "3:"]]
    assert [a.right for a in made] == [True, True, True, False]


def test_a_report_pairs_the_answers(tmp_path):
    task = tasks.load(file(tmp_path / "sums.jsonl", CHOICES))
    student = [
        Answer(id="sum", said=" 4", right=True, right_by_byte=False),
        Answer(id="2", said=" blue", right=True, right_by_byte=False),
    ]
    teacher = [
        Answer(id="sum", said=" 3", right=False, right_by_byte=True),
        Answer(id="2", said=" blue", right=True, right_by_byte=False),
    ]
    made = tasks.report(task, student, teacher)
    assert (made["name"], made["kind"], made["items"]) == ("sums", "multiple choice", 2)
    assert (made["student"], made["teacher"]) == (1.0, 0.5)
    assert made["difference"]["difference"] == 0.5
    assert made["difference"]["low"] < 0.5 < made["difference"]["high"]
    assert (made["by_byte"]["student"], made["by_byte"]["teacher"]) == (0.0, 0.5)
    assert made["by_byte"]["difference"]["difference"] == -0.5
    assert json.loads(json.dumps(made)) == made
    exact = tasks.load(file(tmp_path / "names.jsonl", EXACT))
    said = [Answer(id=item.id, said="x", right=False) for item in exact.items]
    assert "by_byte" not in tasks.report(exact, said, said)


def test_a_report_without_a_teacher_has_the_student_alone(tmp_path):
    task = tasks.load(file(tmp_path / "sums.jsonl", CHOICES))
    said = [
        Answer(id="sum", said=" 4", right=True, right_by_byte=False),
        Answer(id="2", said="", right=False, right_by_byte=False),
    ]
    assert tasks.report(task, said, None) == {
        "name": "sums",
        "kind": "multiple choice",
        "items": 2,
        "student": 0.5,
        "by_byte": {"student": 0.0},
    }
    with pytest.raises(AssertionError):
        tasks.report(task, said[::-1], None)


def test_a_few_items_are_taken_evenly_from_first_to_last(tmp_path):
    rows = [{"prompt": f"{n}", "answer": "x"} for n in range(9)]
    task = tasks.load(file(tmp_path / "many.jsonl", rows))
    assert [item.prompt for item in tasks.few(task, 3).items] == ["0", "4", "8"]
    assert tasks.few(task, 9) == tasks.few(task, 64) == task
