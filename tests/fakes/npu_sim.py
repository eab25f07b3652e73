"""A SIMULATION of an npu on the CPU: how a program treats a device, never how a device computes.

`install()` teaches this process, once and for good, a device called npu whose tensors are ordinary
CPU tensors behind a wrapper. It answers whether tensors stay where they belong, whether a dtype or
a copy slips in that hardware would refuse or wait for, and nothing else: no kernel, no numerics,
no speed and no memory of an Ascend device is tested here, and no result of it may be called one.
Built on torch's experimental Python backend for PrivateUse1 (torch 2.13).
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

NAME = "simulated npu (CPU arithmetic, not an NPU test)"
KIND = "npu"
# Documented for some operations of real devices and missing from most; ours must not lean on them.
BANNED_DTYPES = frozenset(
    {
        torch.float64,
        torch.complex64,
        torch.complex128,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    }
)
# Moving data is the one thing that may name both sides; indexing by a host tensor copies it first.
MAY_MIX = frozenset(
    {"aten::_to_copy", "aten::copy_", "aten::_copy_from", "aten::_copy_from_and_resize"}
)
# The host waits for the device in each of these, because a value or a size comes back.
WAITS = frozenset(
    {
        "aten::_local_scalar_dense",
        "aten::equal",
        "aten::nonzero",
        "aten::masked_select",
        "aten::_unique2",
    }
)
# The part of torch_npu's own list (AutoCastOps.cpp) that a language model meets.
LOWERED_BY_AUTOCAST = (
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "linear",
    "matmul",
    "scaled_dot_product_attention",
)
# Factories and copies reach the backend itself; the rest arrive through the wrapper class.
BACKEND_OPS = (
    "empty.memory_format",
    "empty_strided.default",
    "arange.default",
    "arange.start",
    "arange.start_step",
    "_copy_from.default",
    "_copy_from_and_resize.default",
)


@dataclass
class Traffic:
    """What was asked of the simulated device since the last `clear`.

    Attributes:
        ops: how often each operation ran.
        to_device: copies from the host, by operation.
        to_host: copies to the host and waits for a value, by operation.
    """

    ops: Counter[str] = field(default_factory=Counter)
    to_device: Counter[str] = field(default_factory=Counter)
    to_host: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Begin counting anew."""
        for counter in (self.ops, self.to_device, self.to_host):
            counter.clear()


class SimulatedTensor(torch.Tensor):
    """A tensor that says it is on npu:0; its values are in the CPU tensor `held`."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "SimulatedTensor":
        if held.dtype in BANNED_DTYPES:
            raise TypeError(f"{NAME}: dtype {held.dtype} is not for this device")
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(KIND, 0),
        )

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"{KIND}({self.held!r})"

    def tolist(self) -> list[Any]:
        """Return the values by way of the host, which torch does by itself for a real device."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(
        cls, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return Call(op, args, kwargs or {}).run()


class Call:
    """One operation: its arguments brought to the host, checked, carried out, wrapped again."""

    traffic = Traffic()

    def __init__(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.op = op
        self.name = op._schema.name
        self.args = args
        self.kwargs = kwargs
        self.wrappers: dict[int, SimulatedTensor] = {}
        self.strays: list[tuple[int, ...]] = []

    def run(self) -> Any:
        """Return what the operation returns, on the device it would be on."""
        args, kwargs = tree_map(self._to_host, self.args), tree_map(self._to_host, self.kwargs)
        if self.wrappers and self.strays and self.name not in MAY_MIX:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found npu:0 and cpu in "
                f"{self.name} (cpu tensors of shapes {self.strays}; {NAME})"
            )
        self._count()
        match self.name:
            case "aten::_copy_from":
                args[1].copy_(args[0])
                return self.args[1]
            case "aten::_copy_from_and_resize":
                args[1].resize_(args[0].shape).copy_(args[0])
                return self.args[1]
        return tree_map(self._to_device, self.op(*args, **kwargs))

    def _to_host(self, value: Any) -> Any:
        if isinstance(value, SimulatedTensor):
            self.wrappers[id(value.held)] = value
            return value.held
        if isinstance(value, torch.Tensor):
            if value.dim():  # a host scalar may take part in any operation, as on real devices
                self.strays.append(tuple(value.shape))
            return value
        return torch.device("cpu") if _names_the_device(value) else value

    def _to_device(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if not self._result_is_on_device():
            return value
        same = self.wrappers.get(id(value))
        if same is not None:  # in place, or out=
            if (same.shape, same.stride()) != (value.shape, value.stride()):
                raise NotImplementedError(f"{NAME}: {self.name} reshapes its input in place")
            return same
        return SimulatedTensor(value)

    def _result_is_on_device(self) -> bool:
        wanted = self.kwargs.get("device")
        return bool(self.wrappers) if wanted is None else _names_the_device(wanted)

    def _count(self) -> None:
        self.traffic.ops[self.name] += 1
        if self.name in WAITS:
            self.traffic.to_host[self.name] += 1
        elif self.name in ("aten::_to_copy", "aten::to"):  # the latter in inference mode
            self._count_copy(bool(self.wrappers), self._result_is_on_device())
        elif self.name in ("aten::_copy_from", "aten::_copy_from_and_resize"):
            source, target = self.args[:2]
            self._count_copy(*(isinstance(t, SimulatedTensor) for t in (source, target)))
        elif self.name == "aten::copy_":
            target, source = self.args[:2]
            self._count_copy(*(isinstance(t, SimulatedTensor) for t in (source, target)))

    def _count_copy(self, from_device: bool, to_device: bool) -> None:
        if from_device and not to_device:
            self.traffic.to_host[self.name] += 1
        elif to_device and not from_device:
            self.traffic.to_device[self.name] += 1


def _names_the_device(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type == KIND
    return isinstance(value, str) and value.partition(":")[0] == KIND


class _Module(backend_registration._DummyBackendModule):
    """What `torch.npu` is here: the calls a portable trainer may make of a backend."""

    def get_device_name(self, device: object = None) -> str:
        return NAME

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def is_bf16_supported(self) -> bool:
        return True

    def synchronize(self, device: object = None) -> None:
        """Nothing is queued, so nothing is waited for."""


class _Hooks(torch._C._acc.PrivateUse1Hooks):  # type: ignore[misc]
    """Tells torch.accelerator that the device is there."""

    def is_available(self) -> bool:
        return True

    def is_built(self) -> bool:
        return True

    def has_primary_context(self, index: int) -> bool:
        return True


class _Guard(torch._C._acc.DeviceGuard):  # type: ignore[misc]
    """Guards the only device there is."""

    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.PrivateUse1


@dataclass(frozen=True)
class Simulation:
    """An installed simulation; the libraries live as long as it does."""

    traffic: Traffic
    libraries: tuple[torch.library.Library, ...]


def install() -> Simulation:
    """Make the device npu exist in this process; call it once, keep what it returns.

    Raises:
        RuntimeError: a real torch_npu is loaded, which a simulation must never stand in for.
    """
    if "torch_npu" in sys.modules:
        raise RuntimeError("a real torch_npu is loaded here; the simulation would hide it")
    backend_registration._setup_privateuseone_for_python_backend(
        KIND, _Module(), _Hooks(), _Guard()
    )
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(_carry_out, "PrivateUse1")
    # torch registers no autocast for this key; left alone, its absence would fail every call.
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    aten = torch.library.Library("aten", "IMPL")
    for name in BACKEND_OPS:
        packet, _, overload = name.partition(".")
        op = torch.ops.aten.__getattr__(packet).__getattr__(overload)
        aten.impl(name.removesuffix(".default"), _bound(op), "PrivateUse1")
    for name in LOWERED_BY_AUTOCAST:
        op = torch.ops.aten.__getattr__(name).default
        aten.impl(name, _lowered(op), "AutocastPrivateUse1")
    # Of this, torch has no hook for a backend written in Python.
    torch.accelerator.synchronize = _synchronize
    return Simulation(Call.traffic, (rest, aten))


def _synchronize(device: torch.device | str | int | None = None) -> None:
    """Wait for the device, which has nothing to do; the host waited all the same."""
    assert device is None or torch.device(device).type == KIND
    Call.traffic.to_host["synchronize"] += 1


def _carry_out(op: Any, *args: Any, **kwargs: Any) -> Any:
    return Call(op, args, kwargs).run()


def _bound(op: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: Call(op, args, kwargs).run()


def _lowered(op: Any) -> Callable[..., Any]:
    """Return `op` with its floating-point device tensors cast to the dtype of autocast."""
    this_key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(value: Any) -> Any:
        ours = isinstance(value, torch.Tensor) and value.device.type == KIND
        if ours and value.is_floating_point():
            return value.to(torch.get_autocast_dtype(KIND))
        return value

    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(this_key):
            return op(*tree_map(cast, args), **tree_map(cast, kwargs))

    return call
