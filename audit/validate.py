"""`audit validate`, in order: index, every model in the suspect's place, rates, page.

A model is judged by its own answers, all teachers' answers, and answers and labels of other
families; of its own family only name, role, group and date of publication are read. Truth is looked
at afterwards, to count how often the findings are right, wrong and silent.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from audit import claims
from audit.bank import Bank, load
from audit.files import write_json, write_text
from audit.lineup import case, index, known, reading
from audit.lineup.case import Stratum
from audit.lineup.judging import judge
from audit.lineup.ruling import Rules, Ruling
from audit.lineup.standing import Lineup
from audit.report.reveal import reveal_halves
from audit.report.validation import render
from audit.statement import begin, statement, subjects, write
from audit.validation.judged import Judged, Validation
from audit.validation.rates import confusion, rates

SCHEMA = "spiritsafe.validation/1"
COLUMNS = (
    *("suspect", "teacher_group", "score", "rank", "p_value", "p_adjusted", "log10_lr"),
    *("verdict", "relation"),
)

Say = Callable[[str], None]
Progress = Callable[[str, int, int, str], None]


def validate(
    path: Path,
    out: Path,
    *,
    rules: Rules,
    least_prompts: int,
    cache: Path | None,
    say: Say,
    progress: Progress,
) -> Validation:
    """Judge every model of the bank in `path`, and write what came of it into `out`.

    Args:
        path: a bank; it is never written to.
        out: gets verdicts.csv, findings.jsonl, metrics.json, validation.html and statement.json.
        rules: what a finding needs.
        least_prompts: that two models must both answer.
        cache: where the bank's index is kept; None to keep none.
        say: told in sentences what goes on.
        progress: told what is being done, how many of how many, and of what.

    Raises:
        InputError: the bank cannot be read.
        AuditError: nothing can be judged, or `out` cannot be written.
    """
    bank = load(path)
    made = index.of(
        bank,
        reading.VIEWS,
        cache=cache,
        tell=lambda done, steps: progress("comparing answers", done, steps, "steps"),
    )
    facts = known.facts(bank)
    models = case.lineup(bank, made, facts, least_prompts)
    say(
        f"{len(bank.models)} models of {len(set(models.family))} families, {len(bank.groups)} "
        f"groups of teachers, {len(made.prompts)} prompts"
    )
    rulings: list[Ruling] = []
    families = list(dict.fromkeys(models.family))
    for number, family in enumerate(families, 1):
        rows = [row for row, name in enumerate(models.family) if name == family]
        rulings += judge(bank, models, facts, rows, rules)
        progress("judging families", number, len(families), "families")
    judged = _beside_truth(bank, rulings)
    calibration = _calibration(models, facts, bank, judged)
    found = Validation(
        bank=path.resolve().name,
        bank_sha256=bank.sha256(),
        models=len(bank.models),
        families=len(families),
        prompts=len(made.prompts),
        rules=rules,
        least_prompts=least_prompts,
        judged=tuple(judged),
        metrics=reveal_halves(
            {
                "schema": SCHEMA,
                "bank": {"name": path.resolve().name, "sha256": bank.sha256()},
                "rules": {**asdict(rules), "least_prompts": least_prompts},
                **rates(judged, alpha=rules.alpha),
                "relations_found": confusion(judged),
                "calibration": [asdict(one) for one in calibration],
            }
        ),
        calibration=calibration,
    )
    _write(found, out)
    return found


def _beside_truth(bank: Bank, rulings: list[Ruling]) -> list[Judged]:
    judged = []
    for one in rulings:
        suspect, group = bank.model(one.suspect), bank.group(one.group)
        judged.append(
            Judged(
                ruling=one,
                truth=known.truth(bank, suspect, group),
                family=suspect.family,
                role=suspect.role,
                relation=suspect.relation,
                vendor=group.vendor,
            )
        )
    return judged


def _calibration(
    models: Lineup, facts: known.Facts, bank: Bank, judged: list[Judged]
) -> tuple[Stratum, ...]:
    """Return how p-values of documented negatives fell, in all of them and by stratum."""
    row = {model.name: number for number, model in enumerate(bank.models)}
    column = {group.name: number for number, group in enumerate(bank.groups)}
    p_NK = np.full(models.negative_NK.shape, np.nan)
    for one in judged:
        if one.truth == "negative" and one.ruling.p_value is not None:
            p_NK[row[one.ruling.suspect], column[one.ruling.group]] = one.ruling.p_value
    return tuple(
        case.stratum(name, p_NK, part_NK, models.family, alpha)
        for name, part_NK in case.parts(facts, ~np.isnan(p_NK)).items()
        for alpha in case.LEVELS
    )


def _write(found: Validation, out: Path) -> None:
    texts = {
        "verdicts.csv": table(found),
        "findings.jsonl": "".join(
            json.dumps({**asdict(one.ruling), "truth": one.truth}, ensure_ascii=False) + "\n"
            for one in found.judged
        ),
        "validation.html": render(found),
    }
    write_json(out / "metrics.json", found.metrics)
    begin(out)
    for name, text in texts.items():
        write_text(out / name, text)
    write(out, statement(subjects(out), claims.SCAI, claims.of_validation(found)))


def table(found: Validation) -> str:
    """Return `verdicts.csv`: one row a pair; an absent number is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in found.judged:
        r = one.ruling
        numbers = (r.score, r.rank, r.p_value, r.p_adjusted, r.log10_lr)
        cells = ["" if value is None else repr(value) for value in numbers]
        writer.writerow([r.suspect, r.group, *cells, r.verdict.value, r.relation])
    return text.getvalue()
