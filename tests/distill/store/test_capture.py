"""What a capture keeps is what the teacher says, whoever made it and however it was stopped."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.errors import MismatchError
from distill.heads import logits
from distill.signals import sample, sparsify
from distill.store import capture
from distill.store.capture import Worker
from distill.store.shard import Sequences
from distill.store.store import Store
from distill.text.corpus import Windows
from tests.fakes import capturers
from tests.fakes.capturers import LENGTH, WINDOWS, Reader, captured, key, windows, work
from tests.fakes.processes import processes
from tests.fakes.stores import MODES

N = WINDOWS * LENGTH


def nothing(*_: object) -> None:
    pass


def files(path: Path) -> dict[str, bytes]:
    """Return what is in a store, the time it took left out."""
    found = {file.name: file.read_bytes() for file in sorted(path.iterdir())}
    manifest = json.loads(found["manifest.json"])
    del manifest["spiritsafe_sha256"]  # which is over the times, too
    for shard in manifest["shards"]:
        shard["seconds"] = 0
    return {**found, "manifest.json": json.dumps(manifest).encode()}


def every_logit(text: Windows) -> torch.Tensor:
    teacher = Reader()
    token_WS = torch.from_numpy(text.tokens[:, :-1]).long()
    states_NT = teacher.hidden(token_WS, torch.from_numpy(text.starts)).flatten(0, 1)
    return logits(states_NT, teacher.head)


def dense(signal, size: int) -> torch.Tensor:
    ids, weights = signal.targets()
    return torch.zeros(len(ids), size).scatter_add_(1, ids, weights)


def said(store: Store):
    """Return the signals of all shards, one by one."""
    return [signal for _, signal in store.read(Reader().head)]


def test_the_likeliest_tokens_are_kept_exactly_and_the_others_by_their_mass(tmp_path):
    p_NV = every_logit(windows()).softmax(-1)
    found = capture.join(said(captured(tmp_path, windows())))
    top_p, top_ids = p_NV.topk(5)
    assert torch.equal(found.head_ids_NH, top_ids)
    torch.testing.assert_close(found.head_p_NH, top_p, rtol=2**-10, atol=2**-24)
    torch.testing.assert_close(found.tail_mass_N, 1 - top_p.sum(-1), rtol=2**-10, atol=1e-6)
    entropy = -(p_NV * p_NV.log()).sum(-1)
    torch.testing.assert_close(found.entropy_N, entropy, rtol=2**-10, atol=1e-5)
    drawn = p_NV.gather(1, found.tail_ids_NR)
    assert (drawn <= top_p[:, -1:]).all()


def test_each_shard_draws_from_its_own_number(tmp_path):
    for mode in ("head_tail", "sampled"):
        store = captured(tmp_path / mode, windows(), mode)
        logits_NV = every_logit(windows())
        for number, found in enumerate(said(store)):
            rows = logits_NV[number * 32 : number * 32 + 32]
            generator = torch.Generator().manual_seed(number)
            if mode == "head_tail":
                expected = sparsify(rows, head=5, tail=3, generator=generator)
                assert torch.equal(found.tail_ids_NR, expected.tail_ids_NR)
            else:
                expected = sample(rows, draws=20, generator=generator)
                torch.testing.assert_close(dense(found, 300), dense(expected, 300))


def test_top_k_is_the_head_without_draws(tmp_path):
    head, top = (captured(tmp_path / mode, windows(), mode) for mode in ("head_tail", "topk"))
    for one, other in zip(said(head), said(top), strict=True):
        assert torch.equal(one.head_ids_NH, other.head_ids_NH)
        assert torch.equal(one.tail_mass_N, other.tail_mass_N)
        assert other.tail_ids_NR.shape[1] == 0


def test_hidden_states_rebuild_all_logits(tmp_path):
    found = capture.join(said(captured(tmp_path, windows(), "hidden")))
    torch.testing.assert_close(logits(found.states_NT, found.head), every_logit(windows()))


def test_text_is_kept_with_how_likely_the_teacher_finds_it(tmp_path):
    found = capture.join(said(captured(tmp_path, windows(), "text")))
    labels = torch.from_numpy(windows().tokens[:, 1:]).long().reshape(-1, 1)
    expected = every_logit(windows()).log_softmax(-1).gather(1, labels)[:, 0]
    torch.testing.assert_close(found.logp_N, expected)


def test_a_store_holds_the_text_it_was_captured_from(tmp_path):
    given = windows()
    texts = [text for text, _ in captured(tmp_path, given).read()]
    assert [len(text.counted_N) for text in texts] == [32] * 6 + [16]
    tokens = torch.cat([torch.stack(text.split()) for text in texts])
    assert torch.equal(tokens, torch.from_numpy(given.tokens).long())
    counted = torch.cat([text.counted_N for text in texts])
    assert torch.equal(counted, torch.from_numpy(given.weights > 0).flatten())


def test_documents_that_are_kept_apart_are_read_apart(tmp_path):
    joined = windows()
    starts = joined.starts.copy()
    starts[:, 7] = True
    apart = replace(joined, starts=starts)
    found = capture.join(said(captured(tmp_path / "apart", apart, "hidden")))
    torch.testing.assert_close(logits(found.states_NT, found.head), every_logit(apart))
    assert not torch.allclose(every_logit(apart), every_logit(joined))
    (text, _), *_ = captured(tmp_path / "apart", apart, "hidden").read(Reader().head)
    assert torch.equal(text.start_N, torch.from_numpy(starts[:2]).flatten())


def test_progress_is_told_of_shards_as_they_are_done(tmp_path):
    told = []
    capture.fill(Reader(), windows(), Store(tmp_path, key()), lambda *x: told.append(x), stage="x")
    assert told[0] == ("x", 0, N, "tokens")
    assert [done for _, done, _, _ in told] == [*range(0, N, 32), N]


def test_the_first_of_two_workers_makes_every_other_shard_and_says_it_is_not_all(tmp_path):
    told, store = [], Store(tmp_path, key())
    done = capture.fill(
        Reader(), windows(), store, lambda *x: told.append(x), worker=Worker(rank=0, of=2)
    )
    assert not done
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == [
        f"shard-0000{n}.safetensors" for n in (0, 2, 4, 6)
    ]
    assert [x[1:3] for x in told] == [(0, 112), (32, 112), (64, 112), (96, 112), (112, 112)]
    assert capture.fill(Reader(), windows(), store, nothing, worker=Worker(rank=1, of=2))
    assert store.tokens == N


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("of", [2, 3])
def test_workers_in_processes_of_their_own_end_with_the_bytes_of_one(tmp_path, mode, of):
    whole = captured(tmp_path / "whole", windows(), mode)
    arguments = [(tmp_path / "parts", rank, of, mode) for rank in range(of)]
    assert processes(work, arguments) == [0] * of
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert Store.open(tmp_path / "parts").sha256() == whole.sha256()


@pytest.mark.parametrize("after", [1, 2])
def test_what_a_killed_worker_left_is_finished_by_any_number_of_workers(tmp_path, after):
    parts = tmp_path / "parts"
    arguments = [(parts, 0, 3, "head_tail"), (parts, 1, 3, "head_tail", after)]
    assert processes(work, arguments) == [0, -signal.SIGKILL]
    left = len(list(parts.glob("*.safetensors")))
    assert left == 3 + after - 1
    teacher, store = Reader(), Store(parts, key())
    assert capture.fill(teacher, windows(), store, nothing)
    assert teacher.asked < WINDOWS
    captured(tmp_path / "whole", windows())
    assert files(parts) == files(tmp_path / "whole")


def test_a_manifest_is_not_written_for_every_shard_and_yet_holds_all_in_the_end(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(capturers, "SHARD_TOKENS", LENGTH)
    written, real = [], Store._write_manifest

    def note(self, shards):
        written.append(len(shards))
        real(self, shards)

    monkeypatch.setattr(Store, "_write_manifest", note)
    store = captured(tmp_path, windows(60))
    assert store.tokens == 60 * LENGTH
    assert len(Store.open(tmp_path).shards) == written[-1] == 60
    assert len(written) < 50
    assert written[:9] == list(range(9))
    assert not list(tmp_path.glob("shard-*.json"))


def test_a_finished_capture_asks_the_teacher_nothing(tmp_path):
    captured(tmp_path, windows())
    teacher = Reader()
    assert capture.fill(teacher, windows(), Store(tmp_path, key()), nothing)
    assert teacher.asked == 0


def test_a_text_may_grow_even_where_a_shard_was_not_full(tmp_path):
    captured(tmp_path, windows())
    before = files(tmp_path)
    teacher = Reader()
    store = Store(tmp_path, key())
    assert capture.fill(teacher, windows(WINDOWS + 4), store, nothing)
    assert teacher.asked == 4
    assert [entry.tokens for entry in store.shards] == [32] * 6 + [16, 32, 32]
    after = files(tmp_path)
    assert all(after[name] == before[name] for name in before if name.startswith("shard"))
    again = Reader()
    assert capture.fill(again, windows(WINDOWS + 4), Store(tmp_path, key()), nothing)
    assert again.asked == 0


def test_a_text_may_grow_after_a_capture_that_was_killed_before_the_manifest(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "seal", lambda self: None)
        captured(tmp_path, windows())
    assert Store.open(tmp_path).tokens == 0
    store = captured(tmp_path, windows(WINDOWS + 4))
    assert [entry.tokens for entry in store.shards] == [32] * 6 + [16, 32, 32]


def other_token(text: Windows) -> Windows:
    tokens = text.tokens.copy()
    tokens[4, 4] += 1
    return replace(text, tokens=tokens)


def longer_windows(text: Windows) -> Windows:
    return Windows(
        tokens=text.tokens[:6].reshape(-1, 34)[:, :33],
        weights=np.ones((3, 32), dtype=np.float32),
        sizes=np.ones((3, 32)),
    )


@pytest.mark.parametrize(
    "change",
    [
        other_token,
        longer_windows,
        lambda text: text.take(np.arange(WINDOWS - 1)),
        lambda text: text.take(np.arange(WINDOWS)[::-1]),
        lambda text: replace(text, weights=np.ones_like(text.weights)),
        lambda text: replace(text, starts=np.ones_like(text.starts)),
    ],
    ids=["token", "longer windows", "less text", "another order", "mask", "starts"],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_signals_on_another_text_are_refused(tmp_path, change, sealed):
    store = Store(tmp_path, key())
    # Without shard 0 none of the others can be sealed.
    workers = [Worker()] if sealed else [Worker(rank=rank, of=7) for rank in range(1, 7)]
    for worker in workers:
        capture.fill(Reader(), windows(), store, nothing, worker=worker)
    assert len(store.shards) == (7 if sealed else 0)
    before = files(tmp_path)
    with pytest.raises(MismatchError, match=r"holds signals on another text; set signal\.path"):
        for rank in range(1, 7):
            worker = Worker(rank=rank, of=7)
            capture.fill(Reader(), change(windows()), store, nothing, worker=worker)
    assert {name: files(tmp_path)[name] for name in before} == before


def test_a_lost_shard_is_made_again(tmp_path):
    captured(tmp_path, windows())
    before = files(tmp_path)
    (tmp_path / "shard-00003.safetensors").unlink()
    captured(tmp_path, windows())
    assert files(tmp_path) == before


def test_a_lost_shard_is_not_made_again_of_another_text(tmp_path):
    captured(tmp_path, windows())
    (tmp_path / "shard-00002.safetensors").unlink()
    with pytest.raises(MismatchError, match="holds signals on another text"):
        captured(tmp_path, other_token(windows()))


@pytest.mark.parametrize(
    ("environment", "worker"),
    [
        ({}, Worker()),
        ({"RANK": "2", "WORLD_SIZE": "4"}, Worker(rank=2, of=4)),
    ],
)
def test_torchrun_says_which_worker_this_is(environment, worker):
    assert Worker.from_environment(environment) == worker


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "1"},
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"RANK": "-1", "WORLD_SIZE": "4"},
        {"RANK": "first", "WORLD_SIZE": "4"},
        {"RANK": "0", "WORLD_SIZE": "0"},
    ],
)
def test_a_rank_that_is_none_is_refused(environment):
    with pytest.raises(MismatchError, match="name no worker; set both as torchrun does"):
        Worker.from_environment(environment)


def test_the_text_of_windows_is_their_tokens_mask_and_starts():
    given = windows(2)
    text = Sequences.windows(given)
    assert [part.tolist() for part in text.split()] == given.tokens.tolist()
    assert text.length_B.tolist() == [LENGTH, LENGTH]
    assert text.start_N.tolist() == ([True] + [False] * 15) * 2
    assert text.counted_N.tolist() == (given.weights.flatten() > 0).tolist()
    assert capturers.SHARD_TOKENS == 32
