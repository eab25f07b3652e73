"""Student and teacher are asked alike: likelihoods of the right tokens, and greedy answers."""

import pytest
import torch

from distill.errors import InputError
from distill.evaluation import answering
from distill.evaluation.answering import StudentAnswers, TeacherAnswers, require_room
from distill.evaluation.tasks import Item, Task, ask
from distill.teachers import local
from distill.teachers.local import LocalTeacher
from student.documents import Documents
from student.generate import generate
from student.vocabulary import Vocabulary
from tests.fakes.students import CPU, MLA, stirred
from tests.fakes.teachers import byte_pairs, sentences, tiny_teacher

PAIRS = [
    ("The miller fills", " the copper still by the river."),
    ("The miller fills ", "the copper still"),
    ("A young clerk, 漢字", " weighs 漢 a key"),
    ("", "The old distiller"),
    ("The barley\n\n", "is sold."),
    (({"role": "user", "content": "Who opens it?"},), "the cooper"),
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tiny_teacher(tmp_path_factory.mktemp("answering") / "t")
    return LocalTeacher("t", path, device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def student():
    return stirred(MLA, vocabulary=Vocabulary(size=320, bos=0, eos=1, pad=2))


@pytest.fixture(scope="module")
def both(teacher, student):
    return {
        "teacher": TeacherAnswers(teacher),
        "student": StudentAnswers(student, teacher.tokenizer),
    }


def logits(who: str, teacher, student, ids: list[int]) -> torch.Tensor:
    """Return all logits after each token of one text, the long way."""
    token_N = torch.tensor(ids)
    with torch.inference_mode():
        if who == "teacher":
            return teacher.model(input_ids=token_N[None], use_cache=False).logits[0]
        return student.logits(student(token_N, Documents([len(ids)], CPU)).hidden_ND)


def seam(tokenizer, prompt, text) -> tuple[list[int], int]:
    """Return the tokens of prompt and text, and how many of them hold the bare prompt alone."""
    if not isinstance(prompt, str):
        prompt = tokenizer.apply_chat_template(
            list(prompt), add_generation_prompt=True, tokenize=False
        )
    ids = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
    ids = ids if ids[0] == 0 else [0, *ids]
    bare = len(prompt.rstrip().encode())
    pieces = [tokenizer.convert_ids_to_tokens(token) for token in ids]
    # A byte-level token has a character a byte; a begin token that was added stands for none.
    held = [len(piece) for piece in pieces]
    held[0] = len("<s>") if (prompt + text).startswith("<s>") else 0
    return ids, sum(sum(held[: n + 1]) <= bare for n in range(len(ids)))


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_a_likelihood_is_the_sum_over_the_tokens_past_the_prompt(who, both, teacher, student):
    made = both[who].log_likelihoods(PAIRS)
    for (prompt, text), likely in zip(PAIRS, made, strict=True):
        ids, first = seam(teacher.tokenizer, prompt, text)
        assert 1 <= first < len(ids)
        logp = logits(who, teacher, student, ids).log_softmax(-1)
        expected = sum(float(logp[n - 1, ids[n]]) for n in range(first, len(ids)))
        assert likely == pytest.approx(expected, abs=2e-4)
        assert expected < -1


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_batches_change_nothing(who, both, monkeypatch):
    together = both[who].log_likelihoods(PAIRS)
    assert [both[who].log_likelihoods([pair])[0] for pair in PAIRS] == pytest.approx(
        together, abs=2e-4
    )
    monkeypatch.setattr(local, "_TOKENS", 40)
    assert both[who].log_likelihoods(PAIRS) == pytest.approx(together, abs=2e-4)
    assert both[who].log_likelihoods([]) == []


def test_white_space_at_the_prompts_end_belongs_to_the_answer(both):
    for who in both.values():
        before, after = who.log_likelihoods(
            [("The miller fills ", "the still"), ("The miller fills", " the still")]
        )
        assert before == pytest.approx(after, abs=1e-5)


def test_a_token_over_the_seam_counts_whole(teacher):
    reader = answering._Reader(byte_pairs([sentences(60, 0) + " seam:seam" * 400], 320))
    ids = reader.tokenizer("seam:seam", add_special_tokens=False)["input_ids"]
    pieces = [reader.tokenizer.decode([token]) for token in ids]
    over = next(n for n, _ in enumerate(pieces) if len("".join(pieces[: n + 1])) > len("sea"))
    assert len("".join(pieces[:over])) < len("sea")  # a token from before the seam to past it
    made = reader.row("sea", "m:seam")
    assert made.ids[1:] == ids
    assert made.first == 1 + over


def test_a_text_that_the_tokens_do_not_give_back_goes_by_its_characters(teacher, monkeypatch):
    reader = answering._Reader(teacher.tokenizer)
    exact = [reader.row(prompt, text) for prompt, text in PAIRS]
    monkeypatch.setattr(answering, "exact_ends", lambda spelt, raw: None)
    assert [reader.row(prompt, text) for prompt, text in PAIRS] == exact


def test_a_likelihoods_order_is_that_of_the_pairs(both):
    for who in both.values():
        made = who.log_likelihoods(PAIRS)
        assert who.log_likelihoods(PAIRS[::-1]) == pytest.approx(made[::-1], abs=2e-4)


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_what_is_written_is_greedy(who, both, teacher, student):
    prompts = [prompt for prompt, _ in PAIRS]
    texts = both[who].write(prompts, max_new_tokens=6, stop=())
    for prompt, text in zip(prompts, texts, strict=True):
        ids = both[who].reader.prompt(prompt)
        begun = len(ids)
        for _ in range(6):
            ids = [*ids, int(logits(who, teacher, student, ids)[-1].argmax())]
            if ids[-1] == 1:
                break
        assert text == teacher.tokenizer.decode(ids[begun:], skip_special_tokens=True)


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_prompts_of_any_lengths_are_answered_as_each_alone(who, both, monkeypatch):
    prompts = [prompt for prompt, _ in PAIRS]
    together = both[who].write(prompts, max_new_tokens=5, stop=())
    assert [both[who].write([p], max_new_tokens=5, stop=())[0] for p in prompts] == together
    monkeypatch.setattr(local, "_TOKENS", 40)
    assert both[who].write(prompts, max_new_tokens=5, stop=()) == together
    assert both[who].write([], max_new_tokens=5, stop=()) == []


def test_a_stop_cuts_at_its_first_place_and_is_left_out(both):
    for who in both.values():
        (whole,) = who.write(["The miller"], max_new_tokens=8, stop=())
        assert len(whole) > 4
        mark, late = whole[3:5], whole[4:6]
        (cut,) = who.write(["The miller"], max_new_tokens=8, stop=(late, mark, "never there"))
        assert cut == whole[: min(whole.index(mark), whole.index(late))]


def test_a_teacher_writes_greedily_whatever_its_own_settings_say(teacher, both):
    plain = both["teacher"].write(["The miller"], max_new_tokens=8, stop=())
    own = teacher.model.generation_config
    before = own.to_dict()
    own.update(do_sample=True, temperature=9.0, repetition_penalty=50.0, max_new_tokens=2)
    try:
        assert both["teacher"].write(["The miller"], max_new_tokens=8, stop=()) == plain
    finally:
        own.update(**before)


def test_a_teacher_stops_at_every_token_that_ends_its_answers(teacher, both):
    ids = both["teacher"].reader.prompt("The miller")
    first = int(logits("teacher", teacher, None, ids)[-1].argmax())
    own = teacher.model.generation_config
    before = own.eos_token_id
    own.eos_token_id = [1, first]
    try:
        written = local.write_tokens(both["teacher"].teacher, [ids], 4)
    finally:
        own.eos_token_id = before
    assert written == [[first]]
    assert local._ends(None, None) == []
    assert local._ends(0, 2) == [0, 2]


def test_a_task_is_answered_by_both(both):
    choices = (" the copper still", " a small cask", " every ledger")
    items = tuple(
        Item(id=str(n), prompt=sentences(2, n), choices=choices, answers=choices[n % 3 :][:1],
             casefold=False, stop=())
        for n in range(6)
    )  # fmt: skip
    for who in both.values():
        made = ask(Task(name="t", kind="multiple choice", items=items), who)
        for item, answer in zip(items, made, strict=True):
            nats = who.log_likelihoods([(item.prompt, choice) for choice in choices])
            assert answer.said == choices[nats.index(max(nats))]
            assert answer.right == (answer.said in item.answers)


def test_a_task_that_does_not_fit_is_refused_before_anybody_is_asked(teacher):
    tokenizer = teacher.tokenizer
    item = Item(
        id="long", prompt=sentences(3, 0), choices=(), answers=("x",), casefold=False, stop=()
    )
    exact = Task(name="t", kind="exact match", items=(item,))
    needed = len(answering._Reader(tokenizer).prompt(item.prompt)) + 10
    require_room(exact, tokenizer, needed, max_new_tokens=10)
    expected = f"task 't', item 'long': prompt and answer need {needed} tokens, but the model reads"
    with pytest.raises(InputError, match=expected):
        require_room(exact, tokenizer, needed - 1, max_new_tokens=10)
    choices = (" a", " a long choice of many words")
    chosen = Item(id="c", prompt="p", choices=choices, answers=choices[:1], casefold=False, stop=())
    needed = len(answering._Reader(tokenizer).row("p", choices[1]).ids)
    task = Task(name="t", kind="multiple choice", items=(chosen,))
    require_room(task, tokenizer, needed)
    with pytest.raises(InputError, match=f"item 'c': prompt and answer need {needed} tokens"):
        require_room(task, tokenizer, needed - 1)


def test_a_student_that_was_training_is_asked_at_rest(student, teacher):
    student.train()
    assert not StudentAnswers(student, teacher.tokenizer).student.training
    prompts = [StudentAnswers(student, teacher.tokenizer).reader.prompt("The miller")]
    (row,) = generate(student, prompts, max_new_tokens=4)
    (text,) = StudentAnswers(student, teacher.tokenizer).write(
        ["The miller"], max_new_tokens=4, stop=()
    )
    assert text == teacher.tokenizer.decode(row, skip_special_tokens=True)
