"""Mixed heads carry the same scores, and the pairs that matter keep their turning."""

import math

import pytest
import torch

from student.warm_start import calibration, dense, slots
from student.warm_start.slots import Slot
from tests.fakes.dense import teachers, text

TEACHERS = teachers()
MIXINGS = {}
for _name, _model in TEACHERS.items():
    _read, _seen = dense.read(_model), calibration.watch(_model, text(6, 32))
    _even = torch.full((6 * 32,), 1 / (6 * 32), dtype=torch.float64)
    MIXINGS[_name] = (
        _read,
        [
            slots.mixing(layer, calibration.measure(_seen.attention(_read, at), _even))
            for at, layer in enumerate(_read.layers)
        ],
    )
EVERY = pytest.mark.parametrize("name", TEACHERS)


@EVERY
def test_a_mixing_is_unitary_and_its_components_carry_the_energy_of_the_scores(name):
    read, mixings = MIXINGS[name]
    seen = calibration.watch(TEACHERS[name], text(6, 32))
    for at, (layer, mixed) in enumerate(zip(read.layers, mixings, strict=True)):
        unitary_PCG = mixed.unitary_PCG
        eye = torch.eye(unitary_PCG.shape[1], dtype=unitary_PCG.dtype).expand_as(unitary_PCG)
        torch.testing.assert_close(unitary_PCG @ unitary_PCG.mH, eye)
        x_ND = seen.attention(read, at)
        k_NGF = torch.einsum("nd,gfd->ngf", x_ND, layer.k_GFD.double())
        if layer.k_GF is not None:
            k_NGF = k_NGF + layer.k_GF
        key_NGP = slots.pairs(k_NGF, -1) * mixed.scale_GP
        part_NPC = torch.einsum("pcg,ngp->npc", unitary_PCG, key_NGP)
        energy_PC = part_NPC.abs().square().mean(0)
        torch.testing.assert_close(energy_PC, mixed.energy_PC, rtol=1e-4, atol=1e-6)
        assert bool((mixed.energy_PC.diff(dim=1) <= 1e-9).all())


def test_sensitivity_is_the_mean_change_of_a_score_that_does_not_turn():
    frequency_P = torch.tensor([1.0, 0.1, 1e-4], dtype=torch.float64)
    places = torch.linspace(0, math.log(64), 400, dtype=torch.float64).exp().round()
    expected = [float((torch.exp(1j * f * places) - 1).abs().square().mean()) for f in frequency_P]
    found = slots.sensitivity(frequency_P, distance=64)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert found[2] < 1e-4 < 0.1 < found[1] < found[0]


@EVERY
def test_every_layer_keeps_the_same_slots_and_more_slots_hold_fewer(name):
    read, mixings = MIXINGS[name]
    few, many = (set(slots.choose(read, mixings, count)) for count in (3, 6))
    assert len(few) == 3 and len(many) == 6 and few < many
    pairs, components = mixings[0].energy_PC.shape
    whole = slots.choose(read, mixings, pairs * components)
    assert whole == [Slot(p, c) for p in range(pairs) for c in range(components)]


def test_by_energy_slow_pairs_are_kept_that_turning_would_not_miss():
    read, mixings = MIXINGS["llama"]
    even = [
        slots.Mixing(
            unitary_PCG=one.unitary_PCG,
            scale_GP=one.scale_GP,
            energy_PC=torch.ones_like(one.energy_PC) * torch.tensor([1.0, 1.0, 1.0, 1.1])[:, None],
        )
        for one in mixings
    ]
    assert {slot.pair for slot in slots.choose(read, even, 2, "energy")} == {3}
    assert {slot.pair for slot in slots.choose(read, even, 2)} == {0}
