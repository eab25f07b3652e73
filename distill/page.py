"""Draw the page of a training run: what was distilled, how it went, what it was made from.

The page is a function of the run's files (`metrics.jsonl`, `eval.json`, `manifest.json`,
`config.yaml`) and adds no measurement of its own. It shares its style, its content policy and its
charts with the audit report.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from markupsafe import Markup

from audit.report.charts import Series, heat_strip, line_chart, time_split_bar
from audit.report.frame import environment

LAST_STEPS = 20
MOST_SAMPLE = 4000
MOST_LINES = 6

Row = Mapping[str, Any]


def render_run(
    metrics: list[dict[str, Any]],
    evaluation: dict[str, Any],
    manifest: dict[str, Any],
    config_yaml: str,
    title: str,
) -> str:
    """Return the page of a run: self-contained HTML without script.

    Args:
        metrics: one row a step, in order; `kl` is None where no teacher signal was used.
        evaluation: `before`, `after`, `teacher`, `samples` and `seconds`.
        manifest: schema `spiritsafe.run/1`.
        config_yaml: the resolved configuration, as written.
        title: the run's name.
    """
    template = environment(("audit.report", "distill")).get_template("distill/run.html.j2")
    return template.render(
        metrics=metrics,
        evaluation=evaluation,
        manifest=manifest,
        config_yaml=config_yaml,
        title=title,
        measures=MEASURES,
        has_signal=any(row["kl"] is not None for row in metrics),
        curves=curves(metrics),
        load=load(metrics),
        load_rows=load_table(metrics),
        time_split=time_split_bar(evaluation["seconds"], title="Where the time went"),
        most_sample=MOST_SAMPLE,
    )


# Key of the evaluation, name, unit, which way is better; the last two also name the teacher's own.
MEASURES = (
    ("kl", "KL to the teacher", "nats per token, lower is closer"),
    ("top1_agreement", "Top-1 agreement", "fraction of tokens, higher is closer"),
    ("bits_per_byte", "Bits per byte", "of held-out text, lower is better"),
    ("tokens_per_second", "Tokens per second", "scoring held-out text"),
)


def curves(metrics: Sequence[Row]) -> list[tuple[str, Markup]]:
    """Return caption and drawing of each curve over the steps."""
    names = [("cross_entropy", "cross-entropy"), ("loss", "loss as trained")]
    if any(row["kl"] is not None for row in metrics):
        names.insert(0, ("kl", "KL to the teacher"))
    return [
        _curve(metrics, names, "Loss", "nats per token", log_y=True),
        _curve(metrics, [("learning_rate", "learning rate")], "Learning rate", "learning rate"),
        _curve(metrics, [("gradient_norm", "norm")], "Gradient norm", "norm", log_y=True),
        _curve(metrics, [("tokens_per_second", "speed")], "Throughput", "tokens per second"),
    ]


def _curve(
    metrics: Sequence[Row],
    names: Sequence[tuple[str, str]],
    caption: str,
    y_label: str,
    *,
    log_y: bool = False,
) -> tuple[str, Markup]:
    series = [Series(name=name, values=[row[key] for row in metrics]) for key, name in names]
    steps = [row["step"] for row in metrics]
    drawing = line_chart(steps, series, title=caption, x_label="step", y_label=y_label, log_y=log_y)
    return caption, drawing


def load(metrics: Sequence[Row]) -> list[tuple[str, Markup]]:
    """Return caption and drawing of the experts' load; nothing for a student without experts."""
    layers = len(metrics[-1]["expert_load"]) if metrics else 0
    if not layers:
        return []
    series = _imbalance_series(metrics, layers)
    title = "Heaviest expert over the mean, by layer"
    over_steps = line_chart(
        [row["step"] for row in metrics], series, title=title, x_label="step", y_label="max / mean"
    )
    rows = _last_load(metrics)
    labels = [f"layer {layer + 1}" for layer in range(layers)]
    last = f"Share of each expert over the last {len(metrics[-LAST_STEPS:])} steps"
    return [(title, over_steps), (last, heat_strip(rows, labels, title=last))]


def _imbalance_series(metrics: Sequence[Row], layers: int) -> list[Series]:
    """Return max / mean over the steps: a line a layer, or three lines for a deep student."""
    steps = [[_imbalance(shares) for shares in row["expert_load"]] for row in metrics]
    if layers <= MOST_LINES:
        by_layer = zip(*steps, strict=True)
        return [Series(name=f"layer {n}", values=v) for n, v in enumerate(by_layer, start=1)]
    return [
        Series(name="most uneven layer", values=[max(values) for values in steps]),
        Series(name="median layer", values=[median(values) for values in steps]),
        Series(name="most even layer", values=[min(values) for values in steps]),
    ]


def load_table(metrics: Sequence[Row]) -> list[tuple[int, float, float, int]]:
    """Return layer, max / mean, min / mean and idle experts, of the last steps' mean load."""
    return [
        (place, _imbalance(row), min(row) * len(row), sum(value == 0 for value in row))
        for place, row in enumerate(_last_load(metrics), start=1)
    ]


def _last_load(metrics: Sequence[Row]) -> list[list[float]]:
    """Return each layer's load, averaged over the last steps."""
    loads = [row["expert_load"] for row in metrics[-LAST_STEPS:]]
    return [
        [sum(shares) / len(shares) for shares in zip(*layer, strict=True)]
        for layer in zip(*loads, strict=True)
    ]


def _imbalance(shares: Sequence[float]) -> float:
    """Return the heaviest load over the mean load; 1 is an even split."""
    return max(shares) * len(shares) / (sum(shares) or 1.0)
