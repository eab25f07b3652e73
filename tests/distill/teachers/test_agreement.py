"""A served teacher agrees with itself on disk up to its precision, and with nothing else."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from audit.endpoint import Endpoint, EndpointConfig
from distill.errors import MismatchError, TeacherError
from distill.signals import Dense, Head, Hidden, Sparse, Text, sparsify
from distill.teachers.agreement import THRESHOLD, Agreement, compare, self_test
from distill.teachers.endpoint import EndpointTeacher
from distill.teachers.local import LocalTeacher
from tests.fakes.dialects import Behaviour
from tests.fakes.endpoints import Server, TinyModel, speaking_teacher
from tests.fakes.teachers import sentences

CPU = torch.device("cpu")
VOCAB = 50
TOKENS = torch.arange(4 * 17).reshape(4, 17)
ROWS = 4 * 16


def normal(*shape, seed=0, spread=2.0):
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def top(logits_NV, count=8, temperature=1.0):
    """Return what a server that names `count` tokens would say."""
    p_NV = (logits_NV / temperature).softmax(-1)
    p_NH, ids_NH = p_NV.topk(count)
    rows = len(p_NV)
    rest_N = (1 - p_NH.sum(-1)).clamp_min(0.0)
    none_NR = torch.zeros(rows, 0, dtype=torch.int64)
    return Sparse(ids_NH, p_NH, none_NR, rest_N, torch.full((rows,), math.nan))


def trial(served, reference, tokens=TOKENS, **changes):
    return self_test(lambda _: served, lambda _: reference, tokens, **changes)


def test_the_same_distribution_is_at_distance_zero():
    logits_NV = normal(ROWS, VOCAB)
    found = trial(top(logits_NV), Dense(logits_NV))
    assert found.kl < 1e-6
    assert (found.same_best, found.positions) == (1.0, 32)
    found.require("T")


def test_it_is_the_kl_over_named_tokens_and_a_bucket():
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).double()
    q = torch.tensor([[0.2, 0.1, 0.6, 0.1]]).double()
    served = Sparse(
        torch.tensor([[2, 0]]),
        torch.tensor([[0.6, 0.2]]),
        torch.zeros(1, 0, dtype=torch.int64),
        torch.tensor([0.2]),
        torch.tensor([math.nan]),
    )
    kl_N, same_N = compare(served, Dense(p.log()))
    cells_p, cells_q = torch.tensor([0.15, 0.5, 0.35]), torch.tensor([0.6, 0.2, 0.2])
    expected = F.kl_div(cells_q.log(), cells_p, reduction="sum")
    assert kl_N.item() == pytest.approx(expected.item(), rel=1e-5)
    assert kl_N.item() <= (p * (p / q).log()).sum().item()
    assert same_N.tolist() == [False]


def test_hidden_states_and_logits_are_the_same_reference():
    states_NT, weight_VT, bias_V = normal(ROWS, 8), normal(VOCAB, 8, seed=1), normal(VOCAB, seed=2)
    logits_NV = 5 * torch.tanh((states_NT @ weight_VT.t() + bias_V) / 5)
    served = top(normal(ROWS, VOCAB, seed=3))
    hidden = Hidden(states_NT, Head(weight_VT, bias_V, 5.0))
    assert torch.allclose(compare(served, hidden)[0], compare(served, Dense(logits_NV))[0])


def test_a_store_agrees_with_its_own_teacher_and_not_with_another():
    logits_NV = normal(ROWS, VOCAB)
    stored = sparsify(logits_NV, head=12, tail=4, generator=torch.Generator().manual_seed(0))
    stored = replace(stored, head_p_NH=stored.head_p_NH.half().float())
    found = trial(top(logits_NV), stored)
    assert found.kl < 1e-5
    assert found.same_best == 1.0
    trial(top(logits_NV, 20), stored).require("T")  # the server names more than the store has
    with pytest.raises(TeacherError, match="teacher 'T'"):
        trial(top(normal(ROWS, VOCAB, seed=1)), stored).require("T")


def test_entries_that_are_not_used_take_no_part():
    logits_NV = normal(ROWS, VOCAB)
    served = top(logits_NV)
    more = F.pad(served.head_ids_NH, (0, 2)), F.pad(served.head_p_NH, (0, 2))
    padded = replace(served, head_ids_NH=more[0], head_p_NH=more[1])
    assert torch.equal(compare(padded, Dense(logits_NV))[0], compare(served, Dense(logits_NV))[0])
    known = Sparse(*more, served.tail_ids_NR, served.tail_mass_N, served.entropy_N)
    assert compare(served, known)[0].max() < 1e-6


def test_an_unused_entry_of_a_store_is_no_word_on_the_token_it_stands_on():
    logits_NV = normal(ROWS, VOCAB)
    logits_NV[:, 0] = logits_NV.max() + 1  # token 0 is the server's likeliest
    served = top(logits_NV)
    known = top(logits_NV[:, 1:])  # a store that lacks it, and whose unused entries stand on 0
    share_N1 = 1 - served.head_p_NH[:, :1]
    ids, p = F.pad(known.head_ids_NH + 1, (0, 1)), F.pad(known.head_p_NH * share_N1, (0, 1))
    known = Sparse(ids, p, known.tail_ids_NR, known.tail_mass_N, known.entropy_N)
    assert compare(served, known)[0].max() < 1e-5


def test_ids_beyond_the_references_table_count_as_the_rest():
    logits_NV = normal(ROWS, VOCAB)
    kl_N, _ = compare(top(logits_NV), Dense(logits_NV[:, : VOCAB // 2]))
    assert kl_N.isfinite().all()
    assert kl_N.mean() > THRESHOLD


@pytest.mark.parametrize(
    ("temperature", "agrees"), [(1.0, True), (0.0001, False), (0.5, False), (2.0, False)]
)
def test_another_temperature_is_refused(temperature, agrees):
    logits_NV = normal(ROWS, VOCAB)
    found = trial(top(logits_NV, temperature=temperature), Dense(logits_NV))
    assert math.isfinite(found.kl)
    assert found.same_best == 1.0
    assert (found.kl <= THRESHOLD) is agrees


@pytest.mark.parametrize("by", [-1, 1])
def test_scores_one_position_off_are_refused_and_named_as_such(by):
    logits_NV = normal(ROWS, VOCAB)
    found = trial(top(logits_NV.roll(by, 0)), Dense(logits_NV))
    assert found.late < 1e-6
    with pytest.raises(TeacherError, match="its scores are one position off, so the server align"):
        found.require("T")


def test_the_sentence_has_both_numbers():
    found = Agreement(positions=32, kl=1.234, worst=5.0, same_best=0.25, late=2.0)
    with pytest.raises(TeacherError) as caught:
        found.require("big", 0.1)
    assert str(caught.value) == (
        "teacher 'big': what is served disagrees with the reference by 1.23 nats a token at 32 "
        "positions, and 0.1 are allowed (the likeliest token is the same at 25%); check its "
        "model, chat template, temperature and precision, or allow more by agreement."
    )
    found.require("big", 1.3)


@pytest.mark.parametrize(("positions", "taken"), [(5, 5), (32, 32), (1000, ROWS)])
def test_as_many_positions_are_compared_as_asked_for_or_as_there_are(positions, taken):
    logits_NV = normal(ROWS, VOCAB)
    wrong_NV = logits_NV.clone()
    wrong_NV[-1] = -wrong_NV[-1]
    found = trial(top(wrong_NV), Dense(logits_NV), positions=positions)
    assert found.positions == taken
    assert found.worst > 1  # the last one is always among them
    assert found.kl == pytest.approx(found.worst / taken, rel=1e-3)


def test_sides_of_different_length_or_kind_are_no_comparison():
    logits_NV = normal(ROWS, VOCAB)
    with pytest.raises(MismatchError, match="64 positions each"):
        trial(top(logits_NV[1:]), Dense(logits_NV))
    with pytest.raises(MismatchError, match="64 positions each"):
        trial(top(logits_NV), Dense(logits_NV[1:]))
    with pytest.raises(MismatchError, match="64 positions each"):
        trial(Text(), Dense(logits_NV))
    with pytest.raises(MismatchError, match="a Text signal has no probabilities to compare"):
        compare(top(logits_NV), Text())
    drawn = replace(top(logits_NV), head_ids_NH=torch.zeros(ROWS, 0, dtype=torch.int64))
    with pytest.raises(MismatchError, match="use a local teacher, or a store of mode head_tail"):
        compare(top(logits_NV), drawn)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return speaking_teacher(tmp_path_factory.mktemp("teachers") / "tiny")


@pytest.fixture
def measure(tmp_path, path):
    """Return a function that holds a server of some behaviour to a model on disk."""

    def run(*behaviour, other=None, dtype=torch.float32):
        model = TinyModel(path)
        local = LocalTeacher("local", other or path, device=CPU, dtype=dtype)
        ids = model.tokenizer(sentences(40, seed=8))["input_ids"]
        token_BS = torch.tensor(ids[: 4 * 25]).reshape(4, 25)

        @torch.inference_mode()
        def reference(token_BS):
            return Hidden(local.hidden(token_BS[:, :-1]).flatten(0, 1), local.head)

        with Server(model, behaviour=behaviour) as server:
            config = EndpointConfig(url=server.url, model="tiny")
            with Endpoint(config, tmp_path / "log.jsonl") as endpoint:
                teacher = EndpointTeacher("served", endpoint, model.tokenizer, top=10)
                found = self_test(teacher.score, reference, token_BS)
                assert server.posts == 4
        return found

    return run


def test_a_server_agrees_with_the_model_it_serves_in_either_precision(measure):
    assert measure().kl < 1e-6
    bfloat16 = measure(dtype=torch.bfloat16)
    assert 1e-6 < bfloat16.kl < THRESHOLD / 5
    bfloat16.require("served")


@pytest.mark.parametrize("wrong", [Behaviour.FROZEN, Behaviour.SHIFTED, Behaviour.CHANCE])
def test_a_server_that_scores_wrongly_is_refused(measure, wrong):
    found = measure(wrong)
    assert found.kl > 10 * THRESHOLD
    with pytest.raises(TeacherError, match="what is served disagrees with the reference"):
        found.require("served")


def test_a_server_of_another_model_is_refused(measure, tmp_path):
    found = measure(other=speaking_teacher(tmp_path / "other", steps=60))
    assert found.kl > THRESHOLD
