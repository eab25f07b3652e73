"""Does a model say that it is the teacher, or made by the teacher's maker?

Corroboration and no more: the web is full of answers in which somebody says whose model it is, so
models repeat it that never saw that model's answers. What other models of the bank say of
themselves is counted beside it, and no finding rests on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from audit.evidence import Member, ProbeResult, Verdict
from audit.lineup.reading import own_words, words
from audit.population import wilson

NAME = "self_identity"
UNIT = "share of answers"
NULL = "A model that never saw the teacher's answers says as often that it is the teacher."
CANNOT_SAY = (
    "Models repeat from text of the web whose model somebody said to be; few such claims are "
    "about the speaker's own origin.",
    "It never supports a finding by itself, and its absence excludes nothing.",
)
# Words after which a name within reach is the speaker's or its maker's.
_SELF = (
    ("i", "am"),
    ("i", "'", "m"),
    ("my", "name", "is"),
    ("\u6211", "\u662f"),
    ("\u6211", "\u53eb"),
)
_MAKER = tuple((verb, "by") for verb in ("trained", "developed", "created", "made", "built"))
_MAKER_ZH = (("\u5f00", "\u53d1"), ("\u8bad", "\u7ec3"))  # the name stands before it
_REACH = 8
_CHARACTERS = 600  # who introduces himself does it first


def statements(text: str) -> list[tuple[str, ...]]:
    """Return the stretches of an answer's beginning in which its writer may name itself."""
    said = words(text.lstrip()[:_CHARACTERS], frozenset())
    found = []
    for place in range(len(said)):
        for opening in (*_SELF, *_MAKER):
            first = place + len(opening)
            if tuple(said[place:first]) == opening:
                found.append(tuple(said[first : first + _REACH]))
        if tuple(said[place : place + 2]) in _MAKER_ZH:
            found.append(tuple(said[max(place - _REACH, 0) : place]))
    return found


def claims(stated: Sequence[Sequence[str]], names: frozenset[str]) -> bool:
    """Tell whether a stretch holds one of `names`.

    Args:
        stated: of an answer, as `statements` finds them.
        names: words, lower case, as `reading.own_words` finds them in a maker's or model's name.
    """
    return any(
        word in names or word.rstrip("0123456789") in names for one in stated for word in one
    ) or any(not name.isascii() and name in "".join(one) for name in names for one in stated)


def examine(
    suspect: str,
    stated: Mapping[str, Sequence[Sequence[Sequence[str]]]],
    teacher: Sequence[str],
) -> ProbeResult:
    """Return how often the suspect, and each other model, says that it is the teacher.

    Args:
        suspect: its name.
        stated: by name, of the suspect and of models that are not related to the teacher, the
            `statements` of each answer that is not blank.
        teacher: names of the group, its maker and its models.
    """
    names = own_words(teacher)
    counts = {name: sum(claims(one, names) for one in rows) for name, rows in stated.items()}
    asked = {name: len(rows) for name, rows in stated.items()}
    share = {name: counts[name] / asked[name] for name in stated if asked[name]}
    if suspect not in share:
        return _result(0, Verdict.INSUFFICIENT, "it answers nothing")
    low, high = wilson(counts[suspect], asked[suspect])
    others = [value for name, value in share.items() if name != suspect]
    above = sum(value >= share[suspect] for value in others)
    reason = (
        f"{counts[suspect]} of {asked[suspect]} answers say so; {above} of {len(others)} unrelated "
        "models say so as often"
    )
    return replace(
        _result(asked[suspect], Verdict.INCONCLUSIVE, reason),
        score=share[suspect],
        low=low,
        high=high,
        rank=1 + above,
        rank_of=1 + len(others),
        population=tuple(
            Member(name=n, role="suspect" if n == suspect else "reference", score=value)
            for n, value in share.items()
        ),
    )


def _result(count: int, verdict: Verdict, reason: str) -> ProbeResult:
    return ProbeResult(
        probe=NAME,
        needs="text",
        verdict=verdict,
        reason=reason,
        null=NULL,
        unit=UNIT,
        n_prompts=count,
        cannot_say=CANNOT_SAY,
    )
