"""How alike the answers of models are to those of teachers at the same prompts.

An answer is a TF-IDF vector of what a view reads of it (`reading.py`), of length one; the weights
of words are teachers' alone. At each prompt the mean of all other families' answers is taken off
both sides before their cosine: what a prompt makes everybody say counts for nobody. A model is
never in the mean that its own answers are freed of, whether it is a suspect or a reference.

Shapes: P prompts, N models, T teachers (members of groups), F families, W hashed words and pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer

from audit.lineup.reading import View, read

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

WORDS = 2**20
# An answer that says just what everybody says has no direction of its own; what is left of it in
# float32 is rounding.
_LEAST_SQUARE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """Turns answers' words into vectors.

    Attributes:
        idf: float32 `[W]` by the name of a view: the weight of each word, smoothed.
    """

    idf: Mapping[str, Floats]

    def vectors(self, view: View, said: Sequence[Sequence[str]]) -> sparse.csr_matrix:
        """Return the vectors `[len(said), W]` of answers' words, of length one; zero without any.

        Term frequencies are 1 + log(count). A word that no teacher uses weighs most.
        """
        counts = _count(view, said)
        counts.data = 1 + np.log(counts.data)
        counts.data *= self.idf[view.name][counts.indices]
        length_R = np.sqrt(np.asarray(counts.multiply(counts).sum(1)).ravel())
        scale_R = np.divide(1, length_R, out=np.zeros_like(length_R), where=length_R > 0)
        counts.data *= np.repeat(scale_R, np.diff(counts.indptr)).astype(np.float32)
        return counts


def fit(view: View, said: Sequence[Sequence[str]]) -> Floats:
    """Return the weight `[W]` of each word by how many answers of teachers hold it.

    Args:
        view: what is read.
        said: the words of every answer of every teacher.
    """
    held_W = np.bincount(_count(view, said).indices, minlength=WORDS)
    answers = sum(len(one) > 0 for one in said)
    return (np.log((1 + answers) / (1 + held_W)) + 1).astype(np.float32)


def _count(view: View, said: Sequence[Sequence[str]]) -> sparse.csr_matrix:
    """Return how often each hashed word stands in each answer: float32 `[len(said), W]`."""
    hashing = HashingVectorizer(
        analyzer=lambda one: read(one, view),
        n_features=WORDS,
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
    )
    return hashing.transform(said)


@dataclass(frozen=True, kw_only=True, slots=True)
class Products:
    """Inner products of answers' vectors at the same prompts, one view.

    Attributes:
        teacher_PNT: float32, with the teachers' vectors.
        family_PNF: float32, with the mean vectors of families.
        there_PN: bool, whether a model has an answer that the view reads; without one its
            products are 0.
        teachers: rows of the teachers among the models, `[T]`.
        family_N: the column of each model's family.
    """

    teacher_PNT: Floats
    family_PNF: Floats
    there_PN: npt.NDArray[np.bool_]
    teachers: Rows
    family_N: Rows

    def at(self, rows: Rows) -> "Products":
        """Return the products at some of the prompts, by their places."""
        return replace(
            self,
            teacher_PNT=self.teacher_PNT[rows],
            family_PNF=self.family_PNF[rows],
            there_PN=self.there_PN[rows],
        )

    def centred(self, left_out_F: npt.NDArray[np.bool_]) -> Floats:
        """Return the cosine of each model with each teacher after the others' mean is taken off.

        float32 `[P, N, T]`, NaN where a side has no answer. The mean c that is taken off both
        sides of a row is over the families that answer the prompt, one vote each, without those
        left out and without the row's own: (v - c)(t - c) = vt - vc - tc + cc.

        Args:
            left_out_F: families without a vote.
        """
        votes_PF = self._families_there() & ~left_out_F
        own_PN = votes_PF[:, self.family_N]
        count_PN = np.maximum(votes_PF.sum(1)[:, None] - own_PN, 1).astype(np.float32)
        sum_PN = np.einsum("pnf,pf->pn", self.family_PNF, votes_PF)
        rows = np.arange(len(self.family_N))
        vc_PN = (sum_PN - own_PN * self.family_PNF[:, rows, self.family_N]) / count_PN
        theirs_PTF = self.family_PNF[:, self.teachers]
        tc_PNT = theirs_PTF[:, :, self.family_N].transpose(0, 2, 1) * own_PN[:, :, None]
        tc_PNT = (sum_PN[:, None, self.teachers] - tc_PNT) / count_PN[:, :, None]
        cc_PN = self._square_of_mean(votes_PF, own_PN) / count_PN**2
        found_PNT = self.teacher_PNT - tc_PNT + (cc_PN - vc_PN)[:, :, None]
        found_PNT *= _over_norm(self.there_PN - 2 * vc_PN + cc_PN)[:, :, None]
        found_PNT *= _over_norm(1 - 2 * tc_PNT + cc_PN[:, :, None])
        found_PNT[~self.there_PN] = np.nan
        found_PNT.transpose(0, 2, 1)[~self.there_PN[:, self.teachers]] = np.nan
        return np.asarray(found_PNT, dtype=np.float32)

    def _families_there(self) -> npt.NDArray[np.bool_]:
        """Return which families answer each prompt: bool `[P, F]`."""
        there_PF = np.zeros((len(self.there_PN), self.family_PNF.shape[2]), dtype=bool)
        for row, family in enumerate(self.family_N):
            there_PF[:, family] |= self.there_PN[:, row]
        return there_PF

    def _square_of_mean(
        self, votes_PF: npt.NDArray[np.bool_], own_PN: npt.NDArray[np.bool_]
    ) -> Floats:
        """Return the square of the sum of families' means, without each row's own: `[P, N]`."""
        between_PFF = self._between_families()
        sum_PF = np.einsum("pfg,pg->pf", between_PFF, votes_PF)
        square_P = np.einsum("pf,pf->p", sum_PF, votes_PF)
        own_square_PF = np.einsum("pff->pf", between_PFF)
        less_PN = (own_square_PF - 2 * sum_PF)[:, self.family_N]
        found: Floats = square_P[:, None] + own_PN * less_PN
        return found

    def _between_families(self) -> Floats:
        """Return products of families' mean vectors, float32 `[P, F, F]`: rows' means."""
        prompts, _, families = self.family_PNF.shape
        total_PFF = np.zeros((prompts, families, families), dtype=np.float32)
        count_PF = np.zeros((prompts, families), dtype=np.float32)
        for row, family in enumerate(self.family_N):
            total_PFF[:, family] += self.family_PNF[:, row]
            count_PF[:, family] += self.there_PN[:, row]
        return np.asarray(total_PFF / np.maximum(count_PF, 1)[:, :, None], dtype=np.float32)


def _over_norm(square: Floats) -> Floats:
    """Return one over the root, or 0 where there is nothing but rounding."""
    over = 1 / np.sqrt(np.maximum(square, _LEAST_SQUARE))
    return np.asarray(np.where(square < _LEAST_SQUARE, 0.0, over), dtype=np.float32)


def family_means(
    vectors: Sequence[sparse.csr_matrix],
    there_PN: npt.NDArray[np.bool_],
    family_N: Rows,
) -> list[sparse.csr_matrix]:
    """Return the mean vectors `[P, W]` of each family, over its models that have an answer."""
    found = []
    for family in range(int(family_N.max()) + 1):
        rows = np.flatnonzero(family_N == family)
        count_P = np.maximum(there_PN[:, rows].sum(1), 1).astype(np.float32)
        total = vectors[rows[0]]
        for row in rows[1:]:
            total = total + vectors[row]
        found.append(sparse.diags_array(1 / count_P).tocsr().dot(total).tocsr())
    return found


def products(
    vectors: Sequence[sparse.csr_matrix],
    teachers: Sequence[sparse.csr_matrix],
    families: Sequence[sparse.csr_matrix],
) -> tuple[Floats, Floats]:
    """Return the products of models' vectors with teachers' and with families' means.

    Args:
        vectors: `[P, W]` of each model, one row a prompt.
        teachers: the same of each teacher.
        families: the same of each family.
    """
    count = vectors[0].shape[0]
    models = sparse.vstack(vectors, format="csr")
    anchors = sparse.vstack([*teachers, *families], format="csr")
    row_N, row_A = np.arange(len(vectors)) * count, np.arange(anchors.shape[0] // count) * count
    found = np.zeros((count, len(row_N), len(row_A)), dtype=np.float32)
    for prompt in range(count):
        found[prompt] = (models[row_N + prompt] @ anchors[row_A + prompt].T).toarray()
    return found[:, :, : len(teachers)], found[:, :, len(teachers) :]


def mean(values_PNT: Floats) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Return the mean over prompts that both sides answer `[N, T]`, NaN for none; and how many."""
    known = ~np.isnan(values_PNT)
    count_NT = known.sum(0)
    total_NT = np.where(known, values_PNT, 0).sum(0)
    empty = np.full_like(total_NT, np.nan)
    return np.divide(total_NT, count_NT, out=empty, where=count_NT > 0), count_NT
