"""Exact resume: the whole training state, kept after every step at the cost of one memory copy.

Three files of equal layout take turns. A step is written in place into one that is not the newest,
then `latest.json` is renamed to point at it, so a killed process loses only the step in flight.
Every `sync_seconds` the file just written is also forced to the disk and set aside as `durable`:
after a power cut, when the newest file may be torn, that one is used. A reboot is told by the
operating system's boot id. The files are plain safetensors.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from distill import files
from distill.errors import StorageError
from distill.files import write_atomically

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.bfloat16: "BF16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A checkpoint read back: the step it was taken after, and its tensors on the CPU."""

    step: int
    tensors: dict[str, torch.Tensor]


class Checkpoints:
    """The checkpoints of one run, in one directory."""

    def __init__(self, path: Path, *, sync_seconds: float) -> None:
        self.path = path
        self.sync_seconds = sync_seconds
        self.pointer = path / "latest.json"
        self._state = self._read_pointer()
        self._synced_at = time.monotonic()

    def _read_pointer(self) -> dict[str, dict[str, object]]:
        try:
            state = json.loads(self.pointer.read_text("utf-8"))
            if not isinstance(state, dict):
                raise ValueError("a pointer is an object")
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise StorageError(
                f"{self.pointer} is damaged; delete {self.path} to train from the start."
            ) from error
        return state

    def save(self, step: int, tensors: dict[str, torch.Tensor]) -> None:
        """Keep the state after `step`.

        Raises:
            StorageError: the disk refused; the checkpoint before this one stands.
        """
        used = {str(entry["slot"]) for entry in self._state.values()}
        slot = next(name for name in ("a", "b", "c") if name not in used)
        sync = time.monotonic() - self._synced_at >= self.sync_seconds
        entry: dict[str, object] = {"slot": slot, "step": step, "boot": _boot_id()}
        state = {**self._state, "latest": entry}
        if sync:
            state["durable"] = entry
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _write_in_place(self._file(slot), tensors, sync=sync)
            write_atomically(self.pointer, lambda p: _write_pointer(p, state, sync=sync))
            if sync:
                files.sync(self.path)  # the renaming itself; only now may older slots be reused
        except OSError as error:
            raise StorageError(
                f"cannot write a checkpoint to {self.path}: {error.strerror or error}; step "
                f"{self.step} is kept, so free space and run the same command again."
            ) from error
        self._state = state
        if sync:
            self._synced_at = time.monotonic()

    @property
    def step(self) -> int:
        """The step of the newest checkpoint that can be trusted; 0 without one."""
        entry = self._newest()
        return int(str(entry["step"])) if entry else 0

    def load(self) -> Saved | None:
        """Return the newest checkpoint that can be trusted, or None."""
        entry = self._newest()
        if entry is None:
            return None
        try:
            tensors = load_file(self._file(str(entry["slot"])))
        except Exception as error:
            raise StorageError(
                f"the checkpoint in {self.path} cannot be read; delete that directory to train "
                "from the start."
            ) from error
        return Saved(step=int(str(entry["step"])), tensors=tensors)

    def clear(self) -> None:
        """Drop the training state once the student itself is written."""
        self.pointer.unlink(missing_ok=True)
        for slot in ("a", "b", "c"):
            self._file(slot).unlink(missing_ok=True)
        self._state = {}

    def _newest(self) -> dict[str, object] | None:
        latest, durable = self._state.get("latest"), self._state.get("durable")
        if latest is not None and latest["boot"] == _boot_id():
            return latest
        return durable

    def _file(self, slot: str) -> Path:
        return self.path / f"slot-{slot}.safetensors"


def _boot_id() -> str:
    """Return what changes with a reboot; one constant where the system does not tell."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.is_file() else "unknown"


def _write_in_place(path: Path, tensors: dict[str, torch.Tensor], *, sync: bool) -> None:
    """Write a safetensors file over an older one, reusing its blocks.

    The library's own writer makes a new file each time, which costs ten times as long for a state
    of a few hundred megabytes that is written every step.
    """
    with path.open("r+b" if path.exists() else "wb") as stream:
        for chunk in _safetensors_chunks(tensors):
            stream.write(chunk)
        stream.truncate()
        if sync:
            stream.flush()
            os.fsync(stream.fileno())


def _write_pointer(path: Path, state: dict[str, dict[str, object]], *, sync: bool) -> None:
    path.write_text(json.dumps(state), encoding="utf-8")
    if sync:
        files.sync(path)


def _safetensors_chunks(tensors: dict[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """Yield header and data of the safetensors format, documented in its README."""
    header: dict[str, object] = {}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        yield flat.numpy().data
