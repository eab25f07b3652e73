"""Clones of other projects, as far as an importer of answers looks: small files in their forms."""

import hashlib
import json
from pathlib import Path

import pytest

from audit.bank import load
from audit.banks.importing import import_bank
from audit.errors import InputError
from tests.fakes import banks


def sha(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]


def put(path: Path, rows: object) -> Path:
    """Write rows as the file's name asks: a JSON list, or JSON Lines."""
    if path.suffix == ".json":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
        return path
    assert isinstance(rows, list)
    return banks.lines(path, rows)


def alpaca_eval(root: Path, models: tuple[str, ...] = ("one", "two")) -> Path:
    for name in models:
        rows = [
            {"dataset": "d", "instruction": f"ask {i}", "output": f"{name} {i}", "generator": "g"}
            for i in range(3)
        ]
        put(root / "results" / name / "model_outputs.json", rows)
        put(root / "results" / name / "weighted" / "annotations.json", [{"preference": 1}])
    put(root / "results" / "leaderboard.json", {"one": 1})
    return root


def arena_hard(root: Path) -> Path:
    """Both versions, of one model that is in both and two that are in one."""
    old, new = root / "data" / "v0.1", root / "data" / "v2.0"
    put(old / "question.jsonl", [{"question_id": "q1", "turns": [{"content": "old ask"}]}])
    choice = {"index": 0, "turns": [{"content": "old said", "token_len": 2}]}
    for name in ("both", "old"):
        rows = [{"question_id": i, "model_id": name, "choices": [choice]} for i in ("q1", "q9")]
        put(old / "model_answer" / f"{name}.jsonl", rows)
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "new ask"},
        {"role": "assistant", "content": {"answer": "new said"}},
    ]
    for name in ("both", "new"):
        rows = [{"uid": "u1", "ans_id": "a", "model": name, "messages": messages}]
        put(new / "model_answer" / f"{name}.jsonl", rows)
    put(new / "model_judgment" / "judge" / "both.jsonl", [{"uid": "u1", "games": []}])
    return root


def wildbench(root: Path) -> Path:
    turns = ["first ask", "first said", "second ask"]
    rows = [
        {"session_id": "s1", "chat_history": ["ask"], "model_input": "<t>ask", "output": ["said"]},
        {"session_id": "s2", "chat_history": turns, "model_input": "n/a", "output": ["and", "or"]},
        {"session_id": "s3", "model_input": "<t>ask", "output": ["third"], "generator": "x/one"},
    ]
    put(root / "result_dirs" / "v2" / "one.json", rows)
    put(root / "eval_results" / "judge.json", [{"session_id": "s1", "model_output": "x"}])
    return root


def lm_eval(root: Path) -> Path:
    def row(number: int, said: str, prompt: str) -> dict[str, object]:
        return {
            "doc_id": number,
            "doc": {"question": "?"},
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["Q:"]}}},
            "resps": [[said]],
            "filtered_resps": [said[:1]],
            "filter": "strict",
        }

    stamp = "2025-01-02T03-04-05.678901.jsonl"
    folder = root / "out" / "lab__one"
    put(folder / f"samples_gsm_8k_{stamp}", [row(0, "new", "<t>ask"), row(0, "new", "<t>ask")])
    put(
        folder / "samples_gsm_8k_2024-12-31T23-59-59.9.jsonl", [row(0, "old", "a"), row(1, "o", "")]
    )
    scores = {
        "doc_id": 0,
        "arguments": {"gen_args_0": {"arg_0": "ask", "arg_1": " yes"}},
        "resps": [[["-1.5", "False"]], [["-2.5", "True"]]],
    }
    rolled = {"doc_id": 0, "arguments": [["a long text"]], "resps": [["-120.5"]]}
    put(folder / f"samples_choice_{stamp}", [scores, rolled])
    put(folder / "results_2025.json", {"results": {}})
    old = {"doc_id": 4, "arguments": [["ask", {"until": []}]], "filtered_resps": ["written"]}
    put(root / "out" / "lab__two" / f"samples_gsm_8k_{stamp}", [old])
    return root


MAKERS = {
    "alpaca-eval": alpaca_eval,
    "arena-hard": arena_hard,
    "wildbench": wildbench,
    "lm-eval": lm_eval,
}


def answers(bank: Path) -> dict[str, dict[str, tuple[str, str]]]:
    """Every model's prompts and answers by id."""
    loaded = load(bank)
    return {
        model.name: {i: (r.prompt, r.response) for i, r in loaded.answers(model.name).items()}
        for model in loaded.models
    }


def refusal(source: Path, out: Path, **options: object) -> str:
    """Import what must be refused, and see that nothing is left of it."""
    before = sorted(out.parent.iterdir()) if out.parent.exists() else []
    with pytest.raises(InputError) as caught:
        import_bank(source, out, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert (sorted(out.parent.iterdir()) if out.parent.exists() else []) == before
    return str(caught.value)
