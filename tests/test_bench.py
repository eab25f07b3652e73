"""The benchmarks run, a few tokens each, and write the figures they promise; no time is judged."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.config import OptimizerConfig
from distill.loss.objective import CrossEntropy
from distill.text.corpus import Windows
from student.config import V4Config
from student.model import Student
from tests.bench import learning, measure
from tests.bench.measure import CPU, RIVAL, Case

ROOT = Path(__file__).parents[1]
STEP, DECODE = "v4_quick_step_48", "v4_quick_decode"
PROMISED = {
    "loss": (
        "step_quick_cpu_ratio_vs_naive",
        "jsd_quick_rss_ratio_vs_naive",
        "check_ours_worst_error",
    ),
    "store": (
        "head_24_tail_8_bytes_a_token",
        "head_24_tail_8_read_cpu_microseconds_a_token",
        "head_24_tail_8_thin_cpu_microseconds_a_token",
        "offline_step_66000_ours_cpu_seconds",
    ),
    "student": (
        f"{STEP}_ours_seconds",
        f"{STEP}_loss_difference",
        f"{STEP}_speedup_vs_{RIVAL}",
        f"{STEP}_memory_kept_speedup_vs_{RIVAL}",
        f"{STEP}_rss_ratio_vs_{RIVAL}",
        "v4_quick_growth_of_cost_a_token_48_to_96",
        "v4_quick_scoring_share_96",
        "v4_quick_largest_tensor_share_of_S_times_S_96",
        "mla_quick_optimizer_muon_seconds",
    ),
    "decode": (
        f"{DECODE}_speedup_vs_{RIVAL}",
        f"{DECODE}_ours_operations_a_step",
        f"{DECODE}_replayed_tokens_differing_of_these",
        f"{DECODE}_share_of_choices_differing",
        f"{DECODE}_free_tokens_with_a_clear_margin",
    ),
    "learning": (
        "v4_ours_parameters_seed_1",
        f"v4_{RIVAL}_parameters_seed_1",
        "v4_ours_bits_per_byte_seed_1",
        f"mla_{RIVAL}_bits_per_byte_mean",
        f"mla_bits_per_byte_ours_less_{RIVAL}",
        "v4_ours_load_max_over_mean_worst",
        "mla_ours_load_max_over_mean_of_a_step_worst",
        "mla_ours_at_rest_load_max_over_mean_seed_1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMISED)
def test_a_benchmark_writes_flat_finite_figures_under_the_promised_names(name, tmp_path):
    path = tmp_path / "deep" / "figures.json"
    command = [sys.executable, f"tests/bench/{name}.py", "--quick", "--json", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert [key for key, v in figures.items() if not isinstance(v, int | float | str)] == []
    assert [k for k, v in figures.items() if isinstance(v, float) and not math.isfinite(v)] == []
    assert {name for name in PROMISED[name] if name not in figures} == set()
    assert {"machine_torch", "machine_transformers"} <= set(figures)


def test_a_model_that_knows_nothing_pays_every_token_s_bits():
    rng = np.random.default_rng(0)
    weights = np.ones((37, 6), dtype=np.float32)
    weights[::5, 3] = 0
    windows = Windows(
        tokens=rng.integers(0, 32, (37, 7)).astype(np.int32),
        weights=weights,
        sizes=rng.integers(1, 5, (37, 6)).astype(np.float64),
    )
    found = learning.bits_per_byte(lambda token_BS: torch.zeros(*token_BS.shape, 32), windows)
    expected = 5 * weights.sum() / (windows.sizes * weights).sum()  # 32 tokens alike: five bits
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_worst_layer_s_load_is_of_all_steps_and_of_single_ones():
    # Two steps, two layers, two experts: the first layer swaps sides, the second leans one way.
    share_TLE = [[[1.0, 0.0], [0.75, 0.25]], [[0.0, 1.0], [0.75, 0.25]]]
    together, single = learning.uneven(torch.tensor(share_TLE))
    assert (together, single) == (1.5, 2.0)


@pytest.mark.parametrize("family", ["v4", "mla"])
def test_both_sides_learn_the_same_from_the_same_weights(family, monkeypatch):
    text = learning.Text.embedded(learning.QUICK)
    network = learning.networks(quick=True)[family]
    if isinstance(network, V4Config):
        network = replace(network, index_top_k=learning.QUICK.length)  # none to differ in
    case = Case(network, text.vocabulary)
    run = learning.settings(network, learning.QUICK, seed=5, speed=0.0)
    run = replace(
        run,
        loss=(CrossEntropy(),),
        optimizer=OptimizerConfig(warmup_steps=2, weight_decay=1.0),
    )
    own = Student.build(network, text.vocabulary, seed=5, device=CPU)
    monkeypatch.setattr(measure, "untrained", lambda case: measure.theirs(own))
    mine, other = (side(case, run, text) for side in (learning.ours, learning.theirs))
    assert mine["parameters"] == other["parameters"]
    assert mine["bits_per_byte"] == pytest.approx(other["bits_per_byte"], rel=1e-5)
