"""The shift probe on made-up gains: what it finds, what it holds back, and how often it errs."""

import numpy as np
import pytest
from scipy import stats

from audit.evidence import ProbeResult, Verdict
from audit.probes.logprob_shift import Gains, examine, gain
from audit.responses import Response

DOCUMENTS = 10
EACH = 4


def passages(documents: int = DOCUMENTS, each: int = EACH) -> list[Response]:
    return [
        Response(
            id=f"{d}#{i}", prompt=f"prompt {d} {i}", response=f"true {d} {i}", document=f"doc {d}"
        )
        for d in range(documents)
        for i in range(each)
    ]


def teacher(rows: list[Response]) -> dict[str, str]:
    return {row.id: f"the teacher on {row.id}" for row in rows}


def run(
    random: np.random.Generator, name: str, *, effect: float = 0.0, spread: float = 0.05
) -> Gains:
    """Return the gains of one training run, in nats.

    What a prompt gives to everybody is the same for all runs; a run adds an effect of its own,
    another on each document, and noise on each prompt.
    """
    common = np.random.default_rng(0).normal(0.2, 0.3, DOCUMENTS * EACH)
    own = random.normal(effect, spread) + np.repeat(random.normal(0, 0.03, DOCUMENTS), EACH)
    return Gains(name=name, values=common + own + random.normal(0, 0.02, DOCUMENTS * EACH))


def ask(
    suspect: Gains, controls: list[Gains], min_prompts: int = 20, min_shift: float = 0.0
) -> ProbeResult:
    """Examine, by default without a margin, so that the tests are seen by themselves."""
    rows = passages()
    return examine(
        suspect,
        controls,
        rows,
        teacher(rows),
        alpha=0.05,
        min_prompts=min_prompts,
        min_shift=min_shift,
        seed=0,
    )


def controls(random: np.random.Generator, count: int, spread: float = 0.05) -> list[Gains]:
    return [run(random, f"control-{i}", spread=spread) for i in range(count)]


def p_values(result: ProbeResult) -> dict[str, float | None]:
    return {level.unit: level.p_value for level in result.replication}


def test_a_shifted_suspect_is_supported_at_every_unit():
    random = np.random.default_rng(1)
    result = ask(run(random, "suspect", effect=1.0), controls(random, 3))
    assert result.verdict is Verdict.SUPPORTED
    assert [level.unit for level in result.replication] == ["prompts", "documents", "runs"]
    assert [level.n for level in result.replication] == [40, 10, 4]
    assert result.p_value == max(p_values(result).values()) <= 0.05
    assert result.low is not None and result.high is not None
    assert 0.8 < result.low < result.score < result.high < 1.2
    assert (result.rank, result.rank_of) == (1, 4)
    assert [contrast.against for contrast in result.contrasts] == [f"control-{i}" for i in range(3)]


def test_the_score_is_the_suspects_mean_minus_the_controls():
    random = np.random.default_rng(2)
    suspect, others = run(random, "suspect", effect=0.4), controls(random, 3)
    result = ask(suspect, others)
    mean = np.mean([other.values.mean() for other in others])
    assert result.score == pytest.approx(suspect.values.mean() - mean)
    shown = [row.suspect - row.others for row in result.prompts]
    assert result.score == pytest.approx(np.mean(shown))
    assert [member.role for member in result.population] == ["suspect"] + ["control"] * 3
    assert result.population[0].score == pytest.approx(suspect.values.mean())


@pytest.mark.slow
def test_suspects_like_their_controls_are_supported_no_oftener_than_alpha():
    random = np.random.default_rng(3)
    trials = 300
    supported = by_prompt = 0
    for _ in range(trials):
        result = ask(run(random, "suspect"), controls(random, 3))
        supported += result.verdict is Verdict.SUPPORTED
        by_prompt += p_values(result)["prompts"] <= 0.05
    assert supported <= stats.binom.isf(1e-3, trials, 0.05)
    # Runs differ by their seeds, so the best of four beats the rest at prompt after prompt: prompts
    # of one run are no replication of runs.
    assert by_prompt >= 0.15 * trials


def test_a_control_in_the_suspects_place_is_not_supported():
    random = np.random.default_rng(4)
    others = controls(random, 4)
    for i, control in enumerate(others):
        result = ask(control, others[:i] + others[i + 1 :])
        assert result.verdict in (Verdict.NOT_SUPPORTED, Verdict.INCONCLUSIVE)
        assert result.population[0].name == control.name


def test_a_shift_within_the_margin_is_inconclusive_however_sure():
    random = np.random.default_rng(11)
    others = controls(random, 3, spread=0.001)
    suspect = run(random, "suspect", effect=0.15, spread=0.0)
    assert ask(suspect, others, min_shift=0.02).verdict is Verdict.SUPPORTED
    held_back = ask(suspect, others, min_shift=0.2)
    assert held_back.verdict is Verdict.INCONCLUSIVE
    assert "within the margin of 0.2" in held_back.reason


def test_it_is_the_low_end_over_the_nearest_control_that_must_pass_the_margin():
    random = np.random.default_rng(12)
    suspect = run(random, "suspect", effect=1.0, spread=0.0)
    others = [run(random, f"c{i}", effect=e, spread=0.0) for i, e in enumerate((0.0, 0.02, 0.04))]
    low = min(contrast.low for contrast in ask(suspect, others).contrasts)
    assert ask(suspect, others, min_shift=low - 1e-9).verdict is Verdict.SUPPORTED
    assert ask(suspect, others, min_shift=low).verdict is Verdict.INCONCLUSIVE


@pytest.mark.slow
def test_with_the_margin_runs_that_differ_by_their_seeds_alone_are_almost_never_supported():
    random = np.random.default_rng(13)
    others = (controls(random, 2) for _ in range(300))
    supported = [ask(run(random, "suspect"), two, min_shift=0.2).verdict for two in others]
    assert supported.count(Verdict.SUPPORTED) <= 1


def test_a_suspect_that_lost_ground_is_not_supported():
    random = np.random.default_rng(5)
    result = ask(run(random, "suspect", effect=-1.0), controls(random, 3))
    assert result.verdict is Verdict.NOT_SUPPORTED
    assert result.rank == 4


@pytest.mark.parametrize("effect", [0.3, 1.0, 30.0])
def test_one_control_is_never_enough(effect):
    random = np.random.default_rng(6)
    result = ask(run(random, "suspect", effect=effect), controls(random, 1))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert p_values(result)["runs"] is None
    assert result.would_need == "at least two controls"
    assert "spread between runs is not known" in result.reason


def test_an_effect_within_the_spread_of_the_controls_is_not_supported():
    random = np.random.default_rng(7)
    values = run(random, "x", spread=0.0).values
    spread = [Gains(name=f"c{i}", values=values + shift) for i, shift in enumerate((-1, 0, 1))]
    result = ask(Gains(name="suspect", values=values + 1.2), spread)
    assert p_values(result)["prompts"] <= 0.05 and p_values(result)["documents"] <= 0.05
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.would_need == "more controls"


def test_equal_controls_give_no_yardstick_and_no_support():
    random = np.random.default_rng(8)
    control = run(random, "a")
    twin = Gains(name="b", values=control.values)
    result = ask(run(random, "suspect", effect=1.0), [control, twin])
    assert p_values(result)["runs"] is None
    assert result.verdict is Verdict.INCONCLUSIVE


def test_an_effect_in_one_document_alone_is_not_supported():
    random = np.random.default_rng(9)
    others = controls(random, 3, spread=0.01)
    suspect = run(random, "suspect", spread=0.01)
    suspect.values[:EACH] += 20.0
    result = ask(suspect, others)
    assert result.score > 1.0
    assert p_values(result)["prompts"] < p_values(result)["documents"]
    assert p_values(result)["documents"] > 0.05
    assert result.verdict is not Verdict.SUPPORTED


def test_it_is_the_control_least_different_that_counts():
    random = np.random.default_rng(10)
    others = controls(random, 3, spread=0.0)
    same = Gains(name="same", values=run(random, "x", effect=1.0, spread=0.0).values)
    result = ask(run(random, "suspect", effect=1.0, spread=0.0), [*others, same])
    contrasts = {contrast.against: contrast.p_value for contrast in result.contrasts}
    assert contrasts["control-0"] < 0.001 < contrasts["same"]
    assert p_values(result)["prompts"] == contrasts["same"]
    assert result.verdict is Verdict.NOT_SUPPORTED


def test_too_few_prompts_are_insufficient_and_carry_no_numbers():
    random = np.random.default_rng(11)
    result = ask(run(random, "suspect", effect=5.0), controls(random, 3), min_prompts=41)
    assert result.verdict is Verdict.INSUFFICIENT
    assert "only 40 prompts" in result.reason
    assert result.would_need == "41 held-out prompts"
    assert (result.score, result.p_value, result.rank) == (None, None, None)
    assert result.population == result.prompts == result.exhibits == ()


def test_exhibits_are_the_two_most_for_and_the_two_most_against():
    random = np.random.default_rng(12)
    others = controls(random, 2)
    suspect = run(random, "suspect", effect=0.5)
    advantage = suspect.values - np.mean([other.values for other in others], axis=0)
    ranked = [passages()[i].id for i in np.argsort(advantage)]
    result = ask(suspect, others)
    assert [exhibit.id for exhibit in result.exhibits] == [*ranked[:-3:-1], *ranked[:2]]
    assert [one.side for one in result.exhibits] == ["for", "for", "against", "against"]
    first = result.exhibits[0]
    assert first.answers["teacher's continuation"] == f"the teacher on {first.id}"
    assert first.answers["true continuation"].startswith("true")
    assert f"{advantage.max():+.2f}" in first.note


def test_gain_is_zero_when_training_moved_both_texts_alike():
    start, true_start = np.array([-3.0, -4.0]), np.array([-2.0, -1.0])
    assert gain(start + 1, start, true_start + 1, true_start) == pytest.approx([0, 0])
    assert gain(start + 1.5, start, true_start + 1, true_start) == pytest.approx([0.5, 0.5])


def test_the_same_seed_gives_the_same_result():
    random = np.random.default_rng(13)
    suspect, others = run(random, "suspect", effect=0.1), controls(random, 3)
    assert ask(suspect, others) == ask(suspect, others)
