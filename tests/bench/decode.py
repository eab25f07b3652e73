"""Cost of greedy decoding: `python tests/bench/decode.py --json PATH`, minutes on one thread.

Eight prompts of 16 random tokens, 256 new ones each, in float32: our `generate` and transformers',
prompts included. What ours wrote is then held against its own uncached forward pass. Past 256
tokens the indexer's choice binds, so that the uncached pass is run a second time with the choices
decoding made; an argmax may differ only where the two best logits are within 1e-4.
"""

import sys
from pathlib import Path

# Python looks beside a script first, and there is a `student` that is not ours to import.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from student.choices import Choices
from student.config import V4Config
from student.documents import Documents
from student.generate import generate
from student.model import Student
from tests.bench import measure
from tests.bench.measure import CPU, RIVAL, Do, Figures, Task
from tests.fakes import students

if TYPE_CHECKING:
    from tests.fakes.rivals import Theirs

BATCH, PROMPT, NEW, ROUNDS = 8, 16, 256, 3
MARGIN = 1e-4


class Ours:
    """Our greedy decoding; returns the new tokens `[B, new]`."""

    def __init__(self, model: Student, prompt_BS: torch.Tensor) -> None:
        self.model, self.prompts = model, prompt_BS.tolist()

    def __call__(self, new: int) -> torch.Tensor:
        return torch.tensor(generate(self.model, self.prompts, max_new_tokens=new, stop=[]))


class Others:
    """Transformers' greedy decoding with one of its expert implementations."""

    def __init__(self, model: "Theirs", prompt_BS: torch.Tensor, experts: str) -> None:
        self.model, self.prompt_BS, self.experts = model, prompt_BS, experts

    def __call__(self, new: int) -> torch.Tensor:
        self.model.set_experts_implementation(self.experts)
        written = self.model.generate(
            self.prompt_BS,
            attention_mask=torch.ones_like(self.prompt_BS),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return written[:, self.prompt_BS.shape[1] :]


def compare(task: Task) -> Figures:
    """Time both sides, count their operations, and hold ours against its uncached pass."""
    case, new, name = measure.cases()[task["case"]], task["new"], task["case"] + "_decode"
    model = case.student().eval()
    rival = measure.theirs(model).eval()
    prompt_BS = students.text(BATCH * PROMPT, size=case.vocabulary.size).view(BATCH, PROMPT)
    sides: dict[str, Ours | Others] = {"ours": Ours(model, prompt_BS)}
    for experts in measure.implementations(case.config, BATCH):
        sides[experts] = Others(rival, prompt_BS, experts)
    written: dict[str, torch.Tensor] = {}
    calls = {who: lambda who=who: written.update({who: sides[who](new)}) for who in sides}
    for side in sides.values():
        side(2)  # what is done once a process is nobody's cost
    first = measure.least_seconds(calls, 1)
    fastest = min((who for who in sides if who != "ours"), key=lambda who: first[who])
    again = {who: calls[who] for who in ("ours", fastest)}
    seconds = first | measure.least_seconds(again, task["rounds"])
    figures: Figures = {f"{name}_{who}_seconds": spent for who, spent in seconds.items()}
    figures[f"{name}_fastest"] = fastest
    figures |= measure.versus(name, seconds["ours"], seconds[fastest])
    for who, side in (("ours", sides["ours"]), (RIVAL, sides[fastest])):
        spent = seconds["ours" if who == "ours" else fastest]
        figures[f"{name}_{who}_ms_a_step"] = 1e3 * spent / new
        figures[f"{name}_{who}_operations_a_step"] = _operations_a_step(side)
    same = (written["ours"] == written[fastest]).float().mean()
    figures[f"{name}_share_of_tokens_equal_to_{RIVAL}"] = float(same)
    return figures | _against_uncached(model, prompt_BS, written["ours"], name)


class Counter(TorchDispatchMode):
    """How many operations reach a backend."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def _operations_a_step(side: Ours | Others, short: int = 4, steps: int = 8) -> float:
    """Count the operations by which a longer text exceeds a shorter one."""
    counts = []
    for new in (short, short + steps):
        with Counter() as seen:
            side(new)
        counts.append(seen.count)
    return (counts[1] - counts[0]) / steps


class Decoded(NamedTuple):
    """The hidden states `[B, new, D]` that decoding a given text makes, and its choices."""

    hidden_BSD: torch.Tensor
    choices: list[Choices]


def _against_uncached(
    model: Student, prompt_BS: torch.Tensor, new_BS: torch.Tensor, name: str
) -> Figures:
    """Compare cached decoding with one uncached pass over prompts and what was written."""
    text_BS = torch.cat((prompt_BS, new_BS[:, :-1]), dim=1)
    documents = Documents.rows(*text_BS.shape, CPU)
    decoded = _decode(model, prompt_BS, new_BS)
    with torch.no_grad():
        free = model(text_BS.flatten(), documents)
        replay, binding, differing = _replay(model, documents, free.choices, decoded.choices)
        replayed = model(text_BS.flatten(), documents, replay=replay)
        figures: Figures = {
            f"{name}_choices_binding": binding,
            f"{name}_share_of_choices_differing": differing / max(binding, 1),
        }
        for how, hidden_ND in (("free", free.hidden_ND), ("replayed", replayed.hidden_ND)):
            logit_NV = model.logits(hidden_ND).unflatten(0, text_BS.shape)
            logit_BSV = logit_NV[:, prompt_BS.shape[1] - 1 :]
            figures |= _agreement(logit_BSV, new_BS, f"{name}_{how}")
            cached_BSV = model.logits(decoded.hidden_BSD)
            figures[f"{name}_{how}_logit_distance"] = students.distance(cached_BSV, logit_BSV)
    return figures


def _agreement(logit_BSV: torch.Tensor, new_BS: torch.Tensor, name: str) -> Figures:
    best_BS2 = logit_BSV.topk(2, dim=-1).values
    clear_BS = best_BS2[..., 0] - best_BS2[..., 1] > MARGIN
    differs_BS = logit_BSV.argmax(-1) != new_BS
    return {
        f"{name}_tokens_with_a_clear_margin": int(clear_BS.sum()),
        f"{name}_tokens_differing_of_these": int((differs_BS & clear_BS).sum()),
        f"{name}_tokens_differing_of_all": int(differs_BS.sum()),
    }


@torch.no_grad()
def _decode(model: Student, prompt_BS: torch.Tensor, new_BS: torch.Tensor) -> Decoded:
    """Decode a text that is known, to see what `generate` does not return."""
    documents = Documents.rows(*prompt_BS.shape, CPU)
    capacity = prompt_BS.shape[1] + new_BS.shape[1]
    hidden_BD, cache = model.remember(prompt_BS.flatten(), documents, capacity)
    hidden, choices = [hidden_BD], []
    for step in range(new_BS.shape[1] - 1):
        hidden_BD, chosen = model.decode(new_BS[:, step], cache)
        hidden.append(hidden_BD)
        choices.append(chosen)
    return Decoded(torch.stack(hidden, dim=1), choices)


def _replay(
    model: Student, documents: Documents, free: Choices, steps: list[Choices]
) -> tuple[Choices, int, int]:
    """Return the uncached pass's choices with decoding's in their place, and both counts.

    The counts are of rows where decoding's choice of entries bound, and of those where the
    uncached pass chose another set.
    """
    if not isinstance(model.config, V4Config):
        return Choices(experts=free.experts, entries=free.entries), 0, 0
    first_N1 = documents.entries(model.config.csa_compression).first_N[:, None]
    end_N1 = documents.entries(model.config.csa_compression).end_N[:, None]
    length, binding, differing, entries = documents.lengths[0], 0, 0, []
    for layer, own_NK in enumerate(free.entries):
        mixed_NK = None if own_NK is None else own_NK.clone()
        for step, chosen in enumerate(steps):
            made_BK = chosen.entries[layer]
            if made_BK is None or own_NK is None or mixed_NK is None:
                continue
            place_B = torch.arange(BATCH) * length + length - len(steps) + step
            given_BK = torch.where(made_BK < 0, made_BK, made_BK + first_N1[place_B])
            binds_B = (end_N1 - first_N1)[place_B, 0] > own_NK.shape[1]
            sets = given_BK.sort(-1).values, own_NK[place_B].sort(-1).values
            differs_B = (sets[0] != sets[1]).any(-1) & binds_B
            binding, differing = binding + int(binds_B.sum()), differing + int(differs_B.sum())
            mixed_NK[place_B] = given_BK
        entries.append(mixed_NK)
    experts = (None,) * len(free.experts)
    return Choices(experts=experts, entries=tuple(entries)), binding, differing


def do(task: Task) -> Figures:
    """Do one task of this benchmark; there is only one."""
    return compare(task)


def every(quick: bool) -> Figures:
    """Run the whole benchmark."""
    if quick:
        return _both(("v4_quick",), {"new": 24, "rounds": 1}, do)
    names = ("v4_tiny", "v4_large", "mla_tiny", "mla_large")
    return _both(names, {"new": NEW, "rounds": ROUNDS}, fresh)


def _both(names: tuple[str, ...], task: Task, do: Do) -> Figures:
    figures: Figures = {}
    for name in names:
        figures |= do(task | {"case": name})
    return figures


def fresh(task: Task) -> Figures:
    """Do a task in a process of its own."""
    return measure.fresh(__file__, task)


if __name__ == "__main__":
    measure.command_line(__doc__, do, every)
