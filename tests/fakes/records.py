"""The files of a training run, with realistic numbers made from a seed, to test its records."""

import random
from typing import Any

from distill.papers.bill import bill
from distill.papers.ledger import counted
from distill.papers.work import served
from distill.prices import Asked, Prices

SHA = "9f2c" * 16
HELD = "20,480 tokens, 81,233 bytes"
LONG = (
    "A list comprehension builds a new list by applying an expression to each item of an iterable. "
    "It reads left to right: what to keep, where it comes from, and, if you like, a condition.\n\n"
    "    squares = [n * n for n in range(10) if n % 2 == 0]\n\n"
    "Use it when the whole list is wanted at once; a generator is the better choice for a stream."
)
CONFIG_YAML = "run:\n  seed: 0\n  steps: 120\nstudent:\n  preset: tiny\n"
STAGES = ("data", "generation", "teacher", "student", "loss")


def metrics(
    steps: int = 120, *, control: bool = False, own: bool = False, seed: int = 3
) -> list[dict[str, Any]]:
    """Return the rows of a run; a control's have no KL, those of `own` answers that on both."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        kl = 2.3 * step**-0.35 + rng.gauss(0, 0.02)
        cross_entropy = 3.1 + 2.4 * step**-0.4 + rng.gauss(0, 0.03)
        terms = {"cross_entropy": cross_entropy, "balance": 3.02, "indexer": 0.0}
        taught = {} if control else {"forward_kl": kl}
        facts = {"own_tokens": 1024.0, "kl_on": kl * 1.2, "kl_off": kl * 0.9 if step % 3 else None}
        rows.append(
            {
                "step": step,
                "tokens": 2048 * step,
                "loss": cross_entropy if control else 0.7 * kl + 0.3 * cross_entropy,
                "terms": {**taught, **terms},
                **(facts if own else {}),
                "learning_rate": 1e-3 * min(step / 20, 1 - 0.9 * max(0, step - 20) / steps),
                "gradient_norm": 1.2 * step**-0.2 + rng.expovariate(8),
                "tokens_per_second": 2300 + rng.gauss(0, 60),
                "seconds": 0.9,
                "seconds_by_stage": {name: 0.16 for name in STAGES} if step % 2 else None,
                "expert_load": [_load(rng, step) for _ in range(4)],
            }
        )
    return rows


def _load(rng: random.Random, step: int) -> list[float]:
    raw = [1 + rng.gauss(0, 0.25 + 1.0 / step**0.5) for _ in range(16)]
    clipped = [max(value, 0.0) for value in raw]
    return [value / sum(clipped) for value in clipped]


def evaluation() -> dict[str, Any]:
    """Return the least a run is evaluated by: before and after training, samples, seconds."""
    return {
        "before": {
            "kl": 3.412, "reverse_kl": 4.02, "top1_agreement": 0.081, "bits_per_byte": 2.914,
            "perplexity": 412.5, "tokens_per_second": 5120.0, "tokens": 20480, "bytes": 81233,
        },
        "after": {
            "kl": 0.6127, "reverse_kl": 0.7441, "top1_agreement": 0.6384, "bits_per_byte": 1.1873,
            "perplexity": 21.7, "tokens_per_second": 5093.0, "tokens": 20480, "bytes": 81233,
        },
        "teacher": {
            "name": "teacher-a", "bits_per_byte": 0.9712, "perplexity": 12.9,
            "tokens_per_second": 1411.0,
        },
        "samples": [
            {"id": "a1", "prompt": "What is a tuple?", "teachers": {"teacher-a": LONG},
             "student": LONG[:200]},
            {"id": "a2", "prompt": "Name two loops.", "teachers": {"teacher-a": "For and while."},
             "student": "A loop is a loop is a loop."},
        ],
        "seconds": {"capture": 70.1, "training": 90.0, "evaluation": 12.0},
    }  # fmt: skip


def full_evaluation() -> dict[str, Any]:
    """Return an evaluation with everything a run may measure: comparison, curves, a bill."""
    tokens = [0, 61_440, 122_880, 184_320, 245_760]
    return {
        **evaluation(),
        "comparison": [
            _compared("held-out text", "bits per byte", True, 1.1873, 0.9712, 0.021, 412, 37),
            _compared("held-out help topics", "bits per byte", True, 1.31, 1.302, 0.03, 120, 11),
            _compared("arithmetic", "accuracy", False, 0.41, 0.93, 0.06, 200, 200),
            _compared("spelling", "accuracy", False, 0.88, 0.79, 0.05, 150, 150),
            {**_compared("riddles", "accuracy", False, 0.4, 0.4, 0.1, 90, 90),
             "teacher": None, "difference": None, "low": 0.305, "high": 0.503},
        ],
        "held_out": [
            {"name": "own answers", "tokens": tokens, "text": HELD,
             "kl": [3.4, 1.5, 1.0, 0.8, 0.71],
             "accuracy: sums, 64 of 200": [None, 0.3, 0.5, 0.6, 0.65]},
            {"name": "given text", "tokens": tokens, "text": HELD,
             "kl": [3.4, 1.3, 0.9, 0.75, 0.73]},
        ],
        "served": [_served()],
        "bill": bill(
            tokens={"trained on": 245_760, "captured": 93_184, "generated": 40_960},
            work=[
                counted("x", "operations", "teacher-a, forward", 2.6e13, "FLOP", source="a test"),
                served("teacher-b", 41_000),
            ],
            seconds=evaluation()["seconds"],
            prices=Prices(currency="EUR", device_hour=1.8),
            asked=[Asked(teacher="teacher-b", read=41_000, written=12_000)],
        ),
    }  # fmt: skip


def _served() -> dict[str, Any]:
    """Return what was seen of the teacher that is served."""
    return {
        "teacher": "teacher-b",
        "says": "prompt_logprobs",
        "model": "example/teacher-b-2026-10",
        "checks": [
            {"name": "answer", "outcome": "ok", "seen": "112 characters, 0.31 s"},
            {"name": "seed", "outcome": "failed", "seen": "the same seed gave two answers"},
            {"name": "prompt_logprobs", "outcome": "ok",
             "seen": "17 tokens of token ids, 20 at each but the first"},
        ],
        "agreement": {"positions": 32, "kl": 0.0012, "worst": 0.0131, "same_best": 0.97,
                      "late": 1.62, "threshold": 0.05},
    }  # fmt: skip


def _compared(
    name: str, measure: str, lower_is_better: bool, student: float, teacher: float,
    half: float, n: int, clusters: int,
) -> dict[str, Any]:  # fmt: skip
    difference = student - teacher
    return {
        "name": name,
        "measure": measure,
        "lower_is_better": lower_is_better,
        "student": student,
        "teacher": teacher,
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "level": 0.95,
        "n": n,
        "clusters": clusters,
    }


def teacher(name: str = "teacher-a", **changes: Any) -> dict[str, Any]:
    """Return a manifest's row of a teacher; it is owned unless `changes` says otherwise."""
    row = {
        "name": name, "kind": "local weights", "model": "", "sha256": SHA, "licence": "Apache-2.0",
        "owned": True, "terms": None, "obligations": [], "weight": 1.0, "tags": [],
        "tokens": 90_000,
    }  # fmt: skip
    return {**row, **changes}


def terms(**changes: Any) -> dict[str, Any]:
    """Return the terms of a teacher as a record has them."""
    stated = {
        "owner": "The Example Works", "url": "https://example.org/terms",
        "retrieved": "2026-11-20", "sha256": SHA, "permits_training": "conditional",
        "obligations": ["name the teacher in the model card", "show a notice where it is served"],
        "basis": "section 3 of the terms",
    }  # fmt: skip
    return {**stated, **changes}


def manifest(role: str = "student") -> dict[str, Any]:
    """Return the manifest of a run with one teacher, its owner's own."""
    return {
        "schema": "spiritsafe.run/2",
        "tool": "spiritsafe 0.1.0",
        "created": "2026-11-21T08:00:00Z",
        "run": {
            "role": role, "seed": 0, "steps": 120, "tokens": 245_760, "parameters": 12_345_678,
            "active_parameters": 9_876_543, "dtype": "float32",
        },
        "student": {"family": "mla", "model_type": "deepseek_v3", "inherited": None},
        "losses": [
            {"name": "forward_kl", "kind": "forward_kl", "weight": 0.9},
            {"name": "cross_entropy", "kind": "cross_entropy", "weight": 0.1},
        ],
        "teachers": [teacher()],
        "vocabularies": [],
        "inputs": [
            {"name": "help-topics.txt", "kind": "text", "sha256": SHA, "note": "PSF licence"},
            {"name": "prompts.jsonl", "kind": "prompts", "sha256": SHA, "note": ""},
            {"name": "tokenizer.json", "kind": "tokenizer", "sha256": SHA, "note": ""},
        ],
        "outputs": [{"name": "student", "kind": "directory", "sha256": SHA, "note": ""}],
        "device": {
            "kind": "cpu", "name": "x86_64, two cores", "threads": 2, "system": "Linux x86_64",
            "python": "3.11.4", "torch": "2.13.0+cpu",
        },
        "packages": {"spiritsafe": "0.1.0", "torch": "2.13.0+cpu"},
        "code": {"version": "0.1.0", "sha256": SHA},
        "config_sha256": SHA,
    }  # fmt: skip


def full_manifest() -> dict[str, Any]:
    """Return the manifest of a run with two teachers, one of them served under stated terms."""
    served_under = terms()
    other = teacher(
        "teacher-b", kind="endpoint", model="example/teacher-b-2026-10", sha256="", licence="",
        owned=False, terms=served_under, obligations=served_under["obligations"], weight=0.5,
        tags=["prompts", "code"], tokens=30_000,
    )  # fmt: skip
    shared = {
        "teacher": "teacher-a", "common": 49_152, "teacher_rows": 49_152, "student_rows": 49_280,
        "agreed": 49_150, "unnamed": 2, "differing": 0, "examples": [],
        "roles": {"bos": ["<s>", "<s>"], "pad": [None, "<pad>"]},
    }  # fmt: skip
    across = {
        "teacher": "teacher-b", "common": 49_152, "teacher_rows": 151_936, "student_rows": 49_280,
        "agreed": 1_021, "unnamed": 130, "differing": 48_001, "examples": [[3, "'!'", "'the'"]],
        "roles": {"bos": [None, "<s>"]}, "across_tokenizers": True,
        "alignment": {
            "chunks": 61_020, "student_tokens": 93_184, "student_tokens_in_chunks": 90_211,
            "teacher_tokens_in_chunks": 88_000, "pairs_without_chunks": 310,
            "documents_without_chunks": ["a.txt", "b.txt"], "windows_unread": 3,
        },
        "tokens_spelt_alike": 30_012, "tokens_translated": 28_411, "positions_translated": 61_950,
    }  # fmt: skip
    return {**manifest(), "teachers": [teacher(), other], "vocabularies": [shared, across]}
