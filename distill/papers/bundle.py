"""The papers of a finished run, and its manifest.

A directory with a manifest is finished; its statement (`provenance`) follows, over all files.
"""

from pathlib import Path
from typing import Any

from audit import strict_yaml
from audit.attest import file_digest
from distill import aigc, files, materials
from distill.config import TeacherConfig
from distill.lessons import tally
from distill.papers import record, render
from distill.prepare import Ready
from distill.resources import shipped
from distill.rollout import served
from distill.rollout.writings import Writings
from distill.session import Session
from distill.text import student_tokenizer
from distill.text.sources import SEEDS, SEEDS_FILE
from distill.train import Row
from student.config import MLAConfig, V4Config
from student.sizes import count_parameters, kv_cache_bytes_per_token

START = "checkpoints/step-000000"
OUTPUTS = ("config.yaml", "metrics.jsonl", "eval.json", "heldout.jsonl", "student", START)


def write(
    session: Session,
    ready: Ready,
    student: MLAConfig | V4Config,
    metrics: list[Row],
) -> dict[str, Any]:
    """Write what `render.papers` gives and, last, the manifest, which is returned."""
    config, out = session.config, session.out
    corpora = _corpora(session)
    for place, row in corpora:
        aigc.write(config.aigc, place, row["sha256"])
    resolved = strict_yaml.dump(config)
    counted = count_parameters(student, ready.vocabulary.size)
    manifest = record.manifest(
        config=config,
        config_text=resolved,
        device=session.device,
        inputs=[*_inputs(session, ready), *(row for _, row in corpora)],
        outputs=materials.outputs(out, OUTPUTS),
        teachers=_teachers(session, ready),
        tokens=metrics[-1]["tokens"],
        sizes={
            "parameters": counted.total,
            "active_parameters": counted.active,
            "kv_cache_bytes_per_token": kv_cache_bytes_per_token(student),
        },
        vocabularies=[{"teacher": one.config.name, **one.vocabulary} for one in ready.lessons],
    )
    for name, data in render.papers(render.read(out, manifest)).items():
        files.write_bytes(out / name, data)
    files.write_json(out / render.MANIFEST, manifest)
    return manifest


def _teachers(session: Session, ready: Ready) -> list[dict[str, Any]]:
    """Return a row for each teacher, and for a server that answered in the student's place."""
    rows = [
        record.teacher(one.config, sha256=one.sha256, tokens=one.tokens, model=one.model)
        for one in ready.lessons
    ]
    asked, line = served.asked_of(session), served.line(session)
    if asked is not None and line is not None:
        writer = session.config.rollout
        rows.append(record.writer(writer, sha256=line["sha256"], tokens=asked.written))
    return rows


def _inputs(session: Session, ready: Ready) -> list[dict[str, str]]:
    """Return a line for everything that went in, pinned by digest."""
    config, line = session.config, materials.material
    rows = []
    for one in ready.lessons:
        licence = f"licence as stated: {one.config.licence or 'none'}"
        kind = "teacher weights" if one.path else "teacher's answers"
        rows.append(line(one.config.name, kind, one.sha256, licence))
    tokenizer = student_tokenizer.file(config.text.tokenizer, ready.paths)
    rows.append(line("tokenizer.json", "tokenizer", file_digest(tokenizer)))
    rows.append(line(", ".join(config.text.sources), "text", ready.text.sha256))
    answered = (one.answers.prompts for one in config.teachers if one.answers is not None)
    if SEEDS in (*config.text.sources, *answered):
        rows.append(line(SEEDS_FILE, "prompts", file_digest(shipped(SEEDS_FILE))))
    for one in ready.lessons:
        for what, store in one.stores():
            rows.append(line(f"{what}, {one.config.name}", "teacher signals", store.sha256()))
    return rows


def _corpora(session: Session) -> list[tuple[Path, dict[str, str]]]:
    """Return where that lies which models wrote for the student to learn from, and its line."""
    found: list[tuple[Path, dict[str, str] | None]] = [
        (_answers(session, teacher), tally.line(session, teacher))
        for teacher in session.config.teachers
    ]
    rollouts = session.out / "rollouts"
    own = Writings.open(rollouts) if session.config.rollout.fraction else None
    if own is not None:
        note = f"{len(own):,} writings"
        line = materials.material("rollouts", "student's answers", own.sha256(), note)
        found.append((rollouts, line))
    found.append((served.place_of(session), served.line(session)))
    return [(place, line) for place, line in found if line is not None]


def _answers(session: Session, teacher: TeacherConfig) -> Path:
    """Return where a teacher's answers are: kept ones by themselves, scored ones in its log."""
    place = session.place(teacher.name)
    return place if teacher.says == "top_logprobs" else place / "answers"
