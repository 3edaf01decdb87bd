"""Damaged, partial and hostile exports: one clear DataError each."""

import dataclasses
import hashlib
import io
import json
import math
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest

import npbn
from npbn.errors import DataError
from npbn.testing import export, export_format
from npbn.testing.export import export_cases, replay_cases
from npbn.testing.npbn_modules import npbn_implementation


@pytest.fixture
def few(few_exported, tmp_path):
    """Copy the few cases: an export that a test may damage."""
    return shutil.copytree(few_exported, tmp_path / "few")


def read(folder):
    """Read all cases as a replay does, which would start a process besides."""
    for entry in export_format.read_index(folder):
        export_format.read_arrays(folder / entry.file, entry)


def replay(folder):
    return replay_cases(folder, npbn_implementation(npbn.BatchNorm1d))


def edit_index(folder, change):
    path = folder / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def rewrite(folder, change, compression=zipfile.ZIP_STORED):
    """Change the members of the first case's file, and its SHA-256 in the index."""
    path = folder / "case_000.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    sign(folder, path.read_bytes())


def sign(folder, data):
    (folder / "case_000.npz").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edit_index(folder, lambda index: index["cases"][0].update(sha256=digest))


def npy(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asanyarray(array), **options)
    return stream.getvalue()


def test_the_tools_of_these_tests_do_no_damage_themselves(few):
    rewrite(few, lambda members: members.update({"more.npy": npy([1.0])}))
    assert {result.correct.status for result in replay(few)} == {"passed"}


def test_missing_folder_and_a_file_in_its_place(tmp_path):
    missing = tmp_path / "nowhere"
    with pytest.raises(DataError, match=r"nowhere: expected a folder .* nothing of that name"):
        replay(missing)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DataError, match="file: expected a folder of exported cases, it is a file"):
        replay(str(file))
    with pytest.raises(DataError, match=r"cannot write .*file: File exists"):
        export_cases(file)
    with pytest.raises(DataError, match=r"cannot write .*file"):
        export_cases(file / "below")


def test_an_export_that_was_cut_short_is_none(few, monkeypatch):
    """Nor does the earlier one's index vouch for it."""
    written = []

    def full(path, arrays):
        written.append(path)
        if len(written) == 5:
            raise OSError(28, "No space left on device", str(path))
        return export_format.write_arrays(path, arrays)

    monkeypatch.setattr(export, "write_arrays", full)
    with pytest.raises(DataError, match=r"cannot write .*case_004.npz: No space left on device"):
        export_cases(few)
    with pytest.raises(DataError, match=r"index.json is missing: .* cut short"):
        replay(few)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: b"",
        lambda text: b"\xff" + text,
        lambda text: b"[" * 100_000,
        lambda text: text.replace(b'"eps"', b"eps", 1),
    ],
)
def test_index_that_is_no_json(few, damage):
    path = few / "index.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"index.json: cannot be read as JSON"):
        read(few)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(format="MNIST"), "expected the format 'npbn BatchNorm cases'"),
        (lambda index: index.pop("format"), "expected the format"),
        (lambda index: index.update(format_version=2), "expected format version 1, got 2"),
        (lambda index: index.pop("format_version"), "expected format version 1, got None"),
        (lambda index: index.pop("cases"), "expected a list of cases"),
        (lambda index: index.update(cases=[]), "expected a list of cases"),
        (lambda index: index.update(cases={"0": 1}), "expected a list of cases"),
        (lambda index: index["cases"].insert(3, None), "case 3: expected an object"),
    ],
)
def test_index_of_another_kind(few, change, message):
    edit_index(few, change)
    with pytest.raises(DataError, match=rf"index.json.*{message}"):
        read(few)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(export.Entry)])
def test_index_with_a_field_missing_or_of_another_type(few, field):
    for wrong in ({"a": 1}, -1, "\0", math.nan, [[]], 2**70):
        if field in ("sha256", "description") and wrong == "\0":
            continue
        if field in ("eps", "momentum") and wrong == 2**70:
            continue
        if field == "momentum" and wrong == -1:
            continue
        edit_index(few, lambda index, wrong=wrong: index["cases"][2].update({field: wrong}))
        with pytest.raises(DataError, match=rf"index.json: case 2: {field} cannot be"):
            read(few)
    edit_index(few, lambda index: index["cases"][2].pop(field))
    with pytest.raises(DataError, match=rf"index.json: case 2: {field} is missing"):
        read(few)


@pytest.mark.parametrize("name", ["../few/case_000.npz", "/etc/passwd", "a/b.npz", "index.json"])
def test_nothing_outside_of_the_folder_is_opened(few, name):
    edit_index(few, lambda index: index["cases"][0].update(file=name))
    with pytest.raises(DataError, match="file cannot be"):
        read(few)


def test_index_is_a_folder(few):
    (few / "index.json").unlink()
    (few / "index.json").mkdir()
    with pytest.raises(DataError, match=r"index.json: cannot be read"):
        replay(few)
    with pytest.raises(DataError, match=r"cannot write .*index.json"):
        export_cases(few)


def test_case_missing(few):
    (few / "case_007.npz").unlink()
    with pytest.raises(DataError, match=r"cannot read .*case_007.npz: No such file"):
        replay(few)


def test_case_is_a_folder(few):
    (few / "case_007.npz").unlink()
    (few / "case_007.npz").mkdir()
    with pytest.raises(DataError, match=r"cannot read .*case_007.npz"):
        read(few)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data + b"\0",
        lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
    ],
)
def test_case_damaged_or_truncated(few, damage):
    path = few / "case_007.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"case_007.npz: its SHA-256 is not the one in index.json"):
        read(few)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"\x93NUMPY\x01\x00",
        lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
        lambda data: data.replace(b"PK\3\4", b"PK\3\5"),
    ],
)
def test_archive_that_is_none_though_its_digest_is_right(few, damage):
    sign(few, damage((few / "case_000.npz").read_bytes()))
    with pytest.raises(DataError, match=r"case_000.npz"):
        read(few)


@pytest.mark.parametrize("name", ["x", "bias", "running_var_after", "tolerance_contract_y"])
def test_array_missing(few, name):
    rewrite(few, lambda members: members.pop(f"{name}.npy"))
    with pytest.raises(DataError, match=rf"case_000.npz: the array {name} is missing"):
        read(few)


def test_a_replay_reads_no_damaged_case(few):
    rewrite(few, lambda members: members.pop("x.npy"))
    with pytest.raises(DataError, match=r"case_000.npz: the array x is missing"):
        replay(few)


def test_compressed_arrays_are_refused(few):
    rewrite(few, lambda members: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match=r"case_000.npz: x is compressed"):
        read(few)


def huge(dtype):
    stream = io.BytesIO()
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (2**40, 3)}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + bytes(48)


@pytest.mark.parametrize(
    "data",
    [
        npy(np.zeros((8, 3), np.float32)),
        npy(np.zeros((3, 8), np.float16)),
        npy(np.zeros((8, 3), ">f2")),
        npy(np.zeros((8, 3), np.float16, order="F")),
        npy(np.zeros((8, 3), np.float16), version=(2, 0)),
        npy(np.full((8, 3), None, object), allow_pickle=True),
        npy(np.zeros((8, 3), np.float16))[:-1],
        npy(np.zeros((8, 3), np.float16)) + b"\0",
        huge(np.float16),
        b"",
    ],
    ids=[
        "dtype",
        "shape",
        "big-endian",
        "fortran",
        "version",
        "object",
        "short",
        "long",
        "huge",
        "",
    ],
)
def test_array_of_another_kind(few, data):
    rewrite(few, lambda members: members.update({"x.npy": data}))
    with pytest.raises(
        DataError, match=r"case_000.npz: x is not a float16 array of shape \(8, 3\)"
    ):
        read(few)


@pytest.mark.parametrize("shape", [[2**40, 3], [2**62, 3], [0, 2**40], [8, 3, 0, 2**62]])
def test_no_memory_is_taken_for_what_an_index_promises(few, shape):
    edit_index(few, lambda index: index["cases"][0].update(shape=shape))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"case_000.npz: x is not a float16 array of shape"):
            read(few)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
