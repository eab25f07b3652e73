"""What of a dense teacher is left in students of a part of its cache, experts or layers.

    python tests/bench/warm_start.py --json PATH [--novels DIR] [--part NAME]... [--plan NAME]...

The embedded teacher, on one thread. Windows of 256 tokens; measured on 24 of each set that nothing
was fitted to or chosen on: `pydoc`, topics of this Python's help, and, with `--novels`, the last of
a directory's text files. Parts: `cut` (75 %, 50 % and 25 % of the cache, 75 % of the neurons, two
thirds of the layers, each before and after fitting; a seed is another choice of calibration text),
`ablation` (slots by energy; the norm as it is; even weights), `trained` (50 % and 25 % of the
cache, fitted on 24,576 tokens and taught by as many, with forward KL over the whole vocabulary and
some cross-entropy), `depth` (75 % of the neurons, taught --steps, against 24 of 30 layers, taught
until they took as many CPU-seconds), `scratch` (a student of half the cache whose weights are
drawn, taught for as many CPU-seconds as one that inherits them, --steps included), `kept` (100
facts, and the teacher's own answers to 50 prompts in its chat form), `long` (2,048 to 8,192 tokens
of the novel, and a number hidden in it), `rival` (cacheshrink's conversion at half the cache, with
the same text, if it is installed). Without --part all of them.
"""

import argparse
import copy
import hashlib
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics  # type: ignore[import-untyped]
from typing import Any, NamedTuple

# Python looks beside a script first, and there `student` is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F

from distill.evaluation import tasks
from distill.loss.divergences import forward_kl
from distill.teachers import embedded, local
from student import weights
from student.documents import Documents
from student.model import Student
from student.vocabulary import Vocabulary
from student.warm_start import calibration, convert, dense, experts
from student.warm_start.compensation import Ridge, compensate
from student.warm_start.convert import Plan
from student.warm_start.experts import Carving
from tests.bench import teaching

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("cut", "ablation", "trained", "depth", "scratch", "kept", "long", "rival")
LENGTH, WINDOWS, FITTED = 256, 24, 40
PLANS = {
    "cache75": Plan(rotary=96, latent=192),
    "cache50": Plan(rotary=64, latent=128),
    "cache25": Plan(rotary=32, latent=64),
    "neurons75": Plan(
        rotary=192,
        latent=193,
        carving=Carving(shared=16, routed=16, active=8, spread=experts.SPREAD),
    ),
    # As many feed-forward and attention weights as 75 % of the neurons leave at work.
    "layers24": Plan(rotary=192, latent=193, layers=24),
    "layers20": Plan(rotary=192, latent=193, layers=20),
}
ABLATIONS = {
    "cache25_by_energy": replace(PLANS["cache25"], by="energy"),
    "cache25_even_weights": replace(PLANS["cache25"], attended=0.0),
    "cache50_without_constant": replace(PLANS["cache50"], constant=False),
}
TRAINED = ("cache50", "cache25")
FITTED_AND_KEPT = ("cache75", "cache50", "cache25", "neurons75")
LONG = {2048: 4, 4096: 2, 8192: 1}  # tokens of a window, windows
NEEDLE = "The number of the cellar key is"
TAUGHT_FITTED = 96  # windows that students are fitted to before they are taught
PACE, MARGIN = 3, 1.25  # steps that tell what one costs, which is too much as often as too little
DRAWN_RATE = 1e-3  # of students whose weights are drawn
CPU = torch.device("cpu")
Sets = dict[str, dict[str, list[str]]]


def texts(novels: Path | None) -> Sets:
    """Return documents by set and side: `test` and `fit`; the rest was for choosing settings."""
    names = sorted(topics, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    found = {
        "pydoc": {
            "test": [topics[name] for name in names[:20]],
            "fit": [topics[name] for name in names[36:]],
        }
    }
    if novels is not None:
        books = [path.read_text(encoding="utf-8") for path in sorted(novels.glob("*.txt"))]
        found["novels"] = {
            "test": [books[-1].replace("\n", " ")],
            "fit": [book.replace("\n", " ") for book in books[:-2]],
        }
    return found


def windows(documents: list[str], tokenizer: Any, count: int, seed: int) -> torch.Tensor:
    """Return windows of joined documents, a random choice of them."""
    ids: list[int] = []
    for document in documents:
        for start in range(0, len(document), 8000):  # pieces that the tokenizer takes quickly
            ids += tokenizer(document[start : start + 8000])["input_ids"]
        ids.append(tokenizer.eos_token_id)
        if len(ids) > 20 * count * LENGTH:
            break
    cut = [ids[at : at + LENGTH] for at in range(0, len(ids) - LENGTH + 1, LENGTH)]
    random.Random(seed).shuffle(cut)
    return torch.tensor(cut[:count])


def fit_windows(sets: Sets, tokenizer: Any, count: int, seed: int) -> torch.Tensor:
    """Return windows of what all sets have to fit on, in equal parts."""
    each = count // len(sets)
    return torch.cat([windows(sides["fit"], tokenizer, each, seed) for sides in sets.values()])


class Conversation(NamedTuple):
    """Chats, and what the teacher answered: tokens of each."""

    teacher: Student
    chats: list[list[int]]
    said: list[list[int]]


class Bench:
    """The teacher, the text, and what was measured so far."""

    def __init__(self, sets: Sets, path: Path) -> None:
        place = embedded.ensure(lambda said: None)
        self.model: Any = local.load_model(place, device=CPU)
        self.tokenizer, self.path = weights.load_tokenizer(place), path
        self.dense, self.sets = dense.read(self.model), sets
        self.vocabulary = Vocabulary(
            size=len(self.dense.embed_VD),
            bos=self.tokenizer.bos_token_id,
            eos=self.tokenizer.eos_token_id,
            pad=self.tokenizer.pad_token_id,
        )
        self.test = {
            name: windows(sides["test"], self.tokenizer, WINDOWS, 1) for name, sides in sets.items()
        }
        self.said = {
            name: torch.cat(teaching.last_hidden(self.model, token_BS))
            for name, token_BS in self.test.items()
        }
        self.figures: dict[str, float] = {"tokens_a_set": WINDOWS * LENGTH}

    def fit_text(self, count: int, seed: int) -> torch.Tensor:
        """Return windows of all sets in equal parts."""
        return fit_windows(self.sets, self.tokenizer, count, seed)

    def measure(self, student: Student, name: str) -> None:
        """Add KL, agreement and the ratio of perplexities on each set."""
        documents = Documents([LENGTH], CPU)
        self.compare(lambda row_S: student.logits(student(row_S, documents).hidden_ND), name)

    @torch.no_grad()
    def compare(self, logits: Callable[[torch.Tensor], torch.Tensor], name: str) -> None:
        """Add the same of whatever makes `[S, V]` of `[S]`."""
        for of, token_BS in self.test.items():
            kl = hits = loss = theirs = 0.0
            for row_S, hidden_SD in zip(token_BS, self.said[of].split(LENGTH), strict=True):
                log_p = F.linear(hidden_SD, self.dense.embed_VD).log_softmax(-1)
                log_q = logits(row_S).log_softmax(-1)
                kl += float(forward_kl(log_p, log_q).sum())
                hits += float((log_p.argmax(-1) == log_q.argmax(-1)).sum())
                loss -= float(log_q[:-1].gather(1, row_S[1:, None]).sum())
                theirs -= float(log_p[:-1].gather(1, row_S[1:, None]).sum())
            positions, targets = token_BS.numel(), len(token_BS) * (LENGTH - 1)
            self.add(f"{name}_{of}_kl", kl / positions)
            self.add(f"{name}_{of}_top1", hits / positions)
            self.add(f"{name}_{of}_perplexity_ratio", math.exp((loss - theirs) / targets))

    def add(self, name: str, value: float) -> None:
        """Keep a figure, on disk at once."""
        self.figures[name] = float(f"{value:.4g}")
        print(name, self.figures[name], flush=True)
        self.path.write_text(json.dumps(self.figures, indent=1) + "\n", encoding="utf-8")

    def cut(self, seeds: range, plans: Sequence[str]) -> None:
        """Measure every plan before and after fitting, and with nothing cut."""
        seen = calibration.watch(self.model, self.fit_text(4, 0))
        whole = Plan(rotary=192, latent=193)
        student = convert.inherit(self.dense, seen, whole, self.vocabulary).student
        self.measure(student, "whole")
        for seed in seeds:
            seen = calibration.watch(self.model, self.fit_text(FITTED, seed))
            for name in plans:
                plan = PLANS[name]
                began = time.process_time()
                made = convert.inherit(self.dense, seen, plan, self.vocabulary)
                spent = time.process_time() - began
                self.measure(made.student, f"{name}_seed{seed}_cut")
                began = time.process_time()
                compensate(made.student, made.seen, Ridge())
                self.add(f"{name}_seed{seed}_cut_cpu_seconds", spent)
                self.add(f"{name}_seed{seed}_fit_cpu_seconds", time.process_time() - began)
                self.measure(made.student, f"{name}_seed{seed}_fitted")
                if made.loads:
                    load = max(float(load_E.max()) for load_E in made.loads)
                    self.add(f"{name}_seed{seed}_load_max_over_mean", load)

    def ablation(self) -> None:
        """Measure what single choices are worth, before fitting."""
        seen = calibration.watch(self.model, self.fit_text(FITTED, 2))
        for name, plan in ABLATIONS.items():
            student = convert.inherit(self.dense, seen, plan, self.vocabulary).student
            self.measure(student, name)

    def trained(self, seeds: range, steps: int, plans: Sequence[str]) -> None:
        """Teach fitted students, and measure them."""
        conversation = self.conversation()
        for seed in seeds:
            seen = calibration.watch(self.model, self.fit_text(TAUGHT_FITTED, seed))
            text_BS = teaching.shuffled(self.fit_text(steps * teaching.ROWS, 100 + seed), seed)
            said_BSD = teaching.signal(self.model, text_BS)
            for name in plans:
                student, spent = self.begun(name, seen)
                self.add(f"{name}_seed{seed}_begin_cpu_seconds", spent)
                began = time.process_time()
                taught = teaching.Taught(student, self.dense.embed_VD)
                taught.learn(text_BS, said_BSD, teaching.falling(steps))
                self.add(f"{name}_seed{seed}_train_cpu_seconds", time.process_time() - began)
                self.add(f"{name}_seed{seed}_train_tokens", text_BS.numel())
                self.measure(student, f"{name}_seed{seed}_trained")
                self.keep(student, f"{name}_seed{seed}_trained", conversation)

    def depth(self, seeds: range, steps: int) -> None:
        """Measure experts, and fewer layers that took at least as many CPU-seconds."""
        for seed in seeds:
            seen = calibration.watch(self.model, self.fit_text(FITTED, seed))
            mixture, spent = self.begun("neurons75", seen)
            spent += self.teach(mixture, steps, seed)
            name = f"neurons75_seed{seed}_after_{steps}"
            self.add(f"{name}_cpu_seconds", spent)
            self.measure(mixture, name)
            layers, began = self.begun("layers24", seen)
            pace = self.teach(copy.deepcopy(layers), PACE, seed) / PACE
            more = math.ceil(MARGIN * (spent - began) / pace)
            taken = began + self.teach(layers, more, seed)
            name = f"layers24_seed{seed}_beside_{steps}"
            self.add(f"{name}_steps", more)
            self.add(f"{name}_cpu_seconds", taken)
            self.measure(layers, name)

    def scratch(self, seed: int, steps: int) -> None:
        """Measure a student that inherits, and one of the same make that was drawn."""
        seen = calibration.watch(self.model, self.fit_text(FITTED, seed))
        inherits, began = self.begun("cache50", seen)
        drawn = Student.build(inherits.config, self.vocabulary, seed=seed)
        pace = self.teach(copy.deepcopy(drawn), PACE, seed, drawn=True) / PACE
        spent = began + self.teach(inherits, steps, seed)
        self.add(f"cache50_seed{seed}_after_{steps}_cpu_seconds", spent)
        self.measure(inherits, f"cache50_seed{seed}_after_{steps}")
        more = math.ceil(MARGIN * spent / pace)
        self.add("drawn_steps", more)
        self.add("drawn_cpu_seconds", self.teach(drawn, more, seed, drawn=True))
        self.measure(drawn, "drawn")

    def begun(self, plan: str, seen: calibration.Seen) -> tuple[Student, float]:
        """Return a student of a plan, fitted, and the CPU-seconds that it took."""
        began = time.process_time()
        made = convert.inherit(self.dense, seen, PLANS[plan], self.vocabulary)
        compensate(made.student, made.seen, Ridge())
        return made.student, time.process_time() - began

    def teach(self, student: Student, steps: int, seed: int, *, drawn: bool = False) -> float:
        """Teach a student, and return the CPU-seconds of its steps."""
        if not steps:
            return 0.0
        text_BS, order_N = self.lessons(steps * teaching.ROWS, 100 + seed)
        said_BSD = teaching.signal(self.model, text_BS)
        taught = teaching.Taught(student, self.dense.embed_VD, drawn=drawn)
        rates = teaching.falling(steps, DRAWN_RATE) if drawn else teaching.falling(steps)
        began = time.process_time()
        taught.learn(text_BS[order_N], said_BSD[order_N], rates)
        return time.process_time() - began

    def lessons(self, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return windows `[B, S]` of all sets, and which of them to read, `[count]`.

        The sets take turns; one that is too small begins again.
        """
        each = count // len(self.sets)
        texts, orders, before = [], [], 0
        for sides in self.sets.values():
            texts.append(windows(sides["fit"], self.tokenizer, each, seed))
            orders.append(before + torch.arange(each) % len(texts[-1]))
            before += len(texts[-1])
        return torch.cat(texts), torch.stack(orders, 1).flatten()

    def fitted(self, name: str) -> Student:
        """Return a student of a plan, fitted; of `whole` nothing is cut: it is the teacher."""
        if name == "whole":
            seen = calibration.watch(self.model, self.fit_text(4, 0))
            plan = Plan(rotary=192, latent=193)
            return convert.inherit(self.dense, seen, plan, self.vocabulary).student
        seen = calibration.watch(self.model, self.fit_text(FITTED, 2))
        return self.begun(name, seen)[0]

    def kept(self) -> None:
        """Count facts that are still known, and measure chat answers that are still likely."""
        conversation = self.conversation()
        for name in ("whole", *FITTED_AND_KEPT):
            student = conversation.teacher if name == "whole" else self.fitted(name)
            self.keep(student, name, conversation)

    def conversation(self) -> Conversation:
        """Return the teacher, asked 50 questions in its chat form."""
        rows = (ROOT / "data" / "probe_prompts.jsonl").read_text(encoding="utf-8").splitlines()
        asked = [row["prompt"] for row in map(json.loads, rows) if row["language"] == "en"][:50]
        teacher, chats = self.fitted("whole"), [self.chat(prompt) for prompt in asked]
        return Conversation(teacher, chats, teacher.generate(chats, max_new_tokens=48))

    def keep(self, student: Student, name: str, conversation: Conversation) -> None:
        """Add what a student still knows and would say."""
        facts = tasks.load(ROOT / "data" / "facts.jsonl").items
        right = sum(self.knows(student, item) for item in facts)
        self.add(f"{name}_facts_of_{len(facts)}", right)
        self.add(f"{name}_chat_kl", self.chat_kl(student, conversation))

    def chat(self, prompt: str) -> list[int]:
        """Return the tokens of a question in the teacher's chat form."""
        asked = [{"role": "user", "content": prompt}]
        made = self.tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_dict=True
        )
        return list(made["input_ids"])

    @torch.no_grad()
    def knows(self, student: Student, item: tasks.Item) -> bool:
        """Tell whether the right choice is the likeliest after a prompt, a token."""
        start = self.tokenizer(str(item.prompt))["input_ids"]
        likely = []
        for choice in item.choices:
            end = self.tokenizer(choice)["input_ids"]
            token_N = torch.tensor(start + end)
            hidden_ND = student(token_N, Documents([len(token_N)], CPU)).hidden_ND
            log_q = student.logits(hidden_ND[len(start) - 1 : -1]).log_softmax(-1)
            likely.append(float(log_q.gather(1, torch.tensor(end)[:, None]).mean()))
        return item.choices[likely.index(max(likely))] in item.answers

    @torch.no_grad()
    def chat_kl(self, student: Student, conversation: Conversation) -> float:
        """Return KL to the teacher over the tokens of its own answers."""
        total = count = 0.0
        teacher = conversation.teacher
        for chat, answer in zip(conversation.chats, conversation.said, strict=True):
            token_N = torch.tensor([*chat, *answer])
            documents, rows = Documents([len(token_N)], CPU), slice(len(chat) - 1, -1)
            log_p, log_q = (
                one.logits(one(token_N, documents).hidden_ND[rows]).log_softmax(-1)
                for one in (teacher, student)
            )
            total += float(forward_kl(log_p, log_q).sum())
            count += len(answer)
        return total / count

    def long(self, lengths: Sequence[int]) -> None:
        """Measure perplexity and a needle over contexts that the fit never saw."""
        novel = next(sides["test"] for name, sides in self.sets.items() if name == "novels")
        ids = self.tokenizer(novel[0][:400_000])["input_ids"]
        students = {name: self.fitted(name) for name in ("whole", "cache75", "cache50", "cache25")}
        for length in lengths:
            count = LONG[length]
            cut = [ids[at * length : (at + 1) * length] for at in range(count)]
            for name, student in students.items():
                self.add(f"{name}_{length}_perplexity", math.exp(self.loss(student, cut)))
                found = [self.finds(student, row, number) for number, row in enumerate(cut)]
                self.add(f"{name}_{length}_needles_of_{count}", sum(found))

    @torch.no_grad()
    def loss(self, student: Student, rows: list[list[int]]) -> float:
        """Return nats a token over the last half of each row."""
        found = []
        for row in rows:
            token_N, half = torch.tensor(row), len(row) // 2
            hidden_ND = student(token_N, Documents([len(row)], CPU)).hidden_ND
            for at in range(half, len(row) - 1, 512):
                to = min(at + 512, len(row) - 1)
                log_q = student.logits(hidden_ND[at:to]).log_softmax(-1)
                found.append(-log_q.gather(1, token_N[at + 1 : to + 1, None]))
        return float(torch.cat(found).mean())

    def finds(self, student: Student, row: list[int], number: int) -> bool:
        """Tell whether a number said in the middle of a row is what is written at its end."""
        value = str(random.Random(number).randrange(1000, 10_000))
        said, asked = (
            self.tokenizer(text)["input_ids"] for text in (f" {NEEDLE} {value}.", f" {NEEDLE}")
        )
        room = len(row) - len(said) - len(asked) - 8
        before = row[: room // 2] + said + row[room // 2 : room] + asked
        (written,) = student.generate([before], max_new_tokens=8)
        return value in self.tokenizer.decode(written)

    def rival(self) -> None:
        """Measure cacheshrink's students of half the cache, from the text ours are fitted to."""
        try:
            from cacheshrink import convert_to_mla  # type: ignore[import-not-found]
        except ImportError:
            print("cacheshrink is not installed (`pip install .[bench]`); it is left out")
            return
        texts = self.tokenizer.batch_decode(self.fit_text(FITTED, 2))
        for method in ("separate", "auto"):
            began = time.process_time()
            model, _ = convert_to_mla(
                str(embedded.ensure(lambda said: None)),
                compression_ratio=2.0,
                compression_method=method,
                device="cpu",
                dtype=torch.float32,
                calibration_texts=texts,
                num_calibration_samples=FITTED,
                max_calibration_length=LENGTH,
                verbose=False,
            )
            self.add(f"cacheshrink_{method}_cpu_seconds", time.process_time() - began)
            self.compare(
                lambda row_S, model=model: model(input_ids=row_S[None], use_cache=False).logits[0],
                f"cacheshrink_{method}",
            )


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--novels", type=Path)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--plan", action="append", choices=PLANS, help="Of `cut` and `trained`.")
    parser.add_argument("--steps", type=int, default=48, help="Of 512 tokens, which teach.")
    parser.add_argument("--length", action="append", type=int, choices=LONG, help="Of `long`.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(texts(given.novels), given.json)
    parts = given.part or PARTS
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    if "cut" in parts:
        bench.cut(seeds, given.plan or list(PLANS))
    if "ablation" in parts:
        bench.ablation()
    if "trained" in parts:
        bench.trained(seeds, given.steps, given.plan or TRAINED)
    if "depth" in parts:
        bench.depth(seeds, given.steps)
    if "scratch" in parts:
        bench.scratch(given.first_seed, given.steps)
    if "kept" in parts:
        bench.kept()
    if "long" in parts and given.novels is not None:
        bench.long(given.length or list(LONG))
    if "rival" in parts:
        bench.rival()


if __name__ == "__main__":
    main()
