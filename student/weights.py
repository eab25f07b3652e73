"""Student weights in and out, in the released layout, read shard by shard and written atomically.

A directory is written beside its final name and renamed into place, so a reader sees a whole
model or none. Tensors are float32 or, but for the few that must not be rounded, any dtype asked
for; what a directory holds too much, too little or in another shape is named, never passed over.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from student import released_names as names
from student.config import MLAConfig, V4Config
from student.errors import WeightsError
from student.model import Student
from student.released_config import MAIN_INDEX, config_json, config_of
from student.released_names import Place
from student.vocabulary import Vocabulary

SHARD_BYTES = 5 * 10**9
INHERITED = "spiritsafe_inherited"  # in config.json: readers take no notice
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = ("F32", "BF16", "F16")
INTEGERS = ("I64", "I32")
SCALES = (".scale", ".weight_scale", ".weight_scale_inv", ".input_scale")

State = dict[str, torch.Tensor]


def save(
    student: Student,
    tokenizer: Any,
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
    inherited: Mapping[str, Any] | None = None,
) -> None:
    """Write student and tokenizer to the directory `path`, replacing it whole.

    Args:
        student: on any device; written from there a shard at a time.
        tokenizer: transformers' own, or None to leave it out.
        path: the directory.
        dtype: of matrices and embeddings; see `released_names.kept_in_float32` for what stays.
        shard_bytes: the most bytes of tensors in one file, unless a tensor is larger.
        inherited: whose weights it began with and what was cut, to be said in config.json.

    Raises:
        WeightsError: the disk refused; what stood at `path` before still stands.
    """
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write(student, partial, dtype, shard_bytes, inherited)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        _replace(path, partial)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise WeightsError(
            f"cannot write the model to {path}: {reason}; free space or choose another --out."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(path: Path, *, device: torch.device, dtype: torch.dtype = torch.float32) -> Student:
    """Return the student in `path`, in eval mode.

    Args:
        path: a directory `save` wrote, or a released checkpoint that is not quantised.
        device: where the student will be.
        dtype: of matrices and embeddings, whatever they are stored in; see
            `released_names.kept_in_float32` for what is float32 all the same.

    Raises:
        WeightsError: there is no student there, or its files are damaged or do not fit.
    """
    config, vocabulary = read_config(path)
    with torch.random.fork_rng(devices=[]):  # what layers begin with is drawn, and replaced
        student = Student(config, vocabulary)
    state = {
        name: torch.empty(tensor.shape, dtype=_dtype(name, tensor, dtype), device=device)
        for name, tensor in student.state_dict().items()
    }
    try:
        _fill(state, path, config)
    except WeightsError as error:
        raise WeightsError(f"cannot load the model in {path}: {error}") from error
    student.load_state_dict(state, assign=True)
    return student.to(device).eval()


def read_config(path: Path) -> tuple[MLAConfig | V4Config, Vocabulary]:
    """Return what the student in `path` is made of.

    Raises:
        WeightsError: there is no model there, or it is none a student can be.
    """
    require(path)
    try:
        return config_of(_read_json(path / "config.json"))
    except WeightsError as error:
        raise WeightsError(f"cannot load the model in {path}: {error}") from error


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer in `path`.

    Raises:
        WeightsError: there is no tokenizer there.
    """
    from transformers import AutoTokenizer

    if not (path / "tokenizer.json").is_file():
        require(path)
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # transformers raises whatever its readers raise
        raise WeightsError(f"cannot load the tokenizer in {path}: {first_line(error)}") from error


def require(path: Path) -> None:
    """Refuse a path that is no model directory.

    Raises:
        WeightsError: it has no config.json.
    """
    if not (path / "config.json").is_file():
        raise WeightsError(f"{path} is not a model directory: it has no config.json.")


def first_line(error: Exception) -> str:
    """Return the first line of what another library says, or its kind where it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _dtype(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype a student's tensor has where its matrices have `dtype`."""
    if not tensor.is_floating_point():
        return tensor.dtype
    return torch.float32 if names.kept_in_float32(name) else dtype


# Out


def _replace(path: Path, partial: Path) -> None:
    """Put `partial` in the place of `path`, or leave that as it was."""
    aside = path.with_name(path.name + ".replaced")
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        path.rename(aside)
    try:
        partial.rename(path)
    except OSError:
        if aside.exists():
            aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _write(
    student: Student,
    path: Path,
    dtype: torch.dtype,
    shard_bytes: int,
    inherited: Mapping[str, Any] | None,
) -> None:
    config, state = student.config, student.state_dict()
    fields = config_json(config, student.vocabulary, dtype)
    if inherited is not None:
        fields[INHERITED] = dict(inherited)
    shapes = {name: tensor.shape for name, tensor in state.items()}
    own = names.places(shapes, config)
    copied = {name: Place(ours) for name, ours in names.copies(config).items()}
    apart = "transformers_weights" in fields  # then prediction layers have files of their own
    ahead = {n: p for n, p in own.items() if apart and names.is_prediction(p.name)} | copied
    main = {name: place for name, place in own.items() if name not in ahead}
    shards = [
        shard
        for group in (main, ahead)
        for shard in _shards({n: _bytes(state, p, dtype) for n, p in group.items()}, shard_bytes)
    ]
    where, of_file = own | copied, _file_names(shards)
    for file, shard in of_file.items():
        tensors = {name: _stored(state, where[name], dtype) for name in shard}
        # The writer takes no two tensors that share memory, as copies of one do.
        tensors |= {name: tensors[name].clone() for name in shard if name in copied}
        save_file(tensors, path / file, metadata={"format": "pt"})
    if len(shards) > 1:
        sizes = {name: _bytes(state, place, dtype) for name, place in where.items()}
        _write_index(path / INDEX, of_file, sizes)
    if apart:
        kept = {file: shard for file, shard in of_file.items() if shard[0] in main}
        _write_index(path / MAIN_INDEX, kept, {n: sizes[n] for n in main})
    _write_json(path / "config.json", fields)
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    _write_json(path / "generation_config.json", {name: fields[name] for name in tokens})


def _stored(state: State, place: Place, dtype: torch.dtype) -> torch.Tensor:
    tensor = state[place.name]
    part = names.view(tensor, place).detach()
    return part.to("cpu", _dtype(place.name, tensor, dtype)).contiguous()


def _bytes(state: State, place: Place, dtype: torch.dtype) -> int:
    tensor = state[place.name]
    return names.view(tensor, place).numel() * _dtype(place.name, tensor, dtype).itemsize


def _shards(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Return the tensors of each file, in order, at most `most` bytes of them where they fit."""
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if size > room or not shards:
            shards.append([])
            room = most
        shards[-1].append(name)
        room -= size
    return shards


def _file_names(shards: list[list[str]]) -> dict[str, list[str]]:
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    count = len(shards)
    return {
        f"model-{number:05d}-of-{count:05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }


def _write_index(path: Path, files: Mapping[str, list[str]], sizes: Mapping[str, int]) -> None:
    placed = {name: file for file, shard in files.items() for name in shard}
    metadata = {"total_size": sum(sizes[name] for name in placed)}
    _write_json(path, {"metadata": metadata, "weight_map": placed})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


# In


def _fill(state: State, path: Path, config: MLAConfig | V4Config) -> None:
    """Copy what the files of a model hold into the student's state."""
    where = names.places({name: tensor.shape for name, tensor in state.items()}, config)
    copies = names.copies_allowed(config)
    found: set[str] = set()
    repeated = []
    for file in _files(path):
        with _open(path / file) as stored:
            for name in stored.keys():
                if name in copies:
                    repeated.append((file, name))
                    continue
                _check_known(name, where, found)
                into = names.view(state[where[name].name], where[name])
                _copy(name, stored, into)
                found.add(name)
    _check_complete(where, found)
    for file, name in repeated:
        with _open(path / file) as stored:
            _check_copy(name, stored, state[copies[name]])
    _check_tables(state, where, config.num_routed_experts)


def _files(path: Path) -> list[str]:
    """Return the files that hold a model's tensors."""
    if not (path / INDEX).is_file():
        if not (path / SINGLE).is_file():
            raise WeightsError(f"it has neither {SINGLE} nor {INDEX}.")
        return [SINGLE]
    placed = _read_json(path / INDEX).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(f, str) for f in placed.values()):
        raise WeightsError(f"{INDEX} has no weight_map of names and files.")
    files = sorted(set(placed.values()))
    for file in files:
        if Path(file).name != file or not (path / file).is_file():
            raise WeightsError(f"{INDEX} names the file {file}, which is not there.")
    return files


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path.name} is damaged: {first_line(error)}.") from error


def _check_known(name: str, where: Mapping[str, Place], found: set[str]) -> None:
    if name.endswith(SCALES):
        raise WeightsError(
            f"{name} is a scale of quantised weights; dequantise the checkpoint to bfloat16 first."
        )
    if name not in where:
        raise WeightsError(f"its files hold {name}, which config.json has no place for.")
    if name in found:
        raise WeightsError(f"two of its files hold {name}.")


def _copy(name: str, stored: Any, into: torch.Tensor) -> None:
    """Copy one tensor of a file, having seen that it is of the right shape and kind."""
    header = stored.get_slice(name)
    kind, shape = header.get_dtype(), list(header.get_shape())
    if kind not in (FLOATS if into.is_floating_point() else INTEGERS):
        raise WeightsError(
            f"{name} is stored as {kind}; students are not quantised, so dequantise the "
            "checkpoint to bfloat16 first."
        )
    if shape != list(into.shape):
        raise WeightsError(f"{name} is {shape}; config.json makes it {list(into.shape)}.")
    try:
        into.copy_(stored.get_tensor(name))
    except SafetensorError as error:
        raise WeightsError(f"{name} is damaged: {first_line(error)}.") from error


def _check_complete(where: Mapping[str, Place], found: set[str]) -> None:
    missing = sorted(where.keys() - found)
    if not missing:
        return
    message = f"its files hold no {missing[0]} ({len(missing)} of its tensors are missing)"
    if all(names.is_prediction(where[name].name) for name in missing):
        message += "; without prediction layers, num_nextn_predict_layers in config.json must be 0"
    raise WeightsError(message + ".")


def _check_copy(name: str, stored: Any, own: torch.Tensor) -> None:
    """See that what a checkpoint repeats is what the student has once."""
    copy = stored.get_tensor(name).to(own.dtype)
    if not torch.equal(copy, own.cpu()):
        raise WeightsError(f"{name} differs from what it repeats; a student has it only once.")


def _check_tables(state: State, where: Mapping[str, Place], experts: int) -> None:
    """See that hash tables name experts that are there, a token's experts being different ones.

    The first a device would not say, and the second the student counts on.
    """
    for name, place in where.items():
        if state[place.name].is_floating_point():
            continue
        sorted_VK = state[place.name].sort(dim=-1).values
        low, high = (int(bound) for bound in sorted_VK.aminmax())
        if low < 0 or high >= experts:
            odd = low if low < 0 else high
            raise WeightsError(f"{name} names expert {odd}; there are {experts}.")
        if bool((sorted_VK[:, 1:] == sorted_VK[:, :-1]).any()):
            raise WeightsError(f"{name} names an expert twice for one token; they must differ.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path.name} is damaged: {first_line(error)}.") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path.name} is damaged: it is no JSON object.")
    return value
