"""A student goes on from any prompt, also one that fills its positions."""

from dataclasses import replace

import pytest

from distill.evaluate import write_on
from student.model import Student
from tests.fakes.students import CPU, MLA, VOCABULARY

SMALL = replace(MLA, max_position_embeddings=16)


class Words:
    """A tokenizer whose tokens are the numbers in a text."""

    def __call__(self, prompt: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [int(word) for word in prompt.split()]}

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " ".join(map(str, tokens))


def asked(monkeypatch, count: int, max_tokens: int) -> tuple[list[int], int]:
    """Return the prompt that is generated from, and how many tokens are asked for."""
    noted = []

    def note(student, prompts, *, max_new_tokens, sampling):
        noted.append((prompts[0], max_new_tokens))
        return [[7] * max_new_tokens]

    monkeypatch.setattr("distill.evaluate.generate", note)
    student = Student.build(SMALL, VOCABULARY)
    prompt = " ".join(str(10 + place) for place in range(count))
    written = write_on(student, Words(), prompt, max_tokens, seed=0)
    assert written.split() == ["7"] * noted[0][1]
    return noted[0]


@pytest.mark.parametrize(
    ("count", "max_tokens", "read", "new"),
    [
        (5, 4, range(10, 15), 4),  # room for all
        (12, 4, range(10, 22), 4),  # just
        (5, 30, range(10, 15), 11),  # up to the last position
        (13, 4, range(11, 23), 4),  # the end of a prompt that leaves too little room
        (16, 4, range(14, 26), 4),  # or none
        (40, 4, range(38, 50), 4),  # or is longer than the positions
        (40, 30, range(42, 50), 8),  # half for each
        (0, 4, [VOCABULARY.bos], 4),
        (0, 30, [VOCABULARY.bos], 15),
    ],
)
def test_as_much_of_a_prompt_is_read_as_leaves_room_to_write(
    monkeypatch, count, max_tokens, read, new
):
    assert asked(monkeypatch, count, max_tokens) == (list(read), new)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_a_student_writes_on_whatever_the_prompt(count):
    student = Student.build(SMALL, VOCABULARY, device=CPU)
    prompt = " ".join(["9"] * count)
    written = write_on(student, Words(), prompt, 5, seed=1)
    assert written == write_on(student, Words(), prompt, 5, seed=1)
    assert all(0 <= int(token) < VOCABULARY.size for token in written.split())
