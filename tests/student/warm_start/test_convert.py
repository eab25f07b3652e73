"""A student that inherits everything is its teacher; cut, it stays near and loads everywhere."""

from dataclasses import replace

import pytest

from student.errors import WarmStartError
from student.inherited import InheritConfig, InheritedExperts
from student.sizes import kv_cache_bytes_per_token
from student.warm_start import calibration, convert, dense, experts
from student.warm_start.begun import Begun
from student.warm_start.convert import Plan
from student.warm_start.experts import Carving
from tests.fakes.dense import VOCABULARY, come_back, decode_alike, divergence, teachers, text

TEACHERS = teachers()
EVERY = pytest.mark.parametrize("name", TEACHERS)


def whole(name: str, **changes) -> Plan:
    size = dense.numbers(TEACHERS[name].config)
    keys = size.kv_heads * size.head_dim
    return Plan(**({"rotary": keys, "latent": keys + 1} | changes))


def begun(name: str, plan: Plan, windows: int = 6) -> Begun:
    model = TEACHERS[name]
    seen = calibration.watch(model, text(windows, 32))
    return convert.inherit(dense.read(model), seen, plan, VOCABULARY)


@EVERY
def test_with_the_whole_cache_the_student_is_its_teacher(name):
    student = begun(name, whole(name)).student
    assert divergence(TEACHERS[name], student, text(2, 60, seed=7)) < 1e-9


@EVERY
def test_with_every_expert_asked_it_still_is(name):
    carving = Carving(shared=4, routed=8, active=8, spread=1e-4)
    student = begun(name, whole(name, carving=carving)).student
    assert divergence(TEACHERS[name], student, text(2, 60, seed=7)) < 1e-6


@EVERY
def test_it_is_the_same_after_a_save_in_transformers_and_with_a_cache(name, tmp_path):
    model, token_BS = TEACHERS[name], text(2, 40, seed=8)
    student = begun(name, whole(name)).student
    again, theirs = come_back(student, tmp_path / "student")
    assert divergence(model, again, token_BS) < 1e-9
    assert divergence(model, theirs, token_BS) < 1e-6
    assert decode_alike(model, theirs, student, token_BS[:1, :20])


@pytest.mark.parametrize("share", [0.75, 0.5, 0.25])
def test_a_share_of_the_cache_is_what_the_student_caches(share):
    size = dense.numbers(TEACHERS["llama"].config)
    asked = InheritConfig(init="teacher", cache=share, max_position_embeddings=64)
    config = convert.config_of(size, convert.plan_of(size, asked), None)
    assert kv_cache_bytes_per_token(config) == share * size.layers * size.cache_values * 2


def test_the_more_is_cut_the_further_it_is_from_its_teacher():
    plans = [whole("llama"), Plan(rotary=8, latent=24), Plan(rotary=6, latent=12)]
    found = [
        divergence(TEACHERS["llama"], begun("llama", plan, 20).student, text(8, 32, seed=7))
        for plan in plans
    ]
    assert found[0] < 1e-9 < found[1] < found[2]


def test_the_norm_of_the_latent_is_undone_by_its_constant_alone():
    plan = whole("llama")
    bare = begun("llama", replace(plan, constant=False)).student
    assert divergence(TEACHERS["llama"], bare, text(2, 60, seed=7)) > 1e-3


def test_experts_serve_about_as_many_tokens_each():
    plan = whole("llama", carving=Carving(shared=4, routed=8, active=4))
    made = begun("llama", plan, windows=20)
    assert len(made.loads) == 3
    assert all(float(load_E.max()) < 1.5 for load_E in made.loads)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(rotary=7, latent=8), "rotary is 7; it must be even and from 2 to 16"),
        (Plan(rotary=18, latent=8), "rotary is 18"),
        (Plan(rotary=16, latent=18), "beside 16 rotary values it must be from 2 to 17"),
        (Plan(rotary=16, latent=8, positions=65), "more than the teacher's \\(64\\)"),
        (
            Plan(rotary=16, latent=8, carving=Carving(shared=3, routed=4, active=2)),
            "3 shared and 4 routed are 7 parts, which the teacher's 96",
        ),
    ],
)
def test_a_plan_that_the_teacher_is_too_small_for_is_refused(plan, said):
    with pytest.raises(WarmStartError, match=said):
        convert.require_plan(dense.numbers(TEACHERS["llama"].config), plan)


def test_other_tokens_than_the_teachers_are_refused():
    seen = calibration.watch(TEACHERS["llama"], text(1, 8))
    other = replace(VOCABULARY, size=98)
    with pytest.raises(WarmStartError, match="the student has 98 tokens and the teacher 97"):
        convert.inherit(dense.read(TEACHERS["llama"]), seen, whole("llama"), other)


def test_a_section_of_the_config_becomes_a_plan():
    size = dense.numbers(TEACHERS["llama"].config)
    asked = InheritConfig(
        init="teacher",
        cache=1.0,
        depth=0.6,
        experts=InheritedExperts(shared=2, routed=4, active=2),
        max_position_embeddings=32,
    )
    plan = convert.plan_of(size, asked)
    assert (plan.rotary, plan.latent, plan.layers, plan.positions) == (16, 17, 2, 32)
    assert plan.carving == Carving(shared=2, routed=4, active=2, spread=experts.SPREAD)
    config = convert.config_of(size, plan, None)
    assert (config.num_layers, config.num_dense_layers, config.moe_intermediate_size) == (2, 0, 16)
