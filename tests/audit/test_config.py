"""An audit's config: file, options and overrides become one resolved setting, or one sentence."""

from pathlib import Path

import pytest

from audit import strict_yaml
from audit.config import AuditConfig, load
from audit.errors import ConfigError, InputError

GIVEN = {"suspect": "s.jsonl", "teachers": {"T": "t.jsonl"}}


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "audit.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_options_alone_are_a_config():
    config = load(None, GIVEN)
    assert (config.suspect, config.teachers) == ("s.jsonl", {"T": "t.jsonl"})
    assert (config.alpha, config.min_prompts, config.seed) == (0.05, 20, 0)
    assert config.controls == config.reference_models == {}


def test_options_go_over_the_file_and_overrides_over_both(tmp_path):
    path = file(tmp_path, "suspect: a\nteachers: {T: t}\nalpha: 1e-3\nseed: 4\n")
    config = load(path, {"suspect": "b"}, ["seed=5", "teachers.U=u"])
    assert (config.suspect, config.alpha, config.seed) == ("b", 0.001, 5)
    assert config.teachers == {"T": "t", "U": "u"}


def test_a_resolved_config_loads_as_itself(tmp_path):
    config = load(None, {**GIVEN, "controls": {"c": "c"}}, ["alpha=0.01"])
    assert load(file(tmp_path, strict_yaml.dump(config)), {}) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("suspect: a\n", "no teacher is named"),
        ("teachers: {T: t}\n", "suspect is required and missing"),
        ("", "suspect is required and missing"),
        ("suspect: a\nteachers: {T: t}\ncontrol: {c: c}\n", "audit.yaml:3: unknown key 'control'"),
        ("suspect: a\nteachers: {T: t}\nalpha: 1.5\n", "audit.yaml:3: alpha"),
        ("suspect: a\nteachers: {T: t}\nalpha: 0\n", "audit.yaml:3: alpha"),
        ("suspect: a\nteachers: {T: t}\nmin_prompts: 0\n", "audit.yaml:3: min_prompts"),
        ("suspect: a\nteachers:\n  T: 7\n", "audit.yaml:3: teachers.T"),
        ("suspect: a\nteachers: t\n", "audit.yaml:2: teachers"),
        ("suspect: a\nteachers: {T: t}\ncontrols: {T: c}\n", "the name 'T' is given twice"),
        ("suspect: a\nteachers: {suspect: t}\n", "the name 'suspect' is given twice"),
    ],
)
def test_a_wrong_config_is_refused_in_one_sentence(tmp_path, text, said):
    with pytest.raises(ConfigError) as caught:
        load(file(tmp_path, text), {})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_file_and_a_suspect_the_options_are_named():
    with pytest.raises(ConfigError, match="--suspect PATH, or --config FILE"):
        load(None, {"teachers": {"T": "t"}})


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "none.yaml", GIVEN)


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_bytes(b"suspect: \xff")
    with pytest.raises(InputError, match="not UTF-8"):
        load(path, GIVEN)


def test_a_config_cannot_be_changed():
    config = AuditConfig(suspect="s", teachers={"T": "t"})
    with pytest.raises(AttributeError):
        config.alpha = 1.0  # type: ignore[misc]
