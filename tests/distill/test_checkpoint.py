"""Whatever is interrupted, the newest whole state that can be trusted is what is loaded."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from distill import checkpoint
from distill.checkpoint import Checkpoints
from distill.errors import StorageError

EVERY_STEP, NEVER = 0.0, 1e9


def state(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model.matrix": torch.randn(4, 3, generator=generator),
        "model.low": torch.randn(5, generator=generator).bfloat16(),
        "model.transposed": torch.randn(6, 2, generator=generator).t(),
        "model.empty": torch.zeros(0, 3),
        "optimizer.step": torch.tensor(float(step)),
        "counts": torch.arange(step, step + 3),
    }


def assert_state(found: dict[str, torch.Tensor], step: int) -> None:
    expected = state(step)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def assert_loads(path, step: int) -> None:
    """Fail unless a new process would go on after `step`."""
    fresh = Checkpoints(path, sync_seconds=NEVER)
    saved = fresh.load()
    assert saved is not None
    assert saved.step == fresh.step == step
    assert_state(saved.tensors, step)


def slots(path) -> list[str]:
    return sorted(file.name for file in path.iterdir() if file.name != "latest.json")


def newest_slot(path) -> str:
    return json.loads((path / "latest.json").read_text())["latest"]["slot"]


@pytest.fixture
def reboot(monkeypatch):
    """A call that makes the operating system tell of another boot."""
    monkeypatch.setattr(checkpoint, "_boot_id", lambda: "first boot")
    return lambda: monkeypatch.setattr(checkpoint, "_boot_id", lambda: "second boot")


def test_nothing_saved_is_nothing_loaded(tmp_path):
    fresh = Checkpoints(tmp_path / "checkpoints", sync_seconds=NEVER)
    assert fresh.load() is None
    assert fresh.step == 0


def test_a_state_comes_back_bit_for_bit_through_any_safetensors_reader(tmp_path):
    Checkpoints(tmp_path, sync_seconds=NEVER).save(7, state(7))
    assert_loads(tmp_path, 7)
    assert_state(load_file(tmp_path / f"slot-{newest_slot(tmp_path)}.safetensors"), 7)


def test_the_newest_step_wins_and_at_most_three_files_are_kept(tmp_path):
    kept = Checkpoints(tmp_path, sync_seconds=NEVER)
    for step in range(1, 12):
        kept.sync_seconds = EVERY_STEP if step % 4 == 0 else NEVER
        kept.save(step, state(step))
        assert_loads(tmp_path, step)
        assert set(slots(tmp_path)) <= {f"slot-{name}.safetensors" for name in "abc"}


def test_a_later_process_goes_on_with_the_same_files(tmp_path):
    for step in range(1, 9):
        Checkpoints(tmp_path, sync_seconds=EVERY_STEP).save(step, state(step))
        assert_loads(tmp_path, step)
    assert len(slots(tmp_path)) <= 3


def test_a_smaller_state_leaves_nothing_of_the_larger_one_behind(tmp_path):
    kept = Checkpoints(tmp_path, sync_seconds=NEVER)
    for step in range(1, 5):
        kept.save(step, {"big": torch.ones(10_000)})
    for step in range(5, 9):
        kept.save(step, state(step))
        assert_loads(tmp_path, step)


def cut_short(error: BaseException):
    """Return a writer that gives half of the state and then raises `error`."""
    whole = checkpoint._safetensors_chunks

    def chunks(tensors):
        for number, chunk in enumerate(whole(tensors)):
            if number == 4:
                raise error
            yield chunk

    return chunks


@pytest.mark.parametrize("sync", [EVERY_STEP, NEVER])
@pytest.mark.parametrize("steps_before", [1, 2, 3, 5])
def test_a_write_cut_short_leaves_the_former_step(tmp_path, monkeypatch, sync, steps_before):
    kept = Checkpoints(tmp_path, sync_seconds=sync)
    for step in range(1, steps_before + 1):
        kept.save(step, state(step))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_safetensors_chunks", cut_short(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            kept.save(99, state(99))
    assert_loads(tmp_path, steps_before)
    kept.save(steps_before + 1, state(steps_before + 1))
    assert_loads(tmp_path, steps_before + 1)


def test_a_full_disk_is_an_error_that_names_the_step_that_is_kept(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path, sync_seconds=NEVER)
    kept.save(3, state(3))
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_safetensors_chunks", cut_short(full))
        with pytest.raises(StorageError, match="No space left on device; step 3 is kept, so free"):
            kept.save(4, state(4))
    assert kept.step == 3
    assert_loads(tmp_path, 3)


def test_a_disk_that_really_refuses_is_an_error_of_ours(tmp_path):
    resource = pytest.importorskip("resource")
    kept = Checkpoints(tmp_path, sync_seconds=NEVER)
    kept.save(1, state(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
    try:
        with pytest.raises(StorageError, match="cannot write a checkpoint"):
            kept.save(2, {"big": torch.ones(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_loads(tmp_path, 1)


def test_a_pointer_that_cannot_be_written_leaves_the_former_step(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path, sync_seconds=NEVER)
    kept.save(1, state(1))

    def refuse(path, write):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", refuse)
        with pytest.raises(StorageError):
            kept.save(2, state(2))
    assert_loads(tmp_path, 1)


def test_after_a_reboot_the_step_that_was_forced_to_the_disk_is_used(tmp_path, reboot):
    kept = Checkpoints(tmp_path, sync_seconds=EVERY_STEP)
    kept.save(1, state(1))
    kept.save(2, state(2))
    kept.sync_seconds = NEVER
    for step in range(3, 8):
        kept.save(step, state(step))
    assert_loads(tmp_path, 7)
    (tmp_path / f"slot-{newest_slot(tmp_path)}.safetensors").write_bytes(b"torn")
    reboot()
    assert_loads(tmp_path, 2)


def test_training_goes_on_after_a_reboot_and_survives_another_kill(tmp_path, reboot):
    kept = Checkpoints(tmp_path, sync_seconds=EVERY_STEP)
    kept.save(1, state(1))
    kept.sync_seconds = NEVER
    kept.save(2, state(2))
    reboot()
    again = Checkpoints(tmp_path, sync_seconds=NEVER)
    assert again.step == 1
    again.save(2, state(2))
    assert_loads(tmp_path, 2)
    assert len(slots(tmp_path)) <= 3


def test_after_a_reboot_a_step_that_was_never_forced_is_not_trusted(tmp_path, reboot):
    Checkpoints(tmp_path, sync_seconds=NEVER).save(1, state(1))
    reboot()
    fresh = Checkpoints(tmp_path, sync_seconds=NEVER)
    assert fresh.load() is None
    assert fresh.step == 0


def test_a_forced_step_has_data_pointer_and_directory_on_the_disk_in_this_order(
    tmp_path, monkeypatch
):
    # Were the pointer left in memory, a power cut could bring back one that names a file which
    # has since been written over.
    forced = []
    monkeypatch.setattr(os, "fsync", lambda fd: forced.append(os.fstat(fd).st_ino))
    kept = Checkpoints(tmp_path, sync_seconds=NEVER)
    kept.save(1, state(1))
    assert forced == []
    kept.sync_seconds = EVERY_STEP
    kept.save(2, state(2))
    slot = tmp_path / f"slot-{newest_slot(tmp_path)}.safetensors"
    expected = [slot, tmp_path / "latest.json", tmp_path]
    assert forced == [path.stat().st_ino for path in expected]


def test_a_step_is_forced_once_the_seconds_have_passed(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    kept = Checkpoints(tmp_path, sync_seconds=30.0)
    durable = []
    for step in range(1, 9):
        clock[0] += 10
        kept.save(step, state(step))
        pointer = json.loads((tmp_path / "latest.json").read_text())
        durable.append(pointer.get("durable", {}).get("step"))
    assert durable == [None, None, 3, 3, 3, 6, 6, 6]


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_damaged_pointer_is_refused_with_a_remedy(tmp_path, text):
    Checkpoints(tmp_path, sync_seconds=NEVER).save(1, state(1))
    (tmp_path / "latest.json").write_text(text)
    with pytest.raises(StorageError, match=r"latest\.json is damaged; delete"):
        Checkpoints(tmp_path, sync_seconds=NEVER)


def test_a_damaged_state_is_refused_with_a_remedy(tmp_path):
    Checkpoints(tmp_path, sync_seconds=NEVER).save(1, state(1))
    (tmp_path / f"slot-{newest_slot(tmp_path)}.safetensors").write_bytes(b"torn")
    with pytest.raises(StorageError, match="cannot be read; delete that directory"):
        Checkpoints(tmp_path, sync_seconds=NEVER).load()


def test_clearing_drops_the_state_and_nothing_else(tmp_path):
    (tmp_path / "step-000000").mkdir()
    kept = Checkpoints(tmp_path, sync_seconds=EVERY_STEP)
    for step in range(1, 5):
        kept.save(step, state(step))
    kept.clear()
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-000000"]
    assert kept.load() is None
    assert Checkpoints(tmp_path, sync_seconds=NEVER).load() is None
