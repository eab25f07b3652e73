"""Nothing in a config is ignored: what is not understood is refused with its file and line."""

import re
from dataclasses import field
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import ConfigDict, Field
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
class Round:
    kind: Literal["circle", "ellipse"]
    radius: float = 1.0
    on: str = "paper"


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Square:
    side: float
    kind: Literal["square"] = "square"
    edge: Inner = field(default_factory=Inner)


Shape = Annotated[Round | Square, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Named:
    name: str
    size: int = 1
    inside: tuple[Shape, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class Outer:
    train: Inner = field(default_factory=Inner)
    sources: tuple[str, ...] = ()
    grid: tuple[tuple[int, ...], ...] = ()
    by_name: dict[str, str] = field(default_factory=dict)
    maybe: Inner | None = None
    shapes: tuple[Shape, ...] = (Round(kind="circle"), Square(side=2.0), Round(kind="ellipse"))
    named: tuple[Named, ...] = (Named(name="only"),)
    empty: tuple[Named, ...] = ()


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


# Keys that YAML 1.1 would not leave as they are.


@pytest.mark.parametrize("key", ["on", "off", "yes", "no", "1", "1e3", "null", "~", "2026-04-24"])
def test_a_key_is_the_text_that_stands_there(key):
    assert read(f"by_name: {{{key}: x}}").by_name == {key: "x"}
    assert read(f"by_name:\n  {key}: x\n", f"by_name.{key}=y").by_name == {key: "y"}
    config = Outer(by_name={key: "x"})
    assert read(dump(config)) == config
    assert yaml.safe_load(dump(config))["by_name"] == {key: "x"}


def test_a_value_called_on_is_a_truth_and_no_text():
    assert "shapes.0.on" in refusal("shapes: [{kind: circle, on: on}]")
    assert read("shapes: [{kind: circle, on: 'on'}]").shapes == (Round(kind="circle", on="on"),)


def test_mappings_can_be_merged():
    text = "train: &t {steps: 7, label: a}\nmaybe: {<<: *t, label: b}\n"
    assert read(text).maybe == Inner(steps=7, label="b")


# Lists of sections, of which each may be one of several.


def test_a_section_of_a_list_is_of_the_kind_it_names():
    text = "shapes:\n- {kind: square, side: 3}\n- {kind: ellipse, radius: 1e-1, on: glass}\n"
    assert read(text).shapes == (
        Square(side=3.0),
        Round(kind="ellipse", radius=0.1, on="glass"),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "shapes:\n- kind: circle\n  raduis: 1\n",
            "run.yaml:3: unknown key 'raduis' in shapes.0; did you mean 'radius'?",
        ),
        (
            "shapes:\n- kind: circle\n- side: 2\n  kind: square\n  radius: 1\n",
            "run.yaml:5: unknown key 'radius' in shapes.1; known keys: side, kind, edge.",
        ),
        (
            "shapes:\n- kind: square\n  side: 2\n  edge:\n    stpes: 3\n",
            "run.yaml:5: unknown key 'stpes' in shapes.0.edge; did you mean 'steps'?",
        ),
        (
            "shapes:\n- {kind: circle}\n- radius: 2\n  kind: cirle\n",
            "run.yaml:4: shapes.1.kind 'cirle' is unknown; did you mean 'circle'?",
        ),
        (
            "shapes: [{kind: zzz}]",
            "run.yaml:1: shapes.0.kind 'zzz' is unknown; known kinds: circle, ellipse, square.",
        ),
        ("shapes:\n- {}\n- radius: 1\n", "run.yaml:2: shapes.0.kind is required and missing."),
        ("shapes:\n- kind: square\n", "run.yaml:2: shapes.0.side is required and missing."),
        (
            "named:\n- name: a\n  inside:\n  - {kind: circle}\n  - {kind: circle, radios: 1}\n",
            "run.yaml:5: unknown key 'radios' in named.0.inside.1; did you mean 'radius'?",
        ),
        (
            "named:\n- name: a\n  inside:\n  - kind: squares\n",
            "run.yaml:4: named.0.inside.0.kind 'squares' is unknown; did you mean 'square'?",
        ),
        ("named:\n- name: a\n- size: 2\n", "run.yaml:3: named.1.name is required and missing."),
    ],
)
def test_what_is_wrong_in_a_list_is_named_with_its_line_and_its_place(text, said):
    assert refusal(text) == said


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("shapes:\n- kind: circle\n  radius: x\n", "run.yaml:3: shapes.0.radius: "),
        ("shapes:\n- kind: circle\n- 3\n", "run.yaml:3: shapes.1: "),
        ("shapes: {kind: circle}\n", "run.yaml:1: shapes: "),
        ("shapes:\n- kind: 3\n", "run.yaml:2: shapes.0.kind "),
        ("named:\n- name: a\n  inside: [{kind: circle, radius: x}]\n", "run.yaml:3: named.0.ins"),
    ],
)
def test_a_wrong_type_in_a_list_is_named_with_its_line(text, where):
    assert refusal(text).startswith(where)


# Overrides that reach into lists.


@pytest.mark.parametrize("key", ["square", "1"])
@pytest.mark.parametrize("text", ["", "shapes: [{kind: circle}, {kind: square, side: 2}]"])
def test_an_override_finds_an_item_by_kind_or_number(text, key):
    config = read(text, f"shapes.{key}.edge.steps=9", f"shapes.{key}.side=4")
    assert config.shapes[0] == Round(kind="circle")
    assert config.shapes[1] == Square(side=4.0, edge=Inner(steps=9))
    assert len(config.shapes) == (3 if text == "" else 2)


def test_an_override_finds_an_item_by_name():
    text = "named: [{name: a}, {name: b, size: 2}]"
    assert read(text, "named.b.size=5").named == (Named(name="a"), Named(name="b", size=5))
    assert read("", "named.only.size=5").named == (Named(name="only", size=5),)


def test_an_override_finds_items_in_lists_of_items():
    text = "named: [{name: a, inside: [{kind: circle}, {kind: ellipse}]}]"
    config = read(text, "named.a.inside.ellipse.radius=5")
    assert [shape.radius for shape in config.named[0].inside] == [1.0, 5.0]


def test_an_override_replaces_a_whole_item_or_a_plain_one():
    assert read("", "shapes.0={kind: square, side: 9}").shapes[0] == Square(side=9.0)
    assert read("sources: [a, b]", "sources.b=c", "sources.0=d").sources == ("d", "c")


def test_an_override_leaves_the_default_as_it_was():
    read("", "shapes.0.radius=5")
    assert read("").shapes == Outer().shapes


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("shapes.square.side=1", "has 2 items called 'square'; use a number from 0 to 2."),
        ("shapes.cube.side=1", "has no item called 'cube'; use a number from 0 to 2."),
        ("shapes.3.side=1", "has no item called '3'; use a number from 0 to 2."),
        ("shapes.side=1", "has no item called 'side'; use a number from 0 to 2."),
        ("empty.a.size=1", "has no item called 'a'; set all of it."),
    ],
)
def test_an_override_of_no_item_or_of_several_is_refused(override, said):
    text = "shapes: [{kind: square, side: 1}, {kind: circle}, {kind: square, side: 2}]"
    assert refusal(text, override) == f"-s {override}: the list {said}"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "shapes.square.sides=1",
            "-s shapes.square.sides: unknown key 'sides' in shapes.1; did you mean 'side'?",
        ),
        (
            "shapes.0.kind=elipse",
            "-s shapes.0.kind: shapes.0.kind 'elipse' is unknown; did you mean 'ellipse'?",
        ),
        ("shapes.0.radius.x=1", "-s shapes.0.radius.x=1: 'radius' is a value, not a section."),
    ],
)
def test_a_wrong_override_in_a_list_is_named_as_it_was_written(override, said):
    assert refusal("", override) == said


@pytest.mark.parametrize("number", [2**53, -(2**53), 10**400])
def test_a_whole_number_that_json_keeps_inexact_is_refused_wherever_it_stands(number):
    for text, where in (
        (f"steps: {number}", "a.yaml:1: steps: "),
        (f"label: x\nlearning_rate: {number}", "a.yaml:2: learning_rate: "),
        (f"label: [1, {{deep: {number}}}]", "a.yaml:1: label.1.deep: "),
    ):
        with pytest.raises(ConfigError, match="at most 2\\*\\*53 - 1") as error:
            load(Inner, text, source="a.yaml")
        assert str(error.value).startswith(where)
    assert load(Inner, f"steps: {2**53 - 1}", source="a.yaml").steps == 2**53 - 1
