"""What compressed entries give back to a DeepSeek-V4 student of a dense teacher.

    python tests/bench/warm_start_v4.py --json PATH [--novels DIR] [--student NAME]... [--steps N]

The embedded teacher, on one thread; nothing is trained, but with --steps, after which students are
measured again: so many steps of 512 tokens as in `trained` of `warm_start.py`. Measured on windows
of text that nothing was fitted to or chosen on, of the sets of `warm_start.py`: 24 of 256 tokens,
and of some students 12 of 512. Students are fitted to 16 windows of 256 tokens. `exact` is as wide
as the map needs, `narrow` has 512 values a token and layer, both with the whole text in their
window; all others are as narrow and see 128 tokens, and what their entries hold: `first128` every
128th token as it is, `first16` every 16th, `mean4` and `mean16` means of as many tokens.
`mean4_sharper` has a gate that takes nearly one token of four, `mean4_unmasked` shows entries
within the window, too, `mean4_long` has a mask for 520 tokens. For each: KL to the teacher in nats
a token (of all, and of tokens from 128 on), top-1 agreement, the ratio of perplexities, the values
a layer caches for a text of that length, its share of those of the teacher, and CPU-seconds of
making it.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Python looks beside a script first, and there `student` is another benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F

from distill.loss.divergences import forward_kl
from distill.teachers import embedded, local
from student import weights
from student.config import V4Config
from student.documents import Documents
from student.model import Student
from student.vocabulary import Vocabulary
from student.warm_start import calibration, convert_v4, dense, experts
from student.warm_start.convert_v4 import V4Plan
from student.warm_start.entries import Pooling
from student.warm_start.experts import Carving
from tests.bench import teaching, warm_start

FITTED, WINDOW, SEED = 16, 128, 2
CARVING = Carving(shared=1, routed=3, active=3, spread=experts.SPREAD)
# Nothing is chosen, so weights may be as even as they can: they are the exact map's only error.
EVEN = replace(CARVING, spread=experts.EVEN)
LENGTHS, LONG = (256, 512), ("window", "first128", "mean4_long")
CPU = torch.device("cpu")
POOLINGS = {
    "window": None,
    "first128": Pooling(tokens=128, gate="first", pairs=0),
    "first16": Pooling(tokens=16, gate="first"),
    "mean4": Pooling(tokens=4),
    "mean4_sharper": Pooling(tokens=4, sharpness=6.0),
    "mean4_unmasked": Pooling(tokens=4, pairs=0),
    "mean16": Pooling(tokens=16),
    "mean4_long": Pooling(tokens=4, pairs=16, reach=520),
}
PLANS = {
    "exact": V4Plan(carving=EVEN, sliding_window=LENGTHS[0]),
    "narrow": V4Plan(carving=CARVING, head_dim=512, sliding_window=LENGTHS[0]),
} | {
    name: V4Plan(carving=CARVING, head_dim=512, sliding_window=WINDOW, entries=pooling)
    for name, pooling in POOLINGS.items()
}


class Bench:
    """The teacher, the text, and what was measured so far."""

    def __init__(self, sets: warm_start.Sets, path: Path, steps: int, rate: float) -> None:
        place = embedded.ensure(lambda said: None)
        self.model: Any = local.load_model(place, device=CPU)
        self.path, self.dense, self.rate = path, dense.read(self.model), rate
        tokenizer = weights.load_tokenizer(place)
        self.vocabulary = Vocabulary(
            size=len(self.dense.embed_VD),
            bos=tokenizer.bos_token_id,
            eos=tokenizer.eos_token_id,
            pad=tokenizer.pad_token_id,
        )
        self.seen = calibration.watch(
            self.model, warm_start.fit_windows(sets, tokenizer, FITTED, SEED)
        )
        self.lessons: tuple[torch.Tensor, torch.Tensor] | None = None  # text, the teacher's signal
        if steps:
            asked = steps * teaching.ROWS
            text_BS = warm_start.fit_windows(sets, tokenizer, asked, 100 + SEED)
            text_BS = teaching.shuffled(text_BS, SEED)
            self.lessons = text_BS, teaching.signal(self.model, text_BS)
        self.test = {
            f"{name}_{length}": _windows(sides["test"], tokenizer, length)
            for length in LENGTHS
            for name, sides in sets.items()
        }
        self.said = {
            name: teaching.last_hidden(self.model, token_BS) for name, token_BS in self.test.items()
        }
        self.figures: dict[str, float] = {}

    def run(self, name: str) -> None:
        """Make a student and measure it, and again when it was taught."""
        began = time.process_time()
        made = convert_v4.inherit_v4(self.dense, self.seen, PLANS[name], self.vocabulary)
        self.add(f"{name}_cpu_seconds", time.process_time() - began)
        config = made.student.config
        assert isinstance(config, V4Config)
        lengths = LENGTHS if name in LONG else LENGTHS[:1]
        for length in lengths:
            values = _cached(config, length)
            self.add(f"{name}_{length}_cached_values_a_layer", values)
            theirs = self.dense.numbers.cache_values * length
            self.add(f"{name}_{length}_cached_share_of_teacher", values / theirs)
        self.report(made.student, name, lengths)
        if self.lessons is not None:
            began = time.process_time()
            rates = teaching.falling(len(self.lessons[0]) // teaching.ROWS, self.rate)
            teaching.Taught(made.student, self.dense.embed_VD).learn(*self.lessons, rates)
            self.add(f"{name}_train_cpu_seconds", time.process_time() - began)
            self.report(made.student, f"{name}_taught", lengths)

    def report(self, student: Student, name: str, lengths: Sequence[int]) -> None:
        """Measure a student on all texts of some lengths."""
        for of, token_BS in self.test.items():
            if token_BS.shape[1] in lengths:
                self.measure(student, name, of)

    @torch.no_grad()
    def measure(self, student: Student, name: str, of: str) -> None:
        """Add KL, agreement and the ratio of perplexities on one set."""
        token_BS = self.test[of]
        kl_S = torch.zeros(token_BS.shape[1])
        hits = loss = 0.0
        for row_S, hidden_SD in zip(token_BS, self.said[of], strict=True):
            own_SD = student(row_S, Documents([len(row_S)], CPU)).hidden_ND
            log_p = F.linear(hidden_SD, self.dense.embed_VD).log_softmax(-1)
            log_q = student.logits(own_SD).log_softmax(-1)
            kl_S += forward_kl(log_p, log_q) / len(token_BS)
            hits += float((log_p.argmax(-1) == log_q.argmax(-1)).float().mean())
            loss += float((log_p - log_q)[:-1].gather(1, row_S[1:, None]).mean())
        self.add(f"{name}_{of}_kl", float(kl_S.mean()))
        self.add(f"{name}_{of}_kl_from_{WINDOW}", float(kl_S[WINDOW:].mean()))
        self.add(f"{name}_{of}_top1", hits / len(token_BS))
        self.add(f"{name}_{of}_perplexity_ratio", math.exp(loss / len(token_BS)))

    def add(self, name: str, value: float) -> None:
        """Keep a figure, on disk at once."""
        self.figures[name] = float(f"{value:.4g}")
        print(name, self.figures[name], flush=True)
        self.path.write_text(json.dumps(self.figures, indent=1) + "\n", encoding="utf-8")


def _windows(documents: list[str], tokenizer: Any, length: int) -> torch.Tensor:
    """Return windows of 256 tokens as in `warm_start.py`; longer ones from the text's beginning."""
    if length == warm_start.LENGTH:
        return warm_start.windows(documents, tokenizer, warm_start.WINDOWS, 1)
    ids = tokenizer("\n".join(documents)[:60_000])["input_ids"]
    count = min(warm_start.WINDOWS * warm_start.LENGTH, len(ids)) // length
    return torch.tensor(ids[: count * length]).unflatten(0, (count, length))


def _cached(config: V4Config, length: int) -> int:
    """Return the values a layer keeps of a text: its window's, and its entries'."""
    entries = length // config.hca_compression if "hca" in config.layer_types else 0
    return config.head_dim * (min(config.sliding_window, length) + entries)


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--novels", type=Path)
    parser.add_argument("--student", action="append", choices=PLANS)
    parser.add_argument("--steps", type=int, default=0, help="That teach, 512 tokens each.")
    parser.add_argument("--rate", type=float, default=2e-5, help="Of those steps, at most.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(warm_start.texts(given.novels), given.json, given.steps, given.rate)
    for name in given.student or PLANS:
        bench.run(name)


if __name__ == "__main__":
    main()
