"""A device that was asked for is the one that is used, or there is an error that says why not."""

import platform

import pytest
import torch

from student import device as devices
from student.errors import ConfigError, DeviceError


@pytest.fixture
def only_cpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)


@pytest.fixture
def one_accelerator(monkeypatch):
    """A process that sees one accelerator of the kind cuda, as far as `pick` can tell."""
    found = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)


def test_auto_is_the_cpu_where_there_is_nothing_else(only_cpu):
    assert devices.pick() == devices.pick("cpu") == torch.device("cpu")


def test_auto_is_the_accelerator_where_there_is_one(one_accelerator):
    assert devices.pick() == torch.device("cuda")
    assert devices.pick("cpu") == torch.device("cpu")
    assert devices.pick("cuda:0") == torch.device("cuda", 0)


@pytest.mark.parametrize("name", ["tpu", "", "CPU", "cpu:x", "cuda:x", "auto:1", "npu:-1"])
def test_an_unknown_name_is_refused_with_the_known_ones(only_cpu, name):
    with pytest.raises(ConfigError, match=f"'{name}' is unknown; use one of auto, cpu, cuda, npu"):
        devices.pick(name)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("cuda", "install a CUDA build of torch"),
        ("cuda:1", "install a CUDA build of torch"),
        ("npu", "source CANN's set_env.sh and install torch_npu"),
        ("npu:0", "source CANN's set_env.sh and install torch_npu"),
    ],
)
def test_an_absent_accelerator_is_an_error_with_a_remedy(only_cpu, name, remedy):
    with pytest.raises(DeviceError) as caught:
        devices.pick(name)
    message = str(caught.value)
    assert message.startswith(f"device '{name}' was asked for, but this process sees the CPU;")
    assert remedy in message
    assert caught.value.exit_code == 1


def test_another_accelerator_than_the_one_asked_for_is_an_error(one_accelerator):
    with pytest.raises(DeviceError, match="'npu' was asked for, but this process sees cuda"):
        devices.pick("npu")


def test_an_index_beyond_the_last_device_is_an_error(one_accelerator):
    with pytest.raises(DeviceError, match="'cuda:1' was asked for, but there is only cuda:0"):
        devices.pick("cuda:1")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, torch.float32),
        ({"avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),
    ],
)
def test_auto_is_bfloat16_only_on_a_cpu_that_multiplies_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert devices.compute_dtype(torch.device("cpu")) == expected


def test_a_named_dtype_is_taken_and_an_accelerator_defaults_to_bfloat16():
    for device in (torch.device("cpu"), torch.device("cuda")):
        assert devices.compute_dtype(device, "float32") == torch.float32
        assert devices.compute_dtype(device, "bfloat16") == torch.bfloat16
    assert devices.compute_dtype(torch.device("cuda")) == torch.bfloat16


def test_autocast_changes_products_only_when_the_dtype_is_low():
    product = torch.nn.Linear(4, 4)
    cpu = torch.device("cpu")
    with devices.autocast(cpu, torch.bfloat16):
        assert product(torch.ones(2, 4)).dtype == torch.bfloat16
    with devices.autocast(cpu, torch.float32):
        assert product(torch.ones(2, 4)).dtype == torch.float32


def test_the_description_names_machine_and_torch():
    described = devices.describe(torch.device("cpu"))
    assert described["kind"] == "cpu"
    assert described["name"]
    assert described["threads"] == torch.get_num_threads()
    assert described["torch"] == torch.__version__
    assert described["python"] == platform.python_version()


def test_peak_memory_is_in_bytes_and_holds_what_was_allocated():
    size = 64 * 2**20
    block = bytearray(size)
    block[::4096] = b"x" * len(block[::4096])
    assert size < devices.peak_memory_bytes() < 2**40


def test_fused_adamw_is_for_cpu_and_cuda_alone():
    kinds = {kind: devices.has_fused_adamw(torch.device(kind)) for kind in ("cpu", "cuda", "meta")}
    assert kinds == {"cpu": True, "cuda": True, "meta": False}
