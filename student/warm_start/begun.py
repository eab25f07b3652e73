"""What both families have in common: the student that begins, and what is asked of every plan."""

from dataclasses import dataclass

import torch

from student.config import MLAConfig, V4Config
from student.errors import WarmStartError
from student.model import Student
from student.vocabulary import Vocabulary
from student.warm_start import depth
from student.warm_start.calibration import Seen
from student.warm_start.dense import Dense, Numbers
from student.warm_start.experts import Carving


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Begun:
    """A student that begins as its teacher.

    Attributes:
        student: on the CPU, in float32.
        seen: what its layers should make of the text, those that were dropped left out.
        loads: a mixture layer each, `[E]`, load of its experts relative to an even share.
        fluctuations: a layer each in v4, what pads leave to the norms; see `shared_entry.Shared`.
    """

    student: Student
    seen: Seen
    loads: tuple[torch.Tensor, ...]
    fluctuations: tuple[float, ...] = ()


def require_vocabulary(dense: Dense, vocabulary: Vocabulary) -> None:
    """Refuse other tokens than the teacher's.

    Raises:
        WarmStartError: says how many either has.
    """
    if vocabulary.size != len(dense.embed_VD):
        raise WarmStartError(
            f"the student has {vocabulary.size:,} tokens and the teacher {len(dense.embed_VD):,}; "
            "weights can be inherited with the teacher's own vocabulary alone."
        )


def pruned(dense: Dense, seen: Seen, layers: int | None) -> tuple[Dense, Seen]:
    """Return teacher and text with the layers that are kept; all of them where None is given."""
    if layers is None or layers >= dense.numbers.layers:
        return dense, seen
    return depth.prune(dense, seen, layers)


def ends(dense: Dense) -> dict[str, torch.Tensor]:
    """Return what stands before and after all layers, by the names of `student.model.Student`."""
    state = {"embed.weight": dense.embed_VD, "norm.weight": dense.norm_D}
    return state if dense.head_VD is None else state | {"head.weight": dense.head_VD}


def built(
    config: MLAConfig | V4Config, vocabulary: Vocabulary, state: dict[str, torch.Tensor]
) -> Student:
    """Return a student, in float32 on the CPU, of weights by the names of its modules."""
    student = Student.build(config, vocabulary)
    student.load_state_dict({name: weight.float() for name, weight in state.items()})
    return student.eval()


def require_positions(size: Numbers, positions: int | None) -> None:
    """Refuse more tokens of context than the teacher has.

    Raises:
        WarmStartError: says how many it has.
    """
    if positions is not None and positions > size.max_positions:
        raise WarmStartError(
            f"max_position_embeddings is {positions}, more than the teacher's "
            f"({size.max_positions}); choose at most that."
        )


def require_parts(size: Numbers, how: Carving) -> None:
    """Refuse parts that the teacher's feed-forward layers do not divide into.

    Raises:
        WarmStartError: says what does not divide.
    """
    parts, inner = how.shared + how.routed, size.intermediate_size
    if inner % parts:
        raise WarmStartError(
            f"experts: {how.shared} shared and {how.routed} routed are {parts} parts, which the "
            f"teacher's {inner} inner values do not divide into; choose a divisor."
        )
