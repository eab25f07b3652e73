"""A bank is compared once: what an index holds, and which banks have none."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from audit.attest import digest
from audit.bank import Bank, load
from audit.errors import AuditError
from audit.lineup import index, reading
from audit.lineup.likeness import family_means
from tests.fakes import banks
from tests.fakes.indices import VIEWS, of, same


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return load(banks.tiny(tmp_path / "bank"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "of indices"


# What it holds.


def test_an_index_is_in_the_order_of_the_bank_s_tables(bank):
    made, steps = of(bank, None)
    assert made.models == ("a-1", "a-2", "b-1", "pupil", "lone")
    assert made.teachers == ("a-1", "a-2", "b-1")
    assert made.families == ("alpha", "beta", "pupil", "lone")
    assert made.prompts == tuple(f"p{place}" for place in range(6))
    assert made.views == VIEWS
    assert list(made.products["3 words"].family_N) == [0, 0, 1, 2, 3]
    assert list(made.products["3 words"].teachers) == [0, 1, 2]
    assert steps == [(done, 8) for done in range(1, 9)]  # five models and three views


def test_its_products_are_of_what_the_views_read(bank):
    dressed = {f"p{place}": f"# **Certainly!**\n- Here is number {place}" for place in range(6)}
    banks.answers_file(bank.files["pupil"], dressed)
    made, _ = of(bank, None)
    names = reading.masked_names([*made.models, *made.families, "A", "B"])
    for view in VIEWS:
        vectors = []
        for name in made.models:
            texts = [bank.answers(name)[prompt].response for prompt in made.prompts]
            shaped = [reading.plain(text) if view.plain else text for text in texts]
            said = [reading.words(text, names) for text in shaped]
            vectors.append(made.reader.vectors(view, said))
        found = made.products[view.name]
        there_PN = np.ones((6, 5), dtype=bool)
        means = family_means(vectors, there_PN, found.family_N)
        np.testing.assert_array_equal(found.there_PN, there_PN)
        for row, vector in enumerate(vectors):
            for column, other in enumerate(vectors[:3]):
                expected = np.asarray(vector.multiply(other).sum(1)).ravel()
                np.testing.assert_allclose(found.teacher_PNT[:, row, column], expected, atol=1e-6)
            for column, other in enumerate(means):
                expected = np.asarray(vector.multiply(other).sum(1)).ravel()
                np.testing.assert_allclose(found.family_PNF[:, row, column], expected, atol=1e-6)
        # Teachers first, then families, each with a row a prompt.
        kept = sparse.vstack([*vectors[:3], *means])
        assert made.vectors[view.name].shape == kept.shape
        assert abs(made.vectors[view.name] - kept).max() < 1e-6


def test_a_suspect_from_outside_can_be_compared_with_what_is_kept(bank, cache):
    of(bank, cache)
    made, _ = of(bank, cache)
    said = [["certainly", "!", "here"]] * 6
    products = made.reader.vectors(VIEWS[0], said) @ made.vectors["3 words"].T
    assert products.shape == (6, (3 + 4) * 6)
    with_a1 = products.toarray()[np.arange(6), np.arange(6)]
    with_b1 = products.toarray()[np.arange(6), 12 + np.arange(6)]
    assert with_a1 == pytest.approx(1) and with_b1 == pytest.approx(0)


def test_names_of_models_families_groups_and_makers_are_masked(tmp_path):
    texts = ["Falconet knows", "Aviary knows", "Raptors knows", "Maker knows", "Granite knows"]
    answers = {name: {"p": text} for name, text in zip("vwxyz", texts, strict=True)}
    answers["falconet-7b"] = {"p": "nothing"}
    bird = {"vendor_or_family": "aviary", "role": "teacher", "group": "Raptors-2"}
    groups = {"Raptors-2": {"vendor": "maker", "models": "falconet-7b"}}
    banks.write(tmp_path, answers, labels={"falconet-7b": bird}, groups=groups)
    found = of(load(tmp_path), None, VIEWS[:1])[0].products["3 words"].family_PNF[0]
    same_words = found[:5, :5]
    np.testing.assert_allclose(same_words[:4, :4], 1, atol=1e-6)
    assert (same_words[4, :4] < 0.9).all()


def test_weights_of_words_are_of_teachers_alone(tmp_path):
    banks.tiny(tmp_path / "1")
    banks.tiny(tmp_path / "2")
    path = tmp_path / "2" / "responses" / "lone.jsonl"
    banks.answers_file(path, {f"p{place}": "certainly the short one" for place in range(6)})
    one, two = (of(load(tmp_path / name), None)[0] for name in "12")
    for view in VIEWS:
        np.testing.assert_array_equal(one.reader.idf[view.name], two.reader.idf[view.name])
    two_PNF, one_PNF = (made.products["3 words"].family_PNF for made in (two, one))
    assert not np.array_equal(two_PNF[:, 4], one_PNF[:, 4])


# Coverage and order.


def test_answers_are_matched_by_id_whatever_their_order_and_coverage(tmp_path):
    path = banks.tiny(tmp_path / "bank")
    whole = load(path)
    before, _ = of(whole, None)
    for name in before.models:
        answers = {row.id: row.response for row in whole.answers(name).values()}
        answers = dict(reversed(answers.items()))
        if name == "pupil":
            del answers["p2"]
            answers["asked of nobody else"] = "text"
        banks.answers_file(whole.files[name], answers)
    after, _ = of(load(path), None)
    assert after.prompts == before.prompts[::-1]
    for view in VIEWS:
        old, new = before.products[view.name], after.products[view.name]
        there_PN = np.ones((6, 5), dtype=bool)
        there_PN[2, 3] = False
        np.testing.assert_array_equal(new.there_PN[::-1], there_PN)
        expected = old.teacher_PNT * there_PN[:, :, None]
        np.testing.assert_allclose(new.teacher_PNT[::-1], expected, atol=1e-6)
        np.testing.assert_allclose(new.family_PNF[::-1, :3, :2], old.family_PNF[:, :3, :2])


def test_prompts_are_those_that_some_teacher_answers(tmp_path):
    said = {"t": {"a": "x y z"}, "u": {"b": "x y", "a": "z"}, "s": {"c": "x", "b": "y"}}
    labels = {name: {"role": "teacher", "group": "G"} for name in "tu"}
    banks.write(tmp_path, said, labels=labels, groups={"G": {}})
    made, _ = of(load(tmp_path), None, VIEWS[:1])
    assert made.prompts == ("a", "b")
    there_PN = made.products["3 words"].there_PN
    np.testing.assert_array_equal(there_PN, [[True, True, False], [False, True, True]])


@pytest.mark.parametrize("text", ["", " \n\t ", "\u3000"])
def test_an_empty_answer_is_none(tmp_path, text):
    path = banks.tiny(tmp_path)
    banks.answers_file(path / "responses" / "lone.jsonl", {"p0": text, "p1": "a b c d e"})
    made, _ = of(load(path), None)
    for view in VIEWS:
        found = made.products[view.name]
        assert list(found.there_PN[:, 4]) == [False, True, False, False, False, False]
        assert not found.teacher_PNT[0, 4].any() and not found.family_PNF[0, 4].any()
        assert np.isnan(found.centred(np.zeros(4, dtype=bool))[0, 4]).all()


def test_an_answer_of_which_a_view_reads_nothing_is_none_to_that_view(tmp_path):
    path = banks.tiny(tmp_path)
    banks.answers_file(path / "responses" / "lone.jsonl", {"p0": "4", "p1": "a b c d"})
    made, _ = of(load(path), None)
    there = {view.name: list(made.products[view.name].there_PN[:2, 4]) for view in VIEWS}
    assert there == {
        "3 words": [True, True],
        "letters": [False, True],  # no run of three
        "plain, longer ones": [False, False],
    }


@pytest.mark.parametrize("name", ["a-1", "lone"])
def test_a_model_without_any_answer_has_none(tmp_path, name):
    path = banks.tiny(tmp_path)
    (path / "responses" / f"{name}.jsonl").write_text("")
    made, _ = of(load(path), None)
    found = made.products["3 words"]
    assert not found.there_PN[:, made.models.index(name)].any()
    assert found.there_PN.sum() == 24


def test_an_answer_cut_off_within_a_sign_is_read(tmp_path):
    path = banks.tiny(tmp_path)
    banks.answers_file(path / "responses" / "a-1.jsonl", {"p0": "Yes \ud83d", "p1\ud83d": "No"})
    made, _ = of(load(path), tmp_path / "cache", VIEWS[:1])
    assert made.prompts[:2] == ("p0", "p1\ud83d")
    same(of(load(path), tmp_path / "cache", VIEWS[:1])[0], made)


def test_a_change_of_what_is_read_needs_another_form_of_what_is_kept():
    """An index kept before the change would be taken for one of after it.

    When this fails for a reason you meant, raise `_FORM` and write down both anew.
    """
    text = (
        "# Sure!\n\n1. **GPT-4.5** says *hi*, _you_.\n"
        "> 我是Qwen2。\U0001f44d हिन्दी\n```\nx = 1\n```\n"
    )
    names = reading.masked_names(["Falconet-7b-chat"])
    answers = [f"Ahoy, my dear old reader: {n}, {text * 9}" for n in range(24)]
    said = reading.said(answers, names)
    features = [reading.read(one.of(view), view) for one in said for view in reading.VIEWS]
    assert (index._FORM, digest([*features, sorted(names)])[:12]) == (7, "a53fd7379c60")


# What is refused.


def test_a_bank_without_groups_is_refused(tmp_path):
    bank = load(banks.write(tmp_path, {"one": {"p": "text"}}))
    with pytest.raises(AuditError, match=r"no group of teachers; add groups\.csv\.$") as caught:
        of(bank, None)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("answers", [{}, {"p0": "", "p1": " "}])
def test_a_bank_whose_teachers_answer_nothing_is_refused(tmp_path, answers):
    path = banks.tiny(tmp_path)
    for name in ("a-1", "a-2", "b-1"):
        banks.answers_file(path / "responses" / f"{name}.jsonl", answers)
    if answers:
        assert not of(load(path), None)[0].products["3 words"].there_PN[:, :3].any()
    else:
        with pytest.raises(AuditError, match=f"{path}.* no teacher has an answer"):
            of(load(path), None)
