"""The training loop alone: batches in, a better student out, one row of metrics a step.

The order of the text is a function of seed and step, so a resumed run takes the very steps an
uninterrupted one would have taken, bit for bit on a CPU.

Shapes: B sequences a batch, S tokens, W windows, N = B S positions, D hidden size.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distill import store
from distill.config import OptimizerConfig, RunConfig
from distill.corpus import Windows
from distill.errors import DistillError
from distill.fused_loss import distillation_loss
from distill.signals import Sparse
from student import balance
from student import device as devices
from student.model import head_weight, hidden_states

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One step's text.

    Attributes:
        inputs_BS: int64 tokens.
        labels_N: int64 next tokens.
        kept_M: int64 indices of the positions that count, on the CPU.
        rows_N: int64 places of the positions in the store of signals, on the CPU.
    """

    inputs_BS: torch.Tensor
    labels_N: torch.Tensor
    kept_M: torch.Tensor
    rows_N: torch.Tensor


def batch_at(windows: Windows, step: int, *, size: int, seed: int) -> Batch:
    """Return the batch of `step` (from 1): each epoch is one seeded shuffle of all windows."""
    count, length = windows.weights.shape
    places = np.arange((step - 1) * size, step * size)
    order = {e: np.random.default_rng((seed, e)).permutation(count) for e in set(places // count)}
    chosen = np.array([order[p // count][p % count] for p in places])
    tokens = torch.from_numpy(windows.tokens[chosen].astype(np.int64))
    rows = chosen[:, None] * length + np.arange(length)
    return Batch(
        inputs_BS=tokens[:, :-1],
        labels_N=tokens[:, 1:].reshape(-1),
        kept_M=torch.from_numpy(np.flatnonzero(windows.weights[chosen])),
        rows_N=torch.from_numpy(rows.reshape(-1)),
    )


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the rate of `step` (from 1): linear warm-up times a cosine down to the final one."""
    cosine = 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
    warm = min(1.0, step / max(config.warmup_steps, 1))
    final = config.final_fraction
    return config.learning_rate * warm * (final + (1 - final) * cosine)


class Trainer:
    """A student, its optimizer, and the step that joins them to the teacher's signal."""

    def __init__(
        self, model: Any, config: RunConfig, windows: Windows, signal: Sparse | None
    ) -> None:
        self.model = model
        self.config = config
        self.windows = windows
        self.signal = signal
        self.device: torch.device = head_weight(model).device
        self.dtype = devices.compute_dtype(self.device, config.dtype)
        self.meter = balance.LoadMeter(model)
        self.optimizer = _adamw(model, config.optimizer)

    def state(self) -> dict[str, torch.Tensor]:
        """Return every tensor a resumed run needs: weights, routing bias, both moments, counts."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{key}"] = value
        return tensors

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back a `state`."""
        model = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        self.model.load_state_dict(model, strict=True)
        # Fused AdamW counts its steps where it computes; the plain loop counts on the host.
        counts_on = self.device if devices.has_fused_adamw(self.device) else torch.device("cpu")
        for name, parameter in self.model.named_parameters():
            prefix = f"optimizer.{name}."
            self.optimizer.state[parameter] = {
                key.removeprefix(prefix): value.to(
                    counts_on if key == f"{prefix}step" else self.device
                )
                for key, value in tensors.items()
                if key.startswith(prefix)
            }

    def steps(self, first: int) -> Iterator[Row]:
        """Take the steps from `first` to the last, yielding each step's metrics."""
        self.model.train()
        with self.meter:
            for step in range(first, self.config.train.steps + 1):
                yield self._step(step)

    def _step(self, step: int) -> Row:
        began = time.perf_counter()
        config = self.config
        batch = batch_at(self.windows, step, size=config.train.batch_size, seed=config.seed)
        rate = learning_rate(config.optimizer, step, config.train.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.meter.reset()
        loss = self._loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        self.optimizer.step()
        balance.update_bias(self.meter, config.student.bias_update_speed)
        seconds = time.perf_counter() - began
        tokens = batch.labels_N.numel()
        return {
            "step": step,
            "tokens": step * tokens,
            "loss": float(loss.total.detach()),
            "kl": None if loss.forward_kl is None else float(loss.forward_kl),
            "cross_entropy": float(loss.cross_entropy),
            "learning_rate": rate,
            "gradient_norm": float(norm),
            "tokens_per_second": tokens / seconds,
            "seconds": seconds,
            "expert_load": self.meter.shares(),
        }

    def _loss(self, batch: Batch) -> Any:
        signal = None
        if self.signal is not None:
            signal = store.rows(self.signal, batch.rows_N, self.device)
        with devices.autocast(self.device, self.dtype):
            hidden_BSD = hidden_states(self.model, batch.inputs_BS.to(self.device))
        return distillation_loss(
            hidden_BSD.flatten(0, 1).float(),
            head_weight(self.model),
            batch.labels_N.to(self.device),
            batch.kept_M.to(self.device),
            signal,
            kl_weight=self.config.loss.forward_kl if signal else 0.0,
            ce_weight=self.config.loss.cross_entropy,
            dtype=self.dtype,
        )


def _adamw(model: Any, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only; norms are left alone."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=devices.has_fused_adamw(matrices[0].device),
    )


def run(
    trainer: Trainer,
    *,
    first: int,
    record: Callable[[Row], None],
    keep: Callable[[int], None],
) -> None:
    """Take all remaining steps; after each, `record` its row, then `keep` the state when due."""
    every = trainer.config.checkpoint.every_steps
    for row in trainer.steps(first):
        if not math.isfinite(row["loss"]):
            raise DistillError(
                f"the loss became {row['loss']} at step {row['step']}; lower "
                "optimizer.learning_rate or set dtype: float32."
            )
        record(row)
        if row["step"] % every == 0 or row["step"] == trainer.config.train.steps:
            keep(row["step"])
