"""A run directory belongs to one config and to one process at a time."""

import subprocess
import sys
from dataclasses import replace

import pytest

from distill.errors import InputError, MismatchError, StorageError
from distill.run import run
from distill.session import hold
from tests.fakes.teachers import tiny_config


def test_a_second_process_is_kept_out_and_a_killed_one_lets_go(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom distill.session import hold\n"
        "with hold(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(MismatchError, match="another process is at work in"), hold(tmp_path):
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    with hold(tmp_path):
        pass


def test_a_directory_can_be_held_again_after_it_was_let_go(tmp_path):
    for _ in range(2):
        with hold(tmp_path / "new"):
            assert (tmp_path / "new").is_dir()


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write to"), hold(tmp_path / "file" / "out"):
        pass


def ignore(*report: object) -> None:
    """Hear nothing."""


def test_a_run_that_could_not_begin_leaves_the_directory_to_the_corrected_config(tmp_path):
    good, out = tiny_config(tmp_path), tmp_path / "out"
    wrong = replace(good, text=replace(good.text, sources=("gone.txt",)))
    with pytest.raises(InputError, match=r"gone\.txt does not exist"):
        run(wrong, out, say=ignore, progress=ignore)
    run(good, out, say=ignore, progress=ignore)
    assert (out / "manifest.json").is_file()
