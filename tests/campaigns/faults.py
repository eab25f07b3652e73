"""Everything that goes wrong with a served teacher: it is survived, or stops with a sentence.

`python tests/campaigns/faults.py --work DIR --json PATH`: a tiny model is served on loopback and
asked for text, for its likeliest tokens and for scores of a text, while one fault after another
befalls the server or the client. After each the same work is resumed from the log. The server
counts what it delivered whole, so `paid_twice` is its word and not the client's. Minutes, so not a
test: `make campaign`. `made_twice` counts work whose first answer was lost on the way.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from audit.endpoint import Endpoint, EndpointConfig
from audit.errors import AuditError
from distill.errors import DistillError
from distill.teachers.endpoint import EndpointTeacher
from tests.fakes.endpoints import Fault, Server, TinyModel, speaking_teacher
from tests.fakes.teachers import sentences, tiny_tokenizer

WORKS = ("text", "top_logprobs", "prompt_logprobs")
QUESTIONS = 12
CONCURRENCY = 3
STRUCK = (3, 7)  # requests that a fault befalls
SCORED = (Fault.NAN, Fault.SHORT)  # spoil scores and leave text as it is
KILLED = "server killed"
STOPPING = (Fault.RENAMED, KILLED)
FAULTS = (
    *(Fault.BUSY, Fault.BROKEN, Fault.AWAY, Fault.CUT, Fault.HALF, Fault.RESET, Fault.SLOW),
    *(*SCORED, *STOPPING),
)


def work(url: str, log: Path, kind: str) -> None:
    """Ask for everything of one kind, or for what the log lacks of it."""
    api = "chat" if kind == "top_logprobs" else "completions"
    config = EndpointConfig(
        url=url, model="tiny", api=api, retries=3, concurrency=CONCURRENCY, timeout_seconds=0.6
    )
    tokenizer = tiny_tokenizer()
    prompts = [sentences(1, seed) for seed in range(QUESTIONS)]
    with Endpoint(config, log) as endpoint:
        teacher = EndpointTeacher("served", endpoint, tokenizer, top=5)
        if kind == "text":
            teacher.answer(prompts, max_tokens=8, temperature=0)
        elif kind == "top_logprobs":
            teacher.answer_with_top(prompts, max_tokens=8, temperature=0)
        else:
            ids = tokenizer(sentences(40, seed=8))["input_ids"]
            teacher.score(torch.tensor(ids[: QUESTIONS * 16]).reshape(QUESTIONS, 16))


def attempt(server: Server, log: Path, kind: str) -> str:
    """Do the work; return `finished` or the sentence it stopped with."""
    try:
        work(server.url, log, kind)
    except (AuditError, DistillError) as error:
        return str(error)
    return "finished"


def again(counts: Counter[str]) -> int:
    """Return how often something happened after it had happened once."""
    return sum(count - 1 for count in counts.values())


def strike(server: Server, fault: str) -> None:
    """Let the fault befall some of the next requests."""
    if fault == KILLED:
        server.die_at = STRUCK[0]
    else:
        server.plan = dict.fromkeys(STRUCK, fault)


def mended(server: Server) -> Server:
    """Return a server in order, on the same port, that goes on counting."""
    if server.die_at is not None:
        fresh = Server(server.source, port=server.port)
        fresh.delivered, fresh.made = server.delivered, server.made
        return fresh
    server.plan, server.name = {}, "tiny"
    return server


def trial(model: TinyModel, place: Path, kind: str, fault: str) -> dict[str, Any]:
    """Let a fault befall one piece of work, resume it, and mend by hand what only a hand can."""
    log = place / f"{kind}-{fault}.jsonl".replace(" ", "-")
    server = Server(model)
    try:
        strike(server, fault)
        first = attempt(server, log, kind)
        server = mended(server)
        before = server.posts
        resumed = attempt(server, log, kind)
        row: dict[str, Any] = {
            "work": kind,
            "fault": fault,
            "first": first,
            "resumed": resumed,
            "asked_when_resumed": server.posts - before,
            "paid_twice": again(server.delivered),
            "made_twice": again(server.made),
            "by_hand": 0,
        }
        while resumed != "finished" and row["by_hand"] <= len(STRUCK):
            delete_line(log, resumed)
            row["by_hand"] += 1
            resumed = attempt(server, log, kind)
        return row | {"in_the_end": resumed, "answers": log.read_bytes().count(b"\n")}
    finally:
        server.stop()


def delete_line(log: Path, sentence: str) -> None:
    """Do what a sentence about a spoilt answer advises."""
    number = int(sentence.partition("line ")[2].split()[0].rstrip("),"))
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[: number - 1] + lines[number:]))


def client_killed(model: TinyModel, place: Path, kind: signal.Signals) -> dict[str, Any]:
    """Stop the asking process from outside, resume, and count."""
    log = place / f"client-{kind.name}.jsonl"
    server = Server(model, plan=dict.fromkeys(range(QUESTIONS), Fault.SLOW))
    server.pause = 0.3
    code = f"from tests.campaigns.faults import work; from pathlib import Path; work({server.url!r}"
    code += f", Path({str(log)!r}), 'text')"
    # A shell that runs this in the background has its children ignore SIGINT; a user's does not.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    process = subprocess.Popen([sys.executable, "-c", listen + code], stderr=subprocess.DEVNULL)
    while server.posts < QUESTIONS // 2:
        assert process.poll() is None, "the client ended by itself"
        time.sleep(0.01)
    process.send_signal(kind)
    process.wait()
    time.sleep(2 * server.pause)  # what was in flight is delivered to nobody
    server.plan = {}
    resumed = attempt(server, log, "text")
    twice, made = again(server.delivered), again(server.made)
    server.stop()
    return {
        "work": "text",
        "fault": f"client {kind.name}",
        "resumed": resumed,
        "paid_twice": twice,
        "made_twice": made,
    }


def as_expected(row: dict[str, Any]) -> bool:
    """Tell whether a trial went as it should."""
    fault = row["fault"]
    if fault.startswith("client"):
        most = CONCURRENCY if fault.endswith("KILL") else 0  # what was in flight is lost
        return row["resumed"] == "finished" and row["made_twice"] <= most
    stops = fault in STOPPING or (fault in SCORED and row["work"] != "text")
    resumes = fault not in (*SCORED, Fault.RENAMED) or not stops
    return (
        (row["first"] != "finished") is stops
        and (row["resumed"] == "finished") is resumes
        and row["in_the_end"] == "finished"
        and row["paid_twice"] == 0
        and row["answers"] == QUESTIONS
    )


def main() -> None:
    """Run the campaign; exit 1 if anything was paid for twice or went otherwise than it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True)
    model = TinyModel(speaking_teacher(options.work / "tiny"))
    rows = [trial(model, options.work, kind, fault) for fault in FAULTS for kind in WORKS]
    rows += [client_killed(model, options.work, kind) for kind in (signal.SIGINT, signal.SIGKILL)]
    result = {
        "trials": rows,
        "paid_twice": sum(row["paid_twice"] for row in rows),
        "lost_in_flight_by_sigkill": rows[-1]["made_twice"],
        "unexpected": [row for row in rows if not as_expected(row)],
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    raise SystemExit(1 if result["unexpected"] or result["paid_twice"] else 0)


if __name__ == "__main__":
    main()
