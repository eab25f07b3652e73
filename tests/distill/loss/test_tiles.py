"""Tiles cover every position once and end where they may."""

import pytest
import torch

from distill.loss import tiles
from distill.loss.tiles import Projection, Scratch, blocks, cut, tile_rows
from distill.signals import Head
from tests.fakes.losses import drawn


@pytest.mark.parametrize("rows", [1, 3, 7, 10, 100])
@pytest.mark.parametrize("count", [1, 7, 10, 23])
def test_tiles_cover_all_positions_evenly(count, rows):
    found = cut(list(range(1, count + 1)), rows)
    assert [at.start for at in found] == [0, *(at.stop for at in found[:-1])]
    assert found[-1].stop == count
    sizes = [at.stop - at.start for at in found]
    assert len(found) == -(-count // rows)
    assert max(sizes) <= rows
    assert max(sizes[:-1] or sizes) - min(sizes[:-1] or sizes) == 0


def test_no_position_makes_no_tile():
    assert cut([], 7) == []


def test_a_tile_ends_only_where_it_may():
    found = cut([2, 4, 13, 14], 5)
    assert found == [slice(0, 4), slice(4, 13), slice(13, 14)]


def test_a_tile_has_more_rows_where_the_vocabulary_is_small():
    cpu = torch.device("cpu")
    assert tile_rows(129_280, cpu) == tiles.CPU_ROWS
    assert tile_rows(1024, cpu) == tiles.CPU_ELEMENTS // 1024
    assert tile_rows(129_280, torch.device("meta")) == tiles.DEVICE_ROWS


@pytest.mark.parametrize("vocab", [5, 2**17, 2**20])
def test_blocks_are_whole_rows_of_the_tile(vocab):
    tile = torch.empty(1, 1).expand(6, vocab)
    found = list(blocks(tile))
    assert [rows.start for rows in found] == [0, *(rows.stop for rows in found[:-1])]
    assert found[-1].stop == 6
    most = max(rows.stop - rows.start for rows in found)
    assert most == min(6, max(1, tiles.BLOCK_ELEMENTS * torch.get_num_threads() // vocab))


def test_off_the_cpu_a_block_is_the_tile():
    assert list(blocks(torch.empty(6, 2**20, device="meta"))) == [slice(0, 6)]


@pytest.mark.parametrize("bias", [None, drawn(2, 11)])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_logits_are_those_of_the_head(bias, softcap):
    weight, states = drawn(0, 11, 4), drawn(1, 5, 4)
    project = Projection(Head(weight, bias, softcap), 8, torch.float64)
    expected = states @ weight.t() + (0 if bias is None else bias)
    if softcap is not None:
        expected = softcap * (expected / softcap).tanh()
    torch.testing.assert_close(project(states), expected)


def test_the_product_runs_in_the_dtype_of_the_weight():
    weight, states = drawn(0, 11, 4).bfloat16(), drawn(1, 5, 4).float()
    made = Projection(Head(weight), 8, torch.float32)(states)
    assert made.dtype == torch.float32
    assert torch.equal(made, (states.bfloat16() @ weight.t()).float())


def test_the_dtype_of_products_is_found_again_on_the_way_back():
    states = drawn(1, 5, 4).float()
    project = Projection(Head(drawn(0, 11, 4).bfloat16()), 8, torch.float32)
    worked_on = project(states).exp_()
    assert torch.equal(project.lowered(worked_on), worked_on.bfloat16())
    same = Projection(Head(drawn(0, 11, 4).float()), 8, torch.float32)
    made = same(states)
    assert same.lowered(made) is made


def test_scratch_is_nobody_elses_until_the_next_block():
    scratch = Scratch(torch.float32, torch.device("cpu"))
    shapes = [(2, 3), (2, 3), (4, 5)]
    first = [scratch.take(torch.empty(shape)) for shape in shapes]
    assert [tuple(block.shape) for block in first] == shapes
    assert len({block.data_ptr() for block in first}) == 3
    scratch.begin()
    again = [scratch.take(torch.empty(shape)) for shape in [(1, 3), (3, 2), (4, 5)]]
    assert [block.data_ptr() for block in again] == [block.data_ptr() for block in first]
    assert {block.dtype for block in again} == {torch.float32}


def test_scratch_grows_where_a_block_is_larger():
    scratch = Scratch(torch.float32, torch.device("cpu"))
    scratch.take(torch.empty(2, 3))
    scratch.begin()
    larger, other = scratch.take(torch.empty(5, 7)), scratch.take(torch.empty(2, 3))
    larger.fill_(1.0)
    other.zero_()
    assert larger.shape == (5, 7)
    assert bool((larger == 1).all())
