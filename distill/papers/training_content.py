"""A draft of two parts of the EU's public summary of training content, from a run's own records.

Article 53(1)(d) of Regulation (EU) 2024/1689 asks providers of general-purpose models for a summary
after the Commission's template (C(2025) 8311 final, 5 December 2025). A run knows what two of its
parts ask about: the models it depends on, and the data that models made for it. The template's
items were not at hand word for word, so the draft says what it is and claims no conformity.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.papers import wording
from distill.papers.markdown import inline, table

FILE = "training-content.md"

Record = Mapping[str, Any]

# Inputs that a model made, by their kind in the manifest: what they hold.
_TEXT = {
    "answers a teacher wrote": "text that a teacher wrote to prompts",
    "student's answers": "text that the student wrote while it was trained",
    "answers on the way": "text that a server wrote in the student's place",
}
_SCORES = {
    "teacher signals": "what a teacher holds likely at each token of a text",
    "teacher's answers": "the log of what a served teacher answered",
}


def draft(manifest: Record) -> str:
    """Return the draft, a Markdown file of the run directory."""
    run = manifest["run"]
    taught = run["role"] != "control"
    lines = [
        "# Training content: a draft of two parts",
        "",
        "This drafts two parts of the public summary that Article 53(1)(d) of Regulation (EU) "
        "2024/1689 asks of providers of general-purpose AI models: model dependencies and "
        "synthetic data. It repeats the records of one training run. Check it against the "
        "official template (C(2025) 8311 final, 5 December 2025), whose wording it does not "
        "follow; it claims no conformity, and all other parts are the provider's to write.",
        "",
        *_dependencies(manifest, taught),
        *_synthetic(manifest, taught),
        f"Made by {manifest['tool']} from the manifest of the run of {manifest['created']}.",
    ]
    return "\n".join([*lines, ""])


def _dependencies(manifest: Record, taught: bool) -> list[str]:
    begun = "The student's first weights were drawn from a seed; it modifies no other model."
    if manifest["student"]["inherited"] is not None:
        begun = wording.beginning(manifest)
    lines = ["## Model dependencies", "", inline(begun), ""]
    if not taught:
        return [*lines, "No model taught it.", ""]
    rows = [
        (
            inline(row["name"]),
            inline(row["kind"]),
            inline(row["model"]) or "not served",
            inline(row["licence"]) or "not stated",
            wording.permission(row),
            row["sha256"] or "none",
        )
        for row in manifest["teachers"]
    ]
    heads = ("model", "how it was used", "served as", "licence", "training permitted", "SHA-256")
    said = "Models that taught it; licence and permission as stated by whoever ran this:"
    return [*lines, said, "", *table(heads, rows), ""]


def _synthetic(manifest: Record, taught: bool) -> list[str]:
    inputs = manifest["inputs"]
    written = [row for row in inputs if row["kind"] in _TEXT]
    scores = [row for row in inputs if taught and row["kind"] in _SCORES]
    lines = ["## Synthetic data", ""]
    if written:
        lines += ["Text that models wrote for this run, of the modality text:", ""]
        lines += [*_materials(written, _TEXT), ""]
    else:
        lines += ["No text that a model wrote for this run was trained on.", ""]
    if scores:
        lines += ["What models said of text for this run, numbers rather than content:", ""]
        lines += [*_materials(scores, _SCORES), ""]
    texts = [row["name"] for row in inputs if row["kind"] == "text"]
    whole = f"{manifest['run']['tokens']:,}"
    return [
        *lines,
        f"In all the student was trained on {whole} tokens. Whether the text it was given holds "
        f"text of models is not known to this tool: {inline(wording.listed(texts)) or 'none'}.",
        "",
    ]


def _materials(rows: Sequence[Record], kinds: Mapping[str, str]) -> list[str]:
    cells = [
        (inline(row["name"]), kinds[row["kind"]], inline(row["note"]), row["sha256"])
        for row in rows
    ]
    return table(("name", "what it is", "how much", "SHA-256"), cells)
