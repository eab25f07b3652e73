"""The model that is trained: an MLA/MoE or V4-style student, its weights, devices and optimizer.

    from student import Student, Vocabulary, presets

    config = presets()["v4-tiny"]
    student = Student.build(config, Vocabulary(size=300, bos=0, eos=1), seed=0)

What is named here is loaded when it is first asked for: importing this package loads neither
torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from student.catalogue import presets
    from student.config import MLAConfig, V4Config
    from student.documents import Documents, unpad
    from student.generate import Sampling
    from student.model import Output, Student
    from student.sizes import count_parameters, kv_cache_bytes
    from student.vocabulary import Vocabulary

__all__ = [
    "Documents",
    "MLAConfig",
    "Output",
    "Sampling",
    "Student",
    "V4Config",
    "Vocabulary",
    "count_parameters",
    "kv_cache_bytes",
    "presets",
    "unpad",
]

_HOMES = {
    "Documents": "documents",
    "MLAConfig": "config",
    "Output": "model",
    "Sampling": "generate",
    "Student": "model",
    "V4Config": "config",
    "Vocabulary": "vocabulary",
    "count_parameters": "sizes",
    "kv_cache_bytes": "sizes",
    "presets": "catalogue",
    "unpad": "documents",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'student' has no attribute {name!r}")
    value: object = getattr(import_module(f"student.{_HOMES[name]}"), name)
    # Kept under its name: `student.presets` is the function, though a module is called so too.
    globals()[name] = value
    return value
