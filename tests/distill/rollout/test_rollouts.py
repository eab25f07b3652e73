"""The student's answers are a function of weights, seed and step, and are written once."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill.errors import InputError, StorageError
from distill.rollout.config import RolloutConfig
from distill.rollout.rollouts import (
    Prompt,
    Rollouts,
    StudentWriter,
    join,
    key,
    prompts,
)
from distill.rollout.writings import Writings
from distill.store.shard import Sequences
from distill.text import chat
from distill.text.sources import Document
from student.generate import Sampling, generate
from tests.fakes.students import MLA, VOCABULARY, stirred
from tests.fakes.teachers import tiny_tokenizer

SIZE, SEED = 3, 7
PROMPTS = [Prompt(tokens=(3, 10 + n, 20 + n), tag="even odd".split()[n % 2]) for n in range(8)]
CONFIG = RolloutConfig(fraction=1, max_new_tokens=5, refresh_steps=2, batch_size=4)


class Echo:
    """A writer that answers the seed's last digits and the end token, and notes what it did."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[tuple[int, ...], ...], int]] = []

    def write(self, prompts: Sequence[Prompt], seed: int) -> list[list[int]]:
        rows = tuple(prompt.tokens for prompt in prompts)
        self.asked.append((rows, seed))
        return [[6 + (seed + row[1]) % 90, VOCABULARY.eos] for row in rows]


def untagged(rows: Iterable[tuple[int, ...]]) -> list[Prompt]:
    return [Prompt(tokens=row, tag="") for row in rows]


def rollouts(path: Path, writer, config: RolloutConfig = CONFIG, seed: int = SEED) -> Rollouts:
    writings = Writings(path, key(PROMPTS, "run", VOCABULARY.size))
    return Rollouts(PROMPTS, config, writer, writings, size=SIZE, seed=seed)


def tokens(made: Rollouts, steps: Sequence[int]) -> list[list[list[int]]]:
    return [[row.tolist() for row in made.at(step).text.split()] for step in steps]


def answers(text: Sequences) -> list[list[int]]:
    """Return the tokens that count, row by row."""
    counted = text.counted_N.split(text.length_B.tolist())
    return [row[1:][c].tolist() for row, c in zip(text.split(), counted, strict=True)]


# What is asked.


def test_a_text_asks_its_beginning_and_the_begin_token():
    known = tiny_tokenizer()
    text = Document(id="a/1", text="the miller fills a small cask", tag="a")
    (asked,) = prompts([text], known, tags=["a"], length=4)
    ids = known(text.text, add_special_tokens=False)["input_ids"]
    assert asked == Prompt(tokens=(known.bos_token_id, *ids[:3]), tag="a", messages=())


def test_a_chat_asks_all_before_its_last_answer():
    known = tiny_tokenizer()
    turns = ("user", "a key"), ("assistant", "at market"), ("user", "why"), ("assistant", "barley")
    messages = tuple({"role": role, "content": said} for role, said in turns)
    document = Document(id="c/1", text="", messages=messages, tag="b")
    (asked,) = prompts([document], known, tags=["a"], length=4)
    encoded = chat.encode(known, document)
    rest = encoded.ids.tolist()[len(asked.tokens) :]
    assert list(asked.tokens) == encoded.ids.tolist()[: len(asked.tokens)]
    assert known.decode(rest).startswith("barley")
    assert known.decode(asked.tokens).endswith("assistant: ")
    assert "at market" in known.decode(asked.tokens)
    assert asked.tag == ""  # a tag that no teacher names
    assert asked.messages == messages[:3]
    (with_tools,) = prompts(
        [replace(document, tools=({"name": "weigh"},))], known, tags=[], length=4
    )
    assert with_tools.messages == ()  # which a server would have to be given too


def test_a_prompt_without_room_for_an_answer_is_refused():
    known = tiny_tokenizer()
    document = Document(id="a/1", text="the miller fills a small cask", tag="a")
    length = len(prompts([document], known, tags=[], length=99)[0].tokens)
    assert prompts([document], known, tags=[], length=99, longest=length)
    with pytest.raises(InputError, match=rf"a/1: what it asks is {length} tokens"):
        prompts([document], known, tags=[], length=99, longest=length - 1)


def test_answers_count_with_their_end_token_and_prompts_never():
    text = join([(3, 8, 9), (3,)], [[40, 41, 4], [4]])
    assert answers(text) == [[40, 41, 4], [4]]
    assert [row.tolist() for row in text.split()] == [[3, 8, 9, 40, 41, 4], [3, 4]]
    assert text.counted_N.tolist() == [False, False, True, True, True, True]


# Who writes.


def test_the_student_ends_an_answer_or_is_cut_off():
    student = stirred(MLA)
    config = RolloutConfig(max_new_tokens=60, temperature=1.0)
    asked = [(3, n, n + 1) for n in range(10, 40)]
    rows = StudentWriter(student, config).write(untagged(asked), seed=5)
    how = Sampling(temperature=1.0, seed=5)
    plain = generate(student, asked, max_new_tokens=60, sampling=how)
    assert {len(row) == 60 for row in plain} == {True, False}, "some must end and some be cut"
    for row, before in zip(rows, plain, strict=True):
        assert row == (before if len(before) == 60 else [*before, VOCABULARY.eos])


def test_temperature_and_top_p_reach_the_student():
    student, asked = stirred(MLA), untagged((3, n) for n in range(10, 30))
    likeliest = StudentWriter(student, RolloutConfig(max_new_tokens=6, temperature=0.0))
    narrow = StudentWriter(student, RolloutConfig(max_new_tokens=6, top_p=1e-6))
    free = StudentWriter(student, RolloutConfig(max_new_tokens=6))
    assert likeliest.write(asked, seed=1) == narrow.write(asked, seed=2)
    assert free.write(asked, seed=1) != free.write(asked, seed=2)


# When it is written, and what is kept.


def test_rows_are_a_function_of_weights_seed_and_step(tmp_path):
    student = stirred(MLA)
    writer = StudentWriter(student, CONFIG)
    first = tokens(rollouts(tmp_path / "a", writer), range(1, 5))
    assert tokens(rollouts(tmp_path / "b", writer), range(1, 5)) == first
    assert tokens(rollouts(tmp_path / "c", writer, seed=8), range(1, 5)) != first
    with torch.no_grad():
        student.head_weight().add_(0.5 * torch.randn_like(student.head_weight()))
    assert tokens(rollouts(tmp_path / "d", writer), range(1, 5)) != first


def test_no_two_batches_of_answers_share_a_seed(tmp_path):
    echo = Echo()
    tokens(rollouts(tmp_path / "one", echo), range(1, 13))
    tokens(rollouts(tmp_path / "another", echo, seed=SEED + 1), range(1, 13))
    seeds = [seed for _, seed in echo.asked]
    # Six writings of six rows, four at a time, in each of two runs.
    assert len(seeds) == len(set(seeds)) == 24
    assert [len(asked) for asked, _ in echo.asked[:2]] == [4, 2]


def test_every_prompt_is_asked_once_before_any_comes_again(tmp_path):
    made = rollouts(tmp_path, Echo())
    asked = [tuple(row[:3]) for step in tokens(made, range(1, 17)) for row in step]
    epochs = [asked[start : start + 8] for start in range(0, 48, 8)]
    assert all(sorted(epoch) == [p.tokens for p in PROMPTS] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_tags_are_those_of_the_prompts(tmp_path):
    made = rollouts(tmp_path, Echo())
    tag = {prompt.tokens: prompt.tag for prompt in PROMPTS}
    for step in range(1, 9):
        rollout = made.at(step)
        found = [tag[tuple(row[:3].tolist())] for row in rollout.text.split()]
        assert list(rollout.tags) == found


def test_one_writing_serves_the_steps_until_the_next(tmp_path):
    echo = Echo()
    made = rollouts(tmp_path, echo, RolloutConfig(refresh_steps=3, batch_size=99))
    found = [made.at(step) for step in range(1, 7)]
    assert [rollout.staleness for rollout in found] == [0, 1, 2, 0, 1, 2]
    assert len(echo.asked) == 2
    assert [rollout.seconds > 0 for rollout in found] == [True, False, False] * 2
    rows = [row.tolist()[:3] for rollout in found[:3] for row in rollout.text.split()]
    assert rows == [list(asked) for asked in echo.asked[0][0]]


def test_a_writing_that_is_stored_is_never_written_again(tmp_path):
    echo = Echo()
    first = tokens(rollouts(tmp_path, echo), range(1, 7))
    count = len(echo.asked)
    # A run resumed in the midst of a writing, and a replay of all of it.
    assert tokens(rollouts(tmp_path, echo), range(4, 7)) == first[3:]
    assert tokens(rollouts(tmp_path, echo), range(1, 7)) == first
    assert len(echo.asked) == count


@pytest.mark.parametrize("step", [2, 3, 4])
def test_rows_of_weights_that_are_gone_are_not_written_by_others(tmp_path, step):
    with pytest.raises(StorageError, match="lacks writing 0"):
        rollouts(tmp_path, Echo()).at(step)


def test_the_key_pins_prompts_tags_and_run():
    whole = key(PROMPTS, "run", 97)
    other = Prompt(tokens=PROMPTS[0].tokens, tag="odd")
    keys = [
        key(PROMPTS[1:], "run", 97),
        key([other, *PROMPTS[1:]], "run", 97),
        key(PROMPTS, "another", 97),
        key(PROMPTS, "run", 98),
        key(PROMPTS, "run", 97, writer="a server's model"),
    ]
    assert key(list(PROMPTS), "run", 97) == whole
    assert whole not in keys


def test_no_prompt_is_an_error(tmp_path):
    writings = Writings(tmp_path, key([], "run", 97))
    with pytest.raises(InputError, match="no prompt"):
        Rollouts([], CONFIG, Echo(), writings, size=1, seed=0)


@pytest.mark.parametrize(
    ("fraction", "size", "rows"), [(0.0, 8, 0), (0.5, 8, 4), (1.0, 8, 8), (0.3, 8, 2), (0.95, 8, 0)]
)
def test_a_fraction_is_whole_rows(fraction, size, rows):
    config = RolloutConfig(fraction=fraction)
    if fraction == 0.95:
        with pytest.raises(ValueError, match="is all of its rows"):
            config.rows(size)
        return
    assert config.rows(size) == rows


def test_a_fraction_of_no_row_is_refused():
    with pytest.raises(ValueError, match="is none of its rows"):
        RolloutConfig(fraction=0.05).rows(8)
