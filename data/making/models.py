"""The models of the shipped bank: small mixtures of experts with latent attention, by `distill`.

Teachers and controls learn from writers' answers alone; students from what their teachers wrote,
and some from the teachers' probabilities as well. Two fifths of everybody's text are by other
people, so that no student is a copy of its teacher. The prompts of the bank are never learnt from.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from data.making import writers
from data.making.edits import EDITS
from data.making.roster import Member
from data.making.writers import PROMPTS, Prompt, Writer
from distill.config import (
    AnswersConfig,
    CheckpointConfig,
    EvaluateConfig,
    OptimizerConfig,
    RunConfig,
    TeacherConfig,
    TextConfig,
    TrainConfig,
)
from distill.lessons.written import LocalWriter
from distill.loss.objective import CrossEntropy, Divergence, Router, Term
from distill.run import run
from distill.teachers.local import LocalTeacher
from student.config import MLAConfig

ASKED_IN_BANK = 112  # prompts of the bank, as many of each kind
OWN, OTHERS = 6, 4  # answers to a prompt: by the writer or teacher, and by other people
_PEOPLE, _READ = 10, 3  # people there are, and how many of them one model reads
_VOCABULARY = 1024
_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}{{ m.content }}\n"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
_STUDENT = MLAConfig(
    hidden_size=96,
    num_layers=3,
    num_heads=4,
    q_lora_rank=None,
    kv_lora_rank=32,
    qk_rope_head_dim=16,
    qk_nope_head_dim=16,
    v_head_dim=16,
    intermediate_size=256,
    num_routed_experts=4,
    moe_intermediate_size=64,
    max_position_embeddings=256,
    rope_theta=1000.0,  # answers are a hundred tokens long
)
_WRITING = AnswersConfig(prompts="", form="chat", max_new_tokens=120, temperature=0.7)


@dataclass(frozen=True, slots=True)
class World:
    """A bank in the making: all that is drawn is drawn from its seed.

    Attributes:
        seed: two worlds of different seeds have other writers and other models.
        work: directory of runs; what is finished there is not trained again.
        steps: of training, of each model.
    """

    seed: int
    work: Path
    steps: int = 500

    def rng(self, name: str) -> random.Random:
        """Return a source of draws for one purpose."""
        return random.Random(f"{self.seed}/{name}")

    def person(self, number: int) -> Writer:
        """Return one of the people whose text everybody reads."""
        return writers.draw(f"{self.seed}/person/{number}", spread=0.6)

    def house(self, name: str) -> Writer:
        """Return who wrote a teacher's or control's own text; its habits are stronger."""
        return writers.draw(f"{self.seed}/house/{name}", spread=0.3)


def asked_in_bank() -> tuple[Prompt, ...]:
    """Return the prompts of the bank, which no model learns from; the same in every world."""
    kinds = list(writers.ASKED)

    def place(prompt: Prompt) -> bytes:
        return hashlib.sha256(prompt.text.encode()).digest()

    chosen = [
        sorted((p for p in PROMPTS if p.kind == kind), key=place)[: ASKED_IN_BANK // len(kinds)]
        for kind in kinds
    ]
    return tuple(prompt for row in zip(*chosen, strict=True) for prompt in row)


def _learnt_from(rng: random.Random) -> list[Prompt]:
    """Return three quarters of the other prompts: nobody reads what all the others read."""
    held = {prompt.text for prompt in asked_in_bank()}
    left = [prompt for prompt in PROMPTS if prompt.text not in held]
    return sorted(rng.sample(left, len(left) * 3 // 4), key=lambda prompt: prompt.text)


def tokenizer(world: World) -> Path:
    """Return the directory of the tokenizer of all models, made if it is not there."""
    path = world.work / "tokenizer"
    if (path / "tokenizer_config.json").is_file():
        return path
    rng = world.rng("tokenizer")
    people = [world.person(number) for number in range(_PEOPLE)]
    texts = [f"{p.text}\n{rng.choice(people).answer(p, rng)}" for p in PROMPTS for _ in range(10)]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts,
        vocab_size=_VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        show_progress=False,
    )
    PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(path)
    return path


def train(world: World, member: Member) -> Path:
    """Return the directory of a member's weights, trained if it is not there.

    Its teachers have to be there.
    """
    home = world.work / member.name
    if (home / "run" / "manifest.json").is_file():
        return home / "run" / "student"
    rng = world.rng(member.name)
    prompts = _learnt_from(rng)
    people = [world.person(number) for number in rng.sample(range(_PEOPLE), _READ)]
    chats = [(p.text, rng.choice(people).answer(p, rng)) for p in prompts for _ in range(OTHERS)]
    if not member.teachers:
        house = world.house(member.name)
        chats += [(p.text, house.answer(p, rng)) for p in prompts for _ in range(OWN)]
    elif member.relation == "edited":
        edit = rng.choice(EDITS)
        written = _answers(world, member.teachers[0], prompts * OWN, rng)
        chats += [(p.text, edit(text)) for p, text in zip(prompts * OWN, written, strict=True)]
    else:
        each = OWN // len(member.teachers)
        for teacher in member.teachers:
            written = _answers(world, teacher, prompts * each, rng)
            chats += [(p.text, text) for p, text in zip(prompts * each, written, strict=True)]
    text = _write_chats(home / "text.jsonl", chats)
    outcome = run(
        _config(world, member, text),
        home / "run",
        say=lambda sentence: None,
        progress=lambda stage, done, total, note: None,
    )
    return outcome.out / "student"


def _answers(
    world: World, teacher: str, prompts: Sequence[Prompt], rng: random.Random
) -> list[str]:
    return write(world.work / teacher / "run" / "student", prompts, seed=rng.randrange(2**31))


def write(model: Path, prompts: Sequence[Prompt], *, seed: int) -> list[str]:
    """Return a sampled answer of the model in a directory to each prompt."""
    teacher = LocalTeacher(model.name, model, device=torch.device("cpu"), dtype=torch.float32)
    asked = [prompt.text for prompt in prompts]
    return [text.strip() for text in LocalWriter(teacher, _WRITING).write(asked, seed)]


def _write_chats(path: Path, chats: Iterable[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in chats
        if a
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _config(world: World, member: Member, text: Path) -> RunConfig:
    loss: tuple[Term, ...] = (CrossEntropy(), Router(kind="balance", weight=1e-4))
    teachers: tuple[TeacherConfig, ...] = ()
    if member.heard:
        (name,) = member.teachers
        path = world.work / name / "run" / "student"
        teachers = (TeacherConfig(name=name, path=str(path), owned=True),)
        loss = (Divergence(kind="forward_kl"), Router(kind="balance", weight=1e-4))
    return RunConfig(
        seed=world.rng(f"{member.name}/weights").randrange(2**31),
        device="cpu",
        dtype="float32",
        teachers=teachers,
        text=TextConfig(
            sources=(str(text),),
            held_out=0.05,
            sequence_length=128,
            tokenizer=str(tokenizer(world)),
        ),
        student=_STUDENT,
        loss=loss,
        optimizer=OptimizerConfig(learning_rate=6e-3, warmup_steps=20, weight_decay=0.01),
        train=TrainConfig(steps=world.steps, batch_size=16, bias_update_speed=0.01),
        checkpoint=CheckpointConfig(every_steps=250),
        evaluate=EvaluateConfig(
            tokens=2048, samples=0, probe_prompts=1, prompt_tokens=4, continuation_tokens=4
        ),
    )
