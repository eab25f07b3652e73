"""Decoding from a cache is the uncached forward pass, one token at a time, for ragged batches."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest
import torch

from student.cache import Clock
from student.choices import Choices
from student.config import V4Config, Yarn
from student.errors import ShapeError
from student.model import Student
from student.rotary import rotate
from tests.fakes.students import (
    CPU,
    MLA,
    V4,
    V4_SPARSE,
    distance,
    documents,
    in_bfloat16,
    stirred,
    text,
)

STEPS = 45
V4_ODD = replace(V4_SPARSE, sliding_window=5, csa_compression=3, hca_compression=7)
YARN = Yarn(factor=4.0, original_positions=128)
CONFIGS = {
    "v4": V4_SPARSE,
    "v4 odd windows": V4_ODD,
    "v4 every entry": replace(V4, index_top_k=64),
    "v4 windows alone": replace(V4, layer_types=("swa", "swa")),
    "v4 csa alone, window of one": replace(V4_SPARSE, layer_types=("csa",), sliding_window=1),
    "v4 hca alone, yarn": replace(V4, layer_types=("hca",), yarn=YARN),
    "v4 listed frequencies": replace(
        V4_SPARSE, rope_frequencies=tuple(0.5**n for n in range(V4.qk_rope_head_dim // 2))
    ),
    "mla": MLA,
    "mla plain queries, yarn": replace(
        MLA, q_lora_rank=None, yarn=replace(YARN, mscale_all_dim=0.7), v_head_dim=6
    ),
    "mla biases, listed frequencies": replace(
        MLA, attention_bias=True, rope_frequencies=(0.5, 0.5, 0.1, 0.02)
    ),
}
# Shorter than a window and any compression; at their edges; well beyond.
PROMPTS = (1, 33, 2, 8, 16, 7)


class Decoded(NamedTuple):
    """A decoded batch: what the head reads after the prompt and after each step, and choices.

    Attributes:
        hidden_BSD: `[B, 1 + steps, D]`.
        choices: one a step, of all sequences.
    """

    hidden_BSD: torch.Tensor
    choices: list[Choices]


def texts(prompts: tuple[int, ...] = PROMPTS, steps: int = STEPS) -> list[torch.Tensor]:
    return [text(length + steps, seed=row) for row, length in enumerate(prompts)]


def decode(
    student: Student,
    whole: list[torch.Tensor],
    prompts: tuple[int, ...] = PROMPTS,
    replay: list[Choices] | None = None,
) -> Decoded:
    """Run the prompts, then feed each sequence the rest of its text."""
    start_N = torch.cat([t[:n] for t, n in zip(whole, prompts, strict=True)])
    capacity = max(len(t) for t in whole)
    hidden_BD, cache = student.remember(start_N, documents(*prompts), capacity)
    hidden, choices = [hidden_BD], []
    for step in range(len(whole[0]) - prompts[0]):
        token_B = torch.stack([t[n + step] for t, n in zip(whole, prompts, strict=True)])
        given = None if replay is None else replay[step]
        hidden_BD, made = student.decode(token_B, cache, replay=given)
        hidden.append(hidden_BD)
        choices.append(made)
    return Decoded(torch.stack(hidden, dim=1), choices)


def uncached(student: Student, whole: torch.Tensor, **wanted):
    return student(whole, documents(len(whole)), **wanted)


def as_steps(passes: list[Choices], steps: int = STEPS) -> list[Choices]:
    """Return what passes over each text alone chose, as the choices of each decoding step."""
    found = []
    for step in range(steps):
        entries: list[torch.Tensor | None] = []
        for rows in zip(*(made.entries for made in passes), strict=True):
            chosen = [_at(row, prompt + step) for row, prompt in zip(rows, PROMPTS, strict=True)]
            entries.append(None if rows[1] is None else torch.stack(chosen))
        found.append(Choices(experts=(None,) * len(entries), entries=tuple(entries)))
    return found


def _at(entry_NK: torch.Tensor | None, place: int) -> torch.Tensor:
    # Where the choice did not bind there are no more entries than these.
    return torch.arange(V4.index_top_k) if entry_NK is None else entry_NK[place]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.inference_mode()
def test_a_decoded_token_is_what_the_uncached_pass_makes_of_it(config):
    student, whole = stirred(config).double(), texts()
    found = decode(student, whole)
    for row, prompt in enumerate(PROMPTS):
        expected_SD = uncached(student, whole[row]).hidden_ND[prompt - 1 :]
        assert distance(found.hidden_BSD[row], expected_SD) < 1e-12
    binding = isinstance(config, V4Config) and "csa" in config.layer_types
    last = [chosen is not None for chosen in found.choices[-1].entries]
    assert any(last) == (binding and config.index_top_k < 64)


@torch.inference_mode()
def test_so_it_is_where_scores_tie_once_the_choice_is_the_same():
    student, whole = stirred(V4).double(), texts()
    passes = [uncached(student, row) for row in whole]
    replay = as_steps([one.choices for one in passes])
    found = decode(student, whole, replay=replay)
    for row, prompt in enumerate(PROMPTS):
        expected_SD = passes[row].hidden_ND[prompt - 1 :]
        assert distance(found.hidden_BSD[row], expected_SD) < 1e-12


class Scored(NamedTuple):
    """What an uncached pass chose, and by which scores: one `[N, T]` for each layer that scores."""

    choices: Choices
    scores: dict[int, torch.Tensor]


def scored(student: Student, whole: torch.Tensor) -> Scored:
    """Run a pass, and score every entry for every token by the report's equation 16."""
    scores: dict[int, torch.Tensor] = {}

    def score(layer: int, attn, inputs, output) -> None:
        x_ND, positions = inputs
        indexer, turn = attn.indexer, positions.compress
        q_NF = indexer.q_b(attn.q_norm(attn.q_a(x_ND)))
        q_NIF = rotate(q_NF.unflatten(-1, (V4.index_num_heads, -1)), turn)
        product_NIT = torch.einsum("nif,tf->nit", q_NIF, output.memory.index_entry_TF)
        weight_NI = indexer.weights(x_ND) / q_NF.shape[-1] ** 0.5
        scores[layer] = torch.einsum("ni,nit->nt", weight_NI, product_NIT.relu())

    handles = [
        block.attn.register_forward_hook(partial(score, layer))
        for layer, block in enumerate(student.layers)
        if block.attn.indexer is not None
    ]
    choices = uncached(student, whole).choices
    for handle in handles:
        handle.remove()
    return Scored(choices, scores)


def disagreements(
    scored: Scored, layer: int, place: int, row_K: list[int]
) -> Iterator[tuple[float, float]]:
    """Yield the scores of entries one chose and the other did not, best with best."""
    score_T = scored.scores[layer][place]
    ours, theirs = set(row_K), set(scored.choices.entries[layer][place].tolist())
    of_ours, of_theirs = (
        sorted(score_T[list(chosen)].tolist()) for chosen in (ours - theirs, theirs - ours)
    )
    yield from zip(of_ours, of_theirs, strict=True)


@torch.inference_mode()
def test_choices_differ_in_float32_only_where_scores_are_equal_to_rounding():
    student, whole = stirred(V4), texts()
    passes = [scored(student, row) for row in whole]
    steps = as_steps([one.choices for one in passes])
    chances = differing = 0
    for layer in passes[0].scores:
        # The other layers choose alike, so that this one starts from the same state.
        free = [
            replace(s, entries=tuple(None if i == layer else e for i, e in enumerate(s.entries)))
            for s in steps
        ]
        for step, made in enumerate(decode(student, whole, replay=free).choices):
            for row, prompt in enumerate(PROMPTS):
                place = prompt + step
                if (place + 1) // V4.csa_compression <= V4.index_top_k:
                    continue
                chances += 1
                chosen = made.entries[layer][row].tolist()
                pairs = list(disagreements(passes[row], layer, place, chosen))
                differing += bool(pairs)
                for a, b in pairs:
                    assert abs(a - b) <= 4 * torch.finfo(torch.float32).eps * max(abs(a), abs(b))
    assert chances > 400
    assert differing < chances / 50


@torch.inference_mode()
def test_a_step_chooses_among_the_entries_its_sequence_has():
    found = decode(stirred(V4), texts())
    for step, made in enumerate(found.choices):
        assert [e is None for e in made.experts] == [False] * 4
        assert made.entries[0] is None and made.entries[2] is None
        bound = (max(PROMPTS) + step + 1) // V4.csa_compression > V4.index_top_k
        assert (made.entries[1] is not None) == bound
        for row, prompt in enumerate(PROMPTS):
            has = (prompt + step + 1) // V4.csa_compression
            chosen = [place for place in made.entries[1][row].tolist() if place >= 0]
            assert len(chosen) == len(set(chosen)) == min(has, V4.index_top_k)
            assert all(place < has for place in chosen)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.inference_mode()
def test_a_sequence_is_decoded_the_same_in_any_company(config):
    student, whole = stirred(config).double(), texts(steps=20)
    together = decode(student, whole).hidden_BSD
    for rows in ([1], [5, 1, 2]):
        prompts = tuple(PROMPTS[row] for row in rows)
        apart = decode(student, [whole[row] for row in rows], prompts).hidden_BSD
        assert distance(apart, together[rows]) < 1e-12


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.inference_mode()
def test_a_larger_cache_changes_nothing(config):
    student, token_N, more = stirred(config).double(), text(9), text(8, seed=1)
    ends = []
    for capacity in (17, 18, 300):
        _, cache = student.remember(token_N, documents(4, 5), capacity)
        for place in range(8):
            hidden_BD, _ = student.decode(more[[place, place]], cache)
        ends.append(hidden_BD)
    assert distance(ends[1], ends[0]) < 1e-13
    assert distance(ends[2], ends[0]) < 1e-13


@pytest.mark.parametrize("config", [V4_SPARSE, V4_ODD, MLA], ids=["v4", "v4 odd", "mla"])
@torch.inference_mode()
def test_greedy_tokens_are_those_of_the_uncached_pass_where_the_margin_is_clear(config):
    student = stirred(replace(config, initializer_range=0.2))
    start_N = text(sum(PROMPTS))
    hidden_BD, cache = student.remember(start_N, documents(*PROMPTS), max(PROMPTS) + STEPS)
    written = [list(part.tolist()) for part in start_N.split(PROMPTS)]
    for step in range(STEPS):
        token_B = student.logits(hidden_BD).argmax(-1)
        for row, token in zip(written, token_B.tolist(), strict=True):
            row.append(token)
        if step + 1 < STEPS:
            hidden_BD, _ = student.decode(token_B, cache)
    clear = 0
    for row, prompt in zip(written, PROMPTS, strict=True):
        whole = torch.tensor(row)
        logit_SV = student.logits(uncached(student, whole).hidden_ND[prompt - 1 : -1])
        first, second = logit_SV.topk(2).values.unbind(-1)
        sure = first - second > 1e-4
        assert torch.equal(logit_SV.argmax(-1)[sure], whole[prompt:][sure])
        clear += int(sure.sum())
    assert clear > 0.95 * STEPS * len(PROMPTS)


@pytest.mark.parametrize("config", [V4, MLA], ids=["v4", "mla"])
@pytest.mark.parametrize(("stored", "autocast"), [(True, False), (True, True), (False, True)])
@torch.inference_mode()
def test_bfloat16_decodes_near_the_float32_pass(config, stored, autocast):
    student, whole = stirred(config), texts(steps=20)
    passes = [uncached(student, row) for row in whole]
    replay = None
    if isinstance(config, V4Config):
        replay = as_steps([one.choices for one in passes], steps=20)
    if stored:
        in_bfloat16(student)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = decode(student, whole, replay=replay)
    gaps = [
        distance(found.hidden_BSD[row], passes[row].hidden_ND[prompt - 1 :])
        for row, prompt in enumerate(PROMPTS)
    ]
    # Experts are not replayed, and a token in some hundreds goes to another.
    assert sorted(gaps)[len(gaps) // 2] < 0.03


def test_decoding_keeps_no_graph():
    for config in (V4, MLA):
        student = stirred(config)
        hidden_BD, cache = student.remember(text(9), documents(4, 5), 20)
        again_BD, _ = student.decode(text(2), cache)
        assert not hidden_BD.requires_grad and not again_BD.requires_grad


# What does not fit


@pytest.mark.parametrize("config", [V4, MLA], ids=["v4", "mla"])
@torch.inference_mode()
def test_a_cache_takes_as_many_tokens_as_it_was_made_for(config):
    student = stirred(config)
    _, cache = student.remember(text(12), documents(5, 7), 9)
    student.decode(text(2), cache)
    student.decode(text(2), cache)
    with pytest.raises(ShapeError, match=r"capacity is 9 tokens and a sequence has reached it"):
        student.decode(text(2), cache)


@pytest.mark.parametrize("config", [V4, MLA], ids=["v4", "mla"])
@torch.inference_mode()
def test_a_cache_is_of_one_batch_and_holds_its_prompts(config):
    student = stirred(config)
    _, cache = student.remember(text(12), documents(5, 7), 9)
    with pytest.raises(ShapeError, match=r"token_B has shape \(3,\); the cache holds 2 sequences"):
        student.decode(text(3), cache)
    with pytest.raises(ShapeError, match=r"lengths is \[5, 7\]; .* capacity of 6 tokens"):
        student.remember(text(12), documents(5, 7), 6)
    with pytest.raises(ShapeError, match=r"capacity is 513 .* max_position_embeddings \(512\)"):
        student.remember(text(12), documents(5, 7), 513)


def test_a_clock_moves_host_and_device_alike():
    clock = Clock([3, 1], 4, CPU)
    clock.advance()
    assert clock.place.tolist() == clock.place_B.tolist() == [4, 2]
    with pytest.raises(ShapeError, match="make the cache larger"):
        clock.check_room()
