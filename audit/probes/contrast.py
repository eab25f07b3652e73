"""Do the suspect's openings resemble the teacher's at the same prompt more than other models' do?

Similarity is the cosine of TF-IDF vectors (words and word pairs) of the first words of the answers.
It is centred per prompt over all models but the teacher, so that what a prompt makes everybody say
counts for nobody. The p-value is the suspect's rank among reference models: models are what is
replicated here, so with m references it cannot be below 1 / (m + 1). Needs text alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from audit.evidence import Exhibit, Member, ProbeResult, PromptRow, Verdict
from audit.population import Array, bootstrap_interval, conformal_p, references_needed
from audit.probes.showing import both_sides
from audit.responses import Response

NAME = "contrast"
UNIT = "centred cosine"
OPENING_WORDS = 12

NULL = (
    "The suspect is one more model like the references: its rank among them, by likeness to the "
    "teacher at the same prompts, is as likely to be any."
)
CANNOT_SAY = (
    "Likeness has no direction: it does not tell who learnt from whom, nor whether both learnt "
    "from a third.",
    "Without a bank of documented models its error rates are not known, so it never supports a "
    "finding by itself.",
)


def examine(
    suspect: str,
    answers: Mapping[str, Sequence[str]],
    teacher: Sequence[str],
    prompts: Sequence[Response],
    *,
    roles: Mapping[str, str],
    alpha: float,
    min_prompts: int,
    seed: int,
) -> ProbeResult:
    """Return the probe's result.

    Args:
        suspect: the name of the model in question.
        answers: by model name, the suspect's and every other model's answers, in prompt order.
        teacher: the teacher's answers, in prompt order.
        prompts: the prompts; their answers there are not used.
        roles: by model name, `control` or `reference`, for the plot.
        alpha: level a rank must be able to reach.
        min_prompts: fewer prompts answered by all give INSUFFICIENT.
        seed: of bootstrap draws.
    """
    usable = [
        i
        for i in range(len(prompts))
        if teacher[i].strip() and all(rows[i].strip() for rows in answers.values())
    ]
    if len(usable) < min_prompts:
        return _insufficient(
            len(usable),
            f"only {len(usable)} prompts are answered by all models; {min_prompts} are needed",
            f"{min_prompts} prompts answered by all models",
        )
    if len(answers) == 1:  # nobody to be centred over, nor to be ranked among
        return _insufficient(len(usable), "no reference model was given", _references(alpha))
    centred = _centred_similarity(
        {name: [rows[i] for i in usable] for name, rows in answers.items()},
        [teacher[i] for i in usable],
    )
    scores = {name: float(values.mean()) for name, values in centred.items()}
    others = [score for name, score in scores.items() if name != suspect]
    documents = [prompts[i].document for i in usable]
    low, high = bootstrap_interval(centred[suspect], documents, seed=seed)
    p_value = conformal_p(scores[suspect], others)
    verdict, reason, need = _decide(p_value, len(others), alpha)
    rest = np.mean([centred[name] for name in centred if name != suspect], axis=0)
    order = np.argsort(centred[suspect])
    return ProbeResult(
        probe=NAME,
        needs="text",
        verdict=verdict,
        reason=reason,
        null=NULL,
        unit=UNIT,
        n_prompts=len(usable),
        score=scores[suspect],
        low=low,
        high=high,
        p_value=p_value,
        rank=1 + sum(score >= scores[suspect] for score in others),
        rank_of=len(scores),
        population=tuple(
            Member(
                name=name,
                role="suspect" if name == suspect else roles[name],  # type: ignore[arg-type]
                score=score,
            )
            for name, score in scores.items()
        ),
        prompts=tuple(
            PromptRow(id=prompts[i].id, suspect=float(mine), others=float(theirs))
            for i, mine, theirs in zip(usable, centred[suspect], rest, strict=True)
        ),
        exhibits=tuple(
            Exhibit(
                id=prompts[usable[k]].id,
                prompt=prompts[usable[k]].prompt,
                answers={
                    "teacher": teacher[usable[k]],
                    suspect: answers[suspect][usable[k]],
                },
                note=f"centred cosine {centred[suspect][k]:+.2f}",
                side=side,
            )
            for side, k in both_sides(order.tolist())
        ),
        cannot_say=CANNOT_SAY,
        would_need=need,
    )


def opening(text: str) -> str:
    """Return the first words of an answer, white space folded."""
    return " ".join(text.split()[:OPENING_WORDS])


def _centred_similarity(
    answers: Mapping[str, Sequence[str]], teacher: Sequence[str]
) -> dict[str, Array]:
    """Return each model's cosine to the teacher at each prompt, minus the mean of all models."""
    openings = {name: [opening(text) for text in rows] for name, rows in answers.items()}
    teacher_openings = [opening(text) for text in teacher]
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", sublinear_tf=True
    )
    vectorizer.fit([text for rows in (*openings.values(), teacher_openings) for text in rows])
    target = vectorizer.transform(teacher_openings)
    cosine = {
        name: np.asarray(vectorizer.transform(rows).multiply(target).sum(1)).ravel()
        for name, rows in openings.items()
    }
    mean = np.mean(list(cosine.values()), axis=0)
    return {name: values - mean for name, values in cosine.items()}


def _decide(p_value: float, references: int, alpha: float) -> tuple[Verdict, str, str]:
    if references < references_needed(alpha):
        return (
            Verdict.INSUFFICIENT,
            f"with {_models(references)} no p-value can be below {1 / (references + 1):.2f}",
            _references(alpha),
        )
    if p_value > alpha:
        return (
            Verdict.NOT_SUPPORTED,
            "reference models resemble the teacher as much",
            "more prompts or closer references",
        )
    return (
        Verdict.INCONCLUSIVE,
        "it resembles the teacher more than the references do; text alone is not taken further",
        "a probe of weights, or measured error rates for this one",
    )


def _models(count: int) -> str:
    return "1 reference model" if count == 1 else f"{count} reference models"


def _references(alpha: float) -> str:
    return f"{references_needed(alpha)} reference models, for p <= {alpha:g}"


def _insufficient(n: int, reason: str, need: str) -> ProbeResult:
    return ProbeResult(
        probe=NAME,
        needs="text",
        verdict=Verdict.INSUFFICIENT,
        reason=reason,
        null=NULL,
        unit=UNIT,
        n_prompts=n,
        cannot_say=CANNOT_SAY,
        would_need=need,
    )
