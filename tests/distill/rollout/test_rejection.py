"""Every answer is asked for once, judged anew each time, and the right ones are kept."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from distill.errors import InputError, MismatchError, StorageError
from distill.rollout.config import Number, RejectionConfig, Same
from distill.rollout.rejection import Question, Summary, read_questions, sample
from distill.text import sources

QUESTIONS = [
    Question(id=f"q{n}", prompt=f"{n}+1=", references=(str(n + 1),), tag="sums") for n in range(5)
]
CONFIG = RejectionConfig(samples=4, keep=2, checkers=(Same(kind="exact"), Number()), batch_size=2)


class Guesser:
    """A teacher that adds, or is one off, as seed and prompt will have it; or breaks off."""

    def __init__(self, *, breaks_at: int | None = None) -> None:
        self.asked: list[tuple[tuple[str, ...], int]] = []
        self.breaks_at = breaks_at

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        if len(self.asked) == self.breaks_at:
            raise KeyboardInterrupt
        self.asked.append((tuple(prompts), seed))
        return [self.guess(prompt, seed) for prompt in prompts]

    def guess(self, prompt: str, seed: int) -> str:
        number = int(prompt.partition("+")[0])
        if number == 4:
            return "no idea"
        kind = (seed // 7 + number) % 3
        return [f"{number + 1}", f"{number}", f"It is {number + 1}"][kind]


def draw(
    teacher: Guesser, out: Path, config: RejectionConfig = CONFIG, questions=QUESTIONS, **more
) -> Summary:
    given = {"teacher_sha256": "t", "seed": 3, "progress": lambda done, total: None, **more}
    return sample(questions, teacher, config, out, **given)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def files(out: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(out.iterdir())}


def test_every_prompt_is_asked_so_many_times_and_all_answers_are_kept(tmp_path):
    teacher = Guesser()
    draw(teacher, tmp_path)
    head, *answers = lines(tmp_path / "answers.jsonl")
    assert head["schema"] == "spiritsafe.answers/1"
    places = [(row["id"], row["sample"]) for row in answers]
    assert places == [(f"q{n}", k) for k in range(4) for n in range(5)]
    assert len({seed for _, seed in teacher.asked}) == len(teacher.asked) == 12


def test_right_answers_are_kept_different_ones_and_no_more_than_wanted(tmp_path):
    draw(Guesser(), tmp_path)
    _, *answers = lines(tmp_path / "answers.jsonl")
    kept = lines(tmp_path / "accepted.jsonl")
    expected = []
    for question in QUESTIONS:
        right = question.references[0]
        mine = [row for row in answers if row["id"] == question.id]
        found: dict[str, dict] = {}
        for row in mine:
            said = row["response"]
            if said in (right, f"It is {right}"):
                kind = "exact" if said == right else "number"
                found.setdefault(
                    said,
                    {
                        "id": question.id,
                        "prompt": question.prompt,
                        "response": said,
                        "tag": "sums",
                        "accepted_by": kind,
                        "sample": row["sample"],
                    },
                )
        expected += list(found.values())[:2]
    assert kept == expected
    assert {row["accepted_by"] for row in kept} == {"exact", "number"}
    one = draw(Guesser(), tmp_path, replace(CONFIG, keep=1))
    firsts = lines(tmp_path / "accepted.jsonl")
    assert [row["id"] for row in firsts] == list(dict.fromkeys(row["id"] for row in kept))
    assert one.kept == len(firsts)


def test_the_summary_counts_answers_and_prompts_without_one(tmp_path):
    summary = draw(Guesser(), tmp_path)
    _, *answers = lines(tmp_path / "answers.jsonl")
    right = {q.id: 0 for q in QUESTIONS}
    for row in answers:
        number = int(row["id"][1:])
        right[row["id"]] += row["response"] in (f"{number + 1}", f"It is {number + 1}")
    assert (summary.prompts, summary.answers) == (5, 20)
    assert summary.accepted == sum(right.values()) > 0
    assert summary.acceptance == summary.accepted / 20
    assert summary.acceptance_by_prompt == {name: count / 4 for name, count in right.items()}
    assert summary.prompts_without == sum(count == 0 for count in right.values()) >= 1
    assert sum(summary.accepted_by.values()) == summary.accepted
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        name: getattr(summary, name) for name in Summary.__slots__
    }


def test_a_run_that_was_stopped_goes_on_and_ends_the_same(tmp_path):
    whole = Guesser()
    draw(whole, tmp_path / "whole")
    for stop in (0, 1, 4, 11):
        out = tmp_path / f"stop-{stop}"
        first, second = Guesser(breaks_at=stop), Guesser()
        with pytest.raises(KeyboardInterrupt):
            draw(first, out)
        draw(second, out)
        assert first.asked + second.asked == whole.asked
        assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("torn", ["lines", "half a line"])
def test_a_batch_that_is_not_whole_is_asked_for_again(tmp_path, torn):
    whole = Guesser()
    draw(whole, tmp_path)
    before = files(tmp_path)
    path = tmp_path / "answers.jsonl"
    rows = path.read_text(encoding="utf-8").split("\n")
    # 13 answers: two rounds of five, a batch of two, and one answer too many.
    text = "\n".join(rows[:14]) + ("\n" if torn == "lines" else "\n" + rows[14][:9])
    path.write_text(text, encoding="utf-8")
    again = Guesser()
    draw(again, tmp_path)
    assert again.asked == whole.asked[7:]
    assert files(tmp_path) == before


def test_what_is_finished_is_not_asked_again_whatever_checks_it(tmp_path):
    draw(Guesser(), tmp_path)
    silent = Guesser(breaks_at=0)
    strict = draw(silent, tmp_path, replace(CONFIG, checkers=(Same(kind="exact"),)))
    assert set(strict.accepted_by) == {"exact"}
    other = [replace(question, references=("no idea",)) for question in QUESTIONS]
    assert draw(silent, tmp_path, questions=other).acceptance_by_prompt["q4"] == 1.0
    fewer = replace(CONFIG, samples=2)
    assert draw(silent, tmp_path, fewer) == draw(Guesser(), tmp_path / "fewer", fewer)


def test_more_samples_add_to_those_that_are_there(tmp_path):
    draw(Guesser(), tmp_path / "a", replace(CONFIG, samples=2))
    more, whole = Guesser(), Guesser()
    draw(more, tmp_path / "a")
    draw(whole, tmp_path / "b")
    assert more.asked == whole.asked[6:]
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"teacher_sha256": "u"}, "teacher_sha256"),
        ({"seed": 4}, "seed"),
        ({"questions": [replace(QUESTIONS[0], prompt="9+1=")]}, "prompts_sha256"),
        ({"config": replace(CONFIG, batch_size=3)}, "batch_size"),
    ],
)
def test_answers_to_something_else_are_refused(tmp_path, changed, named):
    draw(Guesser(), tmp_path)
    with pytest.raises(MismatchError, match=f"a different {named};"):
        draw(Guesser(breaks_at=0), tmp_path, **changed)


def test_a_damaged_line_is_an_error_and_no_answer_is_lost_silently(tmp_path):
    draw(Guesser(), tmp_path)
    path = tmp_path / "answers.jsonl"
    path.write_text(path.read_text().replace('"q2"', '"q2', 1))
    with pytest.raises(StorageError, match=r"answers\.jsonl is damaged"):
        draw(Guesser(), tmp_path)


def test_odd_characters_of_an_answer_survive_or_are_marked(tmp_path):
    class Odd(Guesser):
        def guess(self, prompt: str, seed: int) -> str:
            return "1\u2028\n\ud800 2" if prompt == "0+1=" else "é"

    draw(Odd(), tmp_path)
    draw(Guesser(breaks_at=0), tmp_path)
    _, first, second, *_ = lines(tmp_path / "answers.jsonl")
    assert first["response"] == "1\u2028\n? 2"
    assert second["response"] == "é"


def test_progress_counts_answers_to_the_last(tmp_path):
    told: list[tuple[int, int]] = []
    draw(Guesser(), tmp_path, progress=lambda done, total: told.append((done, total)))
    assert [total for _, total in told] == [20] * 13
    assert [done for done, _ in told] == [0, 2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 19, 20]


def test_no_question_and_no_number_to_compare_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no question"):
        draw(Guesser(), tmp_path, questions=[])
    wordy = [replace(QUESTIONS[0], references=("two",))]
    with pytest.raises(InputError, match="question 'q0' has no number"):
        draw(Guesser(), tmp_path, replace(CONFIG, checkers=(Number(),)), questions=wordy)
    assert draw(Guesser(), tmp_path, questions=wordy).answers == 4


def test_questions_are_read_with_their_answers(tmp_path):
    path = tmp_path / "sums.jsonl"
    rows = [
        {"id": "a", "prompt": "1+1=", "answer": 2, "tag": "easy", "more": None},
        {"prompt": "Who?", "answer": ["the miller", "a cooper"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_questions(path) == [
        Question(id="a", prompt="1+1=", references=("2",), tag="easy"),
        Question(id="2", prompt="Who?", references=("the miller", "a cooper"), tag="sums"),
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "1+1="}, "one under 'answer'"),
        ({"prompt": "1+1=", "answer": " "}, "one under 'answer'"),
        ({"prompt": "1+1=", "answer": True}, "one under 'answer'"),
        ({"prompt": 3, "answer": "2"}, "needs a text under 'prompt'"),
        ({"id": 1, "prompt": "1+1=", "answer": "2"}, "the id '1' is another row's"),
        ({"prompt": "half of a pair: \ud83d", "answer": "2"}, "half of a surrogate pair"),
        ({"prompt": "1+1=", "answer": ["2", "\ud83d"]}, "half of a surrogate pair"),
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path, row, said):
    path = tmp_path / "q.jsonl"
    good = {"prompt": "0+1=", "answer": "1"}
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=rf"line 2: .*{said}"):
        read_questions(path)


def test_without_references_a_prompt_is_enough(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"prompt": "0+1="}) + "\n")
    assert read_questions(path, answered=False)[0].references == ()


def test_what_is_kept_is_read_as_chats_of_its_tag(tmp_path):
    draw(Guesser(), tmp_path)
    documents = sources.load([str(tmp_path / "accepted.jsonl")])
    assert len(documents) == len(lines(tmp_path / "accepted.jsonl")) > 0
    assert {document.tag for document in documents} == {"sums"}
    assert [m["role"] for m in documents[0].messages] == ["user", "assistant"]
