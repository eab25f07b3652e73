"""A bank is compared once, and what is kept of that is what was computed, or is computed again."""

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from audit.attest import digest
from audit.bank import Bank, load
from audit.errors import AuditError
from audit.lineup import index, reading
from audit.lineup.index import Index
from audit.lineup.likeness import family_means
from audit.lineup.reading import View
from tests.fakes import banks

VIEWS = (
    View(name="3 words", first=3),
    View(name="letters", first=3, letters=True),
    View(name="plain, longer ones", first=5, plain=True, least=5),
)
KEPT = ("index.json", *(f"0-{part}.npy" for part in ("teachers", "families", "there", "idf")))
KEPT = (*KEPT, "0-vectors.npz", "2-there.npy")


class Steps(list):
    """What was told of progress; empty if nothing was computed."""

    def __call__(self, done: int, steps: int) -> None:
        self.append((done, steps))


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return load(banks.tiny(tmp_path / "bank"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "of indices"


def of(bank: Bank, cache: Path | None, views: tuple[View, ...] = VIEWS) -> tuple[Index, Steps]:
    steps = Steps()
    return index.of(bank, views, cache=cache, tell=steps), steps


def same(one: Index, other: Index) -> None:
    """Fail unless two indices are equal in everything."""
    for name in ("prompts", "models", "teachers", "families", "views"):
        assert getattr(one, name) == getattr(other, name)
    for view in one.views:
        a, b = one.products[view.name], other.products[view.name]
        for name in ("teacher_PNT", "family_PNF", "there_PN", "teachers", "family_N"):
            x, y = getattr(a, name), getattr(b, name)
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
        none_F = np.zeros(len(one.families), dtype=bool)
        np.testing.assert_array_equal(a.centred(none_F), b.centred(none_F))
        np.testing.assert_array_equal(one.reader.idf[view.name], other.reader.idf[view.name])
        x, y = one.vectors[view.name], other.vectors[view.name]
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert (x != y).nnz == 0


def contents(path: Path) -> dict[str, tuple[str, int]]:
    return {
        file.relative_to(path).as_posix(): (
            sha256(file.read_bytes()).hexdigest() if file.is_file() else "",
            file.stat().st_mtime_ns,
        )
        for file in sorted(path.rglob("*"))
    }


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
    text = "# Sure!\n\n1. **GPT-4.5** says *hi*, _you_.\n> 我是Qwen2。\U0001f44d\n```\nx = 1\n```\n"
    names = reading.masked_names(["Falconet-7b-chat"])
    said = reading.words(text * 9, names), reading.words(reading.plain(text * 9), names)
    features = [reading.read(said[view.plain], view) for view in reading.VIEWS]
    assert (index._FORM, digest([*features, sorted(names)])[:12]) == (5, "2de6784a9acb")


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


# What is kept.


def test_what_is_read_back_is_what_was_computed(bank, cache):
    made, steps = of(bank, cache)
    kept, no_steps = of(bank, cache)
    assert steps and not no_steps
    same(kept, made)
    same(of(bank, None)[0], made)


def test_the_bank_stays_as_it_was(bank, cache):
    before = contents(bank.path)
    of(bank, cache)
    of(bank, cache)
    assert contents(bank.path) == before


def test_reading_back_does_not_touch_what_is_kept(bank, cache):
    of(bank, cache)
    before = contents(cache)
    kept, _ = of(bank, cache)
    kept.products["3 words"].centred(np.zeros(4, dtype=bool))
    assert contents(cache) == before


def test_without_a_cache_nothing_is_kept(bank, tmp_path):
    before = contents(tmp_path)
    of(bank, None)
    assert contents(tmp_path) == before


def test_another_version_of_the_bank_has_an_index_of_its_own(bank, cache):
    first, _ = of(bank, cache)
    path = bank.files["lone"]
    path.write_text(path.read_text().replace("well", "Certainly"))
    second, steps = of(load(bank.path), cache)
    assert steps and len(list(cache.iterdir())) == 2
    assert not np.array_equal(
        first.products["3 words"].teacher_PNT, second.products["3 words"].teacher_PNT
    )
    path.write_text(path.read_text().replace("Certainly", "well"))
    again, no_steps = of(load(bank.path), cache)
    assert not no_steps
    same(again, first)


def test_a_copy_of_the_bank_elsewhere_has_the_same_index(bank, cache, tmp_path):
    made, _ = of(bank, cache)
    shutil.copytree(bank.path, tmp_path / "copy")
    copied, steps = of(load(tmp_path / "copy"), cache)
    assert not steps
    same(copied, made)


@pytest.mark.parametrize(
    "views", [VIEWS[:1], VIEWS[::-1], (View(name="3 words", first=4), *VIEWS[1:])]
)
def test_other_views_have_an_index_of_their_own(bank, cache, views):
    of(bank, cache)
    made, steps = of(bank, cache, views)
    assert steps and len(list(cache.iterdir())) == 2
    same(made, of(bank, None, views)[0])
    same(of(bank, cache, views)[0], made)


# What was kept and is no good.


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def halved(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def garbled(file: Path) -> None:
    file.write_bytes(b"\x93NUMPY of another kind" * 9)


def scratched(file: Path) -> None:
    """Turn over the bits of the first bytes, where a file says what it is."""
    data = bytearray(file.read_bytes())
    data[:20] = bytes(255 - byte for byte in data[:20])
    file.write_bytes(data)


def removed(file: Path) -> None:
    file.unlink()


HURT = [truncated, halved, emptied, garbled, scratched, removed]


@pytest.mark.parametrize("hurt", HURT)
def test_a_damaged_index_is_computed_again(bank, cache, hurt: Callable[[Path], None]):
    made, _ = of(bank, cache)
    (place,) = cache.iterdir()
    assert set(KEPT) <= {file.name for file in place.iterdir()}
    for name in KEPT:
        hurt(place / name)
        again, steps = of(bank, cache)
        assert steps, name
        same(again, made)
        kept, no_steps = of(bank, cache)
        assert not no_steps, name
        same(kept, made)


def test_damage_in_the_midst_of_vectors_is_found(bank, cache):
    made, _ = of(bank, cache)
    (place,) = cache.iterdir()
    whole = (place / "0-vectors.npz").read_bytes()
    for at in range(0, len(whole), len(whole) // 23):
        hurt = bytearray(whole)
        hurt[at] ^= 0x55
        (place / "0-vectors.npz").write_bytes(hurt)
        same(of(bank, cache)[0], made)


@pytest.mark.parametrize("name", [name for name in KEPT if name.startswith("0-") and "npy" in name])
@pytest.mark.parametrize("other", ["float64", "int8", "shape", "object"])
def test_arrays_of_another_type_or_shape_are_computed_again(bank, cache, name, other):
    made, _ = of(bank, cache, VIEWS[:1])
    (place,) = cache.iterdir()
    array = np.load(place / name)
    if other == "shape":
        np.save(place / name, array[:-1])
    else:
        np.save(place / name, array.astype(other), allow_pickle=True)
    again, steps = of(bank, cache, VIEWS[:1])
    assert steps
    same(again, made)


def test_vectors_of_another_type_or_shape_are_computed_again(bank, cache):
    made, _ = of(bank, cache, VIEWS[:1])
    (place,) = cache.iterdir()
    vectors = made.vectors["3 words"]
    for other in (vectors.astype(np.float64), vectors[:-1], vectors[:, :-1]):
        sparse.save_npz(place / "0-vectors.npz", other)
        again, steps = of(bank, cache, VIEWS[:1])
        assert steps
        same(again, made)


@pytest.mark.parametrize(
    "facts",
    [
        "[]",
        "null",
        '"text"',
        "{}",
        '{"key": 1}',
        "\ud83d",
        {"models": ["a-1"]},
        {"teachers": ["nobody"]},
        {"teachers": []},
        {"prompts": []},
        {"prompts": 3},
        {"families": ["alpha"]},
        {"family": [0]},
        {"family": [0, 0, 1, 2, 3, 3]},
        {"family": [0, 0, 1, 2, 9]},
        {"family": None},
    ],
)
def test_facts_that_do_not_fit_are_computed_again(bank, cache, facts):
    made, _ = of(bank, cache, VIEWS[:1])
    (place,) = cache.iterdir()
    file = place / "index.json"
    if isinstance(facts, dict):
        facts = json.dumps({**json.loads(file.read_text()), **facts})
    file.write_bytes(facts.encode(errors="surrogatepass"))
    again, steps = of(bank, cache, VIEWS[:1])
    assert steps
    same(again, made)


def test_the_index_of_another_bank_in_its_place_is_not_taken_for_it(bank, cache, tmp_path):
    made, _ = of(bank, cache)
    (place,) = cache.iterdir()
    banks.tiny(tmp_path / "other")
    banks.answers_file(tmp_path / "other" / "responses" / "lone.jsonl", {"p0": "x"})
    of(load(tmp_path / "other"), cache)
    (other,) = (folder for folder in cache.iterdir() if folder != place)
    shutil.rmtree(place)
    shutil.copytree(other, place)
    again, steps = of(bank, cache)
    assert steps
    same(again, made)


# Where nothing can be kept.


def refusal(bank: Bank, cache: Path) -> str:
    with pytest.raises(AuditError) as caught:
        of(bank, cache)
    sentence = str(caught.value)
    assert str(cache) in sentence and "XDG_CACHE_HOME" in sentence and "\n" not in sentence
    return sentence


def test_a_cache_that_cannot_be_made_is_one_sentence(bank, tmp_path):
    (tmp_path / "file").write_text("text")
    assert "Not a directory" in refusal(bank, tmp_path / "file" / "cache")
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_a_cache_that_is_another_s_is_one_sentence(bank, cache, mode):
    cache.mkdir(parents=True)
    cache.chmod(mode)
    assert "Permission denied" in refusal(bank, cache)
    cache.chmod(0o700)
    assert not list(cache.iterdir())


@pytest.mark.parametrize("writes", range(7))
def test_nothing_is_left_behind_when_writing_fails(bank, cache, monkeypatch, writes):
    save, done = np.save, []

    def fails(*arguments: object) -> None:
        if len(done) == writes:
            raise OSError(28, "No space left on device")
        done.append(arguments)
        save(*arguments)

    monkeypatch.setattr(np, "save", fails)
    assert "No space left on device" in refusal(bank, cache)
    assert len(done) == writes
    assert list(cache.iterdir()) == []


def test_what_was_kept_before_stays_when_writing_fails(bank, cache, monkeypatch):
    made, _ = of(bank, cache)
    before = contents(cache)
    path = bank.files["lone"]
    path.write_text(path.read_text().replace("well", "Certainly"))

    def fails(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(sparse, "save_npz", lambda *_, compressed: fails())
        refusal(load(bank.path), cache)
    assert {name for name in contents(cache)} == set(before)
    path.write_text(path.read_text().replace("Certainly", "well"))
    kept, steps = of(load(bank.path), cache)
    assert not steps
    same(kept, made)


def test_indices_are_kept_in_the_user_s_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert index.cache_directory() == tmp_path / "x" / "spiritsafe" / "banks"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in (monkeypatch.setenv, lambda name, _: monkeypatch.delenv(name)):
        unset("XDG_CACHE_HOME", "")
        home = tmp_path / "home" / ".cache" / "spiritsafe" / "banks"
        assert index.cache_directory() == home
