"""What is kept of an index is what was computed, or it is computed again."""

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from audit.bank import Bank, load
from audit.errors import AuditError
from audit.lineup import index
from audit.lineup.reading import View
from tests.fakes import banks
from tests.fakes.indices import VIEWS, of, same

KEPT = ("index.json", *(f"0-{part}.npy" for part in ("teachers", "families", "there", "idf")))
KEPT = (*KEPT, "0-vectors.npz", "2-there.npy")


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return load(banks.tiny(tmp_path / "bank"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "of indices"


def contents(path: Path) -> dict[str, tuple[str, int]]:
    return {
        file.relative_to(path).as_posix(): (
            sha256(file.read_bytes()).hexdigest() if file.is_file() else "",
            file.stat().st_mtime_ns,
        )
        for file in sorted(path.rglob("*"))
    }


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


def test_damage_in_the_midst_of_vectors_is_found_or_harmless(bank, cache):
    made, _ = of(bank, cache)
    computed_again = 0
    (place,) = cache.iterdir()
    whole = (place / "0-vectors.npz").read_bytes()
    for at in range(0, len(whole), len(whole) // 23):
        hurt = bytearray(whole)
        hurt[at] ^= 0x55
        (place / "0-vectors.npz").write_bytes(hurt)
        again, steps = of(bank, cache)
        same(again, made)
        computed_again += bool(steps)
    assert computed_again >= 20  # of 24: the others lie in what a zip file does not read back


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
