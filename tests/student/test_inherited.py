"""What of a teacher cannot be inherited is refused by field and rule, in either family."""

import re

import pytest
from pydantic import TypeAdapter, ValidationError

from student.config import StudentConfig
from student.errors import ConfigError
from student.inherited import InheritConfig, InheritedEntries, InheritedExperts, InheritV4Config

ADAPTER = TypeAdapter(StudentConfig)


def refused(make, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        make()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cache": 1.5}, "cache is 1.5; it is a share of the teacher's, at most 1"),
        ({"cache": 0}, "cache is 0; it must be above 0"),
        ({"depth": 2.0}, "depth is 2.0; it is a share"),
        ({"calibration_tokens": 0}, "calibration_tokens is 0"),
        ({"init": "random"}, "init is 'random'; it must be teacher"),
    ],
)
def test_an_inheritance_that_cannot_be_is_refused(change, said):
    refused(lambda: InheritConfig(**{"init": "teacher"} | change), said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depth": 2.0}, "depth is 2.0; it is a share"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"sliding_window": -1}, "sliding_window is -1"),
        ({"entries": InheritedEntries()}, "without sliding_window nothing is; set it"),
    ],
)
def test_an_inheritance_of_v4_that_cannot_be_is_refused(change, said):
    refused(lambda: InheritV4Config(**{"init": "teacher", "family": "v4"} | change), said)


def test_an_entry_stands_for_more_than_one_token():
    refused(lambda: InheritedEntries(tokens=1), "tokens is 1")


def test_no_more_experts_are_asked_than_there_are():
    refused(
        lambda: InheritedExperts(shared=1, routed=4, active=5), "active is 5, more than routed (4)"
    )


def test_a_section_with_init_is_an_inheritance_and_knows_no_other_key():
    found = ADAPTER.validate_python({"init": "teacher", "cache": 0.25, "experts": {"active": 4}})
    assert found == InheritConfig(init="teacher", cache=0.25, experts=InheritedExperts(active=4))
    with pytest.raises(ValidationError, match="hidden_size"):
        ADAPTER.validate_python({"init": "teacher", "hidden_size": 64})


def test_the_family_of_an_inheritance_decides_what_keys_it_knows():
    asked = {"init": "teacher", "family": "v4", "sliding_window": 128, "entries": {"tokens": 8}}
    assert ADAPTER.validate_python(asked) == InheritV4Config(
        init="teacher", family="v4", sliding_window=128, entries=InheritedEntries(tokens=8)
    )
    with pytest.raises(ValidationError, match="cache"):
        ADAPTER.validate_python(asked | {"cache": 0.5})
    with pytest.raises(ValidationError, match="sliding_window"):
        ADAPTER.validate_python(asked | {"family": "mla"})
