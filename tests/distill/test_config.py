"""A config means what it says: nothing is ignored, and what is wrong is named with its place."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest
import yaml

from audit import strict_yaml
from audit.errors import ConfigError
from distill.config import RunConfig, load
from distill.errors import InputError
from distill.resources import shipped


def read(text: str, *overrides: str) -> RunConfig:
    return strict_yaml.load(RunConfig, text, source="run.yaml", overrides=overrides)


def refused(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def keys(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key of a config, sections and leaves."""
    for field in fields(value):
        inner = getattr(value, field.name)
        yield (*path, field.name)
        if is_dataclass(inner):
            yield from keys(inner, (*path, field.name))


def at(value: object, path: tuple[str, ...]) -> object:
    for name in path:
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


LEAVES = [path for path in keys(RunConfig()) if not is_dataclass(at(RunConfig(), path))]


def test_the_shipped_quick_start_is_the_default_config():
    shipped_config = load(None)
    for path in LEAVES:
        assert at(shipped_config, path) == at(RunConfig(), path), ".".join(path)
    assert shipped_config == RunConfig()


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_the_shipped_quick_start_documents_every_key(path):
    written = yaml.safe_load(shipped("presets/quickstart.yaml").read_text(encoding="utf-8"))
    assert path[-1] in at(written, path[:-1])


def test_the_shipped_quick_start_is_mostly_explained_by_comments():
    text = shipped("presets/quickstart.yaml").read_text(encoding="utf-8")
    assert sum("#" in line for line in text.splitlines()) > len(LEAVES) / 2


def test_what_is_left_out_has_its_default_and_an_empty_file_is_all_defaults():
    assert read("") == RunConfig()
    assert read("train: {steps: 3}").train.batch_size == RunConfig().train.batch_size


def test_a_config_written_and_read_again_is_the_same():
    config = read("seed: 5\ntext: {sources: [a.txt, b.md]}\noptimizer: {learning_rate: 3e-4}")
    text = strict_yaml.dump(config)
    assert read(text) == config
    found = yaml.safe_load(text)
    for path in LEAVES:
        at(found, path)  # KeyError where it is not explicit


def test_an_unknown_key_names_file_line_and_the_nearest_name():
    assert refused("seed: 1\nteachr: {}\n") == (
        "run.yaml:2: unknown key 'teachr'; did you mean 'teacher'?"
    )


def test_an_unknown_nested_key_names_its_section_too():
    text = "train:\n  batch_size: 2\n  stepps: 4\n"
    assert refused(text) == "run.yaml:3: unknown key 'stepps' in train; did you mean 'steps'?"


def test_an_unknown_key_near_to_none_lists_the_known_ones():
    message = refused("checkpoint:\n  zzz: 4\n")
    known = "every_steps, sync_seconds."
    assert message == f"run.yaml:2: unknown key 'zzz' in checkpoint; known keys: {known}"


@pytest.mark.parametrize(
    ("text", "where", "named"),
    [
        ("train:\n  steps: many", "run.yaml:2:", "train.steps"),
        ("train:\n  steps: 1.5", "run.yaml:2:", "train.steps"),
        ("train:\n  steps: true", "run.yaml:2:", "train.steps"),
        ("train:\n  steps: '12'", "run.yaml:2:", "train.steps"),
        ("train:\n  steps: 0", "run.yaml:2:", "train.steps"),
        ("seed: -1", "run.yaml:1:", "seed"),
        ("dtype: float16", "run.yaml:1:", "dtype"),
        ("text:\n  held_out: 1.0", "run.yaml:2:", "text.held_out"),
        ("text:\n  sources: pydoc", "run.yaml:2:", "text.sources"),
        ("text:\n  sources:\n  - 3", "run.yaml:3:", "text.sources.0"),
        ("\n\nstudent: 4", "run.yaml:3:", "student"),
        ("teacher:\n", "run.yaml:1:", "teacher"),
        ("optimizer: {learning_rate: .nan}", "run.yaml:1:", "optimizer.learning_rate"),
    ],
)
def test_a_wrong_value_names_its_line_and_key(text, where, named):
    message = refused(text)
    assert message.startswith(f"{where} {named}: ")
    assert "\n" not in message


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "0.001", "1.0e-3", "+1e-3", "1_0e-4"])
def test_a_number_with_an_exponent_is_a_number(number):
    rate = read(f"optimizer: {{learning_rate: {number}}}").optimizer.learning_rate
    assert rate == pytest.approx(1e-3)


def test_a_text_that_only_looks_like_an_exponent_stays_text():
    assert read("teacher: {name: 1e-3b}").teacher.name == "1e-3b"
    assert read("teacher: {name: '1e-3'}").teacher.name == "1e-3"


def test_a_key_given_twice_is_refused_at_its_second_place():
    assert refused("seed: 1\nseed: 2\n") == "run.yaml:2: key 'seed' is given twice; keep one."
    nested = refused("train:\n  steps: 1\n  batch_size: 2\n  steps: 3\n")
    assert nested == "run.yaml:4: key 'steps' is given twice; keep one."


def test_the_same_key_in_two_sections_is_not_given_twice():
    assert read("teacher: {path: a}\nsignal: {path: b}").signal.path == "b"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("seed: [1", "run.yaml:1: not valid YAML"),
        ("a:\n\t- b", "run.yaml:2: not valid YAML"),
        ("- seed", "run.yaml:1: a config is a mapping of keys to values, not a list."),
        ("seed", "run.yaml:1: a config is a mapping of keys to values, not a text."),
    ],
)
def test_what_is_no_mapping_or_no_yaml_is_refused(text, start):
    assert refused(text).startswith(start)


@pytest.mark.parametrize("text", ["seed: 2024-01-01", "seed: 1\x07"], ids=["date", "control"])
def test_yaml_that_holds_no_config_value_is_refused_like_any_other(text):
    assert refused(text).startswith("run.yaml:1: ")


def test_overrides_are_typed_applied_last_and_in_order():
    config = read(
        "train: {steps: 5}",
        "train.steps=6",
        "train.steps=7",
        "optimizer.learning_rate=1e-4",
        "text.sources=[a.txt, b.txt]",
        "student.tie_word_embeddings=true",
        "signal.path=null",
        "teacher.name=a name = with signs",
    )
    assert config.train.steps == 7
    assert config.optimizer.learning_rate == 1e-4
    assert config.text.sources == ("a.txt", "b.txt")
    assert config.student.tie_word_embeddings is True
    assert config.signal.path is None
    assert config.teacher.name == "a name = with signs"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "-s train.steps: write it as key.path=value."),
        ("=3", "-s =3: write it as key.path=value."),
        ("trian.steps=3", "-s trian.steps: unknown key 'trian'; did you mean 'train'?"),
        ("train.step=3", "-s train.step: unknown key 'step' in train; did you mean 'steps'?"),
        ("seed.x=3", "-s seed.x=3: 'seed' is a value, not a section."),
        ("seed=[", "-s seed=[: the value is not valid YAML."),
    ],
)
def test_a_wrong_override_is_refused_by_its_own_words(override, message):
    assert refused("seed: 1", override) == message


def test_a_wrong_value_in_an_override_is_blamed_on_the_override():
    assert refused("train: {steps: 5}", "train.steps=none").startswith("-s train.steps: train.")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "text: {sequence_length: 4096}",
            ("text.sequence_length (4096)", "student.max_position_embeddings (2048)"),
        ),
        (
            "student: {max_position_embeddings: 300}\nevaluate: {continuation_tokens: 253}",
            ("evaluate.continuation_tokens (301)", "student.max_position_embeddings (300)"),
        ),
        ("loss:\n  forward_kl: 0\n  cross_entropy: 0", ("loss", "nothing would be learnt")),
        ("text: {sources: []}", ("text", "sources is empty")),
    ],
)
def test_values_that_contradict_each_other_are_refused(text, parts):
    message = refused(text)
    assert message.startswith("run.yaml:1: ")
    for part in parts:
        assert part in message


def test_passages_may_be_as_long_as_the_student_reads():
    config = read("student: {max_position_embeddings: 300}\nevaluate: {continuation_tokens: 252}")
    assert config.evaluate.continuation_tokens == 252


def test_a_run_without_forward_kl_is_a_control():
    assert RunConfig().uses_teacher
    assert not read("loss: {forward_kl: 0}").uses_teacher


def test_a_config_is_frozen():
    with pytest.raises(AttributeError):
        RunConfig().seed = 3


def test_a_config_file_that_cannot_be_used_is_named(tmp_path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"# caf\xe9\nseed: 1\n")
    blank = tmp_path / "blank.yaml"
    blank.write_text(" \n")
    expected = {
        tmp_path / "absent.yaml": "does not exist",
        tmp_path: "is a directory",
        latin: "is not UTF-8 (byte 5)",
        blank: "is empty",
    }
    for path, reason in expected.items():
        with pytest.raises(InputError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path} {reason}")
        assert caught.value.exit_code == 2
