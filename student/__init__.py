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
    from student.catalogue import presets as presets
    from student.config import MLAConfig as MLAConfig
    from student.config import V4Config as V4Config
    from student.documents import Documents as Documents
    from student.documents import unpad as unpad
    from student.generate import Sampling as Sampling
    from student.model import Output as Output
    from student.model import Student as Student
    from student.sizes import count_parameters as count_parameters
    from student.sizes import kv_cache_bytes as kv_cache_bytes
    from student.vocabulary import Vocabulary as Vocabulary

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
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'student' has no attribute {name!r}")
    value: object = getattr(import_module(f"student.{_HOMES[name]}"), name)
    # Kept under its name: `student.presets` is the function, though a module is called so too.
    globals()[name] = value
    return value
