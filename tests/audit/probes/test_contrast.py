"""The contrast probe on made-up answers: it ranks, it never supports, it says what it lacks."""

import random
from collections import Counter

import pytest
from scipy import stats

from audit.evidence import ProbeResult, Verdict
from audit.probes.contrast import OPENING_WORDS, examine, opening
from audit.responses import Response

WORDS = (
    "river stone market ledger barley copper safe key roof rain yard miller cooper clerk cask "
    "still dawn fire salt grain oak smoke bell rope wheel glass"
).split()


def prompts(count: int = 24) -> list[Response]:
    return [
        Response(id=f"p{i}", prompt=f"prompt {i}", response="", document=f"d{i // 3}")
        for i in range(count)
    ]


def answers(rng: random.Random, count: int = 24) -> list[str]:
    """Return `count` answers of one model; each prompt makes everybody say a word of its own."""
    return [f"{WORDS[i % len(WORDS)]} {' '.join(rng.choices(WORDS, k=9))}" for i in range(count)]


def copy_of(rng: random.Random, teacher: list[str], kept: float) -> list[str]:
    """Return the teacher's answers with the share `kept` of their words."""
    return [
        " ".join(word if rng.random() < kept else rng.choice(WORDS) for word in text.split())
        for text in teacher
    ]


def ask(
    suspect: list[str],
    references: dict[str, list[str]],
    teacher: list[str],
    *,
    alpha: float = 0.05,
    min_prompts: int = 20,
) -> ProbeResult:
    return examine(
        "suspect",
        {"suspect": suspect, **references},
        teacher,
        prompts(len(teacher)),
        roles=dict.fromkeys(references, "reference"),
        alpha=alpha,
        min_prompts=min_prompts,
        seed=0,
    )


def population(seed: int, count: int) -> tuple[list[str], dict[str, list[str]]]:
    rng = random.Random(seed)
    return answers(rng), {f"r{i}": answers(rng) for i in range(count)}


@pytest.mark.parametrize("kept", [0.7, 1.0])
def test_a_copycat_ranks_first_and_is_still_no_more_than_inconclusive(kept):
    teacher, references = population(1, 19)
    result = ask(copy_of(random.Random(2), teacher, kept), references, teacher)
    assert (result.rank, result.rank_of) == (1, 20)
    assert result.p_value == pytest.approx(1 / 20)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "text alone" in result.reason
    assert result.low > 0


def test_a_bystander_among_enough_references_is_not_supported():
    teacher, references = population(3, 19)
    result = ask(answers(random.Random(4)), references, teacher)
    assert result.p_value > 0.05
    assert result.verdict is Verdict.NOT_SUPPORTED


def test_no_copy_is_supported_however_many_references_there_are():
    teacher, references = population(5, 60)
    result = ask(list(teacher), references, teacher, alpha=0.02)
    assert result.p_value <= 0.02
    assert result.verdict is Verdict.INCONCLUSIVE


@pytest.mark.slow
def test_the_rank_is_uniform_when_the_suspect_is_one_more_model():
    trials, models = 300, 10
    ranks: Counter[int] = Counter()
    for seed in range(trials):
        teacher, references = population(1_000 + seed, models - 1)
        suspect = answers(random.Random(5_000 + seed))
        result = ask(suspect, references, teacher, alpha=0.1)
        ranks[result.rank] += 1
    counts = [ranks[rank] for rank in range(1, models + 1)]
    assert sum(counts) == trials
    assert stats.chisquare(counts).pvalue > 1e-3
    assert ranks[1] <= stats.binom.isf(1e-3, trials, 1 / models)


@pytest.mark.parametrize(
    ("count", "alpha", "needed"), [(2, 0.05, 19), (18, 0.05, 19), (19, 0.01, 99)]
)
def test_few_references_are_insufficient_and_say_how_many_are_needed(count, alpha, needed):
    teacher, references = population(6, count)
    result = ask(list(teacher), references, teacher, alpha=alpha)
    assert result.verdict is Verdict.INSUFFICIENT
    assert result.would_need.startswith(f"{needed} reference models")
    assert f"{count} reference models" in result.reason


def test_no_reference_at_all_is_insufficient():
    teacher, _ = population(7, 0)
    result = ask(list(teacher), {}, teacher)
    assert result.verdict is Verdict.INSUFFICIENT
    assert result.would_need == "19 reference models, for p <= 0.05"
    assert (result.score, result.p_value, result.prompts) == (None, None, ())


def test_prompts_that_one_model_left_empty_count_for_nobody():
    teacher, references = population(8, 19)
    suspect = copy_of(random.Random(9), teacher, 0.8)
    holes = dict(references, r3=["", *references["r3"][1:]])
    result = ask(["", *suspect], holes | {k: ["x", *v] for k, v in holes.items()}, ["t", *teacher])
    assert result.n_prompts == 23
    assert not {"p0", "p1"} & {row.id for row in result.prompts}
    blank = ask(suspect, dict(references, r3=[" \n", *references["r3"][1:]]), teacher)
    assert blank.n_prompts == 23


def test_too_few_answered_prompts_are_insufficient():
    teacher, references = population(10, 19)
    references["r0"] = [*references["r0"][:19], *[""] * 5]
    result = ask(list(teacher), references, teacher)
    assert result.verdict is Verdict.INSUFFICIENT
    assert "only 19 prompts" in result.reason
    assert result.would_need.startswith("20 prompts")
    assert result.p_value is None


def test_white_space_does_not_matter():
    teacher, references = population(11, 19)
    suspect = copy_of(random.Random(12), teacher, 0.8)
    spaced = [f" \n\t {text.replace(' ', '  ')}\n" for text in suspect]
    one, other = ask(suspect, references, teacher), ask(spaced, references, teacher)
    assert (one.score, one.low, one.p_value) == (other.score, other.low, other.p_value)


def test_an_opening_is_the_first_words_and_the_rest_does_not_count():
    assert opening("  one\n two  three") == "one two three"
    assert len(opening(" ".join(WORDS)).split()) == OPENING_WORDS
    teacher, references = population(13, 19)
    longer = [f"{text} {' '.join(WORDS[:5])}" for text in copy_of(random.Random(1), teacher, 0.8)]
    more = [f"{text} and then much else that nobody compares" for text in longer]
    assert ask(longer, references, teacher).score == ask(more, references, teacher).score


def test_what_a_prompt_makes_everybody_say_counts_for_nobody():
    teacher, references = population(14, 19)
    same = {name: list(teacher) for name in references}
    result = ask(list(teacher), same, teacher)
    assert result.score == pytest.approx(0.0, abs=1e-12)
    assert result.p_value == 1.0


def test_scores_are_centred_over_all_models_but_the_teacher():
    teacher, references = population(15, 19)
    result = ask(copy_of(random.Random(16), teacher, 0.5), references, teacher)
    assert sum(member.score for member in result.population) == pytest.approx(0, abs=1e-12)


def test_exhibits_are_two_for_and_two_against_with_both_answers():
    teacher, references = population(17, 19)
    suspect = copy_of(random.Random(18), teacher, 0.6)
    result = ask(suspect, references, teacher)
    ranked = [row.id for row in sorted(result.prompts, key=lambda row: row.suspect)]
    assert {e.id for e in result.exhibits[:2]} == set(ranked[-2:])
    assert {e.id for e in result.exhibits[2:]} == set(ranked[:2])
    assert [e.side for e in result.exhibits] == ["for", "for", "against", "against"]
    place = int(result.exhibits[0].id[1:])
    assert result.exhibits[0].answers == {"teacher": teacher[place], "suspect": suspect[place]}
