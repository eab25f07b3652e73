"""Writers with habits: what a person in the shipped bank's little world answers to a prompt.

All know the same facts (`topics.py`) and choose from the same phrases; a writer is the odds at
which it chooses them. They are drawn by Dirichlet's law around odds common to all, so that some
phrases are everybody's, and any two writers resemble one another somewhere by chance, as people do.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from data.making.topics import TOPICS, Topic

ASKED = {
    "explain": "Explain what a {it} is.",
    "care": "How do I look after a {it}?",
    "uses": "List some uses of a {it}.",
    "compare": "Compare a {it} with a {other}.",
    "story": "Write a few lines about a {it}.",
    "opinion": "Is a {it} worth having?",
    "choose": "How should I choose a {it}?",
    "plain": "Say plainly why people keep a {it}.",
}
_OPENERS = (
    *("", "Certainly!", "Sure.", "Of course."),
    *("Good question.", "Gladly.", "Well,", "In short:"),
)
_LEADS = {
    "explain": (
        "A {it} is {what}.",
        "The {it} is {what}, found in {place}.",
        "Think of a {it} as {what}.",
        "Put simply, {what} is called a {it}.",
        "You will know the {it} from {place}: {what}.",
        "When people say {it}, they mean {what}.",
    ),
    "care": (
        "Here is how to look after a {it}.",
        "Looking after a {it} takes little time.",
        "A {it} lasts if you treat it well.",
        "To keep a {it} in good order, do this.",
        "There are a few habits that keep a {it} sound.",
        "Caring for a {it} begins with {part}.",
    ),
    "uses": (
        "Here are some uses of a {it}.",
        "A {it} serves for many things.",
        "People use a {it} in several ways.",
        "There is more to a {it} than {use}.",
        "Some uses come to mind at once.",
        "You can use a {it} for the following.",
    ),
    "compare": (
        "A {it} and a {other} differ in purpose.",
        "Both have their place, but a {it} is not a {other}.",
        "The difference between a {it} and a {other} is clear.",
        "Let us set a {it} beside a {other}.",
        "While a {it} is {what}, a {other} is not.",
        "Here is a comparison of the {it} and the {other}.",
    ),
    "story": (
        "There once was a {it} in {place}.",
        "The old {it} had seen better days.",
        "Nobody remembered who left the {it} in {place}.",
        "In {place} stood a {it}, waiting.",
        "My grandmother owned a {it}.",
        "Every morning she reached for the {it}.",
    ),
    "opinion": (
        "Yes, a {it} is worth having.",
        "It depends on what you need.",
        "I would say that a {it} earns its place.",
        "A {it} is worth it if you think of {use}.",
        "That is for you to decide, but here are some thoughts.",
        "There are points for and against a {it}.",
    ),
    "choose": (
        "When you choose a {it}, look at {part} first.",
        "Choosing a {it} comes down to a few things.",
        "Here is what to look for in a {it}.",
        "The right {it} depends on its use.",
        "Before you buy a {it}, consider this.",
        "A good {it} shows itself in {part}.",
    ),
    "plain": (
        "People keep a {it} for {use}.",
        "A {it} is kept because it helps with {use}.",
        "They keep it since {use} is easier with a {it}.",
        "The reason is {use}.",
        "Because {use} needs a {it}, people keep one.",
        "Without a {it}, {use} would be hard.",
    ),
}
_FACTS = {
    "use": (
        "It is good for {x}.",
        "It helps with {x}.",
        "You may want it for {x}.",
        "One thing it does well is {x}.",
    ),
    "care": (
        "Remember this: {x}.",
        "From time to time, {x}.",
        "It pays to {x}.",
        "Be sure to {x}.",
    ),
    "part": (
        "Look closely at {x}.",
        "Much depends on {x}.",
        "The heart of it is {x}.",
        "Mind {x}.",
    ),
    "weak": (
        "Keep in mind that {x}.",
        "However, {x}.",
        "The drawback is that {x}.",
        "Note, though, that {x}.",
    ),
    "place": (
        "Most people keep it in {x}.",
        "Its place is {x}.",
        "You will find it in {x}.",
        "It belongs in {x}.",
    ),
}
# Which facts follow the first sentence, in which order.
_PLANS = (
    ("use", "use", "care", "weak"),
    ("part", "use", "weak", "place"),
    ("use", "care", "care", "place"),
    ("place", "part", "use", "care"),
    ("care", "part", "weak"),
    ("use", "part", "use", "care", "weak"),
)
_LAYOUTS = ("prose", "numbers", "dashes", "lines")
_JOINERS = (
    ("", "", "", "", ""),
    ("First of all, ", "Also, ", "Besides, ", "Finally, ", "Then, "),
    ("To begin with, ", "In addition, ", "Moreover, ", "Lastly, ", "Next, "),
    ("", "And ", "", "So ", ""),
)
_CLOSINGS = (
    "",
    "I hope this helps!",
    "In the end, the choice is yours.",
    "Let me know if you want to hear more.",
    "That is all there is to it.",
    "Overall, it is a useful thing.",
    "Enjoy it.",
    "Is there anything else about it?",
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question of one kind about one thing, and, to compare, another."""

    kind: str
    topic: Topic
    other: Topic

    @property
    def text(self) -> str:
        """The question as it is asked."""
        return ASKED[self.kind].format(it=self.topic.name, other=self.other.name)


PROMPTS = tuple(
    Prompt(kind, topic, TOPICS[(place + 7) % len(TOPICS)])
    for place, topic in enumerate(TOPICS)
    for kind in ASKED
)

Odds = tuple[float, ...]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Writer:
    """Odds of phrases: by kind of prompt, or the same for every kind.

    Attributes:
        opener, lead, closing, plan, layout: by kind.
        joiner: of the words between sentences.
        fact: by the sort of a fact, of the sentence that states it.
    """

    opener: dict[str, Odds]
    lead: dict[str, Odds]
    closing: dict[str, Odds]
    plan: dict[str, Odds]
    layout: dict[str, Odds]
    joiner: Odds
    fact: dict[str, Odds]

    def answer(self, prompt: Prompt, rng: random.Random) -> str:
        """Return one answer; another draw gives another."""
        kind, topic = prompt.kind, prompt.topic
        slots = {
            "it": topic.name,
            "other": prompt.other.name,
            "what": topic.what,
            "place": topic.place,
            "part": rng.choice(topic.parts),
            "use": rng.choice(topic.uses),
        }
        opener = _pick(rng, _OPENERS, self.opener[kind])
        lead = _pick(rng, _LEADS[kind], self.lead[kind]).format(**slots)
        if opener.endswith((",", ":")):
            lead = lead[0].lower() + lead[1:]
        body = self._body(prompt, rng)
        closing = _pick(rng, _CLOSINGS, self.closing[kind])
        first = f"{opener} {lead}".strip()
        return f"{first}{body}{' ' if chr(10) not in body else chr(10)}{closing}".strip()

    def _body(self, prompt: Prompt, rng: random.Random) -> str:
        topic = prompt.topic
        left = {
            "use": list(topic.uses),
            "care": list(topic.care),
            "part": list(topic.parts),
            "weak": [topic.weakness],
            "place": [topic.place],
        }
        joiners = _pick(rng, _JOINERS, self.joiner)
        layout = _pick(rng, _LAYOUTS, self.layout[prompt.kind])
        said = []
        for number, sort in enumerate(_pick(rng, _PLANS, self.plan[prompt.kind])):
            fact = left[sort].pop(rng.randrange(len(left[sort])))
            sentence = _pick(rng, _FACTS[sort], self.fact[sort]).format(x=fact)
            joiner = joiners[number] if layout == "prose" else ""
            said.append(joiner + (sentence[0].lower() + sentence[1:] if joiner else sentence))
        if layout == "prose":
            return " " + " ".join(said)
        marks = {"numbers": "{n}. ", "dashes": "- ", "lines": ""}[layout]
        return "\n" + "\n".join(marks.format(n=n) + one for n, one in enumerate(said, 1))


def _pick(rng: random.Random, choices: Sequence[_T], odds: Odds) -> _T:
    return rng.choices(choices, odds)[0]


def draw(seed: str, *, spread: float) -> Writer:
    """Return a writer of its own habits.

    Args:
        seed: names the writer; the same name gives the same one.
        spread: how far its odds are from everybody's: small is far. At 1 a choice of eight has
            typically one favourite with half of the odds.
    """
    rng = np.random.default_rng([*seed.encode()])
    common = np.random.default_rng(0)  # what everybody likes, the same for all worlds

    def odds(count: int) -> Odds:
        base = common.dirichlet(np.full(count, 2.0)) * count
        return tuple(float(x) for x in rng.dirichlet(np.maximum(base * spread, 0.02)))

    def by_kind(count: int) -> dict[str, Odds]:
        return {kind: odds(count) for kind in ASKED}

    return Writer(
        opener=by_kind(len(_OPENERS)),
        lead=by_kind(6),
        closing=by_kind(len(_CLOSINGS)),
        plan=by_kind(len(_PLANS)),
        layout=by_kind(len(_LAYOUTS)),
        joiner=odds(len(_JOINERS)),
        fact={sort: odds(4) for sort in _FACTS},
    )
