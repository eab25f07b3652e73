"""Draw the page of a training run: what was distilled, how it went, what it was made from.

The page is a function of the run's files (`metrics.jsonl`, `eval.json`, `manifest.json`,
`config.yaml`) and adds no measurement of its own; a section whose figures are not there is left
out. It shares its style, its content policy and its charts with the audit report.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from audit.report.axes import number, times_ten
from audit.report.charts import Interval, dot_interval_chart, time_split_bar
from audit.report.frame import cut, environment
from audit.report.reveal import reveal_all
from distill.papers import curves, glance, wording
from distill.papers.comparison import alone, compared
from distill.papers.curves import Drawing, Row
from distill.terms import owed

MOST_SAMPLE = 4000

# Key of the evaluation, name, unit, which way is better; the last two also name the teacher's own.
MEASURES = (
    ("kl", "KL to the teacher", "nats per token, lower is closer"),
    ("top1_agreement", "Top-1 agreement", "fraction of tokens, higher is closer"),
    ("bits_per_byte", "Bits per byte", "of held-out text, lower is better"),
    ("tokens_per_second", "Tokens per second", "scoring held-out text"),
)
# Those of the table, with their units.
ALL_MEASURES = (
    ("kl", "KL, teacher to student, nats per token"),
    ("reverse_kl", "KL, student to teacher, nats per token"),
    ("top1_agreement", "Top-1 agreement"),
    ("bits_per_byte", "Bits per byte"),
    ("perplexity", "Perplexity"),
    ("tokens_per_second", "Tokens per second"),
)
# Anchor and heading of every section, in the order of the page.
SECTIONS = (
    ("result", "Before and after"),
    ("behind", "Student and teacher"),
    ("curves", "Curves"),
    ("own", "Own answers and given text"),
    ("glances", "Held-out text during training"),
    ("load", "Expert load"),
    ("time", "Time"),
    ("bill", "Bill"),
    ("answers", "Answers side by side"),
    ("teachers", "Teachers and their terms"),
    ("served", "Checks of served teachers"),
    ("vocabulary", "Vocabularies"),
    ("materials", "What went in and what came out"),
    ("config", "Configuration"),
)


def render_run(
    metrics: list[dict[str, Any]],
    evaluation: dict[str, Any],
    manifest: dict[str, Any],
    config_yaml: str,
    title: str,
) -> str:
    """Return the page of a run: self-contained HTML without script.

    Args:
        metrics: one row a step, in order; `terms` has the loss terms by name.
        evaluation: `before`, `after`, `teacher`, `samples` and `seconds`; and, where there are
            such, `comparison`, `held_out` (see `curves.held_out`), `served` (see `checks.seen`) and
            `bill`.
        manifest: schema `spiritsafe.run/3`.
        config_yaml: the resolved configuration, as written.
        title: the run's name.
    """
    # Joined with markup a text passes for markup, so all texts are made visible beforehand.
    given = [metrics, evaluation, manifest, config_yaml, title]
    metrics, evaluation, manifest, config_yaml, title = reveal_all(given)
    terms = curves.named_terms(metrics, manifest["losses"])
    rows = evaluation.get("comparison", ())
    sides = compared(rows)
    own_share = curves.own_share(metrics)
    own, runs = curves.own_answers(metrics), evaluation.get("held_out", ())
    served = evaluation.get("served", ())
    met = wording.vocabularies(manifest["vocabularies"])
    there = {"behind": rows, "own": own or own_share, "glances": runs}
    there |= {"bill": evaluation.get("bill"), "vocabulary": met, "served": served}
    sections = present(there)
    pages = environment(("audit.report", "distill.papers"))
    pages.filters.update(large=large, permission=wording.permission, label=wording.label)
    pages.filters.update(counted=counted, cut=cut)
    return pages.get_template("distill.papers/run.html.j2").render(
        metrics=metrics,
        evaluation=evaluation,
        manifest=manifest,
        config_yaml=config_yaml,
        title=title,
        beginning=wording.beginning(manifest),
        machine=wording.machine(manifest["device"]),
        sections=sections,
        place={anchor: at for at, (anchor, _) in enumerate(sections, start=1)},
        changes=glance.changes(evaluation),
        readings=glance.readings(sides),
        sums=glance.sums(evaluation.get("bill")),
        uneven=glance.uneven(metrics),
        inputs=glance.inputs(manifest),
        licence=glance.licence(manifest),
        measures=MEASURES,
        all_measures=ALL_MEASURES,
        has_signal=manifest["run"]["role"] != "control",
        comparison=sides,
        behind=behind(sides),
        alone=alone(rows),
        answers=answers(evaluation["samples"]),
        served=served,
        vocabularies=met,
        curves=curves.curves(metrics, terms),
        terms=terms,
        own=own,
        own_share=own_share,
        glances=curves.held_out(runs),
        runs=len(runs),
        load=curves.load(metrics),
        load_rows=curves.load_table(metrics),
        time=time_drawings(metrics, evaluation["seconds"]),
        stages=stages(metrics),
        obligations=owed(manifest["teachers"]),
        teachers=shared(manifest["teachers"]),
        most_sample=MOST_SAMPLE,
    )


def present(optional: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return anchor and heading of each section, without those of `optional` that are empty."""
    return [(anchor, name) for anchor, name in SECTIONS if optional.get(anchor, True)]


def behind(rows: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """Return a drawing for each measure: how far behind its teacher the student is, on what."""
    drawn = []
    for measure in dict.fromkeys(row["measure"] for row in rows):
        estimates = [
            Interval(label=row["name"], point=row["behind"], low=row["low"], high=row["high"])
            for row in rows
            if row["measure"] == measure and row["low"] is not None
        ]
        if not estimates:
            continue
        caption = f"Behind the teacher: {measure}"
        label = f"{measure}; right of zero the teacher is better"
        drawn.append((caption, dot_interval_chart(estimates, title=caption, x_label=label)))
    return drawn


def answers(
    samples: Sequence[Mapping[str, Any]],
) -> list[tuple[str, list[tuple[str | None, str]]]]:
    """Return each prompt with who answered what: its teachers by name, then the student."""
    found = []
    for sample in samples:
        who: list[tuple[str | None, str]] = list(sample["teachers"].items())
        found.append((sample["prompt"], [*who, (None, sample["student"])]))
    return found


def time_drawings(metrics: Sequence[Row], seconds: Mapping[str, float]) -> list[Drawing]:
    """Return how the run's time divides, and how that of its training steps does."""
    whole = "Where the time went"
    drawn = [(whole, time_split_bar(seconds, title=whole))]
    steps = {stage: spent for stage, spent, _, _ in stages(metrics)}
    if steps:
        caption = "Where the time of a training step went"
        drawn.append((caption, time_split_bar(steps, title=caption)))
    return drawn


def stages(metrics: Sequence[Row]) -> list[tuple[str, float, float, int]]:
    """Return stage, seconds, share and steps of the training steps that were split.

    Where a device works while its host goes on, not every step is split: telling the stages apart
    makes it wait.
    """
    rows = [row for row in metrics if row.get("seconds_by_stage")]
    spent: dict[str, float] = {}
    for row in rows:
        for stage, seconds in row["seconds_by_stage"].items():
            spent[stage] = spent.get(stage, 0.0) + seconds
    whole = sum(row["seconds"] for row in rows)
    if spent:
        spent["rest"] = max(whole - sum(spent.values()), 0.0)
    return [(stage, s, s / whole if whole else 0.0, len(rows)) for stage, s in spent.items()]


def shared(teachers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the teachers with `share`: each one's part of all tokens that a teacher spoke of."""
    whole = sum(teacher.get("tokens", 0) for teacher in teachers)
    return [{**t, "share": t["tokens"] / whole if whole else None} for t in teachers]


def counted(value: object) -> object:
    """Return a count with its thousands apart; anything else as it is."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return Markup('<data value="{0}">{0:,}</data>').format(value) if is_count else value


def large(value: float) -> Markup:
    """Return a number as `figure` does, from a milliard on by powers of a thousand."""
    power = 3 * int(math.log10(abs(value)) // 3) if abs(value) >= 1e9 else 0
    shown = number(value / 10**power) + times_ten(power).replace(", ", "\u00a0")
    return Markup('<data value="{}">{}</data>').format(repr(value), shown)
