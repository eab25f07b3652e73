"""Devices: the one file (with `fused_ops.py`, once there are fused kernels) that names cuda or npu.

Built on `torch.accelerator`; kept outside it are the dtype to compute in, the autocast dtype
(torch's default on npu is float16, which this project never uses) and the device's name.
An accelerator that was asked for and is missing is an error, never a silent run on CPU.
"""

import platform
import re
import resource
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from student.errors import ConfigError, DeviceError

KINDS = ("auto", "cpu", "cuda", "npu")


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


def describe(device: torch.device) -> dict[str, str | int]:
    """Return what the record says of the device: kind, name, threads, operating system, torch."""
    if device.type == "cpu":
        name = str(torch.cpu.get_capabilities().get("cpu_name", "")) or platform.machine()
    else:
        name = str(torch.get_device_module(device).get_device_name(device))
    return {
        "kind": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def has_fused_adamw(device: torch.device) -> bool:
    """Tell whether torch's fused AdamW serves this device; elsewhere the plain loop does."""
    return device.type in ("cpu", "cuda")


def has_grouped_experts(device: torch.device) -> bool:
    """Tell whether transformers' grouped product over a teacher's experts serves this device.

    It counts tokens with an integer histogram, which torch_npu documents for floats alone, and
    its product has no kernel there; the plain loop over experts runs everywhere.
    """
    return device.type in ("cpu", "cuda")
