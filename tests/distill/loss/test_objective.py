"""The list of terms: what each asks for, what it is called, and what a control has of it."""

import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from distill.loss.objective import (
    DEFAULT,
    ChunkLikelihood,
    CrossEntropy,
    Divergence,
    HiddenMatch,
    Prediction,
    Router,
    SampledReverseKL,
    SortedL1,
    from_a_teacher,
    names,
    over_vocabulary,
    prediction_weight,
    router_weight,
    without_teacher,
)

MIXED = ("jsd", "skew_forward_kl", "skew_reverse_kl")
PLAIN = ("forward_kl", "reverse_kl", "tvd", "adaptive_kl")
# One of each, with weights that no two subsets of them share.
EVERY = (
    Divergence(kind="forward_kl", weight=1.0),
    CrossEntropy(weight=2.0),
    SampledReverseKL(weight=4.0),
    Router(kind="balance", weight=8.0),
    ChunkLikelihood(weight=16.0),
    SortedL1(weight=32.0),
    HiddenMatch(kind="hidden_mse", weight=64.0),
    Router(kind="indexer", weight=128.0),
    Divergence(kind="jsd", mix=0.5, weight=256.0),
    Prediction(weight=512.0),
    CrossEntropy(weight=1024.0),
)
TAUGHT = (0, 2, 4, 5, 6, 8)


@pytest.mark.parametrize("kind", MIXED)
def test_a_mixed_divergence_needs_its_mix(kind):
    with pytest.raises(ValidationError, match=f"{kind} needs a mix, for example 0.5"):
        Divergence(kind=kind)
    assert Divergence(kind=kind, mix=0.25).mix == 0.25
    for mix in (0.0, 1.0):
        with pytest.raises(ValidationError):
            Divergence(kind=kind, mix=mix)


@pytest.mark.parametrize("kind", PLAIN)
def test_any_other_divergence_has_no_mix(kind):
    assert Divergence(kind=kind).mix is None
    with pytest.raises(ValidationError, match=f"{kind} has no mix; leave it out"):
        Divergence(kind=kind, mix=0.5)


@pytest.mark.parametrize(
    "changes",
    [{"weight": -1e-9}, {"weight": math.inf}, {"temperature": 0.0}, {"temperature": math.nan}],
)
def test_weights_and_temperatures_that_are_none_are_refused(changes):
    with pytest.raises(ValidationError):
        Divergence(kind="forward_kl", **changes)


def test_terms_over_the_vocabulary_are_told_from_the_networks_own_in_order():
    assert over_vocabulary(EVERY) == tuple(EVERY[i] for i in (0, 1, 2, 4, 5, 8, 10))


def test_a_teacher_is_needed_by_all_terms_but_the_texts_and_the_networks_own():
    assert from_a_teacher(EVERY) == tuple(EVERY[i] for i in TAUGHT)


def test_a_term_without_weight_needs_no_teacher():
    off = [replace(term, weight=0.0) for term in EVERY]
    assert from_a_teacher(off) == ()
    assert from_a_teacher([*off, EVERY[8]]) == (EVERY[8],)


def test_a_router_weight_is_that_of_its_own_kind_and_0_where_there_is_none():
    assert router_weight(EVERY, "balance") == 8.0
    assert router_weight(EVERY, "indexer") == 128.0
    assert router_weight(EVERY[:3], "balance") == 0
    assert router_weight([*EVERY, Router(kind="balance", weight=0.5)], "balance") == 8.5


def test_the_weight_of_the_prediction_layers_changes_after_its_share_of_the_steps():
    terms = (*EVERY[:3], Prediction(weight=0.3, late=0.1, late_from=0.5))
    assert [prediction_weight(terms, p) for p in (0.0, 0.5, 0.51, 1.0)] == [0.3, 0.3, 0.1, 0.1]
    assert prediction_weight(EVERY[:3], 1.0) == 0


def test_a_name_is_the_kind_and_a_number_from_its_second_place_on():
    terms = [EVERY[i] for i in (0, 1, 0, 8, 0, 1)]
    assert names(terms) == (
        "forward_kl",
        "cross_entropy",
        "forward_kl_2",
        "jsd",
        "forward_kl_3",
        "cross_entropy_2",
    )
    assert names(()) == ()


@pytest.mark.parametrize("terms", [DEFAULT, EVERY, EVERY[:1], EVERY[1:2]])
def test_a_control_has_the_weight_of_all_terms_and_no_teacher(terms):
    control = without_teacher(terms)
    assert from_a_teacher(control) == ()
    assert sum(t.weight for t in control) == pytest.approx(sum(t.weight for t in terms))


def test_a_control_keeps_the_networks_own_terms_as_they_were():
    taught = 1 + 4 + 16 + 32 + 64 + 256
    assert without_teacher(EVERY) == (
        CrossEntropy(weight=taught + 2 + 1024),
        EVERY[3],
        EVERY[7],
        EVERY[9],
    )


def test_a_control_of_a_control_is_itself():
    control = without_teacher(DEFAULT)
    assert control == without_teacher(control)
    assert control[0] == CrossEntropy(weight=1.0)


def test_two_equal_terms_weigh_twice_in_a_control():
    twice = (EVERY[0], EVERY[0], EVERY[1])
    assert without_teacher(twice) == (CrossEntropy(weight=4.0),)
