"""What students learn: `python tests/bench/learning.py --json PATH`, ten minutes on one thread.

Held-out bits per byte after two hundred steps on the help topics of this Python, ours and
transformers' class, over three seeds. Both see the same tokens in the same order under the same
AdamW and have as many parameters; either begins with the weights it draws by default, and ours
has its balance and indexer losses. Then how evenly the experts were loaded over the last twenty
steps, with the routing bias moving and with it at rest: the largest expert's load over the mean
one, in the worst layer whose routing is learned. Lower is better everywhere.

Shapes: T steps, L layers with learned routing, E experts, B sequences, S tokens, V vocabulary.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

# Python looks beside a script first, and there `student` is not ours to import.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import torch.nn.functional as F

from distill import train
from distill.batches import Reading
from distill.config import RunConfig, TextConfig, TrainConfig
from distill.loss import objective
from distill.text import corpus, sources
from distill.text.corpus import Windows
from student.config import MLAConfig, V4Config
from student.documents import Documents
from student.model import Student
from student.vocabulary import Vocabulary
from tests.bench import measure
from tests.bench.measure import CPU, RIVAL, Case, Figures, Task
from tests.fakes.teachers import byte_pairs

HELD_OUT, LAST, ROWS = 0.1, 20, 16
AT_REST = "ours_at_rest"
SPEED = 0.01  # of the routing bias: the reports' 0.001 is for runs of far more steps


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is trained."""

    steps: int
    batch: int
    length: int
    vocab: int
    topics: int | None
    seeds: tuple[int, ...]


FULL = Scale(steps=200, batch=8, length=128, vocab=1024, topics=None, seeds=(1, 2, 3))
QUICK = Scale(steps=3, batch=2, length=32, vocab=320, topics=24, seeds=(1,))


def networks(quick: bool) -> dict[str, MLAConfig | V4Config]:
    """Return a student of either family; windows and choices of v4 so small that they bind."""
    cases = measure.cases()
    if quick:
        return {"v4": cases["v4_quick"].config, "mla": cases["mla_quick"].config}
    v4, mla = cases["v4_tiny"].config, cases["mla_tiny"].config
    assert isinstance(v4, V4Config) and isinstance(mla, MLAConfig)
    return {
        "v4": replace(
            v4,
            num_heads=4,
            head_dim=32,
            o_groups=2,
            sliding_window=32,
            hca_compression=16,
            index_head_dim=16,
            index_top_k=8,
        ),
        "mla": replace(mla, num_heads=4, kv_lora_rank=32, qk_nope_head_dim=16),
    }


@dataclass(frozen=True)
class Text:
    """Tokens to learn from and tokens to be measured on."""

    training: Windows
    held_out: Windows
    vocabulary: Vocabulary

    @classmethod
    def embedded(cls, scale: Scale) -> "Text":
        """Return the help topics of this Python; the tokenizer knows their training part alone."""
        documents = sources.load(["pydoc"])[: scale.topics]
        training, held_out = corpus.split(documents, HELD_OUT)
        tokenizer = byte_pairs((document.text for document in training), scale.vocab)
        return cls(
            corpus.pack(training, tokenizer, scale.length),
            corpus.pack(held_out, tokenizer, scale.length),
            Vocabulary(
                size=scale.vocab,
                bos=tokenizer.bos_token_id,
                eos=tokenizer.eos_token_id,
                pad=tokenizer.pad_token_id,
            ),
        )


def settings(network: MLAConfig | V4Config, scale: Scale, seed: int, speed: float) -> RunConfig:
    """Return the run both sides take: a control's, which learns from the text alone."""
    return RunConfig(
        seed=seed,
        device="cpu",
        dtype="float32",
        text=TextConfig(sequence_length=scale.length),
        student=network,
        loss=objective.without_teacher(objective.DEFAULT),
        train=TrainConfig(steps=scale.steps, batch_size=scale.batch, bias_update_speed=speed),
    )


def ours(case: Case, run: RunConfig, text: Text) -> Figures:
    """Train a student of ours."""
    model = Student.build(case.config, case.vocabulary, seed=run.seed, device=CPU)
    rows = list(train.Trainer(model, run, course(run, text)).steps(1))
    model.eval()
    together, single = uneven(torch.tensor([row["expert_load"] for row in rows[-LAST:]]))
    return {
        "parameters": _parameters(model),
        "bits_per_byte": bits_per_byte(lambda token_BS: _logits(model, token_BS), text.held_out),
        "load_max_over_mean": together,
        "load_max_over_mean_of_a_step": single,
    }


def course(run: RunConfig, text: Text) -> Reading:
    """Return the batches that both sides take."""
    return Reading(text.training, size=run.train.batch_size, seed=run.seed)


def uneven(load_TLE: torch.Tensor) -> tuple[float, float]:
    """Return the largest load over the mean one, in the worst layer.

    First of the steps' tokens together, then step by step, a mean over steps.
    """

    def ratio(load_E: torch.Tensor) -> torch.Tensor:
        return load_E.amax(-1) / load_E.mean(-1)

    return float(ratio(load_TLE.mean(0)).max()), float(ratio(load_TLE).mean(0).max())


def _logits(model: Student, token_BS: torch.Tensor) -> torch.Tensor:
    hidden_ND = model(token_BS.flatten(), Documents.rows(*token_BS.shape, CPU)).hidden_ND
    return model.logits(hidden_ND).unflatten(0, token_BS.shape)


def theirs(case: Case, run: RunConfig, text: Text) -> Figures:
    """Train transformers' class: the loop of `distill.train` with what it does for both alone."""
    torch.manual_seed(run.seed)
    model = measure.untrained(case).train()
    model.set_experts_implementation("grouped_mm")
    hyper, parameters = run.optimizer, list(model.parameters())
    decays = {True: hyper.weight_decay, False: 0.0}  # matrices alone
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if (p.ndim >= 2) == matrix], "weight_decay": decay}
            for matrix, decay in decays.items()
        ],
        lr=hyper.learning_rate,
        betas=(hyper.beta1, hyper.beta2),
    )
    batches = course(run, text)
    for step in range(1, run.train.steps + 1):
        batch = batches.batch(step)
        (part,) = batch.parts
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate(hyper, step, run.train.steps)
        token_BS = batch.token_N.view(run.train.batch_size, -1)
        logit_NV = model(input_ids=token_BS, use_cache=False).logits.flatten(0, 1)
        loss = F.cross_entropy(logit_NV[part.at_M], batch.label_N[part.at_M])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, hyper.clip_norm)
        optimizer.step()
    model.eval()
    return {
        "parameters": _parameters(model),
        "bits_per_byte": bits_per_byte(
            lambda token_BS: model(input_ids=token_BS, use_cache=False).logits, text.held_out
        ),
    }


def _parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def bits_per_byte(logits: Callable[[torch.Tensor], torch.Tensor], windows: Windows) -> float:
    """Return the bits in which a model `[B, S] -> [B, S, V]` writes a byte of a text."""
    nats = 0.0
    for start in range(0, len(windows.tokens), ROWS):
        part = windows.take(np.arange(start, min(start + ROWS, len(windows.tokens))))
        token_BS = torch.from_numpy(part.tokens).long()
        nats_BS = F.cross_entropy(
            logits(token_BS[:, :-1]).transpose(1, 2), token_BS[:, 1:], reduction="none"
        )
        nats += float((nats_BS * torch.from_numpy(part.weights)).sum())
    return nats / math.log(2) / float((windows.sizes * windows.weights).sum())


def do(task: Task) -> Figures:
    """Train one side once, and measure what it learnt."""
    scale = QUICK if task["quick"] else FULL
    family, who, seed = task["family"], task["who"], task["seed"]
    text, network = Text.embedded(scale), networks(task["quick"])[family]
    run = settings(network, scale, seed, task["speed"])
    began = time.process_time()
    train_one = theirs if who == RIVAL else ours
    figures = train_one(Case(network, text.vocabulary), run, text)
    figures["seconds"] = time.process_time() - began
    return {f"{family}_{who}_{name}_seed_{seed}": value for name, value in figures.items()}


def tasks(quick: bool) -> Iterator[Task]:
    """Yield every run: both sides of each seed, then ours with the routing bias at rest."""
    seeds = (QUICK if quick else FULL).seeds
    for family in networks(quick):
        task: Task = {"family": family, "quick": quick, "speed": SPEED}
        for seed in seeds:
            yield task | {"who": "ours", "seed": seed}
            yield task | {"who": RIVAL, "seed": seed}
        yield task | {"who": AT_REST, "seed": seeds[0], "speed": 0.0}


def every(quick: bool) -> Figures:
    """Run the whole benchmark."""
    scale = QUICK if quick else FULL
    figures: Figures = {
        "steps": scale.steps,
        "tokens_a_step": scale.batch * scale.length,
        "bias_update_speed": SPEED,
    }
    todo = list(tasks(quick))
    for number, task in enumerate(todo, 1):
        print(f"training {number} of {len(todo)}", file=sys.stderr, flush=True)
        figures |= do(task) if quick else measure.fresh(__file__, task)
    found = summary(figures, scale.seeds)
    print("means over seeds, and the worst seed's load", file=sys.stderr)
    measure.show(found)
    return figures | found


def summary(figures: Figures, seeds: tuple[int, ...]) -> Figures:
    """Return means over seeds, and of loads the worst seed."""

    def each(name: str) -> list[float]:
        return [float(figures[f"{name}_seed_{seed}"]) for seed in seeds]

    found: Figures = {}
    for family in ("v4", "mla"):
        bits = {who: fmean(each(f"{family}_{who}_bits_per_byte")) for who in ("ours", RIVAL)}
        found |= {f"{family}_{who}_bits_per_byte_mean": mean for who, mean in bits.items()}
        found[f"{family}_bits_per_byte_ours_less_{RIVAL}"] = bits["ours"] - bits[RIVAL]
        for name in ("load_max_over_mean", "load_max_over_mean_of_a_step"):
            found[f"{family}_ours_{name}_worst"] = max(each(f"{family}_ours_{name}"))
    return found


if __name__ == "__main__":
    measure.command_line(__doc__, do, every)
