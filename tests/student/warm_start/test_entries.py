"""Compressed entries that a teacher's layers were solved for."""

from dataclasses import replace

import pytest
import torch
from transformers import DeepseekV4ForCausalLM

from student.documents import Documents
from student.errors import WarmStartError
from student.model import Student
from student.rotary import angles, rotate
from student.v4_attention import V4Attention
from student.warm_start import calibration, convert_v4, dense
from student.warm_start.begun import Begun
from student.warm_start.convert_v4 import V4Plan
from student.warm_start.entries import Pooling
from student.warm_start.experts import Carving
from tests.fakes.dense import VOCABULARY, come_back, divergence, logits, teachers, text

TEACHERS = teachers()
ALL = Carving(shared=1, routed=3, active=3, spread=1e-6)
KEPT = Pooling(tokens=8, gate="first", pairs=0)
MEANS = Pooling(tokens=2, pairs=8, reach=64)
EVERY = pytest.mark.parametrize("name", ["llama", "mistral, wide heads"])
BOTH = pytest.mark.parametrize("pooling", [KEPT, MEANS], ids=["kept", "means"])


def begun(name: str, pooling: Pooling | None, window: int | None, windows: int = 40) -> Begun:
    model = TEACHERS[name]
    plan = V4Plan(carving=ALL, sliding_window=window, entries=pooling)
    seen = calibration.watch(model, text(windows, 64))
    return convert_v4.inherit_v4(dense.read(model), seen, plan, VOCABULARY)


def attention(student: Student) -> V4Attention:
    found = student.get_submodule("layers.1.attn")
    assert isinstance(found, V4Attention)
    return found


@EVERY
@torch.no_grad()
def test_an_entry_of_the_first_token_is_that_token(name):
    attn = attention(begun(name, KEPT, 16).student)
    documents = Documents([32], torch.device("cpu"))
    x_ND = torch.nn.functional.normalize(torch.randn(32, attn.q_a.in_features), dim=1)
    x_ND *= x_ND.shape[1] ** 0.5
    assert attn.compressor is not None
    entries = documents.entries(8)
    turn = angles(entries.position_T, torch.ones(1))
    entry_TF = attn.compressor(*attn.compressor.project(x_ND), entries, turn)
    token_TF = rotate(attn.kv_norm(attn.kv(x_ND[::8])), turn)
    likeness = torch.nn.functional.cosine_similarity(entry_TF[:, :-1], token_TF[:, :-1], dim=1)
    assert float(likeness.min()) > 0.98


@EVERY
def test_entries_bring_a_short_window_nearer_to_the_teacher(name):
    token_BS = text(4, 60, seed=7)
    alone, with_entries = (
        divergence(TEACHERS[name], begun(name, pooling, 16).student, token_BS)
        for pooling in (None, MEANS)
    )
    assert with_entries < alone


@EVERY
def test_hidden_entries_spoil_little_of_what_a_window_holds(name):
    token_BS = text(4, 14, seed=7)
    shown = replace(MEANS, pairs=0)
    hidden, seen = (
        divergence(TEACHERS[name], begun(name, pooling, 16).student, token_BS)
        for pooling in (MEANS, shown)
    )
    # In a random teacher of few features no row is nearly constant, so the mask is a rough one.
    assert hidden < 0.8 * seen


@BOTH
def test_what_a_cache_decodes_is_what_the_full_forward_says(pooling):
    student = begun("llama", pooling, 6).student
    prompt = text(1, 20, seed=8)[0].tolist()
    said = student.generate([prompt], max_new_tokens=12, stop=[])[0]
    for place, token in enumerate(said):
        so_far_1S = torch.tensor([prompt + said[:place]])
        assert int(logits(student, so_far_1S)[-1].argmax()) == token


@BOTH
def test_it_is_the_same_after_a_save_in_transformers(pooling, tmp_path):
    token_BS = text(2, 40, seed=8)
    student = begun("llama", pooling, 8).student
    _, theirs = come_back(student, tmp_path / "student")
    assert isinstance(theirs, DeepseekV4ForCausalLM)
    assert divergence(theirs, student, token_BS) < 1e-6


def test_the_slowest_pair_does_not_come_round_within_the_reach():
    assert len(MEANS.frequencies) == 8 and MEANS.features == 17
    assert MEANS.frequencies[0] * MEANS.reach < torch.pi


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": 1}, "tokens is 1; an entry stands for 2 to the 64 tokens"),
        ({"tokens": 65}, "tokens is 65"),
        ({"pairs": -1}, "pairs is -1"),
        ({"reach": 0}, "reach 0"),
    ],
)
def test_a_pooling_that_cannot_be_is_refused(change, said):
    plan = V4Plan(carving=ALL, entries=replace(MEANS, **change))
    with pytest.raises(WarmStartError, match=said):
        convert_v4.require_v4_plan(dense.numbers(TEACHERS["llama"].config), plan)


def test_a_short_text_is_enough_to_fit_on():
    seen = calibration.watch(TEACHERS["llama"], text(20, 3))
    plan = V4Plan(carving=ALL, sliding_window=16, entries=MEANS)
    student = convert_v4.inherit_v4(dense.read(TEACHERS["llama"]), seen, plan, VOCABULARY).student
    assert all(bool(weight.isfinite().all()) for weight in student.parameters())


def test_text_shorter_than_an_entry_is_refused():
    seen = calibration.watch(TEACHERS["llama"], text(2, 8))
    plan = V4Plan(carving=ALL, entries=replace(MEANS, tokens=16))
    with pytest.raises(WarmStartError, match="more than the 8 of a window of the text"):
        convert_v4.inherit_v4(dense.read(TEACHERS["llama"]), seen, plan, VOCABULARY)
