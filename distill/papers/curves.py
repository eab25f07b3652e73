"""The drawings of a run: losses, rates, load and time over its steps, from the rows of its metrics.

Every function takes rows as `metrics.jsonl` has them and returns captions with their drawings; a
drawing whose figures no row has is left out.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from markupsafe import Markup

from audit.report.charts import Series, heat_strip, line_chart
from distill.papers import wording

LAST_STEPS = 20
MOST_LINES = 6

Row = Mapping[str, Any]
Drawing = tuple[str, Markup]

# What a held-out curve says besides its measures.
_ABOUT = ("name", "tokens", "text")

# Terms that are not nats a token of the output head, and are drawn apart.
_INSIDE = ("balance", "indexer", "mtp", "hidden_mse", "hidden_cosine")


def curves(metrics: Sequence[Row], terms: Sequence[tuple[str, str]]) -> list[Drawing]:
    """Return the curves of training: losses, rate, gradient and speed.

    Args:
        metrics: the rows.
        terms: key and name of the loss terms to draw.
    """
    keyed = [(f"terms.{key}", name) for key, name in terms]
    inside = [pair for pair, (key, _) in zip(keyed, terms, strict=True) if _is_inside(key)]
    losses = [pair for pair in keyed if pair not in inside] + [("loss", "loss as trained")]
    drawn = [_curve(metrics, losses, "Loss", "nats per token", log=True)]
    if inside:
        drawn.append(_curve(metrics, inside, "Terms of the network", "before weights", log=True))
    return [
        *drawn,
        _curve(metrics, [("learning_rate", "rate")], "Learning rate", "learning rate"),
        _curve(metrics, [("gradient_norm", "norm")], "Gradient norm", "norm", log=True),
        _curve(metrics, [("tokens_per_second", "speed")], "Throughput", "tokens per second"),
    ]


def _is_inside(key: str) -> bool:
    return wording.kind(key) in _INSIDE


def named_terms(
    metrics: Sequence[Row], losses: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Return key and name of the loss terms that some row has another value of than 0.

    Args:
        metrics: the rows.
        losses: of the manifest; a term that is taken on some text alone is named with it.
    """
    where = {"own": ", own answers", "text": ", given text"}
    on = {row["name"]: where.get(row.get("on", ""), "") for row in losses}
    found = (key for row in metrics for key, value in row.get("terms", {}).items() if value)
    return [(key, wording.term(key) + on.get(key, "")) for key in dict.fromkeys(found)]


def own_answers(metrics: Sequence[Row]) -> list[Drawing]:
    """Return the divergence on the student's own answers beside that on the given text.

    Rows may have `kl_on` and `kl_off`, None where a step had none of that text.
    """
    sides = [("kl_on", "on its own answers"), ("kl_off", "on the given text")]
    there = [side for side in sides if any(row.get(side[0]) is not None for row in metrics)]
    caption = "Divergence by whose text"
    return [_curve(metrics, there, caption, "nats per token", log=True)] if there else []


def own_share(metrics: Sequence[Row]) -> float:
    """Return the share of positions that were the student's own answers, over the whole run.

    Rows have `own_tokens`, those of the step that count; none where the text alone was read.
    """
    own: float = sum(row.get("own_tokens") or 0.0 for row in metrics)
    return own / metrics[-1]["tokens"] if own else 0.0


def held_out(runs: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """Return held-out figures over the tokens of training: a drawing a measure, a line a run.

    Each run has a `name`, the list `tokens`, `text` (which held-out text it was measured on) and a
    list as long as `tokens` for each measure, None where it was not measured. Runs were not all
    measured after the same tokens, so lines pass over the places of others; captions say where
    runs ended after other numbers of tokens, or were measured on other text.
    """
    named = _told_apart(runs)
    measures = dict.fromkeys(key for run in named for key in run if key not in _ABOUT)
    drawn = []
    for measure in measures:
        there = [run for run in named if measure in run]
        known = measure.startswith("accuracy: ")
        name = measure if known else wording.term(measure)
        drawing = line_chart(
            sorted({tokens for run in there for tokens in run["tokens"]}),
            _over_tokens(there, measure),
            title=f"Held-out {name}",
            x_label="tokens of training",
            y_label=name.partition(":")[0],
        )
        drawn.append((f"Held-out {name}{_unlike(there)}", drawing))
    return drawn


def _told_apart(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs with a number behind the name of one that is called like one before."""
    found: list[dict[str, Any]] = []
    for run in runs:
        alike = [one["name"] for one in runs[: len(found)]].count(run["name"])
        found.append({**run, "name": f"{run['name']} ({alike + 1})" if alike else run["name"]})
    return found


def _over_tokens(runs: Sequence[Mapping[str, Any]], measure: str) -> list[Series]:
    every = sorted({tokens for run in runs for tokens in run["tokens"]})
    series = []
    for run in runs:
        at = dict(zip(run["tokens"], run[measure], strict=True))
        values = [at.get(tokens) for tokens in every]
        series.append(Series(name=run["name"], values=values, joined=True))
    return series


def _unlike(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return in what the runs of one drawing differ, for its caption."""
    ends = {run["name"]: run["tokens"][-1] for run in runs}
    most, said = max(ends.values()), ""
    for name, end in ends.items():
        if end < most:
            less = (most - end) / most
            said += f"; {name} ends after {end:,} of {most:,} tokens ({less:.0%} less)"
    if len({run["text"] for run in runs if "text" in run}) > 1:
        said += "; held-out texts differ"
    return said


def _curve(
    metrics: Sequence[Row],
    names: Sequence[tuple[str, str]],
    caption: str,
    y_label: str,
    *,
    log: bool = False,
) -> Drawing:
    """Draw some keys of the rows; on a logarithmic axis where that loses no value.

    Not every step has every figure, so lines pass over the steps that lack one.
    """
    series = [
        Series(name=name, values=[_at(row, key) for row in metrics], joined=True)
        for key, name in names
    ]
    positive = all(value is None or not value <= 0 for one in series for value in one.values)
    steps = [row["step"] for row in metrics]
    drawing = line_chart(
        steps, series, title=caption, x_label="step", y_label=y_label, log_y=log and positive
    )
    return caption, drawing


def _at(row: Row, key: str) -> float | None:
    term = key.removeprefix("terms.")
    value: float | None = row.get(key) if term == key else row.get("terms", {}).get(term)
    return value


def load(metrics: Sequence[Row]) -> list[Drawing]:
    """Return the drawings of the experts' load; nothing for a student without experts."""
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
