"""A teacher's likeliest tokens in the student's: those that both tables spell alike.

Where both have read the same bytes (`alignment.py`), the teacher's next token often is a token of
the student's table too, and its probability then is that token's, as far as both go on to cut the
text there. How often they do is counted on the text itself; what is contradicted stays in the
bucket of the rest, as do tokens that the student does not have. So divergences over the head and
one bucket apply across tokenizers.

Shapes: N student positions, M teacher positions, P pairs, V and K rows of the teacher's and the
student's table, H head entries.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distill.batches import Source
from distill.signals import Sparse
from distill.text.alignment import Alignment
from distill.text.corpus import Windows
from distill.text.places import Ints
from distill.text.vocabulary import token_bytes

NONE = -1


def spelt_alike(teacher: Any, student: Any) -> Ints:
    """Return the student's token of the same bytes for each of the teacher's, `[V]`, -1 for none.

    No token of the student's stands twice.

    Raises:
        InputError: a table cannot be read.
    """
    tables = token_bytes(teacher), token_bytes(student)
    theirs, ours = (
        {spelling: token for token, spelling in enumerate(table) if spelling} for table in tables
    )
    # Of tokens spelt alike in one table the last is the one in use: pieces come after bytes.
    token_V = np.full(len(tables[0]), NONE)
    for spelling in theirs.keys() & ours.keys():
        token_V[theirs[spelling]] = ours[spelling]
    return token_V


def uncontradicted(
    token_V: Ints, windows: Windows, aligned: Alignment, *, least: float = 0.9
) -> Ints:
    """Return `token_V` without what the aligned text contradicts, `[V]`.

    One tokenizer may end a token where the other goes on: a full stop alone, or with the end of
    the line. Of the places where the teacher's next token is one of the two, and of those where
    the student's next token is the other, a share of `least` each has to have both.

    Args:
        token_V: what `spelt_alike` found.
        windows: the student's, that `aligned` was made of.
        aligned: pairs of positions; of documents that are lost they say nothing.
        least: from 0 to 1; tokens that the text does not have are kept.
    """
    known_P = ~aligned.lost_P
    ours_P = windows.tokens[:, 1:].reshape(-1)[aligned.student_P[known_P]].astype(np.int64)
    theirs_P = (
        aligned.teacher.tokens[:, 1:].reshape(-1)[aligned.teacher_P[known_P]].astype(np.int64)
    )
    both_P = token_V[theirs_P] == ours_P
    rows = max(int(token_V.max(initial=0)), int(ours_P.max(initial=0))) + 1
    share_V = _share(theirs_P, both_P, len(token_V))
    share_K = _share(ours_P, both_P, rows)
    kept_V = (share_V >= least) & (share_K[token_V] >= least)
    return np.where((token_V >= 0) & kept_V, token_V, NONE)


def _share(token_P: Ints, both_P: npt.NDArray[np.bool_], rows: int) -> npt.NDArray[np.float64]:
    """Return the share of each token's places that are `both_P`; 1 for a token without any."""
    all_V = np.bincount(token_P, minlength=rows)
    return np.where(all_V > 0, np.bincount(token_P[both_P], minlength=rows) / all_V.clip(1), 1.0)


@dataclass(frozen=True, slots=True)
class Translated:
    """A source of the student's tokens, from one of the teacher's at the positions of pairs.

    Attributes:
        source: gives `Sparse` of the teacher's tokens; of sampled tails nothing is used.
        token_V: int64, the student's token for each of the teacher's, none twice, -1 for none.
    """

    source: Source
    token_V: torch.Tensor

    @property
    def kind(self) -> type[Sparse]:
        """What kind of signal it gives."""
        return Sparse

    def at(self, row_P: torch.Tensor, device: torch.device) -> Sparse:
        """Return what is said at these rows of the source, on `device`."""
        said = self.source.at(row_P, device)
        assert isinstance(said, Sparse)
        ids_PH = self.token_V.to(device)[said.head_ids_NH]
        p_PH = said.head_p_NH * (ids_PH >= 0)
        return Sparse(
            ids_PH.clamp_min(0),
            p_PH,
            ids_PH[:, :0],
            (1 - p_PH.sum(-1)).clamp_min(0),
            torch.full_like(p_PH[:, 0], torch.nan),
        )
