"""What a run will take, told from configs alone, is what the built student has."""

from dataclasses import replace

import pytest

from distill.errors import InputError
from distill.planning import at_hand, outlook
from distill.run import run
from student.catalogue import presets
from student.errors import WarmStartError
from student.inherited import InheritConfig, InheritedEntries, InheritedExperts, InheritV4Config
from student.sizes import kv_cache_bytes_per_token
from tests.fakes.teachers import tiny_config

HALF = InheritConfig(
    init="teacher",
    cache=0.5,
    experts=InheritedExperts(shared=4, routed=4, active=2),
    calibration_tokens=256,
    max_position_embeddings=128,
)
V4 = InheritV4Config(
    init="teacher",
    family="v4",
    sliding_window=16,
    entries=InheritedEntries(tokens=4),
    experts=InheritedExperts(shared=1, routed=3, active=2),
    calibration_tokens=256,
    max_position_embeddings=128,
)


def told(config):
    return outlook(config, lambda said: None)


@pytest.mark.parametrize("student", [presets()["tiny"], presets()["v4-tiny"], HALF, V4], ids=str)
def test_sizes_are_those_that_the_finished_run_records(student, tmp_path):
    config = tiny_config(tmp_path, student=student)
    found = told(config)
    done = run(config, tmp_path / "run", say=lambda said: None, progress=lambda *one: None)
    recorded = done.manifest["run"]
    assert found.parameters == recorded["parameters"]
    assert found.active_parameters == recorded["active_parameters"]
    assert found.cache_bytes_per_token == recorded["kv_cache_bytes_per_token"]
    assert found.tokens == recorded["tokens"]


def test_what_is_at_hand_is_told_alike_and_what_is_not_is_left_to_the_plan(tmp_path):
    config = tiny_config(tmp_path, student=HALF)
    assert at_hand(config) == told(config)
    absent = replace(config.teachers[0], path=str(tmp_path / "nowhere"))
    assert at_hand(replace(config, teachers=(absent,))) is None
    assert at_hand(replace(config, text=replace(config.text, tokenizer="nowhere"))) is None


def test_an_inherited_students_cache_stands_beside_its_teachers(tmp_path):
    found = told(tiny_config(tmp_path, student=HALF))
    # Two layers, keys and values of two heads of 16, two bytes each.
    assert found.teacher_cache_bytes_per_token == 2 * 2 * 2 * 16 * 2
    assert found.cache_bytes_per_token == 0.5 * found.teacher_cache_bytes_per_token
    assert "50% of the teacher's 256 B" in found.lines[1]


def test_a_drawn_student_has_no_teachers_cache_beside_it(tmp_path):
    found = told(tiny_config(tmp_path))
    assert found.teacher_cache_bytes_per_token is None
    assert found.cache_bytes_per_token == kv_cache_bytes_per_token(presets()["tiny"])
    assert found.training_bytes == 16 * (found.parameters + found.prediction_parameters)


def test_what_cannot_be_inherited_is_refused_before_anything_is_read(tmp_path):
    config = tiny_config(tmp_path, student=replace(HALF, max_position_embeddings=999))
    with pytest.raises(WarmStartError, match="max_position_embeddings is 999"):
        told(config)
    teacher = replace(config.teachers[0], path=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere holds no model"):
        told(replace(config, teachers=(teacher,)))
