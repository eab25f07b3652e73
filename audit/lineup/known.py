"""What a bank's tables say of pairs of a model and a group, where `pairs.csv` does not say it."""

import numpy as np

from audit.bank import Bank, Group, Model
from audit.lineup.standing import Mask

# Relations whose documents name every teacher, so that no other group is one.
_DOCUMENTED = ("none", "single", "mixed", "derivative", "edited")


def truth(bank: Bank, model: Model, group: Group) -> str:
    """Return positive, negative, unknown or self, from `pairs.csv` or else the other tables."""
    if not bank.truths:
        return documented(bank, model, group)
    found = bank.truths.get((model.name, group.name))
    return "unknown" if found is None else found.truth


def documented(bank: Bank, model: Model, group: Group) -> str:
    """Return what `models.csv` and `groups.csv` say of a pair.

    A group is unrelated to a model that is documented to have no teacher, or whose teachers are
    all groups of the bank and not this one; but not if both are of one maker, or if the group's
    maker taught it.
    """
    if group.name == model.group:
        return "self"
    if group.name in model.teachers:
        return "positive"
    vendors = {other.name: other.vendor for other in bank.groups}
    makers = {vendors.get(name) for name in model.teachers}
    own = vendors.get(model.group or "")
    if model.relation not in _DOCUMENTED or group.vendor in makers | {own, model.family}:
        return "unknown"
    if None in makers or (model.relation != "none" and not makers):
        return "unknown"
    return "negative"


def truths(bank: Bank) -> dict[str, Mask]:
    """Return by word (positive, negative, unknown, self) which pairs it holds of: bool `[N, K]`."""
    said = np.array(
        [[truth(bank, model, group) for group in bank.groups] for model in bank.models],
        dtype=object,
    ).reshape(len(bank.models), len(bank.groups))
    return {word: said == word for word in ("positive", "negative", "unknown", "self")}


def relatives(bank: Bank, families: frozenset[str]) -> frozenset[str]:
    """Return families that say of themselves that they start from weights of one of `families`.

    Only the labels of those others are read: what the suspect's own family is said to be cannot
    change what is found about it.
    """
    names = {model.name for model in bank.models if model.family in families}
    return frozenset(
        model.family
        for model in bank.models
        if model.family not in families and model.same_base_as in names
    )
