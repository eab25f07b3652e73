"""Where two tokenizers' cuts of one text meet, so that a teacher can speak across tokenizers.

A chunk is the smallest stretch of bytes that both tokenizers cut into whole tokens; the teacher's
log-probability of its bytes is the sum over its tokens, which the student's sum is held against
(approximate likelihood matching, Minixhofer et al., arXiv 2503.20083, section 3; their debiasing
by the probability of a chunk's end is left out). A document whose bytes a tokenizer does not give
back has no chunks. Its positions are still paired where both have read the same characters, for
`sorted_l1` (Boizard et al., arXiv 2402.12030).

Shapes: I and J tokens of the student's and the teacher's stream, W windows, S student positions
and U teacher positions a window, N = W S, M = W U, C chunks, P pairs or positions taken.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from distill.signals import Chunks, Text
from distill.text.corpus import Windows
from distill.text.places import Ints, Stream

_BASE = 0x9E3779B97F4A7C15  # of a polynomial modulo 2^64; odd, so that it has an inverse

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """The student's windows and the teacher's of the same bytes, chunk by chunk.

    Attributes:
        teacher: the text of each window in the teacher's tokens, from the first boundary in the
            window on; rows are filled up with targets of weight 0.
        chunk_N: the chunk a student's target belongs to, -1 for none; increasing.
        chunk_M: the chunk a teacher's target belongs to, -1 for none; increasing.
        size_C: student's tokens in each chunk.
        student_P: student's positions (0 to N - 1) that have read as far as `teacher_P` have.
        teacher_P: teacher's positions (0 to M - 1).
        lost_P: bool, whether the pair is of a document without chunks.
        lost: names of those documents.
        unread: windows that are of none of the documents, and have neither chunks nor pairs.
    """

    teacher: Windows
    chunk_N: Ints
    chunk_M: Ints
    size_C: Ints
    student_P: Ints
    teacher_P: Ints
    lost_P: Bools
    lost: tuple[str, ...]
    unread: int

    def record(self) -> dict[str, int | list[str]]:
        """Return what a manifest says of the alignment."""
        return {
            "chunks": len(self.size_C),
            "student_tokens": len(self.chunk_N),
            "student_tokens_in_chunks": int((self.chunk_N >= 0).sum()),
            "teacher_tokens_in_chunks": int((self.chunk_M >= 0).sum()),
            "pairs_without_chunks": int(self.lost_P.sum()),
            "documents_without_chunks": list(self.lost),
            "windows_unread": self.unread,
        }


class Likelihoods:
    """A source of `Chunks`: what a teacher found each chunk of an alignment to be worth."""

    def __init__(self, alignment: Alignment, said: Text) -> None:
        """Add up `said`, at the teacher's positions `[M]`, over chunks.

        A chunk with a position of unknown log-probability (NaN) is none.
        """
        assert said.logp_N is not None, "a teacher that only writes says nothing of a text"
        chunk_M = alignment.chunk_M
        logp_M = said.logp_N.double().cpu().numpy()
        there_M = chunk_M >= 0
        count = len(alignment.size_C)
        self.logp_C = np.bincount(chunk_M[there_M], weights=logp_M[there_M], minlength=count)
        self.chunk_N = alignment.chunk_N
        self.size_C = alignment.size_C

    @property
    def kind(self) -> type[Chunks]:
        """What kind of signal it gives."""
        return Chunks

    def at(self, row_P: torch.Tensor, device: torch.device) -> Chunks:
        """Return the chunks that lie whole in these rows (int64, on the CPU), numbered anew."""
        chunk_P = self.chunk_N[row_P.numpy()]
        run_P = _number(chunk_P, chunk_P >= 0)
        opens_P = run_P > np.maximum.accumulate(np.concatenate([[-1], run_P[:-1]]))
        chunk_R = chunk_P[opens_P]
        whole_R = np.bincount(run_P[run_P >= 0], minlength=len(chunk_R)) == self.size_C[chunk_R]
        whole_R &= np.isfinite(self.logp_C[chunk_R])
        number_R = np.where(whole_R, np.cumsum(whole_R) - 1, -1)
        # The last number answers to -1: of no chunk.
        number_P = np.concatenate([number_R, [-1]])[run_P]
        logp_C = torch.from_numpy(self.logp_C[chunk_R[whole_R]]).float()
        return Chunks(torch.from_numpy(number_P).to(device), logp_C.to(device))


def align(
    windows: Windows, student: Stream, teacher: Stream, *, longest: int | None = None
) -> Alignment:
    """Return the alignment of the student's windows with the teacher's of the same text.

    Both have read the same bytes at a boundary, but for the few between the beginning of a window
    and its first boundary, which the student alone has read.

    Args:
        windows: of the student's tokens, each a stretch of `student`.
        student: documents in the order they were packed in, under the student's tokenizer.
        teacher: the same documents under the teacher's.
        longest: tokens of either side that a chunk may have; one of more is none.
    """
    assert np.array_equal(student.opens_D, teacher.opens_D), "not the same documents"
    first_W = _locate(windows.tokens, student.token_I)
    length = windows.weights.shape[1]
    ours = _Span(first_W, np.where(first_W < 0, 0, first_W + length + 1))
    theirs = _same_bytes(student, teacher, ours)
    of_I, of_J, known_C = _chunks(student, teacher, longest)
    width = max(int((theirs.stop_W - theirs.first_W).max(initial=0)) - 1, 1)
    of_WS, of_WU = of_I[ours.targets(length, of_I)], of_J[theirs.targets(width, of_J)]
    good_WS = known_C[of_WS] & _inside(of_I, of_WS, ours) & _inside(of_J, of_WS, theirs)
    good_WU = known_C[of_WU] & _inside(of_I, of_WU, ours) & _inside(of_J, of_WU, theirs)
    # Behind a window's end the stream goes on, but at its own end the last token is repeated.
    good_WU &= np.arange(1, width + 1) < (theirs.stop_W - theirs.first_W)[:, None]
    chunk_N, chunk_M = _number_rows(of_WS, good_WS), _number_rows(of_WU, good_WU)
    student_P, teacher_P, lost_P = _pairs(student, teacher, ours, theirs, length, width)
    return Alignment(
        teacher=_windows(windows, teacher, theirs, width),
        chunk_N=chunk_N,
        chunk_M=chunk_M,
        size_C=np.bincount(chunk_N[chunk_N >= 0]),
        student_P=student_P,
        teacher_P=teacher_P,
        lost_P=lost_P,
        lost=tuple(dict.fromkeys(student.lost + teacher.lost)),
        unread=int((first_W < 0).sum()),
    )


class _Span(NamedTuple):
    """Tokens of a stream in each window, from `first_W` and before `stop_W`."""

    first_W: Ints
    stop_W: Ints

    def tokens(self, count: int, stream: npt.NDArray[np.generic]) -> Ints:
        """Return the places of the first `count` tokens, `[W, count]`, none beyond the stream."""
        return np.clip(self.first_W[:, None] + np.arange(count), 0, len(stream) - 1)

    def targets(self, count: int, stream: npt.NDArray[np.generic]) -> Ints:
        """Return the places of the first `count` targets, which begin with the second token."""
        return self.tokens(count + 1, stream)[:, 1:]


def _locate(token_WX: npt.NDArray[np.int32], token_I: npt.NDArray[np.int32]) -> Ints:
    """Return where in a stream each window stands first, -1 where it does not.

    Windows are looked up by a polynomial of their tokens modulo 2^64, and compared.
    """
    size, count = token_WX.shape[1], len(token_I)
    if count < size:
        return np.full(len(token_WX), -1)
    power_I = np.cumprod(np.full(count, _BASE, dtype=np.uint64))
    sum_I = np.cumsum(np.append(np.uint64(0), token_I.astype(np.uint64) * power_I))
    shift_I = np.cumprod(np.full(count, pow(_BASE, -1, 2**64), dtype=np.uint64))
    hash_I = (sum_I[size:] - sum_I[:-size]) * shift_I[: count - size + 1]
    hash_W = (token_WX.astype(np.uint64) * power_I[:size]).sum(1) * shift_I[0]
    order_I = np.argsort(hash_I, kind="stable")
    found_W = np.searchsorted(hash_I[order_I], hash_W)
    first_W = order_I[np.minimum(found_W, len(order_I) - 1)]
    same_W = (token_I[first_W[:, None] + np.arange(size)] == token_WX).all(1)
    return np.where(same_W, first_W, -1)


def _same_bytes(student: Stream, teacher: Stream, ours: _Span) -> _Span:
    """Return the teacher's tokens whose bytes are in the student's windows."""
    meet_B = _merged(_common(student.end_I, teacher.end_I), student.opens_D)
    at_W = np.searchsorted(meet_B, student.start_I[ours.first_W])
    first_W = np.searchsorted(teacher.start_I, meet_B[np.minimum(at_W, len(meet_B) - 1)])
    stop_W = np.searchsorted(teacher.end_I, student.end_I[ours.stop_W - 1], side="right")
    there_W = ours.first_W >= 0
    return _Span(first_W * there_W, np.maximum(stop_W, first_W) * there_W)


def _common(one_X: Ints, other_Y: Ints) -> Ints:
    """Return what two sorted arrays have in common, once; np.intersect1d is 20 times slower."""
    if not len(other_Y):
        return other_Y
    at_X = np.minimum(np.searchsorted(other_Y, one_X), len(other_Y) - 1)
    return _merged(one_X[other_Y[at_X] == one_X])


def _merged(*sorted_: Ints) -> Ints:
    """Return all values of sorted arrays, sorted, once."""
    every_X = np.sort(np.concatenate(sorted_), kind="stable")
    return every_X[np.append(True, every_X[1:] != every_X[:-1])[: len(every_X)]]


def _chunks(student: Stream, teacher: Stream, longest: int | None) -> tuple[Ints, Ints, Bools]:
    """Return the chunk of each token of both, and which chunks are text that both know exactly."""
    meet_B = _common(student.end_I[student.exact_I], teacher.end_I[teacher.exact_I])
    bound_B = _merged(meet_B, student.opens_D, student.opens_D + 1)
    # By where a token starts: one of no bytes belongs to what comes after it.
    of_I = np.searchsorted(bound_B, student.start_I, side="right")
    of_J = np.searchsorted(bound_B, teacher.start_I, side="right")
    known_C = np.ones(len(bound_B) + 1, dtype=np.bool_)
    for stream, of_X in ((student, of_I), (teacher, of_J)):
        size_C = np.bincount(of_X, minlength=len(known_C))
        known_C &= (size_C > 0) & (size_C <= (longest or len(of_X)))
        known_C[of_X[~stream.exact_I | stream.begins()]] = False
    return of_I, of_J, known_C


def _inside(of_X: Ints, of_WX: Ints, span: _Span) -> Bools:
    """Tell at each place of the windows whether all tokens of its chunk are targets there.

    Args:
        of_X: the chunk of each token of a stream, never decreasing.
        of_WX: the chunk at each place.
        span: the tokens of that stream in each window; the first is no target.
    """
    first_WX = np.searchsorted(of_X, of_WX)
    stop_WX = np.searchsorted(of_X, of_WX, side="right")
    return (first_WX > span.first_W[:, None]) & (stop_WX <= span.stop_W[:, None])


def _number_rows(of_WX: Ints, good_WX: Bools) -> Ints:
    """Number the good chunks through all windows, -1 elsewhere; no chunk goes on in another row."""
    rows = np.arange(len(of_WX))[:, None] * (int(of_WX.max(initial=0)) + 1)
    return _number((of_WX + rows).reshape(-1), good_WX.reshape(-1))


def _number(of_X: Ints, good_X: Bools) -> Ints:
    """Number runs of one value, which is good throughout or not at all, from 0; -1 elsewhere."""
    opens_X = good_X.copy()
    opens_X[1:] &= of_X[1:] != of_X[:-1]
    return np.where(good_X, np.cumsum(opens_X) - 1, -1)


def _pairs(
    student: Stream, teacher: Stream, ours: _Span, theirs: _Span, length: int, width: int
) -> tuple[Ints, Ints, Bools]:
    """Return the positions of both that have read just as far, and which are of lost documents."""
    at_WS = ours.tokens(length, student.token_I)
    end_WS = student.end_I[at_WS]
    to_WS = np.searchsorted(teacher.end_I, end_WS, side="right") - 1
    inner_WS = to_WS - theirs.first_W[:, None]
    there_WS = (teacher.end_I[to_WS] == end_WS) & (inner_WS >= 0) & (inner_WS < width)
    there_WS &= (to_WS < theirs.stop_W[:, None]) & (ours.first_W >= 0)[:, None]
    # Of tokens that end at one place only the last has a pair: the others have more to say of it.
    there_WS &= end_WS < student.end_I[np.minimum(at_WS + 1, len(student.end_I) - 1)]
    lost_WS = ~(student.exact_I[at_WS] & teacher.exact_I[to_WS])
    position_WS = np.arange(len(at_WS))[:, None] * width + inner_WS
    return np.flatnonzero(there_WS), position_WS[there_WS], lost_WS[there_WS]


def _windows(windows: Windows, teacher: Stream, theirs: _Span, width: int) -> Windows:
    """Return the teacher's windows; documents are kept apart where the student's are."""
    token_WX = theirs.tokens(width + 1, teacher.token_I)
    counts_WX = np.arange(width + 1) < (theirs.stop_W - theirs.first_W)[:, None]
    begins_WX = teacher.begins()[token_WX]
    apart = bool(windows.starts[:, 1:].any())
    target_WU = token_WX[:, 1:]
    return Windows(
        tokens=teacher.token_I[token_WX],
        weights=(counts_WX & ~begins_WX)[:, 1:].astype(np.float32),
        sizes=(teacher.end_I - teacher.start_I)[target_WU].astype(np.float64),
        starts=(begins_WX & apart)[:, :-1] | (np.arange(width) == 0),
        document=(
            np.searchsorted(teacher.opens_D, teacher.start_I[target_WU], side="right") - 1
        ).astype(np.int32),
        tag=windows.tag,
    )
