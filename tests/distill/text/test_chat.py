"""Of a chat exactly what the assistant wrote counts, its end token too, whatever the template."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distill.errors import InputError
from distill.text import chat
from distill.text.sources import Document
from tests.fakes.teachers import BOS, EOS, PAD, TEMPLATE, byte_pairs, sentences, tiny_tokenizer

CHAT = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is the still?"},
    {"role": "assistant", "content": "By the river."},
    {"role": "user", "content": "And the cask, 漢字?"},
    {"role": "assistant", "content": "In the yard, über alles. "},
)
HEADED = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}"
    "{%- generation %} {{ m.content }}{% endgeneration %}</s>{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{{ m.role }}: {% if loop.last and m.role == 'assistant' %}(hm) "
    "{% endif %}{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def document(messages=CHAT, **more) -> Document:
    return Document(id="chats/7", text="", messages=tuple(messages), **more)


def templated(template, tokenizer=None):
    tokenizer = tokenizer or tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def runs(tokenizer, encoded) -> list[str]:
    """Return the text of every run of counted tokens."""
    edges = np.flatnonzero(np.diff(encoded.counted.astype(int), prepend=0, append=0))
    ids = encoded.ids.tolist()
    return [tokenizer.decode(ids[a:b]) for a, b in edges.reshape(-1, 2)]


def metaspace() -> PreTrainedTokenizerFast:
    """Return a tokenizer that puts a space before every text, as SentencePiece does."""
    words = Tokenizer(models.BPE(byte_fallback=True))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    words.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="always")])
    alphabet = sorted(set(sentences(50, 0) + "".join(m["content"] + m["role"] for m in CHAT)))
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[BOS, EOS, PAD], initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    words.train_from_iterator([sentences(50, 0)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=BOS, eos_token=EOS, pad_token=PAD
    )


@pytest.mark.parametrize(
    ("template", "ends"),
    [(TEMPLATE, EOS), (HEADED, EOS), (MARKED, EOS), (MARKED.replace("</s>", "\n"), "")],
)
def test_the_assistants_words_and_its_end_token_count_and_nothing_else(template, ends):
    tokenizer = templated(template)
    made = chat.encode(tokenizer, document())
    space = " " if "{%- generation" in template else ""
    words = [space + CHAT[2]["content"] + ends, space + CHAT[4]["content"] + ends]
    assert runs(tokenizer, made) == words
    assert made.ids.dtype == np.int32


@pytest.mark.parametrize("template", [TEMPLATE, HEADED, MARKED])
def test_the_tokens_are_those_of_the_rendered_chat(template):
    tokenizer = templated(template)
    text = tokenizer.apply_chat_template(list(CHAT), tokenize=False)
    made = chat.encode(tokenizer, document())
    assert made.ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_an_end_token_inside_the_marks_is_not_taken_twice():
    inside = MARKED.replace("{% endgeneration %}</s>", "</s>{% endgeneration %}")
    made, outside = (chat.encode(templated(t), document()) for t in (inside, MARKED))
    assert made.counted.tolist() == outside.counted.tolist()
    assert made.ids.tolist() == outside.ids.tolist()


def test_a_begin_token_that_is_the_end_token_too_ends_no_marked_turn():
    tokenizer = templated(MARKED.replace("</s>", "<s>"))
    tokenizer.eos_token = tokenizer.bos_token
    made = chat.encode(tokenizer, document())
    assert runs(tokenizer, made) == [" " + CHAT[2]["content"], " " + CHAT[4]["content"]]


@pytest.mark.parametrize("template", [TEMPLATE, MARKED])
def test_bytes_are_those_of_the_assistants_words_spread_over_its_tokens(template):
    tokenizer = templated(template)
    made = chat.encode(tokenizer, document())
    space = int(template == MARKED)
    words = [len(CHAT[place]["content"].encode()) + space for place in (2, 4)]
    assert made.sizes.sum() == pytest.approx(sum(words))
    assert not made.sizes[~made.counted].any()
    first = np.flatnonzero(made.counted)[0]
    run = np.flatnonzero(~made.counted[first:])[0]
    assert made.sizes[first : first + run] == pytest.approx(np.full(run, words[0] / run))


def test_an_opening_that_answers_nothing_does_not_count():
    messages = ({"role": "assistant", "content": "Welcome."}, *CHAT[1:3])
    tokenizer = templated(HEADED)
    assert runs(tokenizer, chat.encode(tokenizer, document(messages))) == ["By the river.</s>"]
    with pytest.raises(InputError, match=r"chats/7: .* writes nothing of the assistant's"):
        chat.encode(tokenizer, document(messages[:1]))


def test_no_token_reaches_from_the_prompt_into_the_answer():
    tokenizer = byte_pairs([sentences(60, 0) + "\n\n" * 500], 320)
    templated("{% for m in messages %}{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
              "{% if add_generation_prompt %}assistant\n{% endif %}", tokenizer)  # fmt: skip
    messages = (CHAT[1], {"role": "assistant", "content": "\n\nBy the river."})
    text = tokenizer.apply_chat_template(list(messages), tokenize=False)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "\n\n" in [tokenizer.decode([token]) for token in whole]  # which nobody could write
    made = chat.encode(tokenizer, document(messages))
    assert runs(tokenizer, made) == ["\n\nBy the river.</s>"]
    prompt = tokenizer(chat.begin(tokenizer, (CHAT[1],)), add_special_tokens=False)["input_ids"]
    assert made.ids.tolist()[: len(prompt)] == prompt
    assert tokenizer.decode(made.ids.tolist()) == text


def test_a_tokenizer_that_begins_every_text_with_a_space_is_given_the_whole_chat():
    tokenizer = templated(TEMPLATE, metaspace())
    text = tokenizer.apply_chat_template(list(CHAT), tokenize=False)
    made = chat.encode(tokenizer, document())
    assert made.ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [words.strip() for words in runs(tokenizer, made)] == [
        CHAT[2]["content"] + EOS,
        CHAT[4]["content"] + EOS,
    ]


def test_a_tokenizer_that_joins_the_prompt_to_the_answer_for_good_is_refused():
    glued = TEMPLATE.replace("{{ m.role }}: ", "{{ m.role }}").replace("assistant: ", "assistant")
    tokenizer = metaspace()
    # A word of both sides at the seam, whose pieces cannot be put side by side.
    tokenizer.add_tokens(["assistantBy"])
    with pytest.raises(InputError, match=r"chats/7: the tokenizer joins the assistant's words"):
        chat.encode(templated(glued, tokenizer), document(CHAT[1:3]))


def test_a_template_that_writes_earlier_turns_anew_is_refused_and_its_last_turn_is_not():
    tokenizer = templated(THINKING)
    with pytest.raises(InputError, match=r"chats/7: .* writes message 3 differently while") as said:
        chat.encode(tokenizer, document())
    assert "{% generation %}" in str(said.value)
    made = chat.encode(tokenizer, document(CHAT[:3]))
    assert runs(tokenizer, made) == ["(hm) By the river.</s>"]


def test_a_template_that_asks_for_other_words_than_it_writes_is_refused():
    tokenizer = templated(TEMPLATE.replace("}assistant: ", "}assistant: <think>"))
    with pytest.raises(InputError, match=r"writes message 3 differently while it is asked for"):
        chat.encode(tokenizer, document(CHAT[:3]))


def test_what_tools_say_does_not_count_and_templates_see_the_tools():
    called = {"type": "function", "function": {"name": "look", "arguments": {}}}
    messages = (
        CHAT[1],
        {"role": "assistant", "tool_calls": [called]},
        {"role": "tool", "content": "a cask"},
        CHAT[2],
    )
    tokenizer = templated(
        "{{ tools[0].name }}{% for m in messages %}<s>{{ m.role }}: {{ m.content }}"
        "{% for c in m.tool_calls %}call {{ c.function.name }}{% endfor %}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    made = chat.encode(tokenizer, document(messages, tools=({"name": "looker"},)))
    assert runs(tokenizer, made) == ["call look</s>", "By the river.</s>"]
    assert tokenizer.decode(made.ids.tolist()).startswith("looker<s>user")


def test_a_template_that_writes_the_date_writes_the_same_one_every_day(monkeypatch):
    dated = templated("{{ strftime_now('%d %b %Y') }}|" + TEMPLATE)
    for marks in (dated, templated("{{ strftime_now('%d %b %Y') }}|" + MARKED)):
        made = chat.encode(marks, document())
        assert marks.decode(made.ids.tolist()).startswith("26 Jul 2024|")
    assert chat.begin(dated, CHAT[:2]).startswith("26 Jul 2024|")


def test_without_a_template_the_sentence_says_what_to_do():
    with pytest.raises(InputError, match=r"chats/7 is a chat, but the tokenizer has no chat templ"):
        chat.encode(templated(None), document())
    with pytest.raises(InputError, match=r"a prompt is a chat, but the tokenizer has no chat"):
        chat.begin(templated(None), CHAT[:2])


def test_what_a_template_refuses_is_passed_on():
    tokenizer = templated("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InputError, match=r"chats/7: .* refuses it: roles must alternate\."):
        chat.encode(tokenizer, document())


def test_a_prompt_is_a_text_as_it_is_or_messages_up_to_the_answer():
    tokenizer = templated(HEADED)
    assert chat.begin(tokenizer, "Where ") == "Where "
    asked = chat.begin(tokenizer, CHAT[:2])
    assert asked.endswith("<s>user\nWhere is the still?</s>\n<s>assistant\n")
