"""A teacher small enough for a test, with a real tokenizer, and a run that learns from it.

The model is a random Llama of two layers; the tokenizer is byte-level BPE trained on the words
below, so every text round-trips. Both are written with save_pretrained, as a user's own would be.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.config import (
    EvaluateConfig,
    OptimizerConfig,
    RunConfig,
    SignalConfig,
    TeacherConfig,
    TextConfig,
    TrainConfig,
)
from student.catalogue import presets

DOCUMENTS = 40
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
WHO = "the miller|a cooper|the old distiller|a young clerk|the excise man|my neighbour".split("|")
DOES = "fills|weighs|watches|opens|repairs|sells|counts|remembers|paints|carries".split("|")
WHAT = "the copper still|a small cask|the locked safe|every ledger|the barley|a key".split("|")
WHERE = "by the river|in the yard|before dawn|under the roof|after the rain|at market".split("|")
TEMPLATE = (
    "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ bos_token }}assistant: {% endif %}"
)


def sentences(count: int, seed: int) -> str:
    """Return `count` plain sentences, the same ones for the same seed."""
    rng = random.Random(seed)
    said = [[rng.choice(part) for part in (WHO, DOES, WHAT, WHERE)] for _ in range(count)]
    return " ".join(" ".join(words).capitalize() + "." for words in said)


def documents_file(path: Path, count: int = DOCUMENTS, length: int = 12) -> Path:
    """Write a JSON Lines file of `count` documents of `length` sentences; return `path`."""
    rows = [json.dumps({"text": sentences(length, seed)}) + "\n" for seed in range(count)]
    path.write_text("".join(rows), encoding="utf-8")
    return path


def byte_pairs(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of `vocab` tokens learnt from texts.

    Begin, end and padding tokens are the first three.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    assert bpe.get_vocab_size() == vocab, "the texts do not yield that many tokens"
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_tokenizer(vocab: int = 320) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the sentences of this module."""
    return byte_pairs([sentences(100, seed=1234)], vocab)


def tiny_teacher(path: Path, seed: int = 0, vocab: int = 320) -> Path:
    """Write a random Llama of hidden size 32 and its tokenizer to `path`; return `path`."""
    tokenizer = tiny_tokenizer(vocab)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        # Far above the usual 0.02, so that the teacher's distributions differ from the uniform one.
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def tiny_config(directory: Path, **changes: Any) -> RunConfig:
    """Return a run of a few seconds in `directory`, whose teacher and text are made if missing.

    Args:
        directory: where `teacher/` and `text.jsonl` are.
        changes: fields of RunConfig that replace the tiny ones.
    """
    teacher, text = directory / "teacher", directory / "text.jsonl"
    if not teacher.is_dir():
        tiny_teacher(teacher)
    if not text.is_file():
        documents_file(text)
    tiny = RunConfig(
        device="cpu",
        dtype="float32",
        teachers=(TeacherConfig(name="tiny", path=str(teacher), licence="none", owned=True),),
        text=TextConfig(sources=(str(text),), held_out=0.2, sequence_length=32),
        student=presets()["tiny"],
        signal=SignalConfig(head=8, tail=4, shard_tokens=1024),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        train=TrainConfig(steps=6, batch_size=4),
        evaluate=EvaluateConfig(
            tokens=256,
            samples=2,
            sample_tokens=8,
            probe_prompts=4,
            prompt_tokens=8,
            continuation_tokens=8,
        ),
    )
    return replace(tiny, **changes)
