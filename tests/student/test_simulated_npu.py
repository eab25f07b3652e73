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


def test_float32_losses_are_those_of_the_cpu_to_five_digits(session):
    assert len(session["float32"]) == session["steps"] == 5
    assert session["float32"] == pytest.approx(session["cpu"], rel=1e-5)
    assert len(set(session["cpu"])) == 5


def test_bfloat16_losses_are_close_to_those_of_float32_and_not_equal_to_them(session):
    assert session["bfloat16"] == pytest.approx(session["cpu"], rel=0.02)
    assert session["bfloat16"] != session["float32"]


def test_a_run_cut_after_two_steps_and_restored_takes_the_same_steps(session):
    assert session["resumed"] == session["float32"]


@pytest.mark.parametrize("run", ["places", "restored_places", "low_places"])
def test_all_that_is_trained_lies_on_the_device_and_only_step_counts_on_the_host(session, run):
    places = dict(session[run])
    assert places.pop("steps") == ["cpu"]
    assert set(map(tuple, places.values())) == {("npu",)}


def test_a_step_copies_to_the_device_only_its_batch_and_its_signal(session):
    # Tokens, labels and kept places; five tensors of the teacher's signal.
    assert session["traffic"]["to_device"] == session["steps"] * (3 + 5)


def test_the_host_waits_for_the_device_a_bounded_number_of_times_a_step(session):
    # The plain loop over four experts waits for each of them; the rest is metrics.
    assert session["traffic"]["to_host"] <= 30 * session["steps"]


def test_no_operation_ran_that_real_devices_lack(session):
    ran = set(session["traffic"]["ops"])
    assert "aten::mm" in ran
    lacking = {"aten::histc", "aten::bincount", "aten::_grouped_mm", "aten::kl_div"}
    assert not ran & lacking


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
