"""A suspect from outside a bank, put beside its models at the prompts that it answers.

Shapes: P prompts, N models, T teachers, F families, W hashed words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date

import numpy as np
from scipy import sparse

from audit.bank import Bank, Model
from audit.errors import InputError
from audit.lineup import reading
from audit.lineup.greetings import greetings
from audit.lineup.index import Index, names_of
from audit.lineup.likeness import Products


def join(
    bank: Bank,
    index: Index,
    answers: Mapping[str, str],
    *,
    name: str,
    family: str | None,
    published: date | None,
) -> tuple[Bank, Index]:
    """Return bank and index with the suspect as their last model, at the prompts it answers.

    All other models are compared at those prompts alone, too: a score from fewer prompts is
    rougher, and rough scores are not to be ranked among fine ones.

    Args:
        bank: without the suspect.
        index: of that bank.
        answers: the suspect's, by prompt id; blank ones are no answers.
        name: of the suspect, made different from every model's.
        family: of the bank, if the suspect is of one; else it is a family of its own.
        published: the day by which its answers were public.

    Raises:
        InputError: the family is none of the bank's.
    """
    known = tuple(dict.fromkeys(model.family for model in bank.models))
    if family is not None and family not in known:
        raise InputError(
            f"--suspect-family {family}: the bank has no such family; it has "
            f"{', '.join(sorted(known))}. Leave it out for a family of its own."
        )
    name = _unlike(name, {model.name for model in bank.models})
    own = family or _unlike(name, set(known))
    suspect = Model(
        name=name,
        family=own,
        role="student",
        group=None,
        teachers=(),
        relation="undisclosed",
        confidence="",
        source="",
        same_base_as=None,
        published=published,
    )
    prompts = np.array([bool(answers.get(prompt, "").strip()) for prompt in index.prompts])
    rows = np.flatnonzero(prompts)
    asked = [index.prompts[row] for row in rows]
    mine = vectors(bank, index, [answers[prompt] for prompt in asked], name)
    families = index.families if own in index.families else (*index.families, own)
    there = index.at(rows)
    products = {
        name: _with_row(there, name, mine[name], families.index(own)) for name in index.products
    }
    joined = replace(there, models=(*index.models, name), families=families, products=products)
    return replace(bank, models=(*bank.models, suspect)), joined


def vectors(
    bank: Bank, index: Index, answers: Sequence[str], name: str
) -> dict[str, sparse.csr_matrix]:
    """Return the vectors `[P, W]` of a suspect's answers by the name of a view.

    Args:
        bank: whose names are masked.
        index: whose reader weighs the words.
        answers: in the order of prompts.
        name: the suspect's, which is masked, too.
    """
    said = reading.said(answers, _masked(bank, name))
    return {
        view.name: index.reader.vectors(view, [one.of(view) for one in said])
        for view in index.views
    }


def taken_off(bank: Bank, answers: Sequence[str], name: str) -> tuple[str, ...]:
    """Return the greetings that are taken off a suspect's answers before they are compared."""
    said = [reading.words(answer, _masked(bank, name)) for answer in answers]
    return tuple(" ".join(greeting) for greeting in greetings(said))


def _masked(bank: Bank, name: str) -> frozenset[str]:
    return names_of(bank) | reading.masked_names([name])


def _with_row(index: Index, view: str, mine: sparse.csr_matrix, family: int) -> Products:
    """Return the products of one view, the suspect's as the last model's.

    Args:
        index: of the prompts that the suspect answers.
        view: its name.
        mine: the suspect's vectors `[P, W]`.
        family: its column, one more than there are if it is a family of its own.
    """
    before, anchors = index.products[view], index.vectors[view]
    count = len(index.prompts)
    mine_PA = np.zeros((count, anchors.shape[0] // count), dtype=np.float32)
    for anchor in range(mine_PA.shape[1]):
        theirs = anchors[anchor * count : (anchor + 1) * count]
        mine_PA[:, anchor] = np.asarray(theirs.multiply(mine).sum(1)).ravel()
    teachers = len(index.teachers)
    family_PNF = before.family_PNF
    mine_PF = mine_PA[:, teachers:]
    there_P = np.diff(mine.indptr) > 0
    if family >= family_PNF.shape[2]:  # a family of its own, which never has a vote
        family_PNF = np.concatenate(
            [family_PNF, np.zeros((*family_PNF.shape[:2], 1), dtype=np.float32)], axis=2
        )
        mine_PF = np.concatenate([mine_PF, np.zeros((count, 1), dtype=np.float32)], axis=1)
    return Products(
        teacher_PNT=np.concatenate([before.teacher_PNT, mine_PA[:, None, :teachers]], axis=1),
        family_PNF=np.concatenate([family_PNF, mine_PF[:, None]], axis=1),
        there_PN=np.concatenate([before.there_PN, there_P[:, None]], axis=1),
        teachers=before.teachers,
        family_N=np.append(before.family_N, family),
    )


def _unlike(name: str, taken: set[str]) -> str:
    """Return `name`, with as many marks behind it as make it none of `taken`."""
    while name in taken:
        name += "'"
    return name
