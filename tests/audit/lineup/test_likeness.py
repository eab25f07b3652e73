"""Likeness equals its definition: dense vectors, explicit means, one vote a family, in float64."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer

from audit.lineup.likeness import (
    WORDS,
    Products,
    Reader,
    family_means,
    fit,
    mean,
    products,
)
from audit.lineup.reading import View, read

TWO = View(name="two", first=2)
FIVE = View(name="five", first=5)
LETTERS = View(name="letters", first=4, letters=True)
LATE = View(name="late", first=3, skip=1, least=3)

TEACHERS = [
    "sure here is a list",
    "sure here is what i think",
    "here here here is it",
    "the short answer is no",
    "well sure",
]


# Vectors of answers.


def reader_of(view: View, texts: list[str]) -> Reader:
    return Reader(idf={view.name: fit(view, [text.split() for text in texts])})


def columns(features: list[str]) -> np.ndarray:
    """Return the hashed column of each feature."""
    hashing = HashingVectorizer(
        analyzer=lambda one: [one], n_features=WORDS, alternate_sign=False, norm=None
    )
    return hashing.transform(features).indices


def sklearn_tfidf(view: View) -> TfidfVectorizer:
    vectorizer = TfidfVectorizer(
        analyzer=lambda text: read(text.split(), view), sublinear_tf=True, smooth_idf=True
    )
    return vectorizer.fit(TEACHERS)


@pytest.mark.parametrize("view", [TWO, FIVE, LETTERS])
def test_weights_of_words_are_those_of_scikit_learn(view):
    expected = sklearn_tfidf(view)
    found_W = fit(view, [text.split() for text in TEACHERS])
    assert (found_W.shape, found_W.dtype) == ((WORDS,), np.float32)
    features = list(expected.get_feature_names_out())
    held = columns(features)
    assert len(set(held)) == len(features) > 5
    np.testing.assert_allclose(found_W[held], expected.idf_, rtol=1e-6)
    # A word that no teacher uses weighs most.
    others = np.delete(found_W, held)
    assert len(set(others)) == 1
    assert others[0] == pytest.approx(1 + np.log(1 + len(TEACHERS)))
    assert others[0] > found_W[held].max()


@pytest.mark.parametrize("view", [TWO, FIVE, LETTERS])
def test_vectors_are_those_of_scikit_learn(view):
    expected = sklearn_tfidf(view)
    features = list(expected.get_feature_names_out())
    texts = [*TEACHERS, "is here here sure", "no no no no"]
    known = [text for text in texts if set(read(text.split(), view)) <= set(features)]
    assert len(known) >= len(TEACHERS)
    found = reader_of(view, TEACHERS).vectors(view, [text.split() for text in known])
    assert (found.shape, found.dtype) == ((len(known), WORDS), np.float32)
    np.testing.assert_allclose(
        found[:, columns(features)].toarray(), expected.transform(known).toarray(), atol=1e-6
    )


def test_counts_are_damped_by_their_logarithm():
    view = View(name="", first=9)
    reader = Reader(idf={"": np.ones(WORDS, dtype=np.float32)})
    found = reader.vectors(view, ["a b b b".split()]).toarray()[0]
    a, b, ab, bb = found[columns(["a", "b", "a b", "b b"])]
    assert (b / a, bb / a, ab / a) == pytest.approx((1 + np.log(3), 1 + np.log(2), 1))


def test_answers_of_which_nothing_is_read_weigh_nothing_and_do_not_count():
    texts = [*TEACHERS, "", ""]
    np.testing.assert_array_equal(
        fit(FIVE, [text.split() for text in texts]), fit(FIVE, [text.split() for text in TEACHERS])
    )


@given(st.lists(st.lists(st.sampled_from("a b c d ef gh".split()), max_size=7), min_size=1))
def test_vectors_have_length_one_or_none(said):
    for view in (FIVE, LATE):
        vectors = reader_of(view, TEACHERS).vectors(view, said)
        length = np.sqrt(vectors.multiply(vectors).sum(1)).ravel()
        expected = [1.0 if len(one) >= view.least else 0.0 for one in said]
        np.testing.assert_allclose(np.asarray(length).ravel(), expected, atol=1e-6)
        assert np.isfinite(vectors.data).all()


def test_a_reader_uses_the_weights_of_the_view_it_is_asked_for():
    reader = Reader(idf={**reader_of(TWO, TEACHERS).idf, **reader_of(FIVE, ["no"] * 9).idf})
    said = [["sure", "no"]]
    alone = reader_of(TWO, TEACHERS).vectors(TWO, said)
    assert (reader.vectors(TWO, said) != alone).nnz == 0
    assert (reader.vectors(FIVE, said) != alone).nnz > 0


# Made-up vectors.


def made_up(
    seed: int, families: list[int], prompts: int = 4, there: float = 1.0, width: int = 9
) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors `[N, P, W]`, zero where there is no answer, and where there is one."""
    rng = np.random.default_rng(seed)
    there_PN = rng.random((prompts, len(families))) < there
    vectors_NPW = rng.exponential(size=(len(families), prompts, width)) + 0.05
    vectors_NPW *= rng.random(vectors_NPW.shape) < 0.6
    vectors_NPW[:, :, 0] += 0.1
    vectors_NPW /= np.linalg.norm(vectors_NPW, axis=2, keepdims=True)
    return vectors_NPW * there_PN.T[:, :, None], there_PN


def compared(
    vectors_NPW: np.ndarray, there_PN: np.ndarray, families: list[int], teachers: list[int]
) -> Products:
    vectors = [sparse.csr_matrix(one.astype(np.float32)) for one in vectors_NPW]
    family_N = np.array(families)
    means = family_means(vectors, there_PN, family_N)
    teacher_PNT, family_PNF = products(vectors, [vectors[row] for row in teachers], means)
    return Products(
        teacher_PNT=teacher_PNT,
        family_PNF=family_PNF,
        there_PN=there_PN,
        teachers=np.array(teachers),
        family_N=family_N,
    )


def by_definition(
    vectors_NPW: np.ndarray,
    there_PN: np.ndarray,
    families: list[int],
    teachers: list[int],
    left_out: set[int],
) -> np.ndarray:
    """Return the cosines `[P, N, T]` after the mean over other families is taken off, float64."""
    prompts, models = there_PN.shape
    found_PNT = np.full((prompts, models, len(teachers)), np.nan)
    for p in range(prompts):
        means = {}
        for family in set(families) - left_out:
            rows = [n for n in range(models) if families[n] == family and there_PN[p, n]]
            if rows:
                means[family] = vectors_NPW[rows, p].mean(0)
        for n in range(models):
            votes = [at for family, at in means.items() if family != families[n]]
            centre = np.mean(votes, axis=0) if votes else 0.0
            for place, t in enumerate(teachers):
                if there_PN[p, n] and there_PN[p, t]:
                    sides = vectors_NPW[n, p] - centre, vectors_NPW[t, p] - centre
                    # Of a side that is all that others say nothing is left, and no direction.
                    lengths = [max(np.linalg.norm(side), 1e-3) for side in sides]
                    found_PNT[p, n, place] = sides[0] @ sides[1] / np.prod(lengths)
    return found_PNT


def mask(left_out: set[int], families: list[int]) -> np.ndarray:
    return np.isin(np.arange(max(families) + 1), list(left_out))


SIZES = {
    "one model a family": [0, 1, 2, 3, 4, 5],
    "several": [0, 0, 1, 2, 2, 2, 3, 4, 0],
    "families in any order": [3, 1, 0, 1, 2, 3, 3],
}


@pytest.mark.parametrize("left_out", [set(), {0}, {1, 3}])
@pytest.mark.parametrize("there", [1.0, 0.7])
@pytest.mark.parametrize("families", SIZES.values(), ids=SIZES)
def test_likeness_equals_its_definition(families, there, left_out):
    for seed in range(5):
        teachers = [2, 0, 4]
        vectors_NPW, there_PN = made_up(seed, families, there=there)
        found_PNT = compared(vectors_NPW, there_PN, families, teachers).centred(
            mask(left_out, families)
        )
        expected_PNT = by_definition(vectors_NPW, there_PN, families, teachers, left_out)
        assert found_PNT.dtype == np.float32
        np.testing.assert_allclose(found_PNT, expected_PNT, atol=5e-4)
        missing_PNT = ~(there_PN[:, :, None] & there_PN[:, None, teachers])
        np.testing.assert_array_equal(np.isnan(found_PNT), missing_PNT)


def test_likeness_is_exact_where_something_is_left_of_every_side():
    families, teachers = [0, 1, 2, 3, 4, 4, 5, 6], [0, 3, 5]
    vectors_NPW, there_PN = made_up(1, families, prompts=20, width=40)
    found_PNT = compared(vectors_NPW, there_PN, families, teachers).centred(mask({6}, families))
    expected_PNT = by_definition(vectors_NPW, there_PN, families, teachers, {6})
    np.testing.assert_allclose(found_PNT, expected_PNT, atol=5e-6)
    assert found_PNT.std() > 0.1


@pytest.mark.parametrize(("families", "left_out"), [([0, 0, 0], set()), ([0, 1, 2], {0, 1, 2})])
def test_without_another_family_nothing_is_taken_off(families, left_out):
    vectors_NPW, there_PN = made_up(3, families)
    found_PNT = compared(vectors_NPW, there_PN, families, [0, 2]).centred(mask(left_out, families))
    plain_PNT = np.einsum("npw,tpw->pnt", vectors_NPW, vectors_NPW[[0, 2]])
    np.testing.assert_allclose(found_PNT, plain_PNT, atol=1e-6)


def test_a_prompt_that_nobody_else_answers_takes_nothing_off():
    families = [0, 0, 1, 2]
    vectors_NPW, there_PN = made_up(4, families, prompts=2)
    there_PN[0, 2:] = False
    vectors_NPW[2:, 0] = 0
    found_PNT = compared(vectors_NPW, there_PN, families, [0, 2]).centred(mask(set(), families))
    assert found_PNT[0, 1, 0] == pytest.approx(vectors_NPW[0, 0] @ vectors_NPW[1, 0], abs=1e-6)
    assert np.isnan(found_PNT[0, :, 1]).all() and np.isnan(found_PNT[0, 2:]).all()
    assert not np.isnan(found_PNT[1]).any()


def test_what_everybody_says_is_like_nobody():
    families = [0, 1, 2, 3]
    vectors_NPW, there_PN = made_up(5, families, prompts=3)
    vectors_NPW[:] = vectors_NPW[:1]
    vectors_NPW[:, 2] = made_up(6, families, prompts=1)[0][:, 0]
    found_PNT = compared(vectors_NPW, there_PN, families, [0, 1]).centred(mask(set(), families))
    assert np.isfinite(found_PNT).all()
    assert np.abs(found_PNT[:2]).max() < 0.3  # rounding over next to nothing
    assert found_PNT[2, 0, 0] == pytest.approx(1, abs=1e-5)


# Whose answers are in the mean.


FAMILIES = [0, 0, 1, 2, 2, 3]  # teachers: 2 and 3


def centred(vectors_NPW: np.ndarray, there_PN: np.ndarray, left_out: set[int]) -> np.ndarray:
    return compared(vectors_NPW, there_PN, FAMILIES, [2, 3]).centred(mask(left_out, FAMILIES))


def with_other_answers(vectors_NPW: np.ndarray, row: int) -> np.ndarray:
    changed = vectors_NPW.copy()
    changed[row] = made_up(77, FAMILIES)[0][row]
    return changed


def test_answers_of_its_own_family_do_not_change_a_model_s_row():
    vectors_NPW, there_PN = made_up(8, FAMILIES)
    before = centred(vectors_NPW, there_PN, set())
    after = centred(with_other_answers(vectors_NPW, 1), there_PN, set())
    np.testing.assert_allclose(after[:, 0], before[:, 0], atol=1e-6)
    for row in (1, 2, 3, 4, 5):
        assert np.abs(after[:, row] - before[:, row]).max() > 1e-3, row


def test_answers_of_another_family_change_it_unless_that_is_left_out():
    vectors_NPW, there_PN = made_up(9, FAMILIES)
    changed = with_other_answers(vectors_NPW, 5)
    difference = centred(changed, there_PN, set()) - centred(vectors_NPW, there_PN, set())
    assert (np.abs(difference[:, :5]).max((0, 2)) > 1e-3).all()
    difference = centred(changed, there_PN, {3}) - centred(vectors_NPW, there_PN, {3})
    np.testing.assert_allclose(difference[:, :5], 0, atol=1e-6)
    assert np.abs(difference[:, 5]).max() > 1e-3


def test_a_suspect_and_a_reference_that_say_the_same_have_the_same_row():
    vectors_NPW, there_PN = made_up(10, FAMILIES)
    vectors_NPW[5] = vectors_NPW[0]  # of the family 3 the only one; 0 has a relative
    vectors_NPW[1] = vectors_NPW[0]
    found = centred(vectors_NPW, there_PN, {0, 3})
    np.testing.assert_allclose(found[:, 0], found[:, 5], atol=1e-6)


def test_a_family_has_one_vote_whatever_its_size():
    vectors_NPW, there_PN = made_up(11, FAMILIES, there=0.8)
    before = centred(vectors_NPW, there_PN, set())
    more = [0, 1, 2, 3, 4, 5, 5, 5]
    families = [FAMILIES[row] for row in more]
    after = compared(vectors_NPW[more], there_PN[:, more], families, [2, 3]).centred(
        mask(set(), families)
    )
    np.testing.assert_allclose(after[:, :6], before, atol=1e-5)
    np.testing.assert_allclose(after[:, 6], before[:, 5], atol=1e-5)


def test_asking_does_not_change_what_is_kept():
    vectors_NPW, there_PN = made_up(12, FAMILIES, there=0.6)
    kept = compared(vectors_NPW, there_PN, FAMILIES, [2, 3])
    for array in (kept.teacher_PNT, kept.family_PNF, kept.there_PN):
        array.flags.writeable = False
    before = replace(kept, teacher_PNT=kept.teacher_PNT.copy())
    first = kept.centred(mask({1}, FAMILIES))
    np.testing.assert_array_equal(first, kept.centred(mask({1}, FAMILIES)))
    np.testing.assert_array_equal(kept.teacher_PNT, before.teacher_PNT)


# Families' means, products, means over prompts.


def test_means_of_families_are_over_models_that_answer():
    vectors_NPW, there_PN = made_up(13, FAMILIES, prompts=6, there=0.5)
    vectors = [sparse.csr_matrix(one.astype(np.float32)) for one in vectors_NPW]
    found = family_means(vectors, there_PN, np.array(FAMILIES))
    assert len(found) == 4
    for family, made in enumerate(found):
        assert made.dtype == np.float32
        rows = [row for row, of in enumerate(FAMILIES) if of == family]
        for p in range(6):
            said = [vectors_NPW[row, p] for row in rows if there_PN[p, row]]
            expected = np.mean(said, axis=0) if said else np.zeros(9)
            np.testing.assert_allclose(made[[p]].toarray()[0], expected, atol=1e-6)


def test_products_are_taken_prompt_by_prompt():
    a_NPW, b_NPW, c_NPW = (made_up(seed, [0] * size)[0] for seed, size in ((1, 5), (2, 2), (3, 3)))
    sides = [[sparse.csr_matrix(x.astype(np.float32)) for x in s] for s in (a_NPW, b_NPW, c_NPW)]
    with_b, with_c = products(*sides)
    assert (with_b.shape, with_c.shape, with_b.dtype) == ((4, 5, 2), (4, 5, 3), np.float32)
    np.testing.assert_allclose(with_b, np.einsum("npw,tpw->pnt", a_NPW, b_NPW), atol=1e-6)
    np.testing.assert_allclose(with_c, np.einsum("npw,tpw->pnt", a_NPW, c_NPW), atol=1e-6)


def test_the_mean_is_over_prompts_that_both_sides_answer():
    nan = np.nan
    values_PNT = np.array(
        [[[1.0, nan], [nan, nan]], [[3.0, 0.5], [nan, 0.0]], [[nan, 1.0], [nan, nan]]], np.float32
    )
    found_NT, count_NT = mean(values_PNT)
    np.testing.assert_array_equal(found_NT, [[2.0, 0.75], [nan, 0.0]])
    np.testing.assert_array_equal(count_NT, [[2, 2], [0, 1]])
    empty_NT, none_NT = mean(np.zeros((0, 2, 3), np.float32))
    assert np.isnan(empty_NT).all() and not none_NT.any()
