"""The embedded teacher is found, checked, converted once, and is the model it says it is."""

import json
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from audit.attest import file_digest
from distill.errors import TeacherError
from distill.teachers import embedded
from distill.teachers.local import load_model
from student import weights

ENGLISH = (
    "The river rises in the hills to the north of the town and flows slowly through the valley "
    "before it reaches the sea. In spring, when the snow melts, the water is high and cold, and "
    "the farmers keep their cattle away from the banks. By the end of the summer it is often so "
    "low that children can walk across it, jumping from one stone to the next. The old bridge was "
    "built more than two hundred years ago and is still the only way to cross with a car."
)


def pretend_package(tmp_path, monkeypatch, content: bytes) -> None:
    """Put a package with one GGUF file of `content` where the teacher's is looked for."""
    package = tmp_path / "site" / "pretend_teacher_package"
    package.mkdir(parents=True)
    # Importing it would fail, so that a test sees whether it is imported.
    (package / "__init__.py").write_text("raise ImportError('must not be imported')\n")
    (package / "model.gguf").write_bytes(content)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(embedded, "PACKAGE", package.name)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache directory of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_teacher_that_is_not_installed_is_an_error_with_the_command(monkeypatch):
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package_anywhere")
    with pytest.raises(TeacherError) as caught:
        embedded.ensure(lambda _: None)
    assert str(caught.value) == f"the embedded teacher is not installed; run: {embedded.INSTALL}"
    assert embedded.INSTALL.startswith("pip install ")


def test_a_package_without_a_model_file_counts_as_not_installed(tmp_path, monkeypatch):
    pretend_package(tmp_path, monkeypatch, b"")
    (tmp_path / "site" / embedded.PACKAGE / "model.gguf").unlink()
    with pytest.raises(TeacherError, match="is not installed; run: pip install"):
        embedded.locate()


def test_a_file_with_another_digest_is_refused_by_name(tmp_path, monkeypatch, cache):
    pretend_package(tmp_path, monkeypatch, b"some other model")
    with pytest.raises(TeacherError) as caught:
        embedded.ensure(lambda _: None)
    message = str(caught.value)
    assert message.startswith("model.gguf of pretend_teacher_package is not the file this release")
    assert embedded.INSTALL in message
    assert not cache.exists()


def test_a_file_with_the_known_digest_is_found_without_importing_its_package(tmp_path, monkeypatch):
    pretend_package(tmp_path, monkeypatch, b"the model")
    path = tmp_path / "site" / embedded.PACKAGE / "model.gguf"
    monkeypatch.setattr(embedded, "GGUF_SHA256", file_digest(path))
    assert embedded.locate() == path


def left(place) -> list[str]:
    """Name what a conversion left in `place`, but for the lock."""
    return [entry.name for entry in place.iterdir() if not entry.name.startswith(".")]


def convert_by_writing(target) -> None:
    """Stand in for the conversion: a directory with a note of its digest."""
    target.mkdir(parents=True)
    (target / "model.safetensors").write_bytes(b"weights")
    note = {"weights_sha256": file_digest(target / "model.safetensors")}
    (target / "source.json").write_text(json.dumps(note))


@pytest.fixture
def conversions(tmp_path, monkeypatch):
    """The conversions made so far, of a package that is quick to convert."""
    pretend_package(tmp_path, monkeypatch, b"the model")
    path = tmp_path / "site" / embedded.PACKAGE / "model.gguf"
    monkeypatch.setattr(embedded, "GGUF_SHA256", file_digest(path))
    made = []

    def convert(source, target):
        made.append(source)
        convert_by_writing(target)

    monkeypatch.setattr(embedded, "_convert", convert)
    return made


def test_a_second_call_uses_the_cache_and_says_nothing(conversions, cache):
    said = []
    first = embedded.ensure(said.append)
    assert said == ["converting model.gguf to safetensors (once)"]
    assert embedded.ensure(said.append) == first
    assert first.parent == cache / "spiritsafe" / "teachers"
    assert len(said) == len(conversions) == 1


def test_what_is_converted_is_found_and_nothing_is_converted_to_find_it(conversions):
    with pytest.raises(TeacherError, match="not converted yet; run: distill teacher"):
        embedded.converted()
    assert conversions == []
    assert embedded.ensure(lambda _: None) == embedded.converted()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"weightz"),
        ("model.safetensors", None),
        ("source.json", b"{"),
        ("source.json", b"[]"),
        ("source.json", None),
    ],
)
def test_a_damaged_cache_is_made_again(conversions, name, content):
    path = embedded.ensure(lambda _: None)
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(content)
    assert embedded.ensure(lambda _: None) == path
    assert len(conversions) == 2
    assert (path / "model.safetensors").read_bytes() == b"weights"
    assert left(path.parent) == [path.name]


def test_of_two_that_begin_together_one_converts_and_the_other_waits(conversions, monkeypatch):
    # Both have found the cache empty before either goes on.
    found, locate = threading.Barrier(2, timeout=60), embedded.locate
    monkeypatch.setattr(embedded, "locate", lambda: (found.wait(), locate())[1])
    said = []
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(embedded.ensure, [said.append] * 2)
    assert first == second == embedded.converted()
    assert len(conversions) == 1
    assert said.count("converting model.gguf to safetensors (once)") == 1


def test_what_a_killed_conversion_left_is_cleared(conversions, cache):
    half = embedded.ensure(lambda _: None)
    half = half.rename(half.with_name(f"{half.name}.partial"))
    (half / "of an older release").touch()
    path = embedded.ensure(lambda _: None)
    assert left(path.parent) == [path.name]
    assert not (path / "of an older release").exists()


def test_a_conversion_that_fails_leaves_nothing_behind(conversions, monkeypatch, cache):
    def fail(source, target):
        target.mkdir(parents=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedded, "_convert", fail)
    with pytest.raises(TeacherError, match="No space left on device; free space or set XDG_CACHE"):
        embedded.ensure(lambda _: None)
    assert left(cache / "spiritsafe" / "teachers") == []


@torch.inference_mode()
def perplexity(model, tokenizer, text: str) -> float:
    ids = tokenizer(tokenizer.bos_token + text, add_special_tokens=False, return_tensors="pt")
    tokens = ids["input_ids"]
    logp = model(input_ids=tokens[:, :-1]).logits.log_softmax(-1)
    return math.exp(-float(logp.gather(2, tokens[:, 1:, None]).mean()))


@pytest.mark.slow
@pytest.mark.teacher
def test_the_real_teacher_reads_plain_english_and_is_converted_once(cache):
    said = []
    path = embedded.ensure(said.append)
    assert len(said) == 1
    device = torch.device("cpu")
    model, tokenizer = load_model(path, device=device), weights.load_tokenizer(path)
    assert perplexity(model, tokenizer, ENGLISH) < 20
    scrambled = " ".join(sorted(ENGLISH.split(), key=lambda word: word[::-1]))
    assert perplexity(model, tokenizer, scrambled) > 60
    assert tokenizer.chat_template
    assert tokenizer.bos_token_id is not None
    assert tokenizer.decode(tokenizer(ENGLISH, add_special_tokens=False)["input_ids"]) == ENGLISH

    before = file_digest(path / "model.safetensors")
    assert embedded.ensure(said.append) == path
    assert len(said) == 1

    with (path / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"!")
    assert file_digest(path / "model.safetensors") != before
    assert embedded.ensure(said.append) == path
    assert len(said) == 2
    assert file_digest(path / "model.safetensors") == before
