"""Words for readers of a run's records: loss terms, vocabularies, lists, values of any kind."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
    "top1_agreement": "top-1 agreement",
    "kl": "KL to the teacher",
}
# Facts on two vocabularies by their names in the record.
_FACTS = {
    "common": "Ids that both tables have",
    "teacher_rows": "Rows of the teacher's head",
    "student_rows": "Rows of the student's head",
    "agreed": "Ids of the same bytes in both",
    "unnamed": "Ids without a token in one of them",
    "differing": "Ids of other bytes",
    "examples": "The first of those, teacher's and student's",
    "roles": "Begin, end and padding: teacher's, student's",
}
# Facts on a run's device and the machine it is in, but those that the page says in one phrase.
_MACHINE = {
    "count": "Devices in sight",
    "memory_bytes": "Memory of the device, bytes",
    "driver": "Driver",
    "firmware": "Firmware",
    "bios": "BIOS",
    "toolkit": "Toolkit",
    "toolkit_version": "Version of the toolkit",
    "cpu": "Processor",
    "host_memory_bytes": "Memory of the host, bytes",
    "system": "System",
    "kernel": "Kernel",
    "libc": "C library",
    "os": "Operating system",
    "os_version": "Version of the operating system",
    "python": "Python",
    "torch": "torch",
}
# Those that are told in sentences, not in a row each.
_IN_SENTENCES = (
    "teacher",
    "across_tokenizers",
    "alignment",
    "tokens_spelt_alike",
    "tokens_translated",
    "positions_translated",
)
_MOST_NAMES = 5


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


def beginning(manifest: Mapping[str, Any]) -> str:
    """Return what a student's first weights are, in a sentence."""
    cut = manifest["student"]["inherited"]
    if cut is None:
        return "The student learns what its teachers say; it does not begin with their weights."
    said = f"The student inherits the weights of {cut['teacher']}"
    if "cache" not in cut:
        return " ".join([f"{said}.", *_of_v4(cut)])
    parts = [f"{cut['cache']:.0%} of the teacher's cache"]
    if cut["experts"] is not None:
        parts.append(f"{_asked(cut['experts'])} of its feed-forward neurons at work on a token")
    if cut["depth"] != 1:
        parts.append(f"{cut['depth']:.0%} of its layers")
    return f"{said}, with {listed(parts)}."


def _of_v4(cut: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of a teacher is left in a student of the v4 family, in sentences."""
    if cut["head_dim"] is not None:
        yield f"Each layer caches {cut['head_dim']} values a token."
    if cut["sliding_window"] is not None:
        yield f"It attends to {cut['sliding_window']} tokens as they are."
    if cut["entries"] is not None:
        yield f"What came before them it knows by entries of {cut['entries']['tokens']} tokens."
    if (experts := cut["experts"])["active"] < experts["routed"]:
        yield f"At work on a token are {_asked(experts)} of its feed-forward neurons."
    if cut["depth"] != 1:
        yield f"It has {cut['depth']:.0%} of its teacher's layers."


def _asked(experts: Mapping[str, int]) -> str:
    """Return the share of neurons that a mixture asks for a token."""
    parts = experts["shared"] + experts["routed"]
    return f"{(experts['shared'] + experts['active']) / parts:.0%}"


def permission(teacher: Mapping[str, object]) -> str:
    """Return whether training on a teacher's words is permitted, as a manifest's row states it."""
    terms = teacher["terms"]
    if teacher["owned"]:
        return "owned"
    if not isinstance(terms, Mapping):
        return "not stated"
    stated = terms["permits_training"]
    return told(stated) if isinstance(stated, bool) else str(stated)


def machine(device: Mapping[str, Any]) -> list[tuple[str, str | int]]:
    """Return what a manifest says of the machine, as labels and values; what it lacks is not."""
    return [(name, device[key]) for key, name in _MACHINE.items() if key in device]


def label(name: str) -> str:
    """Return the key of a record as a reader's label."""
    return name.replace("_", " ").capitalize()


def vocabularies(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what a manifest says of each teacher's tokens, where it says anything.

    Each has `teacher`, `sentences`, and `facts`, names of all else with counts or words.
    """
    return [
        {
            "teacher": record["teacher"],
            "sentences": met(record),
            "facts": [
                (_FACTS.get(name, label(name)), _fact(name, value))
                for name, value in record.items()
                if name not in _IN_SENTENCES
            ],
        }
        for record in records
        if len(record) > 1
    ]


def _fact(name: str, value: Any) -> float | str:
    """Return a count, or the words of anything else; examples have their spellings in quotes."""
    if name == "examples":
        return "; ".join(f"{id_}: {theirs} and {ours}" for id_, theirs, ours in value) or "none"
    is_count = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_count else told(value)


def met(record: Mapping[str, Any]) -> list[str]:
    """Return how a teacher's tokens met the student's, in sentences."""
    if not record.get("across_tokenizers"):
        return []
    found = ["Its tokenizer is not the student's: it reads the same bytes in tokens of its own."]
    aligned = record.get("alignment")
    if aligned is None:
        return found
    if "tokens_translated" in record:
        found.append(_translated(record, aligned))
    inside, whole = aligned["student_tokens_in_chunks"], aligned["student_tokens"]
    found.append(
        f"{inside:,} of {whole:,} positions of the student's training text "
        f"({inside / max(whole, 1):.1%}) are in {aligned['chunks']:,} chunks of bytes that both "
        "tokenizers cut into whole tokens."
    )
    return [*found, *_unaligned(aligned)]


def _translated(record: Mapping[str, Any], aligned: Mapping[str, Any]) -> str:
    said = (
        f"{record['tokens_translated']:,} of its {record['teacher_rows']:,} tokens stand for one "
        f"of the student's; {record['tokens_spelt_alike']:,} are spelt alike, and what the text "
        "contradicts is left out."
    )
    if "positions_translated" not in record:
        return said
    at, whole = record["positions_translated"], aligned["student_tokens"]
    return f"{said} They are heard at {at:,} of {whole:,} positions ({at / max(whole, 1):.1%})."


def _unaligned(aligned: Mapping[str, Any]) -> list[str]:
    """Return what could not be aligned, the first few documents by name."""
    lost, windows = aligned["documents_without_chunks"], aligned["windows_unread"]
    found = ["Every document could be aligned."]
    if lost:
        more = f" and {len(lost) - _MOST_NAMES:,} more" if len(lost) > _MOST_NAMES else ""
        named = ", ".join(lost[:_MOST_NAMES])
        many = "1 document" if len(lost) == 1 else f"{len(lost):,} documents"
        found = [f"{many} could not be aligned: {named}{more}."]
    if aligned["pairs_without_chunks"]:
        found.append(
            f"At {aligned['pairs_without_chunks']:,} positions of such documents both have read "
            "just as far, and are compared by the sizes of their probabilities alone."
        )
    if windows:
        found.append(f"{windows:,} windows are of none of the documents and were not compared.")
    return found
