"""Another tool's top-k columns become a store of what they say, and of nothing they do not."""

import math

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from distill.errors import InputError, MismatchError
from distill.store.store import Store
from distill.store.top_k import from_top_k
from distill.store.verify import verify
from distill.teachers.stored import Signals

VOCAB, K = 300, 4


def row(number: int, length: int, entries: int | None = None) -> dict[str, list]:
    """Return a text of `length` tokens with `entries` entries of top-k, by default one a token."""
    generator = torch.Generator().manual_seed(number)
    logits = 3 * torch.randn(entries or length, VOCAB, generator=generator)
    logp, ids = logits.double().log_softmax(-1).topk(K)
    tokens = torch.randint(0, VOCAB, (length,), generator=generator)
    return {
        "input_ids": tokens.tolist(),
        "topk_ids": ids.tolist(),
        "topk_logprobs": logp.tolist(),
    }


def written(path, rows):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


ROWS = [row(0, 9), row(1, 6), row(2, 2), row(3, 12, 11)]


def read(path, store, **changes):
    return from_top_k(path, store, **{"vocab_size": VOCAB, "shard_tokens": 10, **changes})


def test_what_is_listed_is_kept_and_the_rest_is_its_mass(tmp_path):
    made = read(written(tmp_path / "rows", ROWS), tmp_path / "store")
    found = Signals(made).at(torch.arange(made.tokens), torch.device("cpu"))
    ids = [ids for one in ROWS for ids in one["topk_ids"][: len(one["input_ids"]) - 1]]
    logp = [p for one in ROWS for p in one["topk_logprobs"][: len(one["input_ids"]) - 1]]
    assert found.head_ids_NH.tolist() == ids
    p = torch.tensor(logp, dtype=torch.float64).exp()
    torch.testing.assert_close(found.head_p_NH.double(), p, rtol=2**-10, atol=2**-24)
    torch.testing.assert_close(found.tail_mass_N.double(), 1 - p.sum(1), rtol=2**-10, atol=1e-6)
    assert found.entropy_N.isnan().all()
    assert found.tail_ids_NR.shape[1] == 0


def test_shards_are_full_texts_and_hold_their_tokens(tmp_path):
    for shard_tokens in (9, 13):
        made = read(
            written(tmp_path / "rows", ROWS),
            tmp_path / f"store-{shard_tokens}",
            shard_tokens=shard_tokens,
        )
        assert [entry.tokens for entry in made.shards] == [8 + 5, 1 + 11]
    texts = [part.tolist() for text, _ in made.read() for part in text.split()]
    assert texts == [one["input_ids"] for one in ROWS]
    assert verify(made.path).ok
    assert made.key.mode == "topk"


def test_a_datasets_directory_is_the_same_as_the_file(tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "rows"))
    one = read(tmp_path / "rows", tmp_path / "one")
    other = read(written(tmp_path / "file", ROWS), tmp_path / "other")
    assert [e.sha256 for e in one.shards] == [e.sha256 for e in other.shards]
    assert one.key.teacher_sha256 != other.key.teacher_sha256  # it is another file


def test_lists_of_different_lengths_are_filled_up_with_nothing(tmp_path):
    some = row(0, 4)
    some["topk_ids"][1], some["topk_logprobs"][1] = [7], [math.log(0.25)]
    some["topk_ids"][2], some["topk_logprobs"][2] = [5, 6], [math.log(0.5), -math.inf]
    made = read(written(tmp_path / "rows", [some]), tmp_path / "store")
    found = Signals(made).at(torch.arange(3), torch.device("cpu"))
    assert found.head_p_NH[1].tolist() == [0.25, 0, 0, 0]
    assert found.head_p_NH[2].tolist() == [0.5, 0, 0, 0]
    assert found.tail_mass_N[1:].tolist() == [0.75, 0.5]


def test_an_import_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    file = written(tmp_path / "rows", ROWS)
    whole = read(file, tmp_path / "whole")
    real = Store.append

    def stop(self, *arguments):
        if self.shards:
            raise KeyboardInterrupt
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            read(file, tmp_path / "cut")
    assert read(file, tmp_path / "cut").sha256() == whole.sha256()


def test_another_file_is_another_store(tmp_path):
    read(written(tmp_path / "rows", ROWS), tmp_path / "store")
    other = written(tmp_path / "other", ROWS[:2])
    with pytest.raises(MismatchError, match="of a different teacher_sha256"):
        read(other, tmp_path / "store")


def changed(**columns) -> dict[str, list]:
    return {**row(0, 3), **columns}


IDS, LOGP = [[1, 2], [3, 4]], [[-1.0, -2.0], [-1.0, -2.0]]
WRONG = {
    "one token": (changed(input_ids=[5]), "a text needs two tokens or more"),
    "too few entries": (
        changed(topk_ids=IDS[:1], topk_logprobs=LOGP[:1]),
        r"3 tokens, but entries for \[1, 1\]",
    ),
    "unequal": (changed(topk_ids=[[1], [3]], topk_logprobs=LOGP), "as many ids as log-prob"),
    "above one": (
        changed(topk_ids=IDS, topk_logprobs=[[-1.0, -2.0], [0.0, -1.0]]),
        "exceed 1 in all",
    ),
    "no number": (
        changed(topk_ids=IDS, topk_logprobs=[[-1.0, math.nan], [-1.0, -2.0]]),
        "are not numbers",
    ),
    "twice": (changed(topk_ids=[[1, 1], [3, 4]], topk_logprobs=LOGP), "listed twice"),
    "unknown id": (changed(topk_ids=[[1, 300], [3, 4]], topk_logprobs=LOGP), "300, but the voc"),
    "negative id": (changed(topk_ids=[[1, -2], [3, 4]], topk_logprobs=LOGP), "ids from -2"),
    "unknown token": (changed(input_ids=[1, 2, 300]), "ids from 1 to 300"),
    "first empty": (
        changed(topk_ids=[None, [3, 4]], topk_logprobs=[None, [-1.0, -2.0]]),
        "is missing",
    ),
    "none": (changed(topk_ids=[[], []], topk_logprobs=[[], []]), "no position has an entry"),
}


@pytest.mark.parametrize(("wrong", "reason"), WRONG.values(), ids=WRONG)
def test_a_row_that_is_not_as_it_should_be_is_named(tmp_path, wrong, reason):
    schema = pyarrow.Table.from_pylist([row(0, 3)]).schema
    rows = [row(1, 4), wrong]
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), tmp_path / "rows")
    with pytest.raises(InputError, match=rf"rows, row 2: .*{reason}"):
        read(tmp_path / "rows", tmp_path / "store")


def test_float16_log_probabilities_may_exceed_one_by_their_rounding(tmp_path):
    near = math.log(1 - 1e-6)
    some = changed(topk_ids=IDS, topk_logprobs=[[near + 1e-3, -9.0], [-1.0, -2.0]])
    made = read(written(tmp_path / "rows", [some]), tmp_path / "store")
    found = Signals(made).at(torch.tensor([0]), torch.device("cpu"))
    assert found.tail_mass_N.tolist() == [0.0]


def test_a_missing_column_is_named(tmp_path):
    rows = [{"input_ids": [1, 2], "topk_ids": [[1], [2]]}]
    with pytest.raises(InputError, match="has no column 'topk_logprobs'; needed are"):
        read(written(tmp_path / "rows", rows), tmp_path / "store")


def test_what_holds_no_rows_is_refused(tmp_path):
    (tmp_path / "text").write_text("no table")
    (tmp_path / "directory").mkdir()
    for name in ("text", "directory"):
        with pytest.raises(InputError, match=f"{name} cannot be read as rows"):
            read(tmp_path / name, tmp_path / "store")


def test_numbers_of_any_width_are_read(tmp_path):
    one = row(0, 5)
    wide = pyarrow.table(
        {
            "input_ids": pyarrow.array([one["input_ids"]], pyarrow.large_list(pyarrow.int64())),
            "topk_ids": pyarrow.array(
                [one["topk_ids"]], pyarrow.list_(pyarrow.list_(pyarrow.uint32()))
            ),
            "topk_logprobs": pyarrow.array(
                [np.float32(one["topk_logprobs"]).tolist()],
                pyarrow.list_(pyarrow.list_(pyarrow.float32())),
            ),
        }
    )
    parquet.write_table(wide, tmp_path / "wide")
    found = read(tmp_path / "wide", tmp_path / "store")
    expected = read(written(tmp_path / "rows", [one]), tmp_path / "other")
    for (_, a), (_, b) in zip(found.read(), expected.read(), strict=True):
        assert torch.equal(a.head_ids_NH, b.head_ids_NH)
        torch.testing.assert_close(a.head_p_NH, b.head_p_NH, rtol=2**-10, atol=2**-24)
