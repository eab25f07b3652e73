"""Tokens are picked as asked for, texts end where they should, the impossible is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from student.errors import ShapeError
from student.generate import Sampling, generate
from student.model import Student
from student.vocabulary import Vocabulary
from tests.fakes.rivals import rival
from tests.fakes.students import MLA, V4, V4_SPARSE, VOCABULARY, documents, stirred, text

SMALL = Vocabulary(size=11, bos=0, eos=1)
BOTH = pytest.mark.parametrize("config", [V4_SPARSE, MLA], ids=["v4", "mla"])
PROMPTS = [[7, 8, 9], [10], list(range(20, 60))]


def lively(config, vocabulary: Vocabulary = VOCABULARY) -> Student:
    """Return a student whose logits differ by some units, so that probabilities are uneven."""
    student = stirred(replace(config, initializer_range=0.2), vocabulary=vocabulary)
    with torch.no_grad():
        student.head.weight.mul_(1.5)
    return student


def share_after(student: Student, prompt: list[int], temperature: float) -> torch.Tensor:
    """Return the probabilities of the token after a prompt, by the uncached pass."""
    with torch.inference_mode():
        hidden_SD = student(torch.tensor(prompt), documents(len(prompt))).hidden_ND
        return torch.softmax(student.logits(hidden_SD[-1:])[0].double() / temperature, dim=-1)


# Greedy


@BOTH
def test_without_sampling_the_likeliest_token_is_written(config):
    student = lively(config)
    written = generate(student, PROMPTS, max_new_tokens=6, stop=[])
    assert [len(row) for row in written] == [6, 6, 6]
    for prompt, row in zip(PROMPTS, written, strict=True):
        for place, token in enumerate(row):
            assert share_after(student, prompt + row[:place], 1.0).argmax() == token


@BOTH
def test_a_row_is_the_same_alone_and_in_company(config):
    student = lively(config)
    together = generate(student, PROMPTS, max_new_tokens=20, stop=[])
    alone = [generate(student, [prompt], max_new_tokens=20, stop=[])[0] for prompt in PROMPTS]
    assert together == alone
    assert len({tuple(row) for row in together}) == len(PROMPTS)


@pytest.mark.parametrize("config", [replace(V4, index_top_k=64), MLA], ids=["v4", "mla"])
def test_greedy_tokens_are_those_transformers_writes(config):
    student = lively(replace(config, num_mtp_layers=0))
    theirs = rival(student).eval()
    for prompt in PROMPTS:
        start = torch.tensor([prompt])
        whole = theirs.generate(
            start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=24,
            min_new_tokens=24,
            do_sample=False,
            pad_token_id=0,
        )
        banned = VOCABULARY.eos  # theirs may not end before the least number of tokens
        expected = whole[0, len(prompt) :].tolist()
        found = generate(student, [prompt], max_new_tokens=24, stop=[])[0]
        ahead = found.index(banned) if banned in found else len(found)
        assert ahead > 10
        assert found[:ahead] == expected[:ahead]


@BOTH
def test_a_temperature_of_zero_needs_no_seed(config):
    student = lively(config)
    first = generate(student, PROMPTS, max_new_tokens=5, sampling=Sampling(seed=1), stop=[])
    assert first == generate(student, PROMPTS, max_new_tokens=5, stop=[])


# Stopping


@BOTH
def test_a_text_ends_before_its_first_stop_token(config):
    student = lively(config)
    whole = generate(student, PROMPTS, max_new_tokens=30, stop=[])
    for stop in ([whole[0][3]], [whole[1][5], whole[2][9]], [whole[0][0]]):
        found = generate(student, PROMPTS, max_new_tokens=30, stop=stop)
        for full, row in zip(whole, found, strict=True):
            ends = [place for place, token in enumerate(full) if token in stop]
            assert row == full[: min(ends, default=30)]


def test_eos_ends_a_text_unless_something_else_is_asked_for():
    student = lively(MLA)
    whole = generate(student, PROMPTS, max_new_tokens=30, stop=[])
    student.vocabulary = replace(VOCABULARY, eos=whole[0][4])
    found = generate(student, PROMPTS, max_new_tokens=30)
    assert found[0] == whole[0][: whole[0].index(whole[0][4])]
    assert generate(student, PROMPTS, max_new_tokens=30, stop=[]) == whole


def test_no_step_is_run_long_after_the_last_text_has_ended(monkeypatch):
    student, steps = lively(MLA), []
    (row,) = generate(student, PROMPTS[:1], max_new_tokens=40, stop=[])
    decode = student.decode
    monkeypatch.setattr(student, "decode", lambda *given: steps.append(1) or decode(*given))
    assert generate(student, PROMPTS[:1], max_new_tokens=40, stop=[row[2]]) == [row[:2]]
    assert len(steps) < 12
    steps.clear()
    generate(student, PROMPTS[:1], max_new_tokens=40, stop=[])
    assert len(steps) == 39


def test_one_token_takes_no_step_at_all(monkeypatch):
    student = lively(V4_SPARSE)
    monkeypatch.setattr(student, "decode", None)
    assert len(generate(student, PROMPTS, max_new_tokens=1, stop=[])) == 3


# Sampling

DRAWS = 4000


def frequencies(student: Student, prompt: list[int], **how) -> torch.Tensor:
    rows = generate(student, [prompt] * DRAWS, max_new_tokens=1, sampling=Sampling(**how), stop=[])
    return torch.tensor(rows).flatten().bincount(minlength=SMALL.size) / DRAWS


def agree(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Tell whether frequencies are within 4.5 standard errors of probabilities, each of them."""
    error = (expected * (1 - expected) / DRAWS).sqrt()
    return bool(((found - expected).abs() <= 4.5 * error + 1e-12).all())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_their_probability_says(temperature):
    student, prompt = lively(MLA, SMALL), [2, 3, 4]
    found = frequencies(student, prompt, temperature=temperature)
    assert agree(found, share_after(student, prompt, temperature))
    assert not agree(found, share_after(student, prompt, temperature * 1.5))


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.9])
def test_only_the_likeliest_tokens_that_reach_top_p_are_drawn_from(top_p):
    student, prompt = lively(MLA, SMALL), [2, 3, 4]
    share_V = share_after(student, prompt, 1.0)
    kept, total = [], 0.0
    for token in share_V.argsort(descending=True).tolist():
        if total < top_p:
            kept.append(token)
        total += float(share_V[token])
    expected_V = torch.zeros_like(share_V)
    expected_V[kept] = share_V[kept] / share_V[kept].sum()
    found = frequencies(student, prompt, temperature=1.0, top_p=top_p)
    assert 1 <= len(kept) < SMALL.size
    assert set(found.nonzero().flatten().tolist()) == set(kept)
    assert agree(found, expected_V)


def test_a_tiny_top_p_leaves_the_likeliest_token():
    student, prompt = lively(MLA, SMALL), [2, 3, 4]
    found = frequencies(student, prompt, temperature=2.0, top_p=1e-6)
    assert found.argmax() == share_after(student, prompt, 1.0).argmax()
    assert found.max() == 1


@pytest.mark.parametrize("tiny", [1e-7, 1e-30, 1e-46, 5e-324])
def test_what_float32_would_lose_still_picks_the_likeliest(tiny):
    student = lively(MLA, SMALL)
    greedy = generate(student, [[2, 3, 4]] * 20, max_new_tokens=3, stop=[])
    for how in (Sampling(temperature=tiny), Sampling(temperature=1.0, top_p=tiny)):
        drawn = generate(student, [[2, 3, 4]] * 20, max_new_tokens=3, sampling=how, stop=[])
        assert drawn == greedy


def test_later_tokens_are_drawn_given_the_ones_before():
    student, prompt = lively(V4_SPARSE, SMALL), [2, 3, 4]
    how = Sampling(temperature=1.0, seed=3)
    rows = generate(student, [prompt] * DRAWS, max_new_tokens=2, sampling=how, stop=[])
    first = max({row[0] for row in rows}, key=[row[0] for row in rows].count)
    then = [row[1] for row in rows if row[0] == first]
    found_V = torch.tensor(then).bincount(minlength=SMALL.size) / len(then)
    expected_V = share_after(student, [*prompt, first], 1.0)
    error_V = (expected_V * (1 - expected_V) / len(then)).sqrt()
    assert len(then) > 500
    assert bool(((found_V - expected_V).abs() <= 4.5 * error_V + 1e-12).all())


@BOTH
def test_the_same_seed_draws_the_same_and_another_does_not(config):
    student = lively(config)
    draw = [
        generate(
            student,
            PROMPTS,
            max_new_tokens=20,
            sampling=Sampling(temperature=1.5, top_p=0.95, seed=seed),
            stop=[],
        )
        for seed in (1, 1, 2)
    ]
    assert draw[0] == draw[1] != draw[2]


def test_drawing_leaves_the_callers_random_state_alone():
    student = lively(MLA)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    generate(student, PROMPTS, max_new_tokens=3, sampling=Sampling(temperature=1.0), stop=[])
    assert torch.equal(torch.rand(3), expected)


# What cannot be done


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -0.1}, r"temperature is -0\.1; it must be at least 0"),
        ({"temperature": float("nan")}, "temperature is nan; it must be"),
        ({"top_p": 0.0}, r"top_p is 0\.0; it must be above 0 and at most 1"),
        ({"top_p": 1.1}, r"top_p is 1\.1; it must be above 0 and at most 1"),
        ({"top_p": float("nan")}, "top_p is nan; it must be a finite number"),
        ({"temperature": float("inf")}, "temperature is inf; it must be a finite number"),
        ({"temperature": True}, "temperature is True; it must be a finite number"),
        ({"temperature": "1"}, "temperature is '1'; it must be a finite number"),
        ({"temperature": torch.tensor(1.0)}, "temperature is tensor.*; it must be a finite number"),
        ({"top_p": True}, "top_p is True; it must be a finite number"),
        ({"top_p": None}, "top_p is None; it must be a finite number"),
        ({"seed": 1.5}, r"seed is 1\.5; it must be a whole number"),
        ({"seed": "x"}, "seed is 'x'; it must be a whole number"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"seed": 2**70}, f"seed is {2**70}; it must be at most {2**63 - 1}"),
    ],
)
def test_sampling_names_the_field_it_cannot_draw_with(fields, message):
    with pytest.raises(ShapeError, match=message):
        Sampling(**fields)


@pytest.mark.parametrize(
    ("prompts", "new", "message"),
    [
        ([[1]], 0, "max_new_tokens is 0; it must be at least 1"),
        ([[1]], 1.5, r"max_new_tokens is 1\.5; it must be a whole number"),
        ([[1]], True, "max_new_tokens is True; it must be a whole number"),
        ([[1]], 2**70, f"max_new_tokens is {2**70}; it must be at most"),
        ([[1]], 2**63 - 1, "exceed max_position_embeddings"),
        ([], 1, "prompts is empty; give at least one"),
        ([[1], []], 1, r"prompts\[1\] is empty; begin it with the bos token"),
        ([[1], [2, 97]], 1, r"prompts\[1\] has a token outside the vocabulary of 97"),
        ([[-1]], 1, r"prompts\[0\] has a token outside the vocabulary of 97"),
        ("hello", 1, "prompts is of type str; give a list of prompts, each a list of tokens"),
        (["hello"], 1, r"prompts\[0\] is of type str; give a list of tokens"),
        ([b"hello"], 1, r"prompts\[0\] is of type bytes; give a list of tokens"),
        ([1, 2], 1, r"prompts\[0\] is of type int; give a list of tokens"),
        (torch.tensor([1, 2]), 1, r"prompts\[0\] is of type int; give a list of tokens"),
        (7, 1, "prompts is of type int; give a list of prompts"),
        ([[1, 2.0]], 1, r"prompts\[0\]\[1\] is 2\.0; it must be a whole number"),
        ([[1], [True]], 1, r"prompts\[1\]\[0\] is True; it must be a whole number"),
        (torch.tensor([[1.0]]), 1, r"prompts\[0\]\[0\] is 1\.0; it must be a whole number"),
        (torch.ones(1, 1, 1).long(), 1, r"prompts\[0\]\[0\] is \[1\]; it must be a whole number"),
        ([[1], [2] * 500], 13, r"a prompt of 500 tokens .* 13 exceed max_position_.* \(512\)"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_by_name(prompts, new, message):
    with pytest.raises(ShapeError, match=message):
        generate(stirred(MLA), prompts, max_new_tokens=new)


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ([97], "stop has a token outside the vocabulary of 97"),
        ([-1], "stop has a token outside the vocabulary of 97"),
        ([1.0], r"stop\[0\] is 1\.0; it must be a whole number"),
        ("eos", "stop is of type str; give a list of tokens"),
        (4, "stop is of type int; give a list of tokens"),
    ],
)
def test_what_no_text_could_end_at_is_refused(stop, message):
    with pytest.raises(ShapeError, match=message):
        generate(stirred(MLA), [[1]], max_new_tokens=1, stop=stop)


def test_prompts_may_be_rows_of_a_tensor_or_arrays_and_stop_too():
    student, rows = lively(MLA), [[7, 8, 9], [10, 11, 12]]
    whole = generate(student, rows, max_new_tokens=9, stop=[])
    tensors = [torch.tensor(row, dtype=torch.int32) for row in rows]
    for given in (torch.tensor(rows), np.array(rows), tensors, tuple(map(tuple, rows))):
        assert generate(student, given, max_new_tokens=9, stop=[]) == whole
    assert isinstance(generate(student, np.array(rows), max_new_tokens=1)[0], list)
    cut = generate(student, rows, max_new_tokens=9, stop=[whole[0][4]])
    assert generate(student, rows, max_new_tokens=9, stop=torch.tensor(whole[0][4:5])) == cut


@BOTH
def test_the_last_position_can_be_written(config):
    student = lively(replace(config, max_position_embeddings=24))
    prompt = text(20).tolist()
    assert len(generate(student, [prompt], max_new_tokens=4, stop=[])[0]) == 4
    with pytest.raises(ShapeError):
        generate(student, [prompt], max_new_tokens=5, stop=[])
