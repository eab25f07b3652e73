"""Each checker accepts what its definition says and nothing else."""

from decimal import Decimal

import pytest
from pydantic import TypeAdapter, ValidationError

from distill.rollout.checkers import accepts, last_number, verdict
from distill.rollout.config import Anything, Checker, Number, Pattern, RejectionConfig, Same

EXACT, CONTAINS = Same(kind="exact"), Same(kind="contains")
BOXED = Pattern(pattern=r"answer is (\S+?)\.")


@pytest.mark.parametrize(
    ("checker", "answer", "reference", "right"),
    [
        (EXACT, " the  copper\nstill ", "the copper still", True),
        (EXACT, "The copper still", "the copper still", False),
        (EXACT, "the copper still.", "the copper still", False),
        (Same(kind="exact", ignore_case=True), "STRASSE", "straße", True),
        (CONTAINS, "It is the copper\n still, surely.", "the copper still", True),
        (CONTAINS, "a copper still", "the copper still", False),
        (Same(kind="contains", ignore_case=True), "It is PARIS.", "Paris", True),
        (Number(), "First 3, then 4, so 12.", "12", True),
        (Number(), "12, which is 3 times 4", "12", False),
        (Number(), "1,234,567", "1234567", True),
        (Number(), "2.50", "2.5", True),
        (Number(), "nothing at all", "2", False),
        (Number(tolerance=0.1), "about 3.05", "3.14", True),
        (Number(tolerance=0.1), "about 3.03", "3.14", False),
        (Number(), "0.30000000000000004", "0.3", False),
        (Number(), "9007199254740993", "9007199254740992", False),
        (BOXED, "So the answer is 7. No, the answer is  8.", "8", False),
        (BOXED, "So the answer is 7. No, the answer is 8.", "8", True),
        (BOXED, "So the answer is 7. No, the answer is 8.", "7", False),
        (BOXED, "7", "7", False),
        (Pattern(pattern="(a)|b"), "b", "a", False),
        (Pattern(pattern="[a-z]+", group=0, ignore_case=True), "one TWO three", "THREE", True),
        (Anything(), "whatever", "else", True),
        (Anything(), " \n", "else", False),
    ],
)
def test_what_is_right(checker, answer, reference, right):
    assert accepts(checker, answer, reference) is right


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("-3", "-3"),
        ("x=-4.25e-3 m", "-0.00425"),
        ("1,234", "1234"),
        ("1,23", "23"),
        ("12,345,67", "67"),
        ("in 1999, 7", "7"),
        ("1e5", "1e5"),
        ("3 apples.", "3"),
        ("v1.2.3", "3"),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == Decimal(number)


def test_a_huge_exponent_is_no_hang_and_no_error():
    assert last_number("1e999999999999") == Decimal("999999999999")
    assert not accepts(Number(), "1e999", "1")


def test_the_first_checker_that_accepts_any_reference_is_noted():
    checkers = (EXACT, Number(), CONTAINS)
    assert verdict(checkers, "12", ("7", "12")) == "exact"
    assert verdict(checkers, "so 12", ("7", "12")) == "number"
    assert verdict(checkers, "12 or so, says 3", ("7", "12")) == "contains"
    assert verdict(checkers, "13", ("7", "12")) is None
    assert verdict((Anything(),), "13", ()) == "any"
    assert verdict((EXACT,), "13", ()) is None


def test_a_config_names_checkers_by_kind():
    given = {
        "samples": 2,
        "checkers": [
            {"kind": "contains", "ignore_case": True},
            {"kind": "number", "tolerance": 0.5},
            {"kind": "regex", "pattern": "#### (.*)"},
            {"kind": "any"},
        ],
    }
    found = TypeAdapter(RejectionConfig).validate_python(given)
    assert found.checkers == (
        Same(kind="contains", ignore_case=True),
        Number(tolerance=0.5),
        Pattern(pattern="#### (.*)"),
        Anything(),
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "regex", "pattern": "(a"}, "pattern '\\(a' cannot be read"),
        ({"kind": "regex", "pattern": "a"}, "has 0 groups, so there is no group 1"),
        ({"kind": "number", "tolerance": -1}, "greater than or equal to 0"),
        ({"kind": "python", "pattern": "import os"}, "kind"),
        ({"kind": "exact", "pattern": "a"}, "pattern"),
    ],
)
def test_what_is_no_checker_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(Checker).validate_python(given)
