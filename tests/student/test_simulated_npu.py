"""A student trains on a device that is not the CPU, here a SIMULATED npu, as it does on the CPU.

What passes here shows that tensors stay on their device and that no operation, dtype or copy is
used that the simulation refuses. It shows nothing about Ascend hardware or CANN. It runs in a
process of its own, because the simulation changes torch for good.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import npu_sim

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def session() -> dict:
    # A real backend, were one installed, must not load beside the simulation.
    environment = {
        **os.environ,
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.fakes.npu_session"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_result_says_that_it_is_simulated(session):
    assert session["described"]["name"] == npu_sim.NAME
    assert "simulated" in npu_sim.NAME


def test_the_device_is_found_by_name_and_by_auto_and_computes_in_bfloat16(session):
    assert session["device"] == session["auto"] == "npu"
    assert session["described"]["kind"] == "npu"
    assert session["dtype"] == "torch.bfloat16"
    assert "there is only npu:0" in session["refusals"]["second device"]


FAMILIES = ("mla", "v4")


@pytest.fixture(params=FAMILIES)
def one(request, session) -> dict:
    return session["families"][request.param] | {"cpu": session["cpu"][request.param]}


def test_float32_losses_are_those_of_the_cpu_to_five_digits(session, one):
    assert len(one["float32"]) == session["steps"] == 20
    assert one["float32"] == pytest.approx(one["cpu"], rel=1e-5)
    assert len(set(one["cpu"])) == 20


def test_bfloat16_losses_are_close_to_those_of_float32_and_not_equal_to_them(one):
    assert one["bfloat16"][:3] == pytest.approx(one["cpu"][:3], rel=0.05)
    assert one["bfloat16"] != one["float32"]


def test_a_run_cut_after_two_steps_and_restored_takes_the_same_steps(one):
    assert one["resumed"] == one["float32"]


@pytest.mark.parametrize("run", ["places", "restored_places", "low_places"])
def test_all_that_is_trained_lies_on_the_device_and_only_step_counts_on_the_host(one, run):
    places = dict(one[run])
    assert places.pop("steps") == ["cpu"]
    assert set(map(tuple, places.values())) == {("npu",)}


def test_a_micro_batch_waits_for_the_device_once_a_mixture_layer_and_nowhere_else(one):
    # Each mixture asks how many tokens every expert has: its products have that many rows.
    micro = one["parts"]["micro-batch"]
    assert micro["waits"] == one["mixtures"]
    assert one["parts"]["update"]["waits"] <= 1


def test_the_host_waits_for_the_ends_of_stages_in_few_steps_alone(one):
    assert one["split"] == [1, 17]
    assert 0 < one["synchronized"] <= 2 * 2 * 8  # two steps; two ends of each stage


def test_no_operation_ran_that_real_devices_lack(one):
    ran = set(one["operations"])
    assert "aten::mm" in ran
    assert not ran & {"aten::histc", "aten::bincount", "aten::_grouped_mm", "aten::kl_div"}


def test_what_is_written_is_what_the_cpu_writes_and_a_reload_writes_the_same(one):
    written = one["written"]
    assert written["device"] == written["cpu"] == written["reloaded"]
    assert written["sampled"] == written["sampled_cpu"]
    assert written["reload_is_equal"]
    assert written["reload_lies_on"] == ["npu"]


def test_recomputing_blocks_changes_no_loss(one):
    first, again = one["recomputed"]
    assert first == pytest.approx(again, rel=1e-6)


def test_packed_documents_are_those_documents_alone(one):
    assert one["packed"] < 1e-5


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        ("mixed devices", "same device, but found npu:0 and cpu in aten::add"),
        ("host index", "same device, but found npu:0 and cpu in aten::index"),
        ("float64", "dtype torch.float64 is not for this device"),
        ("complex64", "dtype torch.complex64 is not for this device"),
    ],
)
def test_the_simulation_refuses_what_hardware_would(session, attempt, message):
    assert message in session["refusals"][attempt]


def test_the_simulation_is_not_installed_in_this_process():
    import torch

    assert torch._C._get_privateuse1_backend_name() == "privateuseone"
