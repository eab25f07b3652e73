"""The training loop alone: batches in, a better student out, one row of metrics a step.

The order of the text is a function of seed and step, so a resumed run takes the very steps an
uninterrupted one would have taken, bit for bit on a CPU.

Shapes: B sequences a batch, S tokens, W windows, N = B S positions, P positions of a prediction
layer, D hidden size, E experts, K experts a token.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from distill import store
from distill.config import OptimizerConfig, RunConfig
from distill.corpus import Windows
from distill.errors import DistillError
from distill.fused_loss import Loss, distillation_loss
from distill.signals import Sparse
from student import balance, muon
from student import device as devices
from student.choices import Choices
from student.documents import Documents
from student.model import Ahead, Output, Student

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


def mtp_weight(config: RunConfig, step: int) -> float:
    """Return the weight of the prediction layers' loss at `step` (from 1)."""
    late = step > config.loss.mtp_late_from * config.train.steps
    return config.loss.mtp_late if late else config.loss.mtp


class Terms(NamedTuple):
    """One step's loss and its parts, on the device, in nats a token.

    Attributes:
        total: what is differentiated.
        main: of the output head: KL and cross-entropy.
        ahead: weighted KL and cross-entropy of the prediction layers, a mean over depths, or None.
        balance: sequence-wise balance loss, summed over layers; 1 a layer when even.
        indexer: divergence of the indexers from the attention, summed over them.
    """

    total: torch.Tensor
    main: Loss
    ahead: torch.Tensor | None
    balance: torch.Tensor
    indexer: torch.Tensor


class Trainer:
    """A student, its optimizers, and the step that joins them to the teacher's signal."""

    def __init__(
        self, model: Student, config: RunConfig, windows: Windows, signal: Sparse | None
    ) -> None:
        self.model = model
        self.config = config
        self.windows = windows
        self.signal = signal
        self.device = model.device
        self.dtype = devices.compute_dtype(self.device, config.dtype)
        self.documents = Documents.rows(
            config.train.batch_size, config.text.sequence_length, self.device
        )
        self.optimizers = _optimizers(model, config, self.dtype)
        # Routing computed `routing_delay` steps before it is used, by the step that will use it.
        self.routed: dict[int, Choices] = {}

    def state(self) -> dict[str, torch.Tensor]:
        """Return every tensor a resumed run needs: weights, routing bias, moments, routing."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        names: dict[torch.Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        for optimizer in self.optimizers:
            for parameter, values in optimizer.state.items():
                for key, value in values.items():
                    tensors[f"optimizer.{names[parameter]}.{key}"] = value
        for step, choices in self.routed.items():
            for layer, expert_NK in enumerate(choices.experts):
                if expert_NK is not None:
                    tensors[f"routed.{step}.{layer}"] = expert_NK
        return tensors

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take back a `state`."""
        model = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        self.model.load_state_dict(model, strict=True)
        # Fused AdamW counts its steps where it computes; the plain loop counts on the host.
        counts_on = self.device if devices.has_fused_adamw(self.device) else torch.device("cpu")
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer in self.optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                prefix = f"optimizer.{names[parameter]}."
                optimizer.state[parameter] = {
                    key.removeprefix(prefix): value.to(
                        counts_on if key == f"{prefix}step" else self.device
                    )
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
        self.routed = self._routed_from(tensors)

    def _routed_from(self, tensors: dict[str, torch.Tensor]) -> dict[int, Choices]:
        layers = len(list(self.model.blocks()))
        steps = {int(name.split(".")[1]) for name in tensors if name.startswith("routed.")}
        found = {}
        for step in steps:
            experts = [tensors.get(f"routed.{step}.{layer}") for layer in range(layers)]
            there = tuple(None if e is None else e.to(self.device) for e in experts)
            found[step] = Choices(experts=there, entries=(None,) * layers)
        return found

    def steps(self, first: int) -> Iterator[Row]:
        """Take the steps from `first` to the last, yielding each step's metrics."""
        self.model.train()
        for step in range(first, self.config.train.steps + 1):
            yield self._step(step)

    def _step(self, step: int) -> Row:
        began = time.perf_counter()
        config = self.config
        batch = self._batch(step)
        rate = learning_rate(config.optimizer, step, config.train.steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        self._route_ahead(step)
        terms, loads = self._loss(batch, step)
        self.model.zero_grad(set_to_none=True)
        terms.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        balance.update_bias(self.model, loads, config.train.bias_update_speed)
        # The first look at a value: everything above was queued without waiting for it.
        figures = _figures(terms)
        seconds = time.perf_counter() - began
        tokens = batch.labels_N.numel()
        return {
            "step": step,
            "tokens": step * tokens,
            **figures,
            "learning_rate": rate,
            "gradient_norm": float(norm),
            "tokens_per_second": tokens / seconds,
            "seconds": seconds,
            "expert_load": balance.shares(balance.learned_loads(self.model, loads)),
        }

    def _batch(self, step: int) -> Batch:
        size = self.config.train.batch_size
        return batch_at(self.windows, step, size=size, seed=self.config.seed)

    def _route_ahead(self, step: int) -> None:
        """Choose the experts of a later step with the weights of this one.

        Anticipatory routing (DeepSeek-V4 report, section 4.2.3): routing that lags behind the
        weights breaks the loop in which both run away together. The first steps route as ever.
        """
        delay = self.config.train.routing_delay
        self.routed.pop(step - 1, None)
        if not delay or step + delay > self.config.train.steps:
            return
        tokens_N = self._batch(step + delay).inputs_BS.to(self.device).flatten()
        with torch.no_grad(), devices.autocast(self.device, self.dtype):
            output = self.model(tokens_N, self.documents, ahead=self._looks_ahead(step + delay))
        self.routed[step + delay] = output.choices.routing_only()

    def _looks_ahead(self, step: int) -> bool:
        return len(self.model.mtp) > 0 and mtp_weight(self.config, step) > 0

    def _loss(self, batch: Batch, step: int) -> tuple[Terms, tuple[torch.Tensor | None, ...]]:
        config = self.config
        with devices.autocast(self.device, self.dtype):
            output = self.model(
                batch.inputs_BS.to(self.device).flatten(),
                self.documents,
                replay=self.routed.get(step),
                dense=step <= config.train.dense_steps,
                losses=True,
                ahead=self._looks_ahead(step),
                recompute=config.train.recompute,
            )
        return self._terms(batch, output, mtp_weight(config, step)), output.loads

    def _terms(self, batch: Batch, output: Output, ahead_weight: float) -> Terms:
        weights = self.config.loss
        labels_N = batch.labels_N.to(self.device)
        signal = None
        if self.signal is not None:
            signal = store.rows(self.signal, batch.rows_N, self.device)
        kept_M = batch.kept_M.to(self.device)
        main = self._head_loss(output.hidden_ND, labels_N, kept_M, signal)
        total = main.total + weights.balance * output.balance_loss
        total = total + weights.indexer * output.index_loss
        ahead = None
        if output.ahead:
            depths = [self._ahead_loss(made, batch, labels_N, signal) for made in output.ahead]
            ahead = torch.stack(depths).mean()
            total = total + ahead_weight * ahead
        return Terms(total, main, ahead, output.balance_loss, output.index_loss)

    def _ahead_loss(
        self, made: Ahead, batch: Batch, labels_N: torch.Tensor, signal: Sparse | None
    ) -> torch.Tensor:
        """Return a prediction layer's loss: the very terms of the main head, at its targets."""
        counted = np.zeros(batch.labels_N.numel(), dtype=bool)
        counted[batch.kept_M.numpy()] = True
        kept_P = torch.from_numpy(np.flatnonzero(counted[made.target])).to(self.device)
        there = None if signal is None else signal.take(made.target_P)
        return self._head_loss(made.hidden_PD, labels_N[made.target_P], kept_P, there).total

    def _head_loss(
        self,
        hidden_ND: torch.Tensor,
        labels_N: torch.Tensor,
        kept_M: torch.Tensor,
        signal: Sparse | None,
    ) -> Loss:
        return distillation_loss(
            hidden_ND.float(),
            self.model.head_weight(),
            labels_N,
            kept_M,
            signal,
            kl_weight=self.config.loss.forward_kl if signal else 0.0,
            ce_weight=self.config.loss.cross_entropy,
            dtype=self.dtype,
        )


def _figures(terms: Terms) -> dict[str, float | None]:
    """Bring a step's losses to the host."""
    kl, ahead = terms.main.forward_kl, terms.ahead
    return {
        "loss": float(terms.total.detach()),
        "kl": None if kl is None else float(kl),
        "cross_entropy": float(terms.main.cross_entropy),
        "mtp": None if ahead is None else float(ahead.detach()),
        "balance": float(terms.balance.detach()),
        "indexer": float(terms.indexer.detach()),
    }


def _optimizers(
    model: Student, config: RunConfig, dtype: torch.dtype
) -> list[torch.optim.Optimizer]:
    """AdamW alone, or Muon with AdamW for what Muon is not for."""
    fused = devices.has_fused_adamw(model.device)
    rate = config.optimizer.learning_rate
    if config.optimizer.name == "muon":
        groups = muon.parameter_groups(model.named_parameters(), model.config)
        return [
            muon.Muon(groups.muon, rate, dtype=dtype),
            muon.adamw(groups.adamw, rate, fused=fused),
        ]
    # Weight decay on matrices only; norms, gates and sinks are left alone.
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups_of = [
        {"params": matrices, "weight_decay": config.optimizer.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = config.optimizer.beta1, config.optimizer.beta2
    return [torch.optim.AdamW(groups_of, lr=rate, betas=betas, fused=fused)]


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
