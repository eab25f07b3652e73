"""Two skills with exact answers that a small network learns in seconds, and teachers of them.

Both are asked about five digits: `S31415=` wants them in order, 11345; `T31415=` wants three added
to each, without carrying, 64748. Only the first letter says which. Strings of digits whose hash
says so are held out: no teacher and no student ever learns from them, in either skill.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.evaluation.tasks import Answerer
from tests.fakes.teachers import byte_pairs

VOCAB = 259  # begin, end, padding, and every byte
DIGITS = 5
ANSWER = DIGITS + 1  # tokens, the end token among them
ROW = 1 + 1 + DIGITS + 1 + ANSWER  # begin token, letter, digits, equals sign, answer
# A question is a chat of one turn: begin token, question, answer, end token.
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}{{ m.content }}"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
_BATCH, _RATE, _WARM_UP = 64, 3e-3, 50


@dataclass(frozen=True)
class Skill:
    """A kind of question, by the letter it begins with."""

    name: str
    letter: str
    solve: Callable[[str], str]


@dataclass(frozen=True)
class Item:
    """One question and its only right answer."""

    tag: str
    prompt: str
    answer: str


def _sorted(digits: str) -> str:
    return "".join(sorted(digits))


def _shifted(digits: str) -> str:
    return "".join(str((int(digit) + 3) % 10) for digit in digits)


SORT, SHIFT = Skill("sort", "S", _sorted), Skill("shift", "T", _shifted)
SKILLS = (SORT, SHIFT)


def items(skill: Skill, count: int, *, seed: int, held_out: bool) -> list[Item]:
    """Return `count` questions, all of them held-out ones or none, the same for the same seed."""
    rng = random.Random(f"{skill.name}/{seed}/{held_out}")
    found: list[Item] = []
    while len(found) < count:
        digits = "".join(rng.choices("0123456789", k=DIGITS))
        if _is_held_out(digits) == held_out:
            found.append(Item(skill.name, f"{skill.letter}{digits}=", skill.solve(digits)))
    return found


def _is_held_out(digits: str) -> bool:
    return hashlib.sha256(digits.encode()).digest()[0] < 256 // 8


def write_questions(questions: Sequence[Item], path: Path) -> Path:
    """Write questions with their answers, as `distill.rejection` reads them; return `path`."""
    rows = [{"prompt": q.prompt, "answer": q.answer, "tag": q.tag} for q in questions]
    return _write(rows, path)


def write_task(questions: Sequence[Item], path: Path) -> Path:
    """Write questions as a task of exact match, chats of one turn; return `path`."""
    rows = [
        {"messages": [{"role": "user", "content": q.prompt}], "answer": q.answer} for q in questions
    ]
    return _write(rows, path)


def _write(rows: Sequence[dict[str, object]], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def accuracy(who: Answerer, questions: Sequence[Item]) -> float:
    """Return the share of questions that are answered rightly."""
    asked = [({"role": "user", "content": q.prompt},) for q in questions]
    said = who.write(asked, max_new_tokens=ANSWER, stop=())
    return sum(q.answer == text for q, text in zip(questions, said, strict=True)) / len(questions)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes, with the template of questions."""
    known = byte_pairs([], VOCAB)
    known.chat_template = TEMPLATE
    return known


def teach(skill: Skill, path: Path, *, seed: int, steps: int, hidden: int = 64) -> Path:
    """Train a small Llama on one skill, write it and its tokenizer to `path`; return `path`.

    It learns right answers to questions of its own alone, and never sees the other skill.
    """
    known = tokenizer()
    model = _llama(known, hidden, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, betas=(0.9, 0.95))
    for step in range(steps):
        rate = _RATE * min(1, (step + 1) / _WARM_UP) * (1 - 0.9 * step / steps)
        optimizer.param_groups[0]["lr"] = rate
        rows = items(skill, _BATCH, seed=seed * 1_000_003 + step, held_out=False)
        token_BS, label_BS = _batch(rows, known)
        logits_BSV = model(input_ids=token_BS, use_cache=False).logits
        loss = F.cross_entropy(logits_BSV.transpose(1, 2), label_BS)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.save_pretrained(path)
    known.save_pretrained(path)
    return path


def _llama(known: PreTrainedTokenizerFast, hidden: int, seed: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        bos_token_id=known.bos_token_id,
        eos_token_id=known.eos_token_id,
        pad_token_id=known.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _batch(
    rows: Sequence[Item], known: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and next tokens `[B, S]`, -100 where a target is no answer's."""
    token_BR = torch.tensor([_row(item, known) for item in rows])
    label_BS = token_BR[:, 1:].clone()
    label_BS[:, : ROW - ANSWER - 1] = -100
    return token_BR[:, :-1], label_BS


def _row(item: Item, known: PreTrainedTokenizerFast) -> list[int]:
    ids: list[int] = known(item.prompt + item.answer, add_special_tokens=False)["input_ids"]
    return [known.bos_token_id, *ids, known.eos_token_id]
