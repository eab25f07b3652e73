"""Models of a bank in the suspect's place: one family's findings, made without its labels."""

from collections.abc import Sequence

from audit.bank import Bank
from audit.lineup import case, known, reading
from audit.lineup.ruling import Rules, Ruling, rule
from audit.lineup.standing import Lineup


def judge(
    bank: Bank,
    models: Lineup,
    facts: known.Facts,
    rows: Sequence[int],
    rules: Rules,
    *,
    left_out: frozenset[str] = frozenset(),
) -> list[Ruling]:
    """Return the findings on models of one family, in their order and that of the groups.

    The family and those that start from its weights are no references.

    Args:
        bank: its models and groups.
        models: the line-up of that bank.
        facts: what is documented of it.
        rows: places of the models in the bank; all of one family.
        rules: what a finding needs.
        left_out: other families that are to be no references.
    """
    own = frozenset({bank.models[rows[0]].family})
    found = case.examine(models, facts, rows, left_out | own | known.relatives(bank, own))
    answered_N = models.products[reading.DECIDING[0].name].there_PN.sum(0)
    return [
        ruling
        for place, row in enumerate(rows)
        for ruling in rule(
            bank, models, found, bank.models[row], place, rules, answered=int(answered_N[row])
        )
    ]
