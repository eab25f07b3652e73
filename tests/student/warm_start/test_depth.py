"""The layers that change least are dropped, and what followed them is what is left to reach."""

from dataclasses import replace

import torch

from student.warm_start import calibration, dense, depth
from tests.fakes.dense import stirred, teachers, text


def test_a_layer_that_does_nothing_goes_first():
    model = stirred(teachers()["llama"])
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        model.model.layers[1].mlp.down_proj.weight.zero_()
    read, seen = dense.read(model), calibration.watch(model, text(4, 32))
    assert depth.influence(seen).argmin() == 1
    assert float(depth.influence(seen)[1]) < 1e-6
    shorter, left = depth.prune(read, seen, 2)
    assert [layer is read.layers[at] for layer, at in zip(shorter.layers, (0, 2), strict=True)]
    assert shorter.numbers == replace(read.numbers, layers=2)
    assert left.before[1] is seen.before[2] and left.before[-1] is seen.before[-1]
    assert left.middle == (seen.middle[0], seen.middle[2])


def test_influence_is_one_less_the_cosine_of_a_layers_ends():
    model = teachers()["llama"]
    seen = calibration.watch(model, text(2, 16))
    ends = [(a.double(), b.double()) for a, b in zip(seen.before, seen.before[1:], strict=False)]
    expected = [
        1 - float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean()) for a, b in ends
    ]
    torch.testing.assert_close(
        depth.influence(seen), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5
    )
