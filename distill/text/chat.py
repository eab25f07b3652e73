"""Chats as tokens: the tokenizer's own template, and which tokens the assistant wrote.

Only what an assistant writes after its prompt is learnt: its words, its calls of tools, and the
token that ends its turn. Stretches of the rendered text that are the assistant's come from the
template's {% generation %} marks, or else from rendering the chat message by message; they become
tokens as they would when a model writes them.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distill.errors import InputError
from distill.text.sources import Document, Message

Prompt = str | tuple[Message, ...]
Span = tuple[int, int]

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Templates that write today's date would tokenise the same chat differently tomorrow.
_ONE_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"


class Encoded(NamedTuple):
    """A chat's tokens.

    Attributes:
        ids: int32.
        counted: bool, whether the assistant wrote the token.
        sizes: float64, UTF-8 bytes of each counted token: a turn's bytes, spread evenly over its
            tokens, so exact over turns; 0 for the others.
    """

    ids: npt.NDArray[np.int32]
    counted: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.float64]


def encode(tokenizer: Any, document: Document) -> Encoded:
    """Return the tokens of a chat, and which of them are the assistant's.

    Raises:
        InputError: there is no chat template, or it refuses this chat, or it renders a chat in a
            way that does not tell the assistant's words from the rest; names the document.
    """
    template = _template(tokenizer, document)
    text, spans = _spans(tokenizer, template, document)
    if not spans:
        raise InputError(f"{document.id}: the chat template writes nothing of the assistant's.")
    ids, turns = _tokens(tokenizer, text, spans, document.id)
    counted = np.zeros(len(ids), dtype=bool)
    sizes = np.zeros(len(ids))
    for first, last in turns:
        words = tokenizer.decode(ids[first:last], skip_special_tokens=True)
        counted[first:last] = True
        sizes[first:last] = len(words.encode()) / max(last - first, 1)
    return Encoded(np.asarray(ids, dtype=np.int32), counted, sizes)


def begin(tokenizer: Any, prompt: Prompt) -> str:
    """Return the text a model is to go on from: a text as it is, messages by the template.

    Raises:
        InputError: there is no chat template, or it refuses these messages.
    """
    if isinstance(prompt, str):
        return prompt
    document = Document(id="a prompt", text="", messages=prompt)
    return _render(tokenizer, _template(tokenizer, document), document, len(prompt), answer=True)


def _template(tokenizer: Any, document: Document) -> str:
    try:
        template = str(tokenizer.get_chat_template(tools=list(document.tools) or None))
    except ValueError as error:
        raise InputError(
            f"{document.id} is a chat, but the tokenizer has no chat template; put a "
            "chat_template.jinja beside it, or give the chats as texts under 'text'."
        ) from error
    return _ONE_DATE + template if "strftime_now" in template else template


def _render(
    tokenizer: Any, template: str, document: Document, count: int, *, answer: bool = False
) -> str:
    """Return the first `count` messages as text, and what comes before an answer to them."""
    try:
        return str(
            tokenizer.apply_chat_template(
                list(document.messages[:count]),
                tools=list(document.tools) or None,
                chat_template=template,
                add_generation_prompt=answer,
                tokenize=False,
            )
        )
    except Exception as error:  # a template is a program; it raises what it likes
        raise InputError(f"{document.id}: the chat template refuses it: {error}.") from error


def _spans(tokenizer: Any, template: str, document: Document) -> tuple[str, list[Span]]:
    """Return the rendered chat, and the stretches of it that the assistant wrote."""
    find = _marked if _MARKED.search(template) else _grown
    text, spans = find(tokenizer, template, document)
    added = tuple(tokenizer.get_added_vocab())
    ended = [(start, _end_of_turn(text, start, end, added)) for start, end in spans]
    return text, [(start, end) for start, end in ended if start < end]


def _marked(tokenizer: Any, template: str, document: Document) -> tuple[str, list[Span]]:
    """Return the chat and the stretches inside the template's generation marks.

    An end token that the marks leave out is taken in, or nobody would learn to stop. This is not
    return_assistant_tokens_mask: transformers 5.23 loses or overruns a stretch that begins or
    ends in a space.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    text = _render(tokenizer, template, document, len(document.messages))
    (again,), (spans,) = render_jinja_template(
        conversations=[list(document.messages)],
        tools=list(document.tools) or None,
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    assert again == text
    eos = tokenizer.eos_token
    ends = bool(eos) and eos != tokenizer.bos_token  # which might begin the next turn
    more = len(eos) if ends else 0
    return text, [(a, b + more if ends and text.startswith(eos, b) else b) for a, b in spans]


def _grown(tokenizer: Any, template: str, document: Document) -> tuple[str, list[Span]]:
    """Return the chat, and where each of the assistant's messages makes it longer.

    A message before which nobody has spoken answers nothing, and is not counted.
    """
    text = _render(tokenizer, template, document, len(document.messages))
    spans: list[Span] = []
    for place, message in enumerate(document.messages):
        if message["role"] != "assistant" or place == 0:
            continue
        before = _render(tokenizer, template, document, place, answer=True)
        after = _render(tokenizer, template, document, place + 1)
        if not (text.startswith(after) and after.startswith(before)):
            raise InputError(
                f"{document.id}: the chat template writes message {place + 1} differently while "
                "it is asked for or once others follow it, so its tokens cannot be told apart; "
                "mark them in the template by {% generation %}, or give one turn a row."
            )
        spans.append((len(before), len(after)))
    return text, spans


def _end_of_turn(text: str, start: int, end: int, added: tuple[str, ...]) -> int:
    """Return where a turn ends: with its end token, before the break a template writes after it."""
    bare = text[start:end].rstrip()
    return start + len(bare) if bare.endswith(added) else end


def _tokens(
    tokenizer: Any, text: str, spans: Sequence[Span], name: str
) -> tuple[list[int], list[Span]]:
    """Return the tokens of `text`, and the stretches of them that `spans` of its characters are.

    A prompt is tokenised before its answer is written, so no token reaches over a span's start.
    Where the text in one piece has such a token, the pieces' own tokens are taken.
    """
    cuts = [0, *(place for span in spans for place in span), len(text)]
    pieces = [_ids(tokenizer, text[a:b]) for a, b in pairwise(cuts)]
    whole, joined = _ids(tokenizer, text), [token for piece in pieces for token in piece]
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    if joined == whole:
        return whole, _pairs(ends)
    # A tokenizer that puts a space before every text it is given cannot be given pieces.
    begun = [_ids(tokenizer, text[:cut]) for cut in cuts[1:-1]]
    if all(whole[: len(ids)] == ids for ids in begun):
        return whole, _pairs([len(ids) for ids in begun])
    if tokenizer.decode(joined) == tokenizer.decode(whole):
        return joined, _pairs(ends)
    raise InputError(
        f"{name}: the tokenizer joins the assistant's words to what the template writes before "
        "them; end the template's prompt in a token of its own."
    )


def _pairs(ends: Sequence[int]) -> list[Span]:
    """Return (ends[0], ends[1]), (ends[2], ends[3]) and so on."""
    return list(zip(ends[0::2], ends[1::2], strict=False))


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
