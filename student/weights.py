"""Student weights in and out, in the layout transformers loads, written atomically.

A directory is written beside its final name and renamed into place, so a reader sees a whole
model or none.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from student import device as devices
from student.errors import WeightsError


def save(model: PreTrainedModel, tokenizer: Any, path: Path) -> None:
    """Write model and tokenizer to the directory `path`, replacing it whole.

    Raises:
        WeightsError: the disk refused; what stood at `path` before still stands.
    """
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise WeightsError(
            f"cannot write the model to {path}: {reason}; free space or choose another --out."
        ) from error


def load(
    path: Path, *, device: torch.device, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Return the causal language model in `path`, in eval mode.

    Raises:
        WeightsError: there is no model there, or its files are damaged.
    """
    _require(path)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises whatever its readers raise
        raise WeightsError(f"cannot load the model in {path}: {_first_line(error)}") from error
    if found["missing_keys"]:  # transformers would go on with random numbers in their place
        missing = sorted(found["missing_keys"])
        raise WeightsError(
            f"cannot load the model in {path}: its files hold no {missing[0]} "
            f"({len(missing)} of its tensors are missing)."
        )
    if not devices.has_grouped_experts(device):
        model.set_experts_implementation("eager")
    return model.to(device).eval()


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer in `path`.

    Raises:
        WeightsError: there is no tokenizer there.
    """
    _require(path)
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:
        raise WeightsError(f"cannot load the tokenizer in {path}: {_first_line(error)}") from error


def _require(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise WeightsError(f"{path} is not a model directory: it has no config.json.")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
