"""A run file to start from holds the very student it was asked for, explained, and its size."""

import re
from dataclasses import replace

import pytest
import yaml

from audit import strict_yaml
from distill import starter
from distill.config import RunConfig, load
from distill.errors import InputError
from distill.resources import shipped
from student.catalogue import presets
from student.config import MLAConfig, V4Config
from student.inherited import InheritConfig
from student.sizes import count_parameters

NAMES = list(presets())


def read(text: str) -> RunConfig:
    return strict_yaml.load(RunConfig, text, source="run.yaml")


def section(text: str) -> list[str]:
    """Return the lines of the student's section."""
    lines = text.partition("\nstudent:\n")[2].partition("\n\n")[0].splitlines()
    assert len(lines) > 20
    return lines


@pytest.mark.parametrize("name", NAMES)
def test_a_run_file_has_the_student_it_was_asked_for_and_the_defaults_else(name):
    config = read(starter.run_file(name))
    assert config.student == presets()[name]
    assert replace(config, student=presets()["quick-scratch"]) == RunConfig()


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_the_student_is_written_out(name):
    written = yaml.safe_load(starter.run_file(name))["student"]
    assert set(written) == set(presets()[name].__dataclass_fields__)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_file_explains_its_keys_and_stays_readable(name):
    lines = section(starter.run_file(name))
    assert sum("#" in line for line in lines) > len(lines) / 3
    assert max(map(len, lines)) <= 100 or name == "quick-scratch"
    assert all(line.startswith("  ") for line in lines)
    assert any(line == "  rms_norm_eps: 1e-6" for line in lines)
    keys = [line for line in lines if re.match(r"  \w+: ", line)]
    assert len(keys) == len(presets()[name].__dataclass_fields__)


@pytest.mark.parametrize("name", ["quickstart", "quick-scratch"])
def test_the_quick_ones_are_the_shipped_files_themselves(name):
    text = shipped(f"presets/{name}.yaml").read_text(encoding="utf-8")
    assert starter.run_file(name) == text
    assert (starter.run_file() == text) == (name == "quickstart")


def test_the_shipped_section_of_the_other_family_is_a_student_too():
    text = shipped("presets/student-v4.yaml").read_text(encoding="utf-8")
    assert read(text).student == presets()["v4-quick-scratch"]


def test_a_run_file_says_first_how_large_its_student_is():
    text = " ".join(starter.run_file("flash").replace("#", " ").split())
    counted = count_parameters(presets()["flash"], 49_152)
    assert (round(counted.total / 1e9), round(counted.active / 1e8)) == (284, 129)
    assert "284 billion parameters, 12.9 billion of them at work on a token" in text
    assert "6.61 billion in prediction layers" in text
    needed = 16 * (counted.total + counted.mtp) / 2**40
    assert f"Training holds {needed:.2f} TiB" in text
    assert f"a checkpoint takes {0.75 * needed:.2f} TiB of disk" in text
    assert "more than a laptop has" in text


def test_what_a_laptop_holds_is_not_warned_of():
    fits = [name for name in NAMES if starter.too_large(name) is None]
    assert set(fits) == {
        "tiny", "v4-tiny", "quick-scratch", "v4-quick-scratch", "mla-0.1b", "v4-0.1b",
    }  # fmt: skip
    for name in NAMES:
        assert ("than a laptop has" in starter.run_file(name)) == (name not in fits)


def test_a_warning_names_the_student_and_its_memory():
    assert starter.too_large("pro") == (
        "pro has 1.57 trillion parameters; training it takes 23.2 TiB of memory before "
        "activations, more than a laptop has."
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [("flsh", "did you mean 'flash'? "), ("v4tiny", "did you mean 'v4-tiny'? "), ("zzz", "")],
)
def test_an_unknown_student_is_named_with_the_nearest(name, hint):
    for ask in (starter.run_file, starter.too_large):
        with pytest.raises(InputError) as caught:
            ask(name)
        assert str(caught.value) == (
            f"student {name!r} is unknown; {hint}`distill students` lists them."
        )


def test_every_student_is_listed_by_size():
    listed = starter.sizes()
    assert {size.name for size in listed} == set(NAMES)
    assert [size.parameters for size in listed] == sorted(size.parameters for size in listed)
    v3 = next(size for size in listed if size.name == "v3")
    assert (v3.family, round(v3.parameters / 1e9), v3.cache_bytes_per_token) == ("mla", 671, 70_272)
    assert round(v3.active_parameters / 1e8) == 366
    assert v3.training_bytes == 16 * (v3.parameters + v3.prediction_parameters)
    assert v3.prediction_parameters > 1e10


def test_the_vocabulary_counts():
    one, other = (starter.sizes(count)[0] for count in (1000, 2000))
    assert one.name == other.name == "tiny"
    assert other.parameters - one.parameters == 2 * 1000 * presets()["tiny"].hidden_size


def test_a_table_has_a_line_a_student_in_columns():
    head, *rows = starter.table().partition("\n\n")[0].splitlines()
    assert [row.split()[0] for row in rows] == [size.name for size in starter.sizes()]
    assert {len(line) for line in (head, *rows)} == {len(head)}
    families = {MLAConfig: "mla", V4Config: "v4"}
    assert all(row.split()[1] == families[type(presets()[row.split()[0]])] for row in rows)
    assert "70,272 B" in starter.table()


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (999, "999"),
        (12_345, "12,345"),
        (999_600, "1.00 million"),
        (29_139_968, "29.1 million"),
        (99_960_000, "100 million"),
        (999_700_000, "1.00 billion"),
        (1_573_000_000_000, "1.57 trillion"),
    ],
)
def test_a_count_is_said_to_three_digits(count, said):
    assert starter.spoken(count) == said


def test_memory_is_said_in_the_unit_that_fits():
    assert starter.memory(3 * 2**30) == "3.00 GiB"
    assert starter.memory(2**40) == "1.00 TiB"


def test_the_quick_start_inherits_and_learns_from_text_and_from_its_teachers_chats():
    config = read(starter.run_file("quickstart"))
    assert config == load(None)
    assert config.student == InheritConfig(init="teacher")
    assert config.signal.mode == "hidden" and config.train.bias_update_speed == 0
    (teacher,) = config.teachers
    assert replace(teacher, answers=None) == RunConfig().teachers[0]
    assert (teacher.answers.prompts, teacher.answers.form) == ("prompts", "chat")
    assert config.text.most_tokens == config.train.steps * config.train.batch_size * 256 // 2
    assert starter.too_large("quickstart") is None
    written = yaml.safe_load(starter.run_file("quickstart"))["student"]
    assert set(written) == set(InheritConfig.__dataclass_fields__)
