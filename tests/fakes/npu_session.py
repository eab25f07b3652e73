"""Train a tiny student on the CPU and on the simulated npu, and print what happened as JSON.

Run in a process of its own (`python -m tests.fakes.npu_session`), because the simulation changes
torch for good. Every figure it prints comes from CPU arithmetic.
"""

import json
from dataclasses import replace
from typing import Any

import torch

from distill.config import OptimizerConfig, RunConfig, TextConfig, TrainConfig
from distill.train import Trainer
from student import device as devices
from student.balance import routers
from student.config import presets
from student.errors import DeviceError
from student.model import Vocabulary, build
from tests.fakes import npu_sim
from tests.fakes.lessons import random_signal, random_windows

VOCAB, LENGTH, STEPS = 61, 16, 5
CONFIG = RunConfig(
    dtype="float32",
    text=TextConfig(sequence_length=LENGTH),
    student=presets()["tiny"],
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
    train=TrainConfig(steps=STEPS, batch_size=4),
)


def trainer(device: torch.device, dtype: str) -> Trainer:
    """Return a trainer whose student is on `device`."""
    vocabulary = Vocabulary(size=VOCAB, bos=0, eos=1, pad=2)
    model = build(CONFIG.student, vocabulary, seed=0, device=device)
    windows = random_windows(12, LENGTH, VOCAB)
    return Trainer(model, replace(CONFIG, dtype=dtype), windows, random_signal(windows, VOCAB))


def losses(trained: Trainer) -> list[float]:
    """Take all steps; return the loss of each."""
    return [row["loss"] for row in trained.steps(1)]


def places(trained: Trainer) -> dict[str, list[str]]:
    """Return the kinds of device that weights, gradients, loads and optimizer state lie on."""
    model = trained.model
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    states = trained.optimizer.state.values()
    return {
        "parameters": kinds(list(model.parameters())),
        "gradients": kinds(grads),
        "buffers": kinds(list(model.buffers())),
        "bias": kinds([router.e_score_correction_bias for router in routers(model)]),
        "counts": kinds([trained.meter.counts_LE]),
        "moments": kinds([state["exp_avg"] for state in states]),
        "steps": kinds([state["step"] for state in states]),
    }


def kinds(tensors: list[torch.Tensor]) -> list[str]:
    """Return the kinds of device in `tensors`, each once."""
    return sorted({tensor.device.type for tensor in tensors})


def resumed(device: torch.device) -> tuple[list[float], dict[str, list[str]]]:
    """Return losses and places of a run that was cut after two steps and restored from the host."""
    first = trainer(device, "float32")
    steps = first.steps(1)
    taken = [next(steps)["loss"] for _ in range(2)]
    kept = {name: t.detach().cpu().clone() for name, t in first.state().items()}
    second = trainer(device, "float32")
    second.restore(kept)
    return taken + [row["loss"] for row in second.steps(3)], places(second)


def refusal(attempt: Any) -> str:
    """Return the message of the error that `attempt` raises."""
    try:
        attempt()
    except (RuntimeError, TypeError, DeviceError) as error:
        return str(error)
    return ""


def main() -> None:
    """Print the results."""
    # Before the first backward pass, which fixes the devices that gradients may be on.
    simulation = npu_sim.install()
    expected = losses(trainer(torch.device("cpu"), "float32"))
    device = devices.pick("npu")
    on_device = trainer(device, "float32")
    simulation.traffic.clear()
    found = losses(on_device)
    traffic = {
        "ops": dict(simulation.traffic.ops),
        "to_device": sum(simulation.traffic.to_device.values()),
        "to_host": sum(simulation.traffic.to_host.values()),
    }
    low = trainer(device, "bfloat16")
    going_on, restored = resumed(device)
    here = torch.ones(3, device=device)
    result = {
        "device": str(device),
        "auto": str(devices.pick("auto")),
        "described": devices.describe(device),
        "dtype": str(devices.compute_dtype(device)),
        "steps": STEPS,
        "cpu": expected,
        "float32": found,
        "bfloat16": losses(low),
        "resumed": going_on,
        "places": places(on_device),
        "restored_places": restored,
        "low_places": places(low),
        "traffic": traffic,
        "refusals": {
            "mixed devices": refusal(lambda: here + torch.ones(3)),
            "host index": refusal(lambda: here[torch.tensor([0, 2])]),
            "float64": refusal(here.double),
            "complex64": refusal(lambda: torch.ones(3, dtype=torch.complex64).to(device)),
            "second device": refusal(lambda: devices.pick("npu:1")),
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
