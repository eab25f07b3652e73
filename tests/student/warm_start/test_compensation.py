"""What writes to the residual is fitted by ridge regression, each layer on the errors before it."""

import pytest
import torch
from torch import nn

from student.documents import Documents
from student.warm_start import calibration, convert, dense
from student.warm_start.compensation import Ridge, compensate, fit
from student.warm_start.convert import Plan
from student.warm_start.experts import Carving
from tests.fakes.dense import VOCABULARY, stirred, teachers, text

TEACHER = stirred(teachers()["llama"])
CARVED = Carving(shared=4, routed=8, active=4)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(seed: int = 3) -> nn.Linear:
    made = nn.Linear(5, 4)
    made.weight.data, made.bias.data = normal(4, 5, seed=seed), normal(4, seed=seed + 1)
    return made


@torch.no_grad()
def test_without_a_ridge_it_is_least_squares():
    read_NF, wanted_ND, made = normal(40, 5, seed=0), normal(40, 4, seed=1), linear()
    expected = torch.linalg.lstsq(read_NF, wanted_ND - made.bias).solution.T
    fit(made, read_NF, wanted_ND, 0.0)
    torch.testing.assert_close(made.weight, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_ridge_holds_it_to_what_it_was():
    read_NF, wanted_ND, made = normal(40, 5, seed=0), normal(40, 4, seed=1), linear()
    before = made.weight.clone()
    moved = []
    for ridge in (0.0, 0.3, 1e9):
        made.weight.copy_(before)
        fit(made, read_NF, wanted_ND, ridge)
        moved.append(float((made.weight - before).norm()))
    assert moved[0] > moved[1] > 1e3 * moved[2]


@torch.no_grad()
def test_what_is_there_already_is_left_alone():
    read_NF, made = normal(40, 5, seed=0), linear()
    before = made.weight.clone()
    fit(made, read_NF, made(read_NF), 0.1)
    torch.testing.assert_close(made.weight, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(rotary=8, latent=16),
        Plan(rotary=16, latent=17, layers=2),
        Plan(rotary=16, latent=17, carving=CARVED),
        Plan(rotary=8, latent=16, layers=2, carving=CARVED),
    ],
    ids=["cache", "depth", "experts", "all"],
)
@torch.no_grad()
def test_the_student_leaves_its_layers_with_more_of_the_teachers_residual(plan):
    seen = calibration.watch(TEACHER, text(40, 32))
    made = convert.inherit(dense.read(TEACHER), seen, plan, VOCABULARY)
    token_N = seen.token_BS.flatten()
    documents = Documents([32] * 40, torch.device("cpu"))
    ends: list[torch.Tensor] = []
    made.student.norm.register_forward_pre_hook(lambda _, given: ends.append(given[0]))
    made.student(token_N, documents)
    compensate(made.student, made.seen, Ridge())
    made.student(token_N, documents)
    errors = [float((end - seen.before[-1]).square().mean()) for end in ends]
    assert errors[1] < 0.9 * errors[0]


@torch.no_grad()
def test_a_student_that_is_its_teacher_stays_so():
    seen = calibration.watch(TEACHER, text(10, 32))
    made = convert.inherit(dense.read(TEACHER), seen, Plan(rotary=16, latent=17), VOCABULARY)
    before = {name: weight.clone() for name, weight in made.student.state_dict().items()}
    compensate(made.student, made.seen, Ridge())
    for name, weight in made.student.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=1e-3, atol=1e-3)
