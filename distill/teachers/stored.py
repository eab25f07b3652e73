"""A teacher that has spoken already: the signals of a store, by place."""

from collections import OrderedDict

import torch

from distill.signals import Head, Hidden, Signal, Sparse, Text
from distill.store import shard
from distill.store.shard import Tensors
from distill.store.store import Store

# Shards that are mapped at once; the operating system counts maps.
_OPEN = 256


class Signals:
    """The signals of a store by place, read as they are asked for."""

    def __init__(self, store: Store, head: Head | None = None, *, check: bool = True) -> None:
        """Look into the sealed shards of `store`.

        Args:
            store: as it is now; what is appended later is not seen.
            head: the teacher's, on the device the signals are asked for on; for mode `hidden`.
            check: whether each shard's digest is checked when it is first opened.
        """
        self.store = store
        self.head = head
        self.check = check
        counts = [entry.tokens for entry in store.shards]
        self._end_S = torch.tensor(counts, dtype=torch.int64).cumsum(0)
        self._open: OrderedDict[int, Tensors] = OrderedDict()
        self._checked: set[int] = set()

    @property
    def kind(self) -> type[Signal]:
        """What kind of signal the store is of."""
        return {"hidden": Hidden, "text": Text}.get(self.store.key.mode, Sparse)

    def at(self, row_P: torch.Tensor, device: torch.device) -> Signal:
        """Return what is said at these places, int64 and float32 (states as kept) on `device`.

        Args:
            row_P: int64 on the CPU, any order, 1 or more; a place is a position counted over all
                shards.
            device: where the signal is wanted.

        Raises:
            StorageError: a shard is missing or was changed.
        """
        assert len(row_P) and 0 <= int(row_P.min()) and int(row_P.max()) < self.store.tokens
        shard_P = torch.searchsorted(self._end_S, row_P, right=True)
        order_P = shard_P.argsort(stable=True)
        numbers, counts = shard_P[order_P].unique_consecutive(return_counts=True)
        parts = []
        for number, row_S in zip(
            numbers.tolist(), row_P[order_P].split(counts.tolist()), strict=True
        ):
            first = int(self._end_S[number]) - self.store.shards[number].tokens
            tensors = self._tensors(number)
            parts.append(shard.decode(self.store.key, tensors, row_S - first, self.head))
        signal = shard.join(parts)
        if len(parts) > 1:
            signal = signal.take(order_P.argsort())
        return _to(signal, device)

    def _tensors(self, number: int) -> Tensors:
        tensors = self._open.pop(number, None)
        if tensors is None:
            check = self.check and number not in self._checked
            tensors = self.store.load(number, check=check)
            self._checked.add(number)
        self._open[number] = tensors  # the newest is last
        if len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return tensors


def _to(signal: Signal, device: torch.device) -> Signal:
    match signal:
        case Sparse(head_ids_NH, head_p_NH, tail_ids_NR, tail_mass_N, entropy_N):
            return Sparse(
                head_ids_NH.to(device),
                head_p_NH.to(device),
                tail_ids_NR.to(device),
                tail_mass_N.to(device),
                entropy_N.to(device),
            )
        case Hidden(states_NT, head):
            return Hidden(states_NT.to(device), head)
        case Text(logp_N):
            return Text(None if logp_N is None else logp_N.to(device))
        case _:
            raise AssertionError(f"no store gives {type(signal).__name__}")
