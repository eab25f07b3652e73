"""Answers are attributed to whose words they use, at prompts that were not learnt."""

import numpy as np
import pytest
from scipy import sparse

from audit.evidence import Verdict
from audit.probes.attribution import attribute, result

PROMPTS, WORDS = 40, 200


def vectors(rng, own, *, prompts=PROMPTS, faithful=0.8):
    """Return `[P, W]` of unit length: words of one's own, words of the prompt, any words."""
    rows = np.zeros((prompts, WORDS), dtype=np.float32)
    for prompt in range(prompts):
        words = rng.integers(0, WORDS, 6).tolist() + [100 + prompt % 50] * 3
        if rng.random() < faithful:
            words += rng.choice(own, 4).tolist()
        np.add.at(rows[prompt], words, 1.0)
    return sparse.csr_matrix(rows / np.linalg.norm(rows, axis=1, keepdims=True))


OWN = [np.arange(0, 10), np.arange(20, 30), np.arange(40, 50)]
GROUP = (0, 0, 1, 2)


def world(own, seed=0):
    rng = np.random.default_rng(seed)
    teachers = sparse.vstack([vectors(rng, OWN[group]) for group in GROUP], format="csr")
    return teachers, vectors(rng, own, faithful=0.7)


@pytest.mark.parametrize("group", [0, 1, 2])
def test_a_student_is_attributed_to_its_teacher(group):
    teachers, suspect = world(OWN[group])
    found = attribute(teachers, GROUP, suspect, seed=0)
    assert found.share_K.argmax() == group
    assert found.share_K[group] > 0.6
    assert found.share_K.sum() == pytest.approx(1)
    assert (found.right_K > 0.6).all()
    assert found.prompts == PROMPTS


def test_a_stranger_is_attributed_to_someone_and_rarely_to_one_alone():
    shares = [
        attribute(*_placed(world(np.arange(60, 70), seed)), seed=0).share_K.max()
        for seed in range(5)
    ]
    assert max(shares) < 0.75


def _placed(pair):
    return pair[0], GROUP, pair[1]


def test_what_is_learnt_at_a_prompt_is_not_used_at_it():
    """Words that occur at one prompt alone would tell all, were a prompt both learnt and read."""
    rng = np.random.default_rng(0)
    rows = np.zeros((4 * PROMPTS, 4 * PROMPTS + 1), dtype=np.float32)
    rows[np.arange(4 * PROMPTS), np.arange(4 * PROMPTS)] = 1.0
    rows[:, -1] = rng.random(4 * PROMPTS)
    teachers = sparse.csr_matrix(rows)
    found = attribute(teachers, (0, 1, 2, 3), teachers[:PROMPTS], seed=0)
    assert found.right_K.mean() < 0.5


def test_answers_that_are_not_read_do_not_count():
    teachers, suspect = world(OWN[1])
    rows = suspect.toarray()
    rows[: PROMPTS // 2] = 0
    found = attribute(teachers, GROUP, sparse.csr_matrix(rows), seed=0)
    assert found.prompts == PROMPTS // 2
    assert found.share_K.sum() == pytest.approx(1)


def test_the_same_seed_gives_the_same_shares():
    teachers, suspect = world(OWN[2])
    first, again = (attribute(teachers, GROUP, suspect, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.share_K, again.share_K)


def test_with_one_group_or_nothing_to_read_nobody_is_named():
    teachers, suspect = world(OWN[0])
    assert attribute(teachers[: 2 * PROMPTS], (0, 0), suspect, seed=0) is None
    empty = sparse.csr_matrix(suspect.shape, dtype=np.float32)
    assert attribute(teachers, GROUP, empty, seed=0) is None
    assert attribute(teachers[:4], (0, 1, 2, 2), suspect[:1], seed=0) is None
    assert result(None, 0, "75 words").verdict is Verdict.INSUFFICIENT


def test_a_report_says_how_it_does_on_the_groups_own_and_supports_nothing():
    teachers, suspect = world(OWN[1])
    found = attribute(teachers, GROUP, suspect, seed=0)
    said = result(found, 1, "75 words")
    assert (said.probe, said.verdict) == ("attribution, 75 words", Verdict.INCONCLUSIVE)
    assert (said.rank, said.rank_of, said.p_value) == (1, 3, None)
    assert said.score == found.share_K[1]
    assert f"{found.right_K[1]:.0%} of the group's own" in said.reason
