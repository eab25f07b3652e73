"""Scores against a plain reference, ranks under their null, and who is never compared with whom."""

import numpy as np
import pytest
from scipy import stats

from audit.lineup.likeness import Products
from audit.lineup.standing import LEAST_FAMILIES, Lineup, scale, stand, votes


def plain_scale(raw_VNK, unrelated_NK, beside_NK, family, borrowed=5.0):
    """Return scores `[N, K]` of all models, written as the definition reads."""
    views, models, groups = raw_VNK.shape
    weight = np.zeros((models, groups))
    for k in range(groups):
        for i in range(models):
            if unrelated_NK[i, k]:
                same = [j for j in range(models) if family[j] == family[i] and unrelated_NK[j, k]]
                weight[i, k] = 1 / len(same)
    total = weight.sum(0)
    mean = np.array(
        [
            [np.average(raw_VNK[v, :, k], weights=weight[:, k]) for k in range(groups)]
            for v in range(views)
        ]
    )
    var = np.array(
        [
            [
                (weight[:, k] * (raw_VNK[v, :, k] - mean[v, k]) ** 2).sum() / (total[k] - 1)
                for k in range(groups)
            ]
            for v in range(views)
        ]
    )
    z = np.zeros((models, groups))
    for v in range(views):
        for k in range(groups):
            spread = np.sqrt(
                (var[v, k] * total[k] + var[v].mean() * borrowed) / (total[k] + borrowed)
            )
            z[:, k] += (raw_VNK[v, :, k] - mean[v, k]) / spread / views
    relative = np.zeros((models, groups))
    for i in range(models):
        for k in range(groups):
            others = [z[i, j] for j in range(groups) if j != k and beside_NK[i, j]]
            relative[i, k] = z[i, k] - sum(others) / (len(others) + 1)
    centre = (weight * relative).sum() / weight.sum()
    spread = np.sqrt((weight * (relative - centre) ** 2).sum() / weight.sum())
    return (relative - centre) / spread


def raw(seed, views=2, models=12, groups=3):
    return np.random.default_rng(seed).normal(size=(views, models, groups))


FAMILY = tuple("aabbbcdefghi")


def scored(raw_VNK, unrelated_NK, beside_NK=None):
    """Return the scores of all models, all groups beside one another unless it is said."""
    every_NK = np.ones(raw_VNK.shape[1:], dtype=bool)
    beside_NK = every_NK if beside_NK is None else beside_NK
    return scale(raw_VNK, unrelated_NK, beside_NK, FAMILY).apply(raw_VNK, beside_NK)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_definition(seed):
    raw_VNK = raw(seed)
    unrelated_NK = np.random.default_rng(seed + 9).random((12, 3)) < 0.8
    beside_NK = np.random.default_rng(seed + 99).random((12, 3)) < 0.7
    found = scored(raw_VNK, unrelated_NK, beside_NK)
    expected = plain_scale(raw_VNK, unrelated_NK, beside_NK, FAMILY)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_unrelated_pairs_have_mean_0_and_spread_1_by_votes():
    raw_VNK, unrelated_NK = raw(5), np.ones((12, 3), dtype=bool)
    weight_NK = votes(FAMILY, unrelated_NK)
    z_NK = scored(raw_VNK, unrelated_NK)
    assert (weight_NK * z_NK).sum() == pytest.approx(0, abs=1e-9)
    assert (weight_NK * z_NK**2).sum() / weight_NK.sum() == pytest.approx(1)


def test_a_familys_pairs_with_one_group_share_one_vote():
    pairs_NK = np.array([[1, 0], [1, 1], [0, 1], [1, 1]], dtype=bool)
    weight_NK = votes(("a", "a", "a", "b"), pairs_NK)
    np.testing.assert_allclose(weight_NK, [[0.5, 0], [0.5, 0.5], [0, 0.5], [1, 1]])


def test_scores_do_not_depend_on_the_units_of_likeness():
    raw_VNK, unrelated_NK = raw(1), np.ones((12, 3), dtype=bool)
    other_VNK = raw_VNK * np.array([3.0, 40.0])[:, None, None] + 7
    np.testing.assert_allclose(scored(raw_VNK, unrelated_NK), scored(other_VNK, unrelated_NK))


def test_a_model_that_is_like_every_group_stands_out_in_none():
    raw_VNK, unrelated_NK = raw(2), np.ones((12, 3), dtype=bool)
    before = scale(raw_VNK, unrelated_NK, unrelated_NK, FAMILY)
    lifted_VNK = raw_VNK.copy()
    lifted_VNK[:, 0] += 4 * before.spread_VK  # as much above everyone, in spreads of each group
    same_NK = before.apply(raw_VNK, unrelated_NK)
    moved_NK = before.apply(lifted_VNK, unrelated_NK) - same_NK
    alone_VNK = raw_VNK.copy()
    alone_VNK[:, 0, 0] += 4 * before.spread_VK[:, 0]
    assert moved_NK[0].max() < 0.4 * (before.apply(alone_VNK, unrelated_NK) - same_NK)[0, 0]


def test_with_one_group_nothing_is_taken_off():
    raw_VNK = raw(3, views=1, groups=1)
    z_NK = scored(raw_VNK, np.ones((12, 1), dtype=bool))
    assert stats.pearsonr(z_NK[:, 0], raw_VNK[0, :, 0]).statistic == pytest.approx(1)


def test_a_group_with_too_few_unrelated_families_has_no_score_and_harms_no_other():
    raw_VNK, unrelated_NK = raw(4), np.ones((12, 3), dtype=bool)
    unrelated_NK[:, 2] = False
    unrelated_NK[[0, 2], 2] = True  # two families, and LEAST_FAMILIES are needed
    assert LEAST_FAMILIES == 3
    z_NK = scored(raw_VNK, unrelated_NK)
    assert np.isnan(z_NK[:, 2]).all()
    np.testing.assert_allclose(z_NK[:, :2], scored(raw_VNK[:, :, :2], unrelated_NK[:, :2]))


def test_a_likeness_that_is_not_known_has_no_score_and_is_no_reference():
    raw_VNK, unrelated_NK = raw(6), np.ones((12, 3), dtype=bool)
    raw_VNK[0, 4, 1] = np.nan
    z_NK = scored(raw_VNK, unrelated_NK)
    assert np.isnan(z_NK[4, 1])
    assert np.isfinite(np.delete(z_NK.ravel(), 4 * 3 + 1)).all()


def test_likeness_that_is_the_same_for_all_is_finite():
    raw_VNK = np.ones((1, 12, 3))
    assert np.isfinite(scored(raw_VNK, np.ones((12, 3), dtype=bool))).all()


def products(likeness_PNT, family) -> Products:
    """Return products whose centred cosines are `likeness_PNT`: every vector is its own axis."""
    prompts, models, teachers = likeness_PNT.shape
    return Products(
        teacher_PNT=likeness_PNT.astype(np.float32),
        family_PNF=np.zeros((prompts, models, len(set(family))), dtype=np.float32),
        there_PN=np.ones((prompts, models), dtype=bool),
        teachers=np.arange(teachers),
        family_N=np.unique(family, return_inverse=True)[1],
    )


def lineup(
    rng, *, families=30, each=2, groups=4, effect=None, kin=0.7, taught=0, lesson=4.0
) -> Lineup:
    """Return a line-up in which nobody is related, but families resemble each other.

    Likeness is a group's mean, a model's own level, what its family shares and noise; the first
    rows are the groups' teachers. `effect` is added to the first suspect's likeness to group 0.
    The last `taught` families are students each of some group, and as much like it as `lesson`.
    """
    teachers = groups
    family = [f"teacher {k}" for k in range(groups)]
    family += [f"family {n}" for n in range(families) for _ in range(each)]
    models = len(family)
    shared = {name: rng.normal(size=teachers) * kin for name in dict.fromkeys(family)}
    likeness_NT = rng.normal(size=teachers) + rng.normal(size=(models, 1))
    likeness_NT = likeness_NT + np.array([shared[name] for name in family])
    likeness_NT = likeness_NT + rng.normal(size=(models, teachers)) * 0.5
    if effect is not None:
        likeness_NT[groups, 0] += effect
    negative_NK = np.ones((models, groups), dtype=bool)
    negative_NK[:groups] = ~np.eye(groups, dtype=bool)
    for place, name in enumerate(dict.fromkeys(family[len(family) - taught * each :])):
        for row in [i for i, own in enumerate(family) if own == name]:
            likeness_NT[row, place % groups] += lesson
            negative_NK[row, place % groups] = False
    return Lineup(
        products={"view": products(np.tile(0.01 * likeness_NT, (1, 1, 1)), family)},
        family=tuple(family),
        groups=tuple((k,) for k in range(groups)),
        negative_NK=negative_NK,
        least_prompts=1,
    )


def test_p_values_of_unrelated_suspects_are_as_often_small_as_they_say():
    found = []
    for trial in range(150):
        models = lineup(np.random.default_rng(trial))
        one = stand(models, ["view"], [4, 5], frozenset({models.family[4]}))
        found.append(one.p_values()[0])
    p = np.concatenate(found)
    for alpha in (0.05, 0.1, 0.5):
        # Groups of one line-up share references, so a trial counts once: 4 times the variance.
        bound = stats.binom.isf(1e-3, len(p), alpha)
        slack = 2 * (bound - alpha * len(p))
        assert alpha * len(p) - slack < (p <= alpha).sum() < alpha * len(p) + slack


def test_students_among_the_references_do_not_make_the_innocent_look_unusual():
    """Their other likenesses are not judged beside that to their own teacher."""
    p = np.concatenate(
        [
            stand(models, ["view"], [4], frozenset({models.family[4]})).p_values()[0]
            for models in (lineup(np.random.default_rng(n), each=1, taught=24) for n in range(200))
        ]
    )
    for alpha in (0.05, 0.1):
        bound = stats.binom.isf(1e-3, len(p), alpha)
        assert (p <= alpha).sum() < alpha * len(p) + 2 * (bound - alpha * len(p))


def test_related_references_score_as_they_would_as_suspects():
    """Else a likelihood ratio would compare a suspect with students that are known to be some."""
    models = lineup(np.random.default_rng(5), each=1, taught=6)
    student = len(models.family) - 1
    name = frozenset({models.family[student]})
    (group,) = np.flatnonzero(~models.negative_NK[student])
    beside = stand(models, ["view"], [4], frozenset({models.family[4]}))
    alone = stand(models, ["view"], [student], name | {models.family[4]})
    assert beside.reference_NK[student, group] == pytest.approx(alone.score_SK[0, group])
    others = np.flatnonzero(models.negative_NK[student])
    assert (beside.reference_NK[student, others] > alone.score_SK[0, others]).all()


def test_kin_are_one_vote_where_models_would_be_many():
    """Of one family with many alike members each is a reference, but their votes are one."""
    models = lineup(np.random.default_rng(0), families=6, each=1)
    many = lineup(np.random.default_rng(0), families=6, each=5)
    votes_few = stand(models, ["view"], [4], frozenset({models.family[4]})).votes_K
    votes_many = stand(many, ["view"], [4, 5], frozenset({many.family[4]})).votes_K
    np.testing.assert_allclose(votes_few, votes_many)


def test_a_suspect_that_is_related_stands_out_and_its_p_value_is_at_its_floor():
    models = lineup(np.random.default_rng(3), effect=30.0)
    found = stand(models, ["view"], [4], frozenset({models.family[4]}))
    p_SK = found.p_values()
    assert found.score_SK[0, 0] > 4
    assert p_SK[0, 0] == pytest.approx(1 / (1 + found.votes_K.sum()))
    own_SK = found.p_values(np.eye(4, dtype=bool))
    assert own_SK[0, 0] == pytest.approx(1 / (1 + found.votes_K[0]))


def test_ranks_are_counted_as_the_definition_counts_them():
    models = lineup(np.random.default_rng(7), families=7, each=2)
    suspects, out = [4, 5], frozenset({models.family[4]})
    found = stand(models, ["view"], suspects, out)
    raw_VNK = models.raw("view", out)[None]
    usable_NK = models.negative_NK & ~models.rows(out)[:, None]
    above, total = np.zeros((2, 4)), 0.0
    for name in dict.fromkeys(models.family):
        if name in out:
            continue
        rows = models.rows(frozenset({name}))
        beside_NK = models.negative_NK | models.rows(out)[:, None]
        by = scale(raw_VNK, usable_NK & ~rows[:, None], beside_NK, models.family)
        z = by.apply(raw_VNK, beside_NK)
        for j in np.flatnonzero(rows):
            for k in np.flatnonzero(usable_NK[j]):
                share = 1 / usable_NK[rows, k].sum()
                total += share
                above += (z[j, k] >= z[suspects]) * share
    np.testing.assert_allclose(found.p_values(), (1 + above) / (1 + total))
    assert found.votes_K.sum() == pytest.approx(total)


def test_families_left_out_are_no_references_and_change_nothing():
    models = lineup(np.random.default_rng(8), families=9, each=2)
    out = frozenset({models.family[4], models.family[6]})
    before = stand(models, ["view"], [4, 5], out)
    other = models.products["view"].teacher_PNT.copy()
    other[:, [6, 7]] += 0.5  # of the family that is left out beside the suspects' own
    moved = Lineup(
        products={"view": products(other, models.family)},
        family=models.family,
        groups=models.groups,
        negative_NK=models.negative_NK,
        least_prompts=1,
    )
    after = stand(moved, ["view"], [4, 5], out)
    np.testing.assert_array_equal(before.score_SK, after.score_SK)
    np.testing.assert_array_equal(before.p_values(), after.p_values())
    assert np.isnan(after.reference_NK[[4, 5, 6, 7]]).all()


def test_a_member_is_compared_with_the_other_members_of_its_group_alone():
    likeness_PNT = np.zeros((3, 5, 3), dtype=np.float32)
    likeness_PNT[:, 0, 0] = 0.9  # with itself
    likeness_PNT[:, 0, 1] = 0.4
    likeness_PNT[:, 3] = [0.1, 0.3, 0.2]
    models = Lineup(
        products={"view": products(likeness_PNT, list("aabcd"))},
        family=tuple("aabcd"),
        groups=((0, 1), (2,)),
        negative_NK=np.ones((5, 2), dtype=bool),
        least_prompts=1,
    )
    raw_NK = models.raw("view", frozenset())
    assert raw_NK[0, 0] == pytest.approx(0.4)
    assert np.isnan(raw_NK[2, 1])
    assert raw_NK[3, 0] == pytest.approx(0.3)


def test_models_that_share_too_few_prompts_are_not_compared():
    known = products(np.zeros((6, 4, 1), dtype=np.float32), list("abcd"))
    known.there_PN[2:, 3] = False
    for least, missing in ((2, False), (3, True)):
        models = Lineup(
            products={"view": known},
            family=tuple("abcd"),
            groups=((0,),),
            negative_NK=np.ones((4, 1), dtype=bool),
            least_prompts=least,
        )
        assert np.isnan(models.raw("view", frozenset())[3, 0]) == missing
