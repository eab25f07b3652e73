"""Train both families on the CPU and on the simulated npu, and print what happened as JSON.

Run in a process of its own (`python -m tests.fakes.npu_session`), because the simulation changes
torch for good. Every figure it prints comes from CPU arithmetic.
"""

import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distill.config import OptimizerConfig, RunConfig, TextConfig, TrainConfig
from distill.stopwatch import Stopwatch
from distill.train import Trainer
from student import device as devices
from student.catalogue import presets
from student.documents import Documents
from student.errors import DeviceError
from student.generate import Sampling
from student.model import Student
from student.vocabulary import Vocabulary
from tests.fakes import npu_sim
from tests.fakes.lessons import random_signal, random_windows, reading

VOCAB, LENGTH, STEPS = 61, 32, 20
VOCABULARY = Vocabulary(size=VOCAB, bos=0, eos=1, pad=2)
CPU = torch.device("cpu")
MLA = RunConfig(
    dtype="float32",
    text=TextConfig(sequence_length=LENGTH),
    student=replace(presets()["tiny"], num_mtp_layers=1),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
    train=TrainConfig(steps=STEPS, batch_size=4),
)
# A window, entries of both kinds, an indexer that has to choose, both stages, both optimizers.
V4 = replace(
    MLA,
    student=replace(presets()["v4-tiny"], sliding_window=8, hca_compression=8, index_top_k=3),
    optimizer=OptimizerConfig(name="muon", learning_rate=1e-2, warmup_steps=1),
    train=TrainConfig(steps=STEPS, batch_size=4, dense_steps=5, routing_delay=1),
)
LISTED = replace(
    MLA,
    student=replace(presets()["tiny"], attention_bias=True, rope_frequencies=(0.5, 0.5, 0.1, 0.02)),
)
RUNS = {"mla": MLA, "v4": V4, "mla biases, listed frequencies": LISTED}


def trainer(config: RunConfig, device: torch.device) -> Trainer:
    """Return a trainer whose student is on `device`."""
    model = Student.build(config.student, VOCABULARY, seed=0, device=device)
    windows = random_windows(24, LENGTH, VOCAB)
    return Trainer(model, config, reading(windows, random_signal(windows, VOCAB), config))


def losses(trained: Trainer) -> list[float]:
    """Take all steps; return the loss of each."""
    return [row["loss"] for row in trained.steps(1)]


def places(trained: Trainer) -> dict[str, list[str]]:
    """Return the kinds of device that weights, gradients, buffers and optimizer state lie on."""
    model = trained.model
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    states = [state for o in trained.optimizers for state in o.state.values()]
    moments = ("exp_avg", "exp_avg_sq", "momentum")
    return {
        "parameters": kinds(list(model.parameters())),
        "gradients": kinds(grads),
        "buffers": kinds(list(model.buffers())),
        "moments": kinds([state[name] for state in states for name in moments if name in state]),
        "steps": kinds([state["step"] for state in states if "step" in state]),
    }


def kinds(tensors: list[torch.Tensor]) -> list[str]:
    """Return the kinds of device in `tensors`, each once."""
    return sorted({tensor.device.type for tensor in tensors})


def resumed(config: RunConfig, device: torch.device) -> tuple[list[float], dict[str, list[str]]]:
    """Return losses and places of a run that was cut after two steps and restored from the host."""
    first = trainer(config, device)
    steps = first.steps(1)
    taken = [next(steps)["loss"] for _ in range(2)]
    kept = {name: t.detach().cpu().clone() for name, t in first.state().items()}
    second = trainer(config, device)
    second.restore(kept)
    return taken + [row["loss"] for row in second.steps(3)], places(second)


def one_step(trained: Trainer, simulation: npu_sim.Simulation) -> dict[str, dict[str, int]]:
    """Return the traffic of the last step's parts: its micro-batch, its update, its metrics."""
    traffic, parts = simulation.traffic, {}
    config = trained.config
    step = config.train.steps
    batch = trained.course.batch(step)
    clock = Stopwatch(trained.device, waits=False)

    def take(name: str) -> None:
        parts[name] = {
            "operations": sum(traffic.ops.values()),
            "to_device": sum(traffic.to_device.values()),
            "waits": sum(traffic.to_host.values()),
            "waits_by_operation": dict(traffic.to_host),
        }
        traffic.clear()

    traffic.clear()
    terms, _ = trained._loss(batch, step, clock)
    terms.total.backward()
    take("micro-batch")
    torch.nn.utils.clip_grad_norm_(trained.model.parameters(), 1.0)
    for optimizer in trained.optimizers:
        optimizer.step()
    take("update")
    return parts


def written(device: torch.device, config: RunConfig) -> dict[str, Any]:
    """Return what a student writes on the device and on the CPU, and what a reload writes."""
    prompts = [[5, 6, 7], [8] * 21]
    made = Student.build(config.student, VOCABULARY, seed=3, device=device)
    there = made.generate(prompts, max_new_tokens=12, stop=[])
    host = Student.build(config.student, VOCABULARY, seed=3, device=CPU)
    drawn = Sampling(temperature=1.0, top_p=0.9, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder) / "student")
        back = Student.load(Path(folder) / "student", device=device)
    same = all(
        torch.equal(a.cpu(), b)
        for a, b in zip(back.state_dict().values(), host.state_dict().values(), strict=True)
    )
    return {
        "device": there,
        "cpu": host.generate(prompts, max_new_tokens=12, stop=[]),
        "sampled": made.generate(prompts, max_new_tokens=12, stop=[], sampling=drawn),
        "sampled_cpu": host.generate(prompts, max_new_tokens=12, stop=[], sampling=drawn),
        "reloaded": back.generate(prompts, max_new_tokens=12, stop=[]),
        "reload_is_equal": same,
        "reload_lies_on": kinds(list(back.parameters())),
    }


def recomputed(device: torch.device, config: RunConfig) -> list[list[float]]:
    """Return the first losses with and without recomputing blocks, on the device."""
    short = replace(config.train, steps=3)
    both = [replace(config, train=replace(short, recompute=again)) for again in (False, True)]
    return [losses(trainer(one, device)) for one in both]


def packed(device: torch.device, config: RunConfig) -> float:
    """Return how far packed documents are from the same ones alone, on the device."""
    shape = config.student
    if shape.family == "v4":  # scores of a few heads tie at 0; a choice that does not bind cannot
        shape = replace(shape, index_top_k=64)
    model = Student.build(shape, VOCABULARY, seed=0, device=device)
    lengths = (9, 30, 1, 17)
    tokens = torch.randint(VOCAB, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(tokens.to(device), Documents(lengths, device)).hidden_ND.cpu()
        alone = [
            model(part.to(device), Documents([len(part)], device)).hidden_ND.cpu()
            for part in tokens.split(lengths)
        ]
    return float((whole - torch.cat(alone)).abs().max())


def refusal(attempt: Any) -> str:
    """Return the message of the error that `attempt` raises."""
    try:
        attempt()
    except (RuntimeError, TypeError, DeviceError) as error:
        return str(error)
    return ""


def family(name: str, device: torch.device, simulation: npu_sim.Simulation) -> dict[str, Any]:
    """Return everything one family did."""
    config = RUNS[name]
    on_device = trainer(config, device)
    simulation.traffic.clear()
    rows = list(on_device.steps(1))
    operations = Counter(simulation.traffic.ops)
    to_device = sum(simulation.traffic.to_device.values())
    to_host = Counter(simulation.traffic.to_host)
    low = trainer(replace(config, dtype="bfloat16"), device)
    going_on, restored = resumed(config, device)
    return {
        "float32": [row["loss"] for row in rows],
        "split": [row["step"] for row in rows if row["seconds_by_stage"] is not None],
        "places": places(on_device),
        "operations": dict(operations.most_common()),
        "to_device": to_device,
        "to_host": sum(to_host.values()),
        "synchronized": to_host["synchronize"],
        "parts": one_step(on_device, simulation),
        "mixtures": sum(b.ffn.__class__.__name__ == "Mixture" for b in on_device.model.blocks()),
        "bfloat16": losses(low),
        "low_places": places(low),
        "resumed": going_on,
        "restored_places": restored,
        "written": written(device, config),
        "recomputed": recomputed(device, config),
        "packed": packed(device, config),
    }


def main() -> None:
    """Print the results."""
    # Before the first backward pass, which fixes the devices that gradients may be on.
    simulation = npu_sim.install()
    expected = {name: losses(trainer(config, CPU)) for name, config in RUNS.items()}
    device = devices.pick("npu")
    here = torch.ones(3, device=device)
    result = {
        "device": str(device),
        "auto": str(devices.pick("auto")),
        "described": devices.describe(device),
        "dtype": str(devices.compute_dtype(device)),
        "steps": STEPS,
        "cpu": expected,
        "families": {name: family(name, device, simulation) for name in RUNS},
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
