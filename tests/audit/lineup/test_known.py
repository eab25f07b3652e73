"""What is known of pairs: from pairs.csv where there is one, else from the other tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audit.bank import Bank, load
from audit.lineup.known import documented, relatives, truth, truths
from tests.fakes import banks

GROUPS = {"A": {"vendor": "alpha"}, "A2": {"vendor": "alpha"}, "B": {"vendor": "beta"}, "C": {}}
TEACHERS = {
    "a-1": {"vendor_or_family": "alpha", "role": "teacher", "group": "A"},
    "a2-1": {"vendor_or_family": "alpha", "role": "teacher", "group": "A2", "relation": "none"},
    "b-1": {"vendor_or_family": "beta", "role": "teacher", "group": "B", "relation": "none"},
    "c-1": {"vendor_or_family": "cottage", "role": "teacher", "group": "C"},
}
WORDS = ("positive", "negative", "unknown", "self")


def bank_of(
    path: Path,
    labels: dict[str, dict[str, str]],
    pairs: list[tuple[str, str, str, str]] | None = None,
) -> Bank:
    """Return a bank of four groups' teachers and of models labelled so."""
    labels = {**TEACHERS, **labels}
    answers = {name: {"p": name} for name in labels}
    return load(banks.write(path, answers, labels=labels, groups=GROUPS, pairs=pairs))


def said(bank: Bank, name: str) -> list[str]:
    """Return the truth of a model and each group, in order."""
    return [truth(bank, bank.model(name), group) for group in bank.groups]


# Without pairs.csv.


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        # Taught by A: so is it by its maker, perhaps; the others are not its teachers.
        ({"documented_teachers": "A", "relation": "single"}, "positive unknown negative negative"),
        ({"documented_teachers": "A", "relation": "edited"}, "positive unknown negative negative"),
        ({"documented_teachers": "B", "relation": "single"}, "negative negative positive negative"),
        ({"documented_teachers": "A;B", "relation": "mixed"}, "positive unknown positive negative"),
        (
            {"documented_teachers": "A2", "relation": "derivative"},
            "unknown positive negative negative",
        ),
        # Documents that do not name every teacher say nothing of the other groups.
        ({"documented_teachers": "A", "relation": "undisclosed"}, "positive" + 3 * " unknown"),
        ({"documented_teachers": "A", "relation": ""}, "positive" + 3 * " unknown"),
        ({"relation": "undisclosed"}, 4 * "unknown "),
        ({"relation": "some other word"}, 4 * "unknown "),
        ({}, 4 * "unknown "),
        # Taught or derived, but by whom is not said.
        ({"relation": "single"}, 4 * "unknown "),
        ({"relation": "derivative"}, 4 * "unknown "),
        ({"relation": "mixed"}, 4 * "unknown "),
        # Written by people, or by no other maker.
        ({"relation": "none", "role": "control"}, 4 * "negative "),
        (
            {"relation": "none", "vendor_or_family": "alpha"},
            "unknown unknown negative negative",
        ),
        # A teacher that the bank does not hold may be of any maker.
        ({"documented_teachers": "Z", "relation": "single"}, 4 * "unknown "),
        ({"documented_teachers": "B;Z", "relation": "mixed"}, "unknown unknown positive unknown"),
    ],
)
def test_without_pairs_truth_follows_from_relation_teachers_and_makers(tmp_path, cells, expected):
    assert said(bank_of(tmp_path, {"m": cells}), "m") == expected.split()


def test_a_member_is_itself_and_of_its_maker_s_other_groups_nothing_is_known(tmp_path):
    bank = bank_of(tmp_path, {})
    assert said(bank, "a-1") == ["self", "unknown", "unknown", "unknown"]
    assert said(bank, "a2-1") == ["unknown", "self", "negative", "negative"]
    assert said(bank, "b-1") == ["negative", "negative", "self", "negative"]


def test_the_maker_of_a_group_counts_and_not_the_family_its_member_is_called(tmp_path):
    labels = {
        "a-1": {**TEACHERS["a-1"], "vendor_or_family": "alpha-labs", "relation": "none"},
        "m": {"relation": "none", "vendor_or_family": "alpha-labs"},
    }
    bank = bank_of(tmp_path, labels)
    assert said(bank, "a-1") == ["self", "unknown", "negative", "negative"]
    assert said(bank, "m") == 4 * ["negative"]


# With pairs.csv.


def test_with_pairs_only_they_count(tmp_path):
    pairs = [("m", group, word, "") for group, word in zip(GROUPS, WORDS, strict=True)]
    labels = {"m": {"documented_teachers": "B", "relation": "single"}}
    bank = bank_of(tmp_path, labels, pairs)
    assert said(bank, "m") == list(WORDS)
    # What is not listed is not known, whatever the other tables say.
    assert said(bank, "a2-1") == 4 * ["unknown"]
    bank = bank_of(tmp_path, labels, [*pairs[1:], ("a-1", "A", "self", "")])
    assert said(bank, "m") == ["unknown", *WORDS[1:]]
    assert said(bank, "a-1") == ["self", *3 * ["unknown"]]


def test_with_pairs_nothing_else_is_known_of_a_group_that_they_do_not_mention(tmp_path):
    labels = {"m": {"documented_teachers": "B", "relation": "single"}}
    bank = bank_of(tmp_path, labels, [("m", "A", "unknown", ""), ("a2-1", "C", "unknown", "")])
    assert said(bank, "m") == 4 * ["unknown"]
    m, (a, _, b, _) = bank.model("m"), bank.groups
    assert [documented(bank, m, group) for group in (a, b)] == ["negative", "positive"]


@pytest.mark.parametrize("pairs", [None, [("m", "A", "positive", ""), ("m", "C", "negative", "")]])
def test_truths_hold_every_pair_once_in_the_order_of_the_tables(tmp_path, pairs):
    labels = {"m": {"documented_teachers": "B", "relation": "single"}}
    bank = bank_of(tmp_path, labels, pairs)
    found = truths(bank)
    assert set(found) == set(WORDS)
    assert all(mask.shape == (5, 4) and mask.dtype == bool for mask in found.values())
    assert (sum(mask.astype(int) for mask in found.values()) == 1).all()
    for row, model in enumerate(bank.models):
        for column, group in enumerate(bank.groups):
            assert found[truth(bank, model, group)][row, column]


def test_truths_of_a_bank_without_groups_are_of_no_pair(tmp_path):
    bank = load(banks.write(tmp_path, {"m": {"p": "x"}, "n": {"p": "y"}}))
    assert {mask.shape for mask in truths(bank).values()} == {(2, 0)}


# Relatives.


@pytest.fixture
def kin(tmp_path: Path) -> Bank:
    return bank_of(
        tmp_path,
        {
            "m": {"vendor_or_family": "mine", "same_base_as": "b-1"},
            "m-2": {"vendor_or_family": "mine", "same_base_as": "m"},
            "tuned": {"vendor_or_family": "theirs", "same_base_as": "m-2"},
            "tuned-2": {"vendor_or_family": "theirs"},
            "further": {"vendor_or_family": "others", "same_base_as": "tuned"},
            "sibling": {"vendor_or_family": "brother", "same_base_as": "b-1"},
            "stranger": {"same_base_as": "weights that are not here"},
        },
    )


def test_relatives_are_families_that_say_they_start_from_its_weights(kin):
    assert relatives(kin, frozenset({"mine"})) == {"theirs"}
    assert relatives(kin, frozenset({"theirs"})) == {"others"}
    assert relatives(kin, frozenset({"mine", "theirs"})) == {"others"}
    assert relatives(kin, frozenset({"beta"})) == {"mine", "brother"}
    assert relatives(kin, frozenset({"others"})) == frozenset()
    assert relatives(kin, frozenset({"nobody"})) == frozenset()
    assert relatives(kin, frozenset()) == frozenset()


def test_what_a_family_says_of_its_own_base_makes_no_relative(kin):
    for said_of_itself in (None, "stranger", "c-1", "tuned"):
        models = tuple(
            replace(model, same_base_as=said_of_itself) if model.family == "mine" else model
            for model in kin.models
        )
        changed = replace(kin, models=models)
        assert relatives(changed, frozenset({"mine"})) == relatives(kin, frozenset({"mine"}))


def test_truth_of_one_family_does_not_depend_on_what_is_said_of_another(kin):
    before = truths(kin)
    models = tuple(
        replace(model, relation="none", teachers=("A",), same_base_as="c-1")
        if model.family == "mine"
        else model
        for model in kin.models
    )
    after = truths(replace(kin, models=models))
    others = np.array([model.family != "mine" for model in kin.models])
    assert all((after[word][others] == before[word][others]).all() for word in WORDS)
    assert not (after["positive"] == before["positive"]).all()
