"""What documents say of the models of a bank: who taught whom, and who was there before whom.

Shapes: N models, K groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np

from audit.bank import Bank, Group, Model
from audit.lineup.standing import Mask

# Relations whose documents name every teacher, so that no other group is one.
_DOCUMENTED = ("none", "single", "mixed", "derivative", "edited")


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What documents say of the models of a line-up.

    Attributes:
        truths: by word, which pairs it holds of: bool `[N, K]`.
        relation: of each model.
        role: of each model.
        published: of each model, where known.
        launch: of each group, where known.
        vendor: of each group.
    """

    truths: Mapping[str, Mask]
    relation: tuple[str, ...]
    role: tuple[str, ...]
    published: tuple[date | None, ...]
    launch: tuple[date | None, ...]
    vendor: tuple[str, ...]

    def impossible(self) -> Mask:
        """Return the pairs `[N, K]` whose model was there before the group was."""
        rows = [[before(made, launch) for launch in self.launch] for made in self.published]
        return np.array(rows, dtype=bool).reshape(len(self.published), len(self.launch))


def facts(bank: Bank) -> Facts:
    """Return what is documented of a bank's models and groups, in their order."""
    return Facts(
        truths=truths(bank),
        relation=tuple(model.relation for model in bank.models),
        role=tuple(model.role for model in bank.models),
        published=tuple(model.published for model in bank.models),
        launch=tuple(group.launch for group in bank.groups),
        vendor=tuple(group.vendor for group in bank.groups),
    )


def before(made: date | None, launch: date | None) -> bool:
    """Tell whether something was certainly there before something else was launched."""
    return made is not None and launch is not None and made < launch


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


def taught_by(bank: Bank, group: Group, model: Model) -> bool:
    """Tell whether a member of `group` is documented to be taught by the group of `model`."""
    return any(
        one.name in group.members and model.group in one.teachers
        for one in bank.models
        if model.group is not None
    )


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
