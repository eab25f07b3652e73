"""Words for readers of a run's records: loss terms by their names, lists, values of any kind."""

from collections.abc import Mapping, Sequence

_TERMS = {
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "sampled_reverse_kl": "reverse KL, sampled",
    "skew_forward_kl": "skewed forward KL",
    "skew_reverse_kl": "skewed reverse KL",
    "adaptive_kl": "adaptive KL",
    "jsd": "Jensen-Shannon divergence",
    "tvd": "total variation",
    "cross_entropy": "cross-entropy",
    "sorted_l1": "sorted L1",
    "mtp": "prediction layers",
    "kl": "KL to the teacher",
}


def kind(name: str) -> str:
    """Return the kind of the loss term called `name`: a kind that comes again is numbered."""
    stem, _, number = name.rpartition("_")
    return stem if number.isdigit() and stem else name


def term(name: str) -> str:
    """Return the name of a loss term, or of a measure, for a reader."""
    stem = kind(name)
    number = name.removeprefix(stem).strip("_")
    said = _TERMS.get(stem, stem.replace("_", " "))
    return f"{said} ({number})" if number else said


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them; nothing for none."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def told(value: object) -> str:
    """Return a value of a record in words: lists and mappings spelt out, texts in quotes."""
    match value:
        case Mapping():
            return "; ".join(f"{name}: {told(inner)}" for name, inner in value.items()) or "none"
        case list() | tuple():
            return ", ".join(map(told, value)) or "none"
        case None | "":
            return "none"
        case bool():
            return "yes" if value else "no"
        case str():
            return f"\u201c{value}\u201d"
    return str(value)


def permission(teacher: Mapping[str, object]) -> str:
    """Return whether training on a teacher's words is permitted, as a manifest's row states it."""
    terms = teacher["terms"]
    if teacher["owned"]:
        return "owned"
    if not isinstance(terms, Mapping):
        return "not stated"
    stated = terms["permits_training"]
    return told(stated) if isinstance(stated, bool) else str(stated)
