"""Read the text through the teacher once and keep what it says, shard by shard.

Work is done in whole shards, each a function of the text and its own number, so a capture that was
killed goes on with the next shard and ends with the same bytes.

Shapes: B sequences, S tokens, N = B S positions, T teacher hidden size, V vocabulary.
"""

import time
from collections.abc import Callable

import torch

from distill.config import SignalConfig
from distill.corpus import Windows
from distill.signals import Sparse, sparsify
from distill.store import Store, pack_sparse
from distill.teachers.local import LocalTeacher

# Sequences the teacher reads at once, and positions whose logits exist at once.
_BATCH = 8
_ROWS = 128

Progress = Callable[[str, int, int, str], None]


def sparse(
    teacher: LocalTeacher,
    windows: Windows,
    store: Store,
    config: SignalConfig,
    progress: Progress,
) -> None:
    """Fill `store` with head and sampled tail at every position of `windows`."""

    def shard(tokens_WS: torch.Tensor, number: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        parts = []
        for tokens_BS in tokens_WS.split(_BATCH):
            for hidden_NT in teacher.hidden(tokens_BS).flatten(0, 1).split(_ROWS):
                logits_NV = hidden_NT @ teacher.head_VT.t()
                parts.append(
                    sparsify(logits_NV, head=config.head, tail=config.tail, generator=generator)
                )
        return pack_sparse(_join(parts), teacher.vocab_size)

    _fill(store, windows, config.shard_tokens, shard, "capture", progress)


def hidden(
    teacher: LocalTeacher, windows: Windows, store: Store, shard_tokens: int, progress: Progress
) -> None:
    """Fill `store` with the teacher's last hidden states, which are exact."""

    def shard(tokens_WS: torch.Tensor, number: int) -> dict[str, torch.Tensor]:
        parts = [teacher.hidden(tokens_BS).flatten(0, 1) for tokens_BS in tokens_WS.split(_BATCH)]
        return {"states": torch.cat(parts).cpu()}

    _fill(store, windows, shard_tokens, shard, "capture of held-out text", progress)


def _fill(
    store: Store,
    windows: Windows,
    shard_tokens: int,
    shard: Callable[[torch.Tensor, int], dict[str, torch.Tensor]],
    stage: str,
    progress: Progress,
) -> None:
    """Make the missing shards; inputs are all tokens of a window but the last."""
    count, length = windows.weights.shape
    per_shard = max(1, shard_tokens // length)
    tokens_WS = torch.from_numpy(windows.tokens[:, :-1]).long()
    progress(stage, store.tokens, count * length, "tokens")
    for number in range(len(store.shards), -(-count // per_shard)):
        began = time.perf_counter()
        with torch.inference_mode():
            tensors = shard(tokens_WS[number * per_shard : (number + 1) * per_shard], number)
        store.append(tensors, time.perf_counter() - began)
        progress(stage, store.tokens, count * length, "tokens")


def _join(parts: list[Sparse]) -> Sparse:
    return Sparse(
        torch.cat([part.head_ids_NH for part in parts]),
        torch.cat([part.head_p_NH for part in parts]),
        torch.cat([part.tail_ids_NR for part in parts]),
        torch.cat([part.tail_mass_N for part in parts]),
        torch.cat([part.entropy_N for part in parts]),
    )
