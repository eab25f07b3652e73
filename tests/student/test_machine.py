"""What stands below Python is read from its files; what is not there is left out."""

from student import machine

ARM = """processor\t: 0
BogoMIPS\t: 200.00
CPU implementer\t: 0x48
CPU architecture: 8
CPU part\t: 0xd01
CPU revision\t: 0

processor\t: 1
CPU implementer\t: 0x99
"""


def put(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_an_empty_root_leaves_out_what_its_files_would_have_said(tmp_path):
    found = machine.describe(tmp_path)
    assert {"cpu", "os", "os_version"}.isdisjoint(found)
    assert found["kernel"] and found["host_memory_bytes"] > 2**20


def test_the_operating_system_is_named_by_its_own_file(tmp_path):
    put(tmp_path, "etc/os-release", "NAME='openEuler'\n# x\nVERSION_ID=\"22.03\"\nNAME=other\n")
    found = machine.describe(tmp_path)
    assert (found["os"], found["os_version"]) == ("openEuler", "22.03")


def test_a_processor_is_called_by_its_name(tmp_path):
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel name\t: A Processor @ 2.00GHz\n")
    assert machine.processor(tmp_path) == "A Processor @ 2.00GHz"


def test_a_processor_without_a_name_is_told_by_its_numbers(tmp_path):
    put(tmp_path, "proc/cpuinfo", ARM)
    assert machine.processor(tmp_path) == "implementer 0x48, part 0xd01, revision 0"
    put(tmp_path, "proc/cpuinfo", "CPU implementer: 0x48\n")
    assert machine.processor(tmp_path) == ""


def test_a_file_that_is_no_text_or_a_directory_is_no_error(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe=\x00\n=\n")
    assert machine.fields(tmp_path / "binary")[""] == ""
    assert machine.fields(tmp_path) == {}
