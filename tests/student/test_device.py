"""A device that was asked for is the one that is used, or there is an error that says why not."""

import platform
from types import SimpleNamespace

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


class Module:
    """As much of a device's module of torch as its description asks for."""

    @staticmethod
    def get_device_name(device):
        return "An Accelerator"

    @staticmethod
    def get_device_properties(device):
        return SimpleNamespace(total_memory=2**36)


@pytest.fixture
def eight(monkeypatch):
    """Eight accelerators, of whatever kind is asked for."""
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 8)
    monkeypatch.setattr(torch, "get_device_module", lambda device: Module)


def put(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def about(kind, root, **environment):
    device = SimpleNamespace(type=kind)  # torch knows no npu without its package
    described = devices.describe(device, root, environment)
    names = "count", "memory_bytes", "driver", "firmware", "bios", "toolkit", "toolkit_version"
    return {name: described[name] for name in names if name in described}


@pytest.mark.parametrize("kind", ["cuda", "npu"])
def test_what_an_accelerators_files_do_not_say_is_absent(eight, monkeypatch, tmp_path, kind):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert about(kind, tmp_path) == {"count": 8, "memory_bytes": 2**36}
    monkeypatch.delattr(Module, "get_device_properties")
    assert about(kind, tmp_path) == {"count": 8}


NVRM = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    "GCC version:  gcc version 12.2.0\n",
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n",
)


@pytest.mark.parametrize(
    ("said", "driver"), list(zip(NVRM, ("550.54.15", "570.86.15"), strict=True))
)
def test_a_cuda_device_is_described_with_its_driver_firmware_and_toolkit(
    eight, monkeypatch, tmp_path, said, driver
):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    put(tmp_path, "proc/driver/nvidia/version", said)
    for place, firmware in (("0000:01:00.0", driver), ("0000:02:00.0", "N/A")):
        told = f"Model: \t A\nVideo BIOS: \t 96.00.99\nGPU Firmware: \t {firmware}\n"
        put(tmp_path, f"proc/driver/nvidia/gpus/{place}/information", told)
    assert about("cuda", tmp_path) == {
        "count": 8, "memory_bytes": 2**36, "driver": driver, "firmware": driver,
        "bios": "96.00.99", "toolkit": "CUDA", "toolkit_version": "12.8",
    }  # fmt: skip


def test_an_npu_is_described_with_its_driver_firmware_and_toolkit(eight, tmp_path):
    ascend, here = "usr/local/Ascend", platform.machine()
    put(tmp_path, f"{ascend}/driver/version.info", "Version=7.35.23\npackage_version=25.0.rc1.1\n")
    put(tmp_path, f"{ascend}/firmware/version.info", "Version=7.7.0.1.231\n")
    put(tmp_path, f"{ascend}/cann/{here}-linux/ascend_toolkit_install.info", "version=8.5.0\n")
    assert about("npu", tmp_path, ASCEND_HOME_PATH="/usr/local/Ascend/cann") == {
        "count": 8, "memory_bytes": 2**36, "driver": "25.0.rc1.1", "firmware": "7.7.0.1.231",
        "toolkit": "CANN", "toolkit_version": "8.5.0",
    }  # fmt: skip


def test_an_npus_packages_are_found_where_they_were_installed(eight, tmp_path):
    put(tmp_path, "etc/ascend_install.info", "Driver_Install_Path_Param=/opt/hdk\n")
    put(tmp_path, "opt/hdk/driver/version.info", "Version=24.1.rc3\n")
    running = "toolkit_running_version=[7.6.0.1.220:8.0.0]\n"
    put(tmp_path, "opt/cann/version.cfg", f"# version: 1.0\n{running}")
    found = about("npu", tmp_path, ASCEND_TOOLKIT_HOME="/opt/cann")
    assert (found["driver"], found["toolkit_version"]) == ("24.1.rc3", "8.0.0")
    assert "firmware" not in found


def test_peak_memory_is_in_bytes_and_holds_what_was_allocated():
    size = 64 * 2**20
    block = bytearray(size)
    block[::4096] = b"x" * len(block[::4096])
    assert size < devices.peak_memory_bytes() < 2**40


def test_fused_adamw_is_for_cpu_and_cuda_alone():
    kinds = {kind: devices.has_fused_adamw(torch.device(kind)) for kind in ("cpu", "cuda", "meta")}
    assert kinds == {"cpu": True, "cuda": True, "meta": False}
