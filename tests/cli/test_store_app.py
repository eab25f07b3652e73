"""`distill store` as a user meets it: out to other tools' files and back, or one sentence."""

import pyarrow
import pytest
from pyarrow import parquet

from tests.fakes.commands import WITHOUT_TORCH, call, finish, refusal, start
from tests.fakes.stores import MODES, POSITIONS, filled


@pytest.fixture
def there(tmp_path):
    return filled(tmp_path / "there", range(3)).path


def contents(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


@pytest.mark.parametrize("name", ["out.parquet", "out"])
@pytest.mark.parametrize("mode", MODES)
def test_what_is_exported_comes_back_byte_for_byte(tmp_path, mode, name):
    store = filled(tmp_path / "there", range(3), mode)
    gone = call("distill", "store", "export", store.path, tmp_path / name)
    assert (gone.exit_code, gone.stdout) == (0, f"{tmp_path / name}\n")
    back = call("distill", "store", "import", tmp_path / name, tmp_path / "back")
    size = f"{3 * POSITIONS} tokens, {store.size_bytes():,} bytes"
    assert (back.exit_code, back.stdout) == (0, f"{tmp_path / 'back'}: {size}\n")
    assert contents(tmp_path / "back") == contents(store.path)
    checked = call("distill", "verify", tmp_path / "back")
    assert checked.exit_code == 0


def test_by_its_name_an_export_is_one_file_or_a_directory(tmp_path, there):
    for name in ("out.parquet", "out"):
        assert call("distill", "store", "export", there, tmp_path / name).exit_code == 0
    assert parquet.read_table(tmp_path / "out.parquet").num_rows > 0
    assert (tmp_path / "out" / "dataset_info.json").is_file()


def test_another_tools_rows_become_a_store(tmp_path):
    ids = [[3, 5, 7, 9]]
    rows = {
        "input_ids": ids,
        "topk_ids": [[[5, 8], [7, 2], [9, 4]]],
        "topk_logprobs": [[[-0.5, -1.5]] * 3],
    }
    parquet.write_table(pyarrow.table(rows), tmp_path / "rows.parquet")
    arguments = ["store", "import", tmp_path / "rows.parquet", tmp_path / "made"]
    result = call("distill", *arguments, "--vocab-size", 10)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{tmp_path / 'made'}: 3 tokens, ")
    said = refusal("distill", *arguments[:-1], tmp_path / "other", "--vocab-size", 8, code=2)
    assert "rows.parquet" in said
    assert "is no export of a store" in refusal("distill", *arguments, code=2)


def test_a_store_that_is_not_there_is_one_sentence(tmp_path):
    nothing = tmp_path / "nothing"
    said = refusal("distill", "store", "export", nothing, tmp_path / "out.parquet", code=1)
    assert str(nothing) in said
    assert not (tmp_path / "out.parquet").exists()
    for name in ("gone.parquet", "gone"):
        arguments = ["store", "import", tmp_path / name, tmp_path / "back"]
        assert str(tmp_path / name) in refusal("distill", *arguments, code=2)
        assert not (tmp_path / "back").exists()


def test_a_changed_shard_is_not_exported(tmp_path, there):
    shard = there / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    said = refusal("distill", "store", "export", there, tmp_path / "out.parquet", code=1)
    assert "shard-00001.safetensors is missing or was changed" in said
    assert not (tmp_path / "out.parquet").exists()


def test_a_changed_export_is_not_taken(tmp_path, there):
    call("distill", "store", "export", there, tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    parquet.write_table(table.slice(1), tmp_path / "less.parquet")
    arguments = ["store", "import", tmp_path / "less.parquet", tmp_path / "back"]
    assert "changed" in refusal("distill", *arguments, code=2)


def test_another_stores_place_is_refused_and_left_as_it_was(tmp_path, there):
    other = filled(tmp_path / "other", range(2), "hidden").path
    before = contents(other)
    call("distill", "store", "export", there, tmp_path / "out.parquet")
    said = refusal("distill", "store", "import", tmp_path / "out.parquet", other, code=2)
    assert str(other) in said
    assert contents(other) == before


def test_wrong_usage_exits_2(tmp_path, there):
    for arguments in (["export", there], ["import", there, tmp_path / "b", "--vocab-size", "0"]):
        assert call("distill", "store", *arguments).exit_code == 2


@pytest.mark.slow
def test_without_torch_the_install_command_is_named(tmp_path, there):
    arguments = ["store", "export", there, tmp_path / "out.parquet"]
    code, _, said = finish(start("distill", *arguments, before=WITHOUT_TORCH))
    assert code == 1
    assert "is not installed; run: pip install 'spiritsafe[distill]'" in said
