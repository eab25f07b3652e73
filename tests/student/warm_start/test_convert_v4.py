"""A v4 student that inherits everything is its teacher too; narrower, it stays near."""

from dataclasses import replace

import pytest
import torch
from transformers import DeepseekV4ForCausalLM

from student.errors import WarmStartError
from student.inherited import InheritedEntries, InheritedExperts, InheritV4Config
from student.model import Student
from student.warm_start import calibration, convert_v4, dense, experts, shared_entry
from student.warm_start.begun import Begun
from student.warm_start.convert_v4 import V4Plan
from student.warm_start.entries import Pooling
from student.warm_start.experts import Carving
from tests.fakes.dense import (
    VOCABULARY,
    come_back,
    decode_alike,
    divergence,
    logits,
    stirred,
    teachers,
    text,
)

TEACHERS = teachers()
PLAIN = [name for name, model in TEACHERS.items() if not dense.numbers(model.config).biased]
BIASED = [name for name in TEACHERS if name not in PLAIN]
EVERY = pytest.mark.parametrize("name", PLAIN)
ALL = Carving(shared=1, routed=3, active=3, spread=1e-6)
WHOLE = V4Plan(carving=ALL)


def begun(name: str, plan: V4Plan = WHOLE, windows: int = 10) -> Begun:
    model = TEACHERS[name]
    seen = calibration.watch(model, text(windows, 32))
    return convert_v4.inherit_v4(dense.read(model), seen, plan, VOCABULARY)


@EVERY
def test_uncut_the_student_is_its_teacher(name):
    made, token_BS = begun(name), text(2, 60, seed=7)
    assert divergence(TEACHERS[name], made.student, token_BS) < 1e-8
    assert max(made.fluctuations) < 1e-5


@EVERY
def test_of_what_is_left_in_float64_most_is_the_norms_eps(name):
    token_BS, found = text(2, 60, seed=7), []
    for eps in (1e-6, 1e-9):
        config = TEACHERS[name].config
        config = type(config).from_dict(config.to_dict() | {"rms_norm_eps": eps})
        model = stirred(type(TEACHERS[name])(config))
        seen = calibration.watch(model, text(10, 32))
        made = convert_v4.inherit_v4(dense.read(model), seen, WHOLE, VOCABULARY)
        found.append(divergence(model.double(), made.student.double(), token_BS))
    assert found[0] < 1e-9 and found[1] < 1e-11


@EVERY
def test_it_is_the_same_after_a_save_in_transformers_and_with_a_cache(name, tmp_path):
    model, token_BS = TEACHERS[name], text(2, 40, seed=8)
    student = begun(name).student
    again, theirs = come_back(student, tmp_path / "student")
    assert isinstance(theirs, DeepseekV4ForCausalLM)
    assert divergence(model, again, token_BS) < 1e-8
    assert divergence(model, theirs, token_BS) < 1e-6
    assert decode_alike(model, theirs, student, token_BS[:1, :20])


def test_what_a_cache_of_a_short_window_decodes_is_what_the_full_forward_says():
    student = begun("llama", replace(WHOLE, sliding_window=6)).student
    prompt = text(1, 20, seed=8)[0].tolist()
    said = student.generate([prompt], max_new_tokens=12, stop=[])[0]
    for place, token in enumerate(said):
        so_far_1S = torch.tensor([prompt + said[:place]])
        assert int(logits(student, so_far_1S)[-1].argmax()) == token


def test_a_window_cuts_what_lies_before_it_and_nothing_else():
    token_BS = text(2, 60, seed=7)
    student = begun("llama", replace(WHOLE, sliding_window=16)).student
    assert student.config.sliding_window == 16
    assert divergence(TEACHERS["llama"], student, token_BS[:, :16]) < 1e-8
    assert divergence(TEACHERS["llama"], student, token_BS) > 1e-3


@EVERY
def test_the_narrower_its_heads_the_further_it_is_from_its_teacher(name):
    most, token_BS = shared_entry.exact_width(dense.numbers(TEACHERS[name].config)), text(8, 32, 7)
    made = [begun(name, replace(WHOLE, head_dim=most - cut), 20) for cut in (0, 4, 20, 47)]
    found = [divergence(TEACHERS[name], one.student, token_BS) for one in made]
    assert found[0] < 1e-8 < found[1] < found[2] < found[3]
    told = [sum(one.fluctuations) for one in made]
    assert told == sorted(told)


def test_fewer_experts_and_layers_make_a_student_that_runs():
    plan = replace(
        WHOLE,
        carving=Carving(shared=1, routed=5, active=2),
        layers=2,
        positions=32,
        sliding_window=8,
    )
    made = begun("mistral, wide heads", plan, 20)
    config = made.student.config
    assert (config.num_layers, config.max_position_embeddings) == (2, 32)
    assert (config.num_experts_per_token, config.moe_intermediate_size) == (2, 16)
    assert len(made.loads) == len(made.fluctuations) == 2 and len(made.seen.before) == 3
    assert all(float(load_E.max()) < 1.5 for load_E in made.loads)
    found = divergence(TEACHERS["mistral, wide heads"], made.student, text(8, 32, 7))
    fresh = Student.build(config, VOCABULARY).eval()
    assert found < divergence(TEACHERS["mistral, wide heads"], fresh, text(8, 32, 7))


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_noise_in_the_streams_is_little_in_what_the_student_says(noise):
    student = begun("llama", replace(WHOLE, noise=noise)).student
    found = divergence(TEACHERS["llama"], student, text(8, 32, 7))
    assert (found < 1e-8) == (noise == 0) and found < 0.05


@pytest.mark.parametrize("name", BIASED)
def test_a_teacher_with_biases_is_refused(name):
    with pytest.raises(WarmStartError, match="no place in v4"):
        begun(name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head_dim": 32}, "head_dim is 32; it must be from 33, .* to 80, where the map is exact"),
        ({"head_dim": 81}, "head_dim is 81"),
        ({"positions": 65}, "more than the teacher's \\(64\\)"),
        ({"sliding_window": 65}, "sliding_window is 65; it must be from 1 to the 64 tokens"),
        ({"sliding_window": 9, "positions": 8}, "to the 8 tokens"),
        ({"carving": Carving(shared=2, routed=4, active=4)}, "shared is 2; v4 has one shared"),
        ({"carving": Carving(shared=1, routed=4, active=4)}, "are 5 parts, which the teacher's 96"),
    ],
)
def test_a_plan_that_does_not_fit_the_teacher_is_refused(change, said):
    with pytest.raises(WarmStartError, match=said):
        convert_v4.require_v4_plan(
            dense.numbers(TEACHERS["llama"].config), replace(WHOLE, **change)
        )


@pytest.mark.parametrize(
    ("entry", "gate", "window", "context", "pairs"),
    [
        (4, "attended", 16, 32, 8),
        (4, "first", 16, 512, 16),
        (16, "first", 16, 512, 0),
        (16, "attended", 16, 512, 16),
    ],
)
def test_a_section_of_the_config_becomes_a_plan(entry, gate, window, context, pairs):
    config = TEACHERS["llama"].config
    size = dense.numbers(
        type(config).from_dict(config.to_dict() | {"max_position_embeddings": 512})
    )
    asked = InheritV4Config(
        init="teacher",
        family="v4",
        sliding_window=window,
        entries=InheritedEntries(tokens=entry, gate=gate),
        depth=0.6,
        max_position_embeddings=context,
    )
    plan = convert_v4.v4_plan_of(size, asked)
    assert (plan.head_dim, plan.sliding_window, plan.layers, plan.positions) == (
        None,
        window,
        2,
        context,
    )
    assert plan.entries == Pooling(tokens=entry, gate=gate, pairs=pairs, reach=context)
    assert plan.carving == Carving(shared=1, routed=3, active=3, spread=experts.EVEN)
    told, made = (convert_v4.v4_config_of(size, plan, f) for f in (None, torch.ones(4)))
    assert told == replace(made, rope_frequencies=None)


def test_experts_that_are_not_all_asked_can_be_told_apart_in_any_dtype():
    some = InheritedExperts(shared=1, routed=3, active=2)
    asked = InheritV4Config(init="teacher", family="v4", experts=some, max_position_embeddings=32)
    size = dense.numbers(TEACHERS["llama"].config)
    plan = convert_v4.v4_plan_of(size, asked)
    assert plan.carving.spread == experts.SPREAD


def test_other_tokens_than_the_teachers_are_refused():
    seen = calibration.watch(TEACHERS["llama"], text(1, 8))
    with pytest.raises(WarmStartError, match="the student has 98 tokens and the teacher 97"):
        convert_v4.inherit_v4(
            dense.read(TEACHERS["llama"]), seen, WHOLE, replace(VOCABULARY, size=98)
        )
