"""What a bank's answers come to, computed once and kept in the user's cache under their digest.

The bank itself is never written to. An index holds, by view, the products of all models' answers
with the teachers' and with the means of families, and the vectors of these, with which a suspect
from outside is compared.

Shapes: P prompts, N models, T teachers, F families.
"""

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from audit.attest import digest
from audit.bank import Bank
from audit.errors import AuditError
from audit.lineup import reading
from audit.lineup.likeness import WORDS, Products, Reader, Rows, family_means, fit, products
from audit.lineup.reading import NOTHING, Said, View

_FORM = 7  # of what is kept; another number, another index
Tell = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """The answers of a bank, compared.

    Attributes:
        prompts: ids, in the order of all arrays.
        models: names, in the order of all arrays.
        teachers: names, members of groups, in the order of columns.
        views: what was read.
        reader: what turns other answers into vectors of the same kind.
        products: by the name of a view.
        families: names, in the order of columns.
        vectors: by the name of a view, those of the teachers and then the means of the families,
            (T + F) times P rows.
    """

    prompts: tuple[str, ...]
    models: tuple[str, ...]
    teachers: tuple[str, ...]
    families: tuple[str, ...]
    views: tuple[View, ...]
    reader: Reader
    products: Mapping[str, Products]
    vectors: Mapping[str, sparse.csr_matrix]

    def at(self, rows: Rows) -> "Index":
        """Return the index of some of the prompts, by their places."""
        return replace(
            self,
            prompts=tuple(self.prompts[row] for row in rows),
            products={name: one.at(rows) for name, one in self.products.items()},
            vectors={name: self._vectors_at(kept, rows) for name, kept in self.vectors.items()},
        )

    def _vectors_at(self, kept: sparse.csr_matrix, rows: Rows) -> sparse.csr_matrix:
        """Return the rows of some prompts, of each teacher and family."""
        if len(rows) == len(self.prompts):
            return kept
        first = np.arange(kept.shape[0] // len(self.prompts)) * len(self.prompts)
        return kept[(first[:, None] + rows).ravel()]


def cache_directory() -> Path:
    """Return where indices are kept: `spiritsafe/banks` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "spiritsafe" / "banks"


def of(bank: Bank, views: Sequence[View], *, cache: Path | None, tell: Tell) -> Index:
    """Return the index of `bank`, from the cache if it is there.

    Args:
        bank: its answers are read if it was never indexed.
        views: what is read of each answer.
        cache: a directory of indices; None to keep nothing.
        tell: told how many steps of how many are done.

    Raises:
        InputError: a file of answers cannot be read.
        AuditError: the bank has no group of teachers or no answer of any, or the cache cannot be
            written.
    """
    if cache is None:
        return build(bank, views, tell)
    key = digest([bank.sha256(), [repr(view) for view in views], _FORM])
    place = cache / key[:16]
    kept = _read(place, views, key)
    if kept is None:
        kept = build(bank, views, tell)
        _write(kept, place, key)
    return kept


def build(bank: Bank, views: Sequence[View], tell: Tell) -> Index:
    """Return the index of `bank`, computed."""
    names = names_of(bank)
    teachers = tuple(dict.fromkeys(name for group in bank.groups for name in group.members))
    if not teachers:
        raise AuditError(f"{bank.path} has no group of teachers; add groups.csv.")
    models = tuple(model.name for model in bank.models)
    teacher_T = np.array([models.index(name) for name in teachers])
    families = tuple(dict.fromkeys(model.family for model in bank.models))
    family_N = np.array([families.index(model.family) for model in bank.models])
    steps, done = len(models) + len(views), 0
    said: list[dict[str, Said]] = []
    for name in models:
        rows = bank.answers(name)
        words = reading.said([row.response for row in rows.values()], names)
        said.append(dict(zip(rows, words, strict=True)))
        done += 1
        tell(done, steps)
    prompts = tuple(dict.fromkeys(id for name in teacher_T for id in said[name]))
    if not prompts:
        raise AuditError(f"{bank.path}: no teacher has an answer; give {teachers[0]} its own.")
    idf, found, kept = {}, {}, {}
    for view in views:
        read = [[rows.get(prompt, NOTHING).of(view) for prompt in prompts] for rows in said]
        idf[view.name] = fit(view, [one for teacher in teacher_T for one in read[teacher]])
        reader = Reader(idf={view.name: idf[view.name]})
        vectors = [reader.vectors(view, rows) for rows in read]
        there_PN = np.stack([np.diff(one.indptr) > 0 for one in vectors], axis=1)
        theirs = [vectors[teacher] for teacher in teacher_T]
        means = family_means(vectors, there_PN, family_N)
        teacher_PNT, family_PNF = products(vectors, theirs, means)
        found[view.name] = Products(
            teacher_PNT=teacher_PNT,
            family_PNF=family_PNF,
            there_PN=there_PN,
            teachers=teacher_T,
            family_N=family_N,
        )
        kept[view.name] = sparse.vstack([*theirs, *means], format="csr")
        done += 1
        tell(done, steps)
    return Index(
        prompts=prompts,
        models=models,
        teachers=teachers,
        families=families,
        views=tuple(views),
        reader=Reader(idf=idf),
        products=found,
        vectors=kept,
    )


def names_of(bank: Bank) -> frozenset[str]:
    """Return the words that are masked in answers compared with those of `bank`."""
    models = [name for model in bank.models for name in (model.name, model.family)]
    groups = [name for group in bank.groups for name in (group.name, group.vendor)]
    return reading.masked_names([*models, *groups])


def _write(index: Index, place: Path, key: str) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=place.parent))
        try:
            for number, view in enumerate(index.views):
                one = index.products[view.name]
                np.save(partial / f"{number}-teachers.npy", one.teacher_PNT)
                np.save(partial / f"{number}-families.npy", one.family_PNF)
                np.save(partial / f"{number}-there.npy", one.there_PN)
                np.save(partial / f"{number}-idf.npy", index.reader.idf[view.name])
                vectors = index.vectors[view.name]
                sparse.save_npz(partial / f"{number}-vectors.npz", vectors, compressed=False)
            facts = {
                "key": key,
                "prompts": index.prompts,
                "models": index.models,
                "teachers": index.teachers,
                "families": index.families,
                "family": one.family_N.tolist(),
            }
            (partial / "index.json").write_text(json.dumps(facts), encoding="utf-8")
            shutil.rmtree(place, ignore_errors=True)
            _take_place(partial, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise AuditError(
            f"cannot keep the bank's index in {place.parent}: {error.strerror or error}; free "
            "space, or set XDG_CACHE_HOME to another directory."
        ) from error


def _take_place(partial: Path, place: Path) -> None:
    """Give a whole index its name, unless another process was first with the same."""
    try:
        partial.replace(place)
    except OSError:
        if not (place / "index.json").is_file():
            raise


def _read(place: Path, views: Sequence[View], key: str) -> Index | None:
    """Return the index in `place`, or None if there is none, or it is damaged or another's."""
    try:
        facts = json.loads((place / "index.json").read_text(encoding="utf-8"))
        if facts["key"] != key:
            return None
        prompts, models = tuple(facts["prompts"]), tuple(facts["models"])
        teachers, families = tuple(facts["teachers"]), tuple(facts["families"])
        teacher_T = np.array([models.index(name) for name in teachers])
        family_N = np.array(facts["family"])
        if len(family_N) != len(models) or set(facts["family"]) != set(range(len(families))):
            raise ValueError(f"{place} does not say whose model each is")
        size = len(prompts), len(models)
        found, kept, idf = {}, {}, {}
        for number, view in enumerate(views):
            found[view.name] = Products(
                teacher_PNT=_array(place / f"{number}-teachers.npy", "f4", *size, len(teachers)),
                family_PNF=_array(place / f"{number}-families.npy", "f4", *size, len(families)),
                there_PN=_array(place / f"{number}-there.npy", "?", *size),
                teachers=teacher_T,
                family_N=family_N,
            )
            idf[view.name] = _array(place / f"{number}-idf.npy", "f4", WORDS)
            anchors = len(prompts) * (len(teachers) + len(families))
            kept[view.name] = _vectors(place / f"{number}-vectors.npz", anchors)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return Index(
        prompts=prompts,
        models=models,
        teachers=teachers,
        families=families,
        views=tuple(views),
        reader=Reader(idf=idf),
        products=found,
        vectors=kept,
    )


def _array(path: Path, kind: str, *shape: int) -> npt.NDArray[Any]:
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    _check(path, found.dtype == np.dtype(kind) and found.shape == shape)
    return np.asarray(found)


def _vectors(path: Path, rows: int) -> sparse.csr_matrix:
    with path.open("rb") as stream:
        found = sparse.load_npz(stream)
    _check(path, found.dtype == np.float32 and found.shape == (rows, WORDS))
    return found


def _check(path: Path, fits: bool) -> None:
    if not fits:
        raise ValueError(f"{path} holds something else")
