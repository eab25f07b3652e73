"""What the benchmarks of the student share: cases, clocks, memory, processes and the record.

CPU-seconds of one thread, so that a busy machine does not count, and the least of several rounds
in which the rivals take turns. Both sides have the same weights: a student's, stirred off its
beginnings, where a Sinkhorn iteration would be over as soon as it began.

transformers runs at its best: V3 with sdpa attention (V4 has eager alone), either with whichever
of its expert implementations was fastest in the run.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from student import device as devices
from student.config import MLAConfig, V4Config
from student.model import Student
from student.vocabulary import Vocabulary
from tests.fakes import students

if TYPE_CHECKING:
    from tests.fakes.rivals import Theirs

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
RIVAL = "transformers"
IMPLEMENTATIONS = ("grouped_mm", "eager", "batched_mm")
# Copies of expert weights, one a token and expert, that `batched_mm` may make, in bytes.
COPIES = 2 * 2**30
# glibc gives every large block back at once and takes it again, zeroed, page by page; told to
# keep them, it does so no more.
KEEP = {
    "MALLOC_MMAP_THRESHOLD_": str(2**33),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**26),
}

Figures = dict[str, float | int | bool | str]
Task = dict[str, Any]


class Case(NamedTuple):
    """A network both sides are, without prediction layers, which transformers has not."""

    config: MLAConfig | V4Config
    vocabulary: Vocabulary

    def student(self) -> Student:
        """Return ours."""
        return students.stirred(self.config, seed=0, vocabulary=self.vocabulary)


def cases() -> dict[str, Case]:
    """Return the networks by name; `quick` ones are for the test of these benchmarks."""
    small, large = _vocabulary(1024), _vocabulary(4096)
    return {
        "v4_tiny": Case(_v4_tiny(), small),
        "v4_large": Case(_v4_large(), large),
        "mla_tiny": Case(_mla_tiny(), small),
        "mla_large": Case(_mla_large(), large),
        "v4_quick": Case(replace(students.V4, num_mtp_layers=0), students.VOCABULARY),
        "mla_quick": Case(replace(students.MLA, num_mtp_layers=0), students.VOCABULARY),
    }


def _vocabulary(size: int) -> Vocabulary:
    return Vocabulary(size=size, bos=0, eos=1)


def _v4_tiny() -> V4Config:
    return V4Config(
        layer_types=("swa", "csa", "hca", "csa"),
        hidden_size=128,
        num_heads=8,
        head_dim=64,
        qk_rope_head_dim=16,
        q_lora_rank=64,
        o_groups=4,
        o_lora_rank=32,
        sliding_window=128,
        csa_compression=4,
        hca_compression=128,
        index_num_heads=4,
        index_head_dim=32,
        index_top_k=64,
        num_hash_layers=1,
        num_routed_experts=8,
        num_experts_per_token=2,
        moe_intermediate_size=64,
        max_position_embeddings=8192,
        num_mtp_layers=0,
    )


def _v4_large() -> V4Config:
    """Return 67 million parameters in the proportions of V4-Flash.

    Its pattern of layers, ranks of a quarter and experts of half the hidden size, as sparse as 6
    of 256. Heads are fewer for its width, and layers few: at 4,096 tokens transformers keeps more
    than a GiB a layer as it is.
    """
    return V4Config(
        layer_types=("swa", "swa", "csa", "hca", "csa"),
        hidden_size=256,
        num_heads=8,
        head_dim=64,
        qk_rope_head_dim=16,
        q_lora_rank=64,
        o_groups=2,
        o_lora_rank=64,
        sliding_window=128,
        csa_compression=4,
        hca_compression=128,
        index_num_heads=8,
        index_head_dim=32,
        index_top_k=64,
        num_hash_layers=1,
        num_routed_experts=128,
        num_experts_per_token=3,
        moe_intermediate_size=128,
        max_position_embeddings=8192,
        num_mtp_layers=0,
    )


def _mla_tiny() -> MLAConfig:
    return MLAConfig(
        hidden_size=128,
        num_layers=4,
        num_heads=8,
        q_lora_rank=64,
        kv_lora_rank=64,
        qk_rope_head_dim=16,
        qk_nope_head_dim=32,
        v_head_dim=32,
        num_dense_layers=1,
        intermediate_size=256,
        num_routed_experts=8,
        num_experts_per_token=2,
        moe_intermediate_size=64,
        max_position_embeddings=8192,
    )


def _mla_large() -> MLAConfig:
    return MLAConfig(
        hidden_size=384,
        num_layers=8,
        num_heads=8,
        q_lora_rank=192,
        kv_lora_rank=96,
        qk_rope_head_dim=32,
        qk_nope_head_dim=64,
        v_head_dim=64,
        num_dense_layers=1,
        intermediate_size=1024,
        num_routed_experts=32,
        num_experts_per_token=2,
        moe_intermediate_size=208,
        max_position_embeddings=8192,
    )


def theirs(student: Student) -> "Theirs":
    """Return transformers' model with the same weights, its attention the fastest there is.

    Only a process that asks for it pays for importing it.
    """
    from tests.fakes.rivals import rival

    return _fastest_attention(rival(student))


def untrained(case: Case) -> "Theirs":
    """Return transformers' model as it begins by itself, from torch's own random state."""
    from tests.fakes.rivals import untrained

    return _fastest_attention(untrained(case.config, case.vocabulary))


def _fastest_attention(model: "Theirs") -> "Theirs":
    import transformers

    transformers.logging.set_verbosity_error()
    if isinstance(model, transformers.DeepseekV3ForCausalLM):
        model.set_attn_implementation("sdpa")
    return model


def implementations(config: MLAConfig | V4Config, tokens: int) -> tuple[str, ...]:
    """Return the expert implementations to try; one copies each token's experts, memory allowing.

    `tokens` is how many are served at once.
    """
    expert = 3 * config.hidden_size * config.moe_intermediate_size * 4
    copies = config.num_layers * tokens * config.num_experts_per_token * expert
    return IMPLEMENTATIONS if copies <= COPIES else IMPLEMENTATIONS[:2]


def least_seconds(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the least CPU-seconds of each call, which take turns."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.process_time()
            call()
            least[name] = min(least[name], time.process_time() - began)
    return least


def peak_bytes(call: Callable[[], object]) -> int:
    """Return by how much a call raises the memory this process holds in RAM, at its highest.

    The mark is reset before, which Linux allows, so what building took does not count.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _held("VmRSS")
    call()
    return _held("VmHWM") - before


def _held(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def machine() -> Figures:
    """Return what ran the benchmark."""
    facts = devices.describe(CPU) | {"transformers": version("transformers")}
    return {f"machine_{name}": value for name, value in facts.items()}


def versus(case: str, ours: float, theirs: float) -> Figures:
    """Return the ratios of two times."""
    return {
        f"{case}_speedup_vs_{RIVAL}": theirs / ours,
        f"{case}_cpu_ratio_vs_{RIVAL}": ours / theirs,
    }


Do = Callable[[Task], Figures]


def fresh(script: str, task: Task, *, kept: bool = False) -> Figures:
    """Do a task in a process of its own; with `kept`, one whose allocator keeps its memory."""
    command = [sys.executable, script, "--task", json.dumps(task)]
    done = subprocess.run(
        command,
        env=os.environ | (KEEP if kept else {}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    show(figures)
    return figures


def show(figures: Figures) -> None:
    """Print figures as a table on stderr."""
    for name, value in figures.items():
        text = f"{value:14,.4f}" if isinstance(value, float) else f"{value!s:>14}"
        print(f"{name:66} {text}", file=sys.stderr, flush=True)


def command_line(doc: str | None, do: Do, every: Callable[[bool], Figures]) -> None:
    """Run a benchmark's command line: all of it, or one task for its own parent."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="a few tokens, to see that it runs")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.task is not None:
        print(json.dumps(do(given.task)))
        return
    if given.json is None:
        parser.error("--json PATH is needed")
    figures = machine() | every(given.quick)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
