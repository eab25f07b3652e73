"""Nothing in a config is ignored: what is not understood is refused with its file and line."""

import re
from dataclasses import field

import pytest
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from audit.errors import ConfigError
from audit.strict_yaml import dump, load

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Inner:
    learning_rate: float = 0.1
    steps: int = 3
    label: str = "plain"


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Outer:
    train: Inner = field(default_factory=Inner)
    sources: tuple[str, ...] = ()
    grid: tuple[tuple[int, ...], ...] = ()
    by_name: dict[str, str] = field(default_factory=dict)
    maybe: Inner | None = None


def read(text: str, *overrides: str, given: dict | None = None) -> Outer:
    return load(Outer, text, source="run.yaml", given=given, overrides=overrides)


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_empty_text_gives_the_defaults():
    assert read("") == read("# only a comment\n") == Outer()


def test_values_of_every_shape_are_read():
    config = read(
        "train: {steps: 7}\nsources: [a, b]\ngrid:\n- [1, 2]\n- [3]\n- []\n"
        "by_name: {x: y}\nmaybe: {label: other}\n"
    )
    assert config.train == Inner(steps=7)
    assert config.sources == ("a", "b")
    assert config.grid == ((1, 2), (3,), ())
    assert config.by_name == {"x": "y"}
    assert config.maybe == Inner(label="other")


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 1e-3), ("1E3", 1e3), ("2.5e-4", 2.5e-4), ("-1e+2", -100.0), ("3", 3.0), (".5", 0.5)],
)
def test_numbers_are_read_as_people_write_them(written, value):
    assert read(f"train: {{learning_rate: {written}}}").train.learning_rate == value
    assert read("", f"train.learning_rate={written}").train.learning_rate == value


def test_a_quoted_number_is_a_text():
    assert read("train: {label: '1e-3'}").train.label == "1e-3"
    assert "train.learning_rate" in refusal("train: {learning_rate: '1e-3'}")


def test_an_unknown_key_is_named_with_line_and_nearest_name():
    said = refusal("sources: []\ntrain:\n  steps: 3\n  lerning_rate: 1\n")
    assert said == (
        "run.yaml:4: unknown key 'lerning_rate' in train; did you mean 'learning_rate'?"
    )
    assert refusal("\n\nsource: []\n").startswith("run.yaml:3: unknown key 'source'; did you mean")


def test_an_unknown_key_without_a_near_one_lists_what_is_known():
    said = refusal("maybe: {zzz: 1}")
    assert "unknown key 'zzz' in maybe; known keys: learning_rate, steps, label." in said


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("train: {}\ntrain: {}\n", "run.yaml:2: key 'train'"),
        ("train:\n  steps: 1\n  label: a\n  steps: 2\n", "run.yaml:4: key 'steps'"),
        ("by_name:\n  x: a\n  x: b\n", "run.yaml:3: key 'x'"),
    ],
)
def test_a_key_given_twice_is_refused_on_its_second_line(text, where):
    said = refusal(text)
    assert said.startswith(where)
    assert "given twice" in said


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("train:\n  steps: many\n", "run.yaml:2: train.steps"),
        ("train:\n  steps: 1.5\n", "run.yaml:2: train.steps"),
        ("train:\n  steps: '3'\n", "run.yaml:2: train.steps"),
        ("train:\n  steps: yes\n", "run.yaml:2: train.steps"),
        ("train:\n  label: 3\n", "run.yaml:2: train.label"),
        ("train:\n  label: null\n", "run.yaml:2: train.label"),
        ("train: 3\n", "run.yaml:1: train"),
        ("grid:\n- [1]\n- [1,\n   x]\n", "run.yaml:4: grid.1.1"),
        ("sources: pydoc\n", "run.yaml:1: sources"),
    ],
)
def test_a_wrong_type_is_named_with_its_line(text, where):
    assert refusal(text).startswith(where)


@pytest.mark.parametrize(
    "text", ["a: [1\n", "a: b: c\n", "\ta: 1\n", "a: \x00\n", "a: &x 1\nb: *y\n", "? [a]\n: b\n"]
)
def test_text_that_is_no_yaml_is_refused(text):
    assert re.match(r"run\.yaml:\d+: not valid YAML: ", refusal(text))


@pytest.mark.parametrize(("text", "kind"), [("- a\n", "a list"), ("word\n", "a text")])
def test_a_config_is_a_mapping(text, kind):
    assert refusal(text) == f"run.yaml:1: a config is a mapping of keys to values, not {kind}."


def test_a_date_is_the_text_it_was_written_as():
    assert read("sources: [2026-04-24, 2026-04-24T10:00:00Z]").sources == (
        "2026-04-24",
        "2026-04-24T10:00:00Z",
    )
    assert "train.steps" in refusal("train: {steps: 2026-04-24}")


def test_no_tag_runs_code():
    said = refusal("sources: !!python/object/apply:os.getcwd []\n")
    assert "run.yaml:1: not valid YAML" in said


def test_overrides_come_last_and_open_sections():
    config = read("train: {steps: 1}", "train.steps=2", "maybe.steps=5", "sources=[x]")
    assert (config.train.steps, config.maybe, config.sources) == (2, Inner(steps=5), ("x",))
    assert read("", given={"sources": ["given"]}).sources == ("given",)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.steps", "-s train.steps: write it as key.path=value."),
        ("=3", "-s =3: write it as key.path=value."),
        ("train.steps.more=3", "-s train.steps.more=3: 'steps' is a value, not a section."),
        ("train.stpes=3", "-s train.stpes: unknown key 'stpes' in train; did you mean 'steps'?"),
        ("train.steps=x", "-s train.steps: train.steps"),
        ("train.steps=[", "-s train.steps=[: the value is not valid YAML."),
    ],
)
def test_a_wrong_override_is_named(override, said):
    assert refusal("train: {steps: 1}", override).startswith(said)


def test_what_an_option_set_is_named_by_the_option():
    with pytest.raises(ConfigError, match=r"^--by-name: by_name"):
        read("", given={"by_name": 3})


def test_a_dump_names_every_key_and_loads_as_itself():
    config = Outer(train=Inner(learning_rate=1e-7, label="1e-3"), grid=((1,), ()), sources=("é",))
    text = dump(config)
    assert read(text) == config
    assert list(Outer.__dataclass_fields__) == [
        line.partition(":")[0] for line in text.splitlines() if line[:1].isalpha()
    ]
    assert "é" in text
