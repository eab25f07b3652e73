"""Where documents begin and end in a flat stream of tokens.

The network never sees a padded rectangle: a batch is one stream of N tokens, whose documents are
told apart by their lengths. Padding on either side and packing are then exact by construction,
for pads are not in the stream and no window, entry or balance loss reaches across a boundary.
Lengths live on the host, so nothing here waits for a device.

Shapes: N tokens, T compressed entries, C tokens an entry stands for, B rows, S columns.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from student.arguments import listed, whole
from student.errors import ShapeError

Array = npt.NDArray[np.int64]


class Documents:
    """The documents of one stream.

    Attributes:
        lengths: tokens of each document, on the host.
        position_N: int64, each token's place in its document, from 0.
        start_N: int64, the place in the stream where each token's document begins.
        document_N: int64, which document each token is of.
    """

    def __init__(self, lengths: Sequence[int] | torch.Tensor, device: torch.device) -> None:
        """Lay documents of these lengths end to end.

        Raises:
            ShapeError: there is no document, or an empty one, or a length is no whole number.
        """
        values = lengths.tolist() if isinstance(lengths, torch.Tensor) else lengths
        given = listed("lengths", values, "a list with the tokens of each document")
        if not given:
            raise ShapeError("lengths is empty; give the tokens of each document.")
        self.lengths = tuple(whole(f"lengths[{i}]", length, 1) for i, length in enumerate(given))
        self.device = device
        sizes = np.asarray(self.lengths, dtype=np.int64)
        self.starts = np.cumsum(sizes) - sizes
        self._start = np.repeat(self.starts, sizes)
        self._position = np.arange(sizes.sum(), dtype=np.int64) - self._start
        self.position_N = self._send(self._position)
        self.start_N = self._send(self._start)
        self.document_N = self._send(np.repeat(np.arange(len(sizes)), sizes))
        self._entries: dict[int, Entries] = {}
        self._shorter: dict[int, Shortened] = {}

    @classmethod
    def rows(cls, count: int, length: int, device: torch.device) -> "Documents":
        """Return the documents of `count` rows of `length` tokens each.

        Raises:
            ShapeError: there is no row, or rows are empty.
        """
        return cls((whole("length", length, 1),) * whole("count", count, 1), device)

    @property
    def num_tokens(self) -> int:
        """N, the tokens of the stream."""
        return len(self._start)

    @property
    def equal_length(self) -> int | None:
        """The length all documents share, or None."""
        return self.lengths[0] if len(set(self.lengths)) == 1 else None

    def entries(self, compression: int) -> "Entries":
        """Return the entries that windows of `compression` tokens are compressed into."""
        if compression not in self._entries:
            self._entries[compression] = Entries(self, compression)
        return self._entries[compression]

    def shortened(self, by: int) -> "Shortened":
        """Return the stream without the last `by` tokens of each document."""
        if by not in self._shorter:
            self._shorter[by] = Shortened(self, by)
        return self._shorter[by]

    def last(self) -> torch.Tensor:
        """Return the place of each document's last token, int64."""
        return self._send(self.starts + np.asarray(self.lengths) - 1)

    def _send(self, values: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


class Entries:
    """The compressed entries of a stream: entry j of a document stands for its j-th window.

    A window that its document does not fill has no entry. A token sees the entries of its own
    document whose windows have closed: places `first` to `end - 1` of the flat list.

    Attributes:
        compression: C, tokens a window.
        count: T, entries of the whole stream.
        most: the most entries any one token sees.
        position_T: int64, place in its document of each window's first token.
        begins_T: bool, whether an entry is its document's first.
        first_N: int64, first entry a token may see.
        end_N: int64, one past the last.
        token_TC: int64 places of each window's tokens, or None where windows simply follow one
            another from the start of the stream.
    """

    def __init__(self, documents: Documents, compression: int) -> None:
        sizes = np.asarray(documents.lengths, dtype=np.int64)
        counts = sizes // compression
        firsts = np.cumsum(counts) - counts
        of_document = np.repeat(np.arange(len(sizes)), sizes)
        place = np.arange(counts.sum(), dtype=np.int64) - np.repeat(firsts, counts)
        send = documents._send
        self.compression = compression
        self.count = int(counts.sum())
        self.most = int(counts.max())
        self._first = firsts[of_document]
        self._end = self._first + (documents._position + 1) // compression
        self.position_T = send(place * compression)
        self.begins_T = send(place) == 0
        self.first_N, self.end_N = send(self._first), send(self._end)
        start = np.repeat(documents.starts, counts) + place * compression
        follow = np.array_equal(start, np.arange(self.count) * compression)
        self.token_TC = None if follow else send(start[:, None] + np.arange(compression))

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of entries that any of the tokens `start` to `stop - 1` sees."""
        return int(self._first[start]), int(self._end[stop - 1])

    def most_seen(self, start: int, stop: int) -> int:
        """Return the most entries that any of the tokens `start` to `stop - 1` sees."""
        return int((self._end[start:stop] - self._first[start:stop]).max())

    def tile_end(self, start: int, room: int, step: int, beside: int) -> int:
        """Return where a tile of tokens that begins at `start` may end, in whole steps.

        Its tokens times its columns, which are the entries that any of them sees and `beside`
        more, are at most `room` numbers, if one step is. The first pass counts the entries of one
        step and takes too many tokens; the second counts all that those see and never does.
        """
        total = len(self._end)
        stop = min(start + step, total)
        for _ in range(2):
            low, high = self.span(start, stop)
            steps = room // ((high - low + beside) * step)
            stop = min(start + max(steps, 1) * step, total)
        return stop

    def windows(self, x_NF: torch.Tensor) -> torch.Tensor:
        """Return each window's rows `[T, C, F]`; a view where windows follow one another."""
        if self.token_TC is None:
            return x_NF[: self.count * self.compression].unflatten(
                0, (self.count, self.compression)
            )
        return x_NF.index_select(0, self.token_TC.flatten()).unflatten(
            0, (self.count, self.compression)
        )


class Shortened:
    """A stream without the last tokens of each document, for predicting further ahead.

    Attributes:
        documents: what is left; documents no longer than the cut are gone. None if nothing is.
        kept_P: int64, the place of each remaining token in the stream it was cut from.
        kept: the same on the host.
    """

    def __init__(self, documents: Documents, by: int) -> None:
        sizes = np.asarray(documents.lengths, dtype=np.int64)
        left = np.maximum(sizes - by, 0)
        self.kept = np.flatnonzero(documents._position < np.repeat(left, sizes))
        self.kept_P = documents._send(self.kept)
        lengths = [int(length) for length in left if length]
        self.documents = Documents(lengths, documents.device) if lengths else None


def unpad(mask_BS: torch.Tensor, device: torch.device) -> tuple[Documents, torch.Tensor]:
    """Return the documents of a padded batch, and the places of their tokens in it.

    Each row is one document: its unmasked tokens in order, wherever the padding stands. `mask_BS`
    is 1 or True for tokens and lies on the host.

    Returns:
        documents: B documents.
        token_N: int64 places in the flattened batch, on `device`.

    Raises:
        ShapeError: no such mask, or a row has no token.
    """
    mask = _host_mask(mask_BS)
    documents = Documents(mask.sum(1).tolist(), device)
    return documents, documents._send(np.flatnonzero(mask))


def _host_mask(mask_BS: torch.Tensor) -> npt.NDArray[np.bool_]:
    rule = "give a tensor [rows, columns] on the CPU, 1 or True for tokens and 0 or False for pads"
    if not isinstance(mask_BS, torch.Tensor):
        raise ShapeError(f"mask_BS is of type {type(mask_BS).__name__}; {rule}.")
    if mask_BS.ndim != 2 or mask_BS.device.type != "cpu":
        raise ShapeError(f"mask_BS is {tuple(mask_BS.shape)} on {mask_BS.device}; {rule}.")
    if not bool(((mask_BS == 0) | (mask_BS == 1)).all()):
        # A mask to be added to scores, 0 for tokens and -inf for pads, says the opposite.
        raise ShapeError(f"mask_BS has a value that is neither 0 nor 1; {rule}.")
    mask: npt.NDArray[np.bool_] = mask_BS.bool().numpy()
    for row in np.flatnonzero(~mask.any(1)):
        raise ShapeError(f"mask_BS[{row}] masks every token; a document has at least one token.")
    return mask
