"""What a model says before so many of its answers that it says nothing about any of them.

A persona's greeting, set by whoever runs a model, hides how the model itself begins, which is what
tells most about its teachers. It is taken off every model's answers before they are read.
"""

from collections import Counter
from collections.abc import Sequence

# Fixed where no model of the public lineage set begins like that: there the longest beginning of a
# fifth of a model's answers has four words, and no word begins four fifths of any model's.
_NEARLY_ALL = 0.8  # of the answers: a beginning of any length is a greeting
_MANY = 0.2  # of the answers: one of so many words and marks is, too
_LONG = 5
_GO_ON = 0.9  # of those that begin so: if so many go on in a few ways, the greeting does
_LEAST_ANSWERS = 20  # with fewer, what they have in common is chance

Words = Sequence[str]


def greetings(said: Sequence[Words]) -> tuple[tuple[str, ...], ...]:
    """Return the greetings before a model's answers, the longer ones first.

    Args:
        said: the words and marks of its answers.
    """
    answers = [one for one in said if one]
    if len(answers) < _LEAST_ANSWERS:
        return ()
    found: list[tuple[str, ...]] = []
    open_ends: list[tuple[tuple[str, ...], list[Words]]] = [((), answers)]
    while open_ends:
        begun, holding = open_ends.pop()
        place = len(begun)
        following = Counter(one[place] for one in holding if len(one) > place)
        ways = {word: n for word, n in following.items() if n >= _MANY * len(answers)}
        greets = place >= _LONG or len(holding) >= _NEARLY_ALL * len(answers)
        if begun and greets and sum(ways.values()) < _GO_ON * len(holding):
            found.append(begun)
            continue
        for word in ways:
            rest = [one for one in holding if len(one) > place and one[place] == word]
            open_ends.append(((*begun, word), rest))
    return tuple(sorted(found, key=len, reverse=True))


def without(words: Words, greetings: Sequence[Words]) -> list[str]:
    """Return an answer's words without the greeting that it begins with, if with any.

    Args:
        words: of the answer.
        greetings: the longer ones first.
    """
    for greeting in greetings:
        if list(words[: len(greeting)]) == list(greeting):
            rest = list(words[len(greeting) :])
            while rest and rest[0] == "\n":
                del rest[0]
            return rest
    return list(words)
