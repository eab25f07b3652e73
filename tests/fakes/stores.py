"""Small stores of every mode: what shard n holds is a function of mode and n."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from distill.signals import Head, Hidden, Signal, Text, sample, sparsify
from distill.store.shard import Key, Mode, Sequences
from distill.store.store import Store

VOCAB = 300
LENGTHS = (5, 1, 10)
POSITIONS = sum(LENGTHS)
HEAD = Head(torch.randn(VOCAB, 4, generator=torch.Generator().manual_seed(0)))
SETTINGS = {
    "head_tail": {"head": 5, "tail": 3},
    "topk": {"head": 5},
    "sampled": {"tail": 20},
    "hidden": {"dtype": "bfloat16"},
    "text": {"logp": True},
}
MODES: tuple[Mode, ...] = ("head_tail", "topk", "sampled", "hidden", "text")


def key(mode: Mode = "head_tail", vocab_size: int = VOCAB) -> Key:
    """Return the key of a store of `mode`."""
    settings = SETTINGS[mode]
    return Key(mode=mode, teacher_sha256="t" * 64, vocab_size=vocab_size, settings=settings)


def text(number: int, vocab_size: int = VOCAB) -> Sequences:
    """Return three sequences, some positions of which do not count; one has a break inside."""
    generator = torch.Generator().manual_seed(number)
    tokens = [torch.randint(0, vocab_size, (n + 1,), generator=generator) for n in LENGTHS]
    counted = [torch.rand(n, generator=generator) < 0.7 for n in LENGTHS]
    made = Sequences.of(tokens, counted)
    start_N = made.start_N.clone()
    start_N[9] = True
    return replace(made, start_N=start_N)


def signal(number: int, mode: Mode = "head_tail", vocab_size: int = VOCAB) -> Signal:
    """Return what is said at the positions of `text(number)`."""
    generator = torch.Generator().manual_seed(1000 + number)
    if mode == "hidden":
        return Hidden(torch.randn(POSITIONS, 4, generator=generator).bfloat16(), HEAD)
    if mode == "text":
        logp_N = -torch.rand(POSITIONS, generator=generator)
        logp_N[3] = torch.nan
        return Text(logp_N)
    logits = 2 * torch.randn(POSITIONS, vocab_size, generator=generator)
    if mode == "sampled":
        return sample(logits, draws=20, generator=generator)
    return sparsify(logits, head=5, tail=3 if mode == "head_tail" else 0, generator=generator)


def filled(path: Path, numbers: Iterable[int], mode: Mode = "head_tail") -> Store:
    """Open a store and append those of the shards `numbers` that are missing at its end."""
    store = Store(path, key(mode))
    for number in list(numbers)[len(store.shards) :]:
        store.append(text(number), signal(number, mode), seconds=0.5)
    return store


def write_every(path: Path, first: int, step: int, end: int) -> None:
    """Write shards `first`, `first + step` and so on below `end`, sealing after each.

    On one thread, as the tests are: sums of several may round otherwise.
    """
    torch.set_num_threads(1)
    store = Store(path, key())
    for number in range(first, end, step):
        store.put(number, text(number), signal(number), seconds=0.5)
        store.seal()
