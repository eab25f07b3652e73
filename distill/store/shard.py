"""What one shard of a store holds: a stretch of text and what a teacher says at its positions.

A shard is a dict of tensors, as safetensors keeps them. The text is in every shard, so a store can
be read without the corpus it was captured from. Probabilities, masses and entropies are float16,
rounded to nearest, which favours neither head nor tail; ids are packed (`packing.py`).

Shapes: B sequences, N positions, K tokens = N + B, P places taken, H head entries, R tail draws,
U unique draws over all positions, T teacher hidden size.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from pydantic import ConfigDict, PositiveInt
from safetensors.torch import load_file

from distill.signals import Head, Hidden, Signal, Sparse, Text
from distill.store import packing
from distill.text.corpus import Windows

Mode = Literal["head_tail", "topk", "sampled", "hidden", "text"]
Tensors = dict[str, torch.Tensor]


@pydantic.dataclasses.dataclass(
    frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid", strict=True)
)
class Key:
    """What a store is a record of; the beginning of its hash chain.

    Modes:
        head_tail: `Sparse`, the likeliest tokens exactly and draws from the rest.
        topk: `Sparse` without draws.
        sampled: `Sparse` of draws alone, each token once with how often it was drawn (Anshumann
            et al., arXiv 2503.16870).
        hidden: `Hidden`, in the dtype it was computed in.
        text: `Text`, with or without log-probabilities.

    Attributes:
        mode: what is kept of each position.
        teacher_sha256: digest of who said it.
        vocab_size: of the tokens and of what is said.
        settings: whatever else the bytes depend on, as JSON has it; `sampled` needs `tail`, how
            many were drawn, from 1 to 255, and `text` needs `logp: true` where log-probabilities
            are kept.
    """

    mode: Mode
    teacher_sha256: str
    vocab_size: PositiveInt
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the key as it stands in `manifest.json`."""
        return {
            "mode": self.mode,
            "teacher_sha256": self.teacher_sha256,
            "vocab_size": self.vocab_size,
            "settings": self.settings,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """Text as a teacher reads it: sequences end to end, each a token longer than its positions.

    The last token of a sequence is the label of its last position, and nothing else.

    Attributes:
        token_K: int64.
        length_B: int64, positions of each sequence, 1 or more.
        counted_N: bool, whether a position's label is to be learnt.
        start_N: bool, whether the context begins anew at a position: where sequences begin, and
            where documents do if they are kept apart inside one.
    """

    token_K: torch.Tensor
    length_B: torch.Tensor
    counted_N: torch.Tensor
    start_N: torch.Tensor

    @classmethod
    def of(
        cls, tokens: Sequence[torch.Tensor], counted: Sequence[torch.Tensor] | None = None
    ) -> "Sequences":
        """Return sequences of these tokens.

        Args:
            tokens: integers, one tensor of n + 1 a sequence.
            counted: one tensor of n a sequence; all positions count without it.
        """
        length_B = torch.tensor([len(token_L) - 1 for token_L in tokens])
        positions = int(length_B.sum())
        start_N = torch.zeros(positions, dtype=torch.bool)
        start_N[length_B.cumsum(0) - length_B] = True
        return cls(
            token_K=torch.cat(list(tokens)).long(),
            length_B=length_B,
            counted_N=torch.ones(positions, dtype=torch.bool)
            if counted is None
            else torch.cat(list(counted)).bool(),
            start_N=start_N,
        )

    @classmethod
    def windows(cls, windows: Windows) -> "Sequences":
        """Return windows as sequences."""
        count, length = windows.weights.shape
        return cls(
            token_K=torch.from_numpy(windows.tokens.astype(np.int64)).flatten(),
            length_B=torch.full((count,), length),
            counted_N=torch.from_numpy(windows.weights > 0).flatten(),
            start_N=torch.from_numpy(windows.starts).flatten(),
        )

    def split(self) -> list[torch.Tensor]:
        """Return the tokens of each sequence, the last label included."""
        return list(self.token_K.split((self.length_B + 1).tolist()))

    def sha256(self) -> str:
        """Return the digest of all four tensors."""
        parts = (
            self.length_B.numpy().astype("<i8"),
            self.token_K.numpy().astype("<i4"),
            np.packbits(self.counted_N.numpy()),
            np.packbits(self.start_N.numpy()),
        )
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def encode(key: Key, text: Sequences, signal: Signal) -> Tensors:
    """Return the tensors of a shard, on the CPU.

    Raises:
        ValueError: an id is not of the key's vocabulary, or the signal is not of its mode.
    """
    said = _encode(key, signal)
    count = len(text.counted_N)
    if any(len(said[name]) != count for name in ("entropy", "states", "logp") if name in said):
        raise ValueError(f"the signal is not of the text's {count} positions")
    return {
        **_ids("tokens", text.token_K, key.vocab_size),
        "lengths": text.length_B.int(),
        "counted": packing.pack_bits(text.counted_N, 1),
        "starts": packing.pack_bits(text.start_N, 1),
        **said,
    }


def _encode(key: Key, signal: Signal) -> Tensors:
    match key.mode, signal:
        case "head_tail" | "topk", Sparse():
            tail = (
                {} if key.mode == "topk" else _ids("tail_ids", signal.tail_ids_NR, key.vocab_size)
            )
            return {
                **_ids("head_ids", signal.head_ids_NH, key.vocab_size),
                "head_p": signal.head_p_NH.cpu().half(),
                "tail_mass": signal.tail_mass_N.cpu().half(),
                "entropy": signal.entropy_N.cpu().half(),
                **tail,
            }
        case "sampled", Sparse():
            return _encode_draws(signal, key.settings["tail"], key.vocab_size)
        case "hidden", Hidden():
            return {"states": signal.states_NT.cpu().contiguous()}
        case "text", Text(logp_N) if (logp_N is not None) == key.settings.get("logp", False):
            return {} if logp_N is None else {"logp": logp_N.cpu().float()}
        case _:
            raise ValueError(f"{type(signal).__name__} cannot be kept in mode {key.mode!r}")


def _encode_draws(signal: Sparse, draws: int, vocab_size: int) -> Tensors:
    """Keep each drawn token once with its count; rows differ in how many they have."""
    if not 0 < draws < 256:
        raise ValueError(f"{draws} draws; a count must fit a byte, so give 1 to 255")
    count_NR = (signal.head_p_NH.cpu() * draws).round()
    used_NR = count_NR > 0
    return {
        **_ids("ids", signal.head_ids_NH.cpu()[used_NR], vocab_size),
        "counts": count_NR[used_NR].to(torch.uint8),
        "unique": used_NR.sum(1).to(torch.uint8),
        "entropy": signal.entropy_N.cpu().half(),
    }


def _ids(name: str, ids: torch.Tensor, vocab_size: int) -> Tensors:
    low, high_M = packing.pack_ids(ids.cpu(), vocab_size)
    return {name: low} | ({f"{name}.high": high_M} if len(high_M) else {})


def load(path: Path) -> Tensors:
    """Return the tensors of a shard, mapped: a page is read when it is first looked at."""
    return indexed(load_file(path))


def indexed(tensors: Tensors) -> Tensors:
    """Return the tensors `encode` made with `first` beside them, where each row's draws begin."""
    if "unique" not in tensors:
        return tensors
    unique_N = tensors["unique"].long()
    return {**tensors, "first": unique_N.cumsum(0) - unique_N}


def decode_text(key: Key, tensors: Tensors) -> Sequences:
    """Return the text of a shard."""
    length_B = tensors["lengths"].long()
    positions = int(length_B.sum())
    return Sequences(
        token_K=_unpacked(key, tensors, "tokens", torch.arange(positions + len(length_B))),
        length_B=length_B,
        counted_N=packing.unpack_flags(tensors["counted"], positions),
        start_N=packing.unpack_flags(tensors["starts"], positions),
    )


def decode(key: Key, tensors: Tensors, row_P: torch.Tensor, head: Head | None) -> Signal:
    """Return what a shard says at the positions `row_P`, int64 and float32 on the CPU.

    Args:
        key: the store's.
        tensors: of the shard, `indexed`; of a mapped file only the pages of these rows are read.
        row_P: int64, places in the shard.
        head: the teacher's, for mode `hidden`.
    """
    match key.mode:
        case "head_tail" | "topk":
            return _decode_head(key, tensors, row_P)
        case "sampled":
            return _decode_draws(key, tensors, row_P)
        case "hidden":
            assert head is not None, "hidden states say nothing without the teacher's head"
            return Hidden(tensors["states"][row_P], head)
        case "text":
            return Text(tensors["logp"][row_P] if "logp" in tensors else None)


def _decode_head(key: Key, tensors: Tensors, row_P: torch.Tensor) -> Sparse:
    if key.mode == "topk":
        tail_ids_PR = torch.empty(len(row_P), 0, dtype=torch.int64)
    else:
        tail_ids_PR = _unpacked_rows(key, tensors, "tail_ids", row_P)
    return Sparse(
        _unpacked_rows(key, tensors, "head_ids", row_P),
        tensors["head_p"][row_P].float(),
        tail_ids_PR,
        tensors["tail_mass"][row_P].float(),
        tensors["entropy"][row_P].float(),
    )


def _decode_draws(key: Key, tensors: Tensors, row_P: torch.Tensor) -> Sparse:
    unique_P, first_P = tensors["unique"][row_P].long(), tensors["first"][row_P]
    entry_H = torch.arange(int(unique_P.max()) if len(row_P) else 0)
    used_PH = entry_H < unique_P[:, None]
    place_PH = torch.where(used_PH, first_P[:, None] + entry_H, 0)
    count_PH = torch.where(used_PH, tensors["counts"][place_PH].float(), 0.0)
    return Sparse(
        torch.where(used_PH, _unpacked(key, tensors, "ids", place_PH), 0),
        count_PH / count_PH.sum(1, keepdim=True),
        torch.empty(len(row_P), 0, dtype=torch.int64),
        torch.zeros(len(row_P)),
        tensors["entropy"][row_P].float(),
    )


def _unpacked_rows(key: Key, tensors: Tensors, name: str, row_P: torch.Tensor) -> torch.Tensor:
    """Return whole rows of a matrix of ids."""
    width = tensors[name].shape[1]
    return _unpacked(key, tensors, name, row_P[:, None] * width + torch.arange(width))


def _unpacked(key: Key, tensors: Tensors, name: str, place: torch.Tensor) -> torch.Tensor:
    high_M = tensors.get(f"{name}.high", torch.empty(0, dtype=torch.uint8))
    return packing.unpack_ids(tensors[name], high_M, place, key.vocab_size)


def positions(tensors: Tensors) -> int:
    """Return how many positions a shard holds."""
    return int(tensors["lengths"].sum())


def join(parts: Sequence[Signal]) -> Signal:
    """Return the signals of one store's shards one after another."""
    first = parts[0]
    if len(parts) == 1:
        return first
    match first:
        case Sparse():
            return _join_sparse([part for part in parts if isinstance(part, Sparse)])
        case Hidden():
            states = [part.states_NT for part in parts if isinstance(part, Hidden)]
            return Hidden(torch.cat(states), first.head)
        case Text():
            logp = [part.logp_N for part in parts if isinstance(part, Text)]
            there = [logp_N for logp_N in logp if logp_N is not None]
            return Text(torch.cat(there) if there else None)
        case _:
            raise AssertionError(f"no store gives {type(first).__name__}")


def _join_sparse(parts: Sequence[Sparse]) -> Sparse:
    most = max(part.head_ids_NH.shape[1] for part in parts)
    room = [(0, most - part.head_ids_NH.shape[1]) for part in parts]
    pad = torch.nn.functional.pad
    return Sparse(
        torch.cat([pad(part.head_ids_NH, by) for part, by in zip(parts, room, strict=True)]),
        torch.cat([pad(part.head_p_NH, by) for part, by in zip(parts, room, strict=True)]),
        torch.cat([part.tail_ids_NR for part in parts]),
        torch.cat([part.tail_mass_N for part in parts]),
        torch.cat([part.entropy_N for part in parts]),
    )
