"""Devices: the one file (with `fused_ops.py`, once there are fused kernels) that names cuda or npu.

Built on `torch.accelerator`; kept outside it are the dtype to compute in, the autocast dtype
(torch's default on npu is float16, which this project never uses) and the device's name.
An accelerator that was asked for and is missing is an error, never a silent run on CPU.
"""

import os
import platform
import re
import resource
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from student import machine
from student.errors import ConfigError, DeviceError

KINDS = ("auto", "cpu", "cuda", "npu")
PACKAGES = ("torch", "torch_npu")
"""Distributions that bring torch and its devices; a record names those that are installed."""

_ROOT = Path("/")


def pick(name: str = "auto") -> torch.device:
    """Return the device called `name`: `auto`, `cpu`, `cuda[:i]` or `npu[:i]`.

    Raises:
        ConfigError: the name is unknown.
        DeviceError: no such device is available here.
    """
    known = re.fullmatch(r"(auto|cpu|cuda|npu)|(cuda|npu):(\d+)", name)
    if known is None:
        raise ConfigError(f"device {name!r} is unknown; use one of {', '.join(KINDS)}.")
    kind = known[1] or known[2]
    found = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return torch.device("cpu") if found is None else found
    if kind != "cpu" and (found is None or found.type != kind):
        here = "the CPU" if found is None else f"{found.type} and the CPU"
        raise DeviceError(
            f"device {name!r} was asked for, but this process sees {here}; {_hint(kind)}"
        )
    if known[3] and int(known[3]) >= (count := torch.accelerator.device_count()):
        last = f"only {kind}:0" if count == 1 else f"{kind}:0 to {kind}:{count - 1}"
        raise DeviceError(f"device {name!r} was asked for, but there is {last}; name one of those.")
    return torch.device(name)


def _hint(kind: str) -> str:
    if kind == "npu":
        return "source CANN's set_env.sh and install torch_npu, or set device: cpu."
    return "install a CUDA build of torch, or set device: cpu."


def compute_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """Return the dtype matrix products run in: `auto` means bfloat16 where hardware multiplies it.

    Without bfloat16 units a CPU emulates it slower than float32, so `auto` is float32 there.
    """
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type != "cpu":
        return torch.bfloat16
    has = torch.cpu.get_capabilities()
    fast = has.get("amx_bf16", False) or has.get("avx512_bf16", False) or has.get("bf16", False)
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Return a context in which matrix products run in `dtype` and sums in float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which a surrounding `autocast` is off: what enters keeps its dtype."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the dtype a surrounding `autocast` would run a product with `x` in."""
    if torch.is_autocast_enabled(x.device.type) and x.element_size() <= 4:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def grouped_product_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the dtype of products whose number of rows is another in every step.

    A CPU's bfloat16 products are compiled for their shape when it is first met, which takes longer
    than a small product does; float32's serve all shapes.
    """
    return x.dtype if x.device.type == "cpu" else product_dtype(x)


def without_gradients(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which nothing is recorded for a backward pass.

    On a CPU, where decoding is as slow as its calls, tensors are not even watched for changes;
    what is made there can never take part in training.
    """
    return torch.inference_mode() if device.type == "cpu" else torch.no_grad()


def waits_are_free(device: torch.device) -> bool:
    """Tell whether the host may look at a value without waiting for a queue of work."""
    return device.type == "cpu"


def tile_elements(device: torch.device) -> int:
    """Return how many numbers a tile of work should hold: few enough for a CPU's cache.

    An accelerator waits for each launch instead, so its tiles are large.
    """
    return 2**19 if device.type == "cpu" else 2**26


def synchronize(device: torch.device) -> None:
    """Wait for the device's queue, so that a clock read next is true."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory_bytes() -> int:
    """Return the most memory this process has held in RAM so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe(
    device: torch.device, root: Path = _ROOT, environment: Mapping[str, str] = os.environ
) -> dict[str, str | int]:
    """Return what the record says of the device and of the machine it is in.

    `kind`, `name`, `threads`, `system`, `python` and `torch` are always there; what
    `machine.describe` finds, and of an accelerator `count` (of those this process sees),
    `memory_bytes`, `driver`, `firmware`, `bios`, `toolkit` and `toolkit_version`, where they can be
    found out.

    Args:
        device: where a run is computed.
        root: where the file system begins.
        environment: of the process, which says where the toolkit is.
    """
    if device.type == "cpu":
        name = str(torch.cpu.get_capabilities().get("cpu_name", "")) or platform.machine()
        found: dict[str, str | int] = {}
    else:
        name = str(torch.get_device_module(device).get_device_name(device))
        found = _hardware(device) | _software(device, root, environment)
    return {
        "kind": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **machine.describe(root),
        **{name: value for name, value in found.items() if value},
    }


def _hardware(device: torch.device) -> dict[str, str | int]:
    """Return how many such devices this process sees and the memory of this one, where told."""
    try:
        properties = torch.get_device_module(device).get_device_properties(device)
        memory = int(properties.total_memory)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        memory = 0
    return {"count": torch.accelerator.device_count(), "memory_bytes": memory}


def _software(
    device: torch.device, root: Path, environment: Mapping[str, str]
) -> dict[str, str | int]:
    """Return versions of an accelerator's driver, firmware and toolkit, empty where unknown."""
    if device.type == "cuda":
        gpus = root / "proc/driver/nvidia/gpus"
        return {
            "driver": _cuda_driver(root / "proc/driver/nvidia/version"),
            "firmware": _all_alike(gpus, "GPU Firmware"),
            "bios": _all_alike(gpus, "Video BIOS"),
            "toolkit": "CUDA" if torch.version.cuda else "",
            "toolkit_version": torch.version.cuda or "",
        }
    version = _cann(root, environment)
    return {
        "driver": _ascend(root, "Driver"),
        "firmware": _ascend(root, "Firmware"),
        "toolkit": "CANN" if version else "",
        "toolkit_version": version,
    }


def _cuda_driver(path: Path) -> str:
    """Return the version of the kernel module, as it says of itself."""
    said = machine.fields(path, separator=":").get("NVRM version", "")
    version = re.search(r"\b\d+\.\d+(\.\d+)*\b", said)
    return version[0] if version else ""


def _all_alike(gpus: Path, name: str) -> str:
    """Return what the driver says of its devices under `name`: each other answer once."""
    try:
        places = sorted(gpus.iterdir())
    except OSError:
        return ""
    said = (machine.fields(place / "information", separator=":").get(name, "") for place in places)
    return ", ".join(dict.fromkeys(one for one in said if one and "N/A" not in one))


def _ascend(root: Path, part: str) -> str:
    """Return the version of the driver or of the firmware, from the file its package installs."""
    installed = machine.fields(root / "etc/ascend_install.info")
    place = installed.get(f"{part}_Install_Path_Param", "/usr/local/Ascend")
    said = machine.fields(root / place.lstrip("/") / part.lower() / "version.info")
    return said.get("package_version") or said.get("Version", "")


def _cann(root: Path, environment: Mapping[str, str]) -> str:
    """Return the version of CANN, whose `set_env.sh` says where it is."""
    home = environment.get("ASCEND_HOME_PATH") or environment.get("ASCEND_TOOLKIT_HOME")
    if not home:
        return ""
    place = root / home.lstrip("/")
    told = place / f"{platform.machine()}-linux" / "ascend_toolkit_install.info"
    version = machine.fields(told).get("version", "")
    # Else as [version of the component:version of CANN].
    running = machine.fields(place / "version.cfg").get("toolkit_running_version", "")
    return version or running.strip("[]").rpartition(":")[2]


def has_fused_adamw(device: torch.device) -> bool:
    """Tell whether torch's fused AdamW serves this device; elsewhere the plain loop does."""
    return device.type in ("cpu", "cuda")


def has_grouped_experts(device: torch.device) -> bool:
    """Tell whether transformers' grouped product over a teacher's experts serves this device.

    It counts tokens with an integer histogram, which torch_npu documents for floats alone, and
    its product has no kernel there; the plain loop over experts runs everywhere.
    """
    return device.type in ("cpu", "cuda")
