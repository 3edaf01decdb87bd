"""The zip container of a file of torch: cut short, foreign, or with a directory that lies."""

import errno
import io
import os
import struct
import zipfile

import checkpoint.fuzz_torch_file as by_hand
import pytest
import torch
from checkpoint.fuzz_torch_file import archive, load_or_refuse, state, tensor
from checkpoint.hostile import MB, patched, read_and_mapped, refusal

from npbn.checkpoint.torch_file import load_torch
from npbn.errors import CheckpointError


def real_file(path):
    torch.save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(5, dtype=torch.bfloat16)}, path)
    return path.read_bytes()


@read_and_mapped
def test_cut_short_anywhere(path):
    content = real_file(path)
    for length in {
        *range(0, 100),
        *range(100, len(content), 97),
        *range(len(content) - 90, len(content)),
    }:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            load_torch(path)
    assert "the file is empty" in refusal(path, b"")
    for length in (4, 100, 1000, len(content) - 1):
        assert "cut short" in refusal(path, content[:length])


@read_and_mapped
def test_not_a_file_of_torch(path):
    for content in (b"hello", b"\x89HDF\r\n\x1a\n", b"\x93NUMPY\1\0", bytes(1000), b"\x80\4N."):
        assert "expected a zip file" in refusal(path, content)
    assert "'a.npy'" in refusal(path, zip_of({"a.npy": b"", "b.npy": b""}))
    assert "not torch.save's" in refusal(path, zip_of({}))
    assert "not torch.save's" in refusal(path, zip_of({"data.pkl": b""}))
    assert "not torch.save's" in refusal(path, zip_of({"a/data.pkl": b"", "b/data/0": b""}))
    assert "not torch.save's" in refusal(path, zip_of({"a/b/data.pkl": b""}))
    assert "TorchScript" in refusal(path, zip_of({"a/data.pkl": b"", "a/constants.pkl": b""}))
    assert "TorchScript" in refusal(path, zip_of({"a/data.pkl": b"", "a/code/b.py": b""}))


def zip_of(records):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for record, content in records.items():
            writer.writestr(record, content)
    return file.getvalue()


def test_paths_that_are_no_files(path):
    assert os.strerror(errno.ENOENT) in refusal(path)
    assert "not a regular file" in refusal(path.parent)
    with pytest.raises(CheckpointError):  # in words that depend on the version of Python
        load_torch(f"{path}\0")
    with pytest.raises(TypeError):
        load_torch(3)
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)
        assert "not a regular file" in refusal(path)  # and no waiting for a writer


def test_the_operating_system_refuses(path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    real_file(path)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CheckpointError, match=r"Permission denied$"):
        load_torch(path)


@pytest.mark.parametrize(
    "evil",
    ["archive/../a", "/archive/a", "archive//a", "archive/./a", "archive\\a", "..", "archive/a\1"],
)
def test_record_names_that_lead_elsewhere(path, evil):
    content = archive(state(tensor()), {"0": by_hand.FLOATS, "X" * (len(evil) - 13): b""})
    plain = b"archive/data/" + b"X" * (len(evil) - 13)
    if len(evil) < 14:
        plain = b"archive/data/1"
        content, evil = archive(state(tensor())), evil.ljust(14, "/")
    evil = evil.encode().replace(b"\1", b"\0")
    assert "not one that torch.save writes" in refusal(path, content.replace(plain, evil))
    assert "not UTF-8" in refusal(path, content.replace(plain, b"\xff" * len(plain)))


def test_two_records_of_one_name(path):
    content = archive(state(tensor()))
    twice = content.replace(b"archive/data/1", b"archive/data/0")
    assert "two records have the name 'archive/data/0'" in refusal(path, twice)


def directory_entry(content, record):
    """Return where the directory's entry of a record begins."""
    return content.rindex(record) - 46


WRONG_MAGIC = (b"\0\0\0\0", b"PK\0\0", b"PK\7\7", b"\xff\xff\xff\xff")


@read_and_mapped
def test_a_directory_that_lies(path):
    content = archive(state(tensor()))
    entry = directory_entry(content, b"archive/data/1")
    first = content.index(b"archive/data/1") - 30
    end = len(content) - 22
    other = struct.unpack_from("<L", content, directory_entry(content, b"archive/data/0") + 42)[0]
    for at, layout, value, words in [
        (entry + 8, "<H", 1, "is encrypted"),
        (entry + 10, "<H", 8, "is compressed"),
        (entry + 10, "<H", 99, "is compressed"),
        (entry + 20, "<L", 15, "is compressed"),
        (entry + 24, "<L", 1 << 31, "is compressed"),
        (entry + 24, "<L", 0xFFFFFFFF, "lacks its 64-bit size"),
        (entry + 34, "<H", 1, "another part"),
        (entry + 42, "<L", other, "is not at byte"),
        (entry + 42, "<L", first + 1, "is not at byte"),
        (entry + 42, "<L", len(content) - 10, "cut short"),
        (entry + 42, "<L", 0xFFFFFFFE, "cut short"),
        (entry + 28, "<H", 0xFFFF, "no directory entry"),
        (entry + 30, "<H", 0xFFFF, "no directory entry"),
        *((entry, "4s", magic, "no directory entry") for magic in WRONG_MAGIC),
        *((first, "4s", magic, "is not at byte") for magic in WRONG_MAGIC),
        (first + 26, "<H", 0xFFFF, "is not at byte"),
        (first + 28, "<H", 0xFFFF, "overlap"),
        (end + 4, "<H", 1, "several parts"),
        (end + 6, "<H", 1, "several parts"),
        (end + 8, "<H", 9, "several parts"),
        (end + 12, "<L", 0, "should fill"),
        (end + 16, "<L", 0, "should fill"),
        (end + 16, "<L", 0xFFFFFFFF, "should fill"),
        (end + 20, "<H", 1, "zip file has no directory"),
    ]:
        assert words in refusal(path, patched(content, at, layout, value)), (at, words)
    for count in (0, 4, 6, 0xFFFF):
        lie = patched(patched(content, end + 8, "<H", count), end + 10, "<H", count)
        assert "directory promises" in refusal(path, lie)
    path.write_bytes(content + b"comment")
    assert "has no directory" in refusal(path)
    path.write_bytes(patched(content, end + 20, "<H", 7) + b"comment")
    assert load_torch(path)["0"].size == 4


@read_and_mapped
def test_limits_of_the_directory_are_exact(path):
    content = archive(state(tensor()))
    start = struct.unpack_from("<L", content, len(content) - 6)[0]
    place = directory_entry(content, b"archive/data/1") + 42
    assert "is not at byte" in refusal(path, patched(content, place, "<L", start - 30))
    assert "cut short" in refusal(path, patched(content, place, "<L", start - 29))
    last = directory_entry(content, b"archive/byteorder")  # ends where the directory does
    assert "no directory entry" in refusal(path, patched(content, last + 32, "<H", 1))
    for comment in (b"x" * 0xFFFF, b"x" * 9 + b"PK\5\6", b"PK\5\6" + bytes(30)):
        size = len(comment)
        path.write_bytes(patched(content, len(content) - 2, "<H", size) + comment)
        assert load_torch(path)["0"].size == 4


@read_and_mapped
def test_records_that_overlap(path):
    """As in a small file that passes for a large one."""
    content = archive(state(tensor()))
    entry = directory_entry(content, b"archive/data/0")
    for size in (17, 100, 400, 1 << 31):
        longer = patched(patched(content, entry + 20, "<L", size), entry + 24, "<L", size)
        assert "overlap" in refusal(path, longer)


@read_and_mapped
def test_64_bit_directories(path):
    content = archive(state(tensor()))
    at = directory_entry(content, b"archive/data/0")
    first = struct.unpack_from("<L", content, at + 42)[0]
    extra = struct.pack("<2H2s2H3Q", 7, 2, b"ab", 1, 24, 16, 16, first)
    long = patched(content, at + 30, "<H", len(extra))
    for place in (20, 24, 42):
        long = patched(long, at + place, "<L", 0xFFFFFFFF)
    long = long[: at + 60] + extra + long[at + 60 :]
    end = len(long) - 22
    size = struct.unpack_from("<L", long, end + 12)[0]
    long = patched(long, end + 12, "<L", size + len(extra))
    path.write_bytes(long)
    assert torch.load(path)["0"].tolist() == load_torch(path)["0"].tolist() == [1, 2, 3, 4]
    for place in range(3):
        for lie in (0, 15, 1 << 40, (1 << 64) - 1):
            refusal(path, patched(long, at + 60 + 10 + 8 * place, "<Q", lie))
    # Shorter than what is missing, and longer than what is there: 24 bytes.
    for length in (16, 23, 25, 0xFFFF):
        assert "lacks its 64-bit" in refusal(path, patched(long, at + 60 + 8, "<H", length))

    real = real_file(path)  # torch adds a 64-bit end to every file
    end = real.rindex(b"PK\6\6")
    for place in range(24, 76):
        for lie in (0, 0xFF):
            load_or_refuse(path, patched(real, end + place, "B", lie))
    assert "64-bit directory" in refusal(path, patched(real, end, "<L", 0))
    assert "64-bit directory" in refusal(path, patched(real, end + 56 + 8, "<Q", (1 << 64) - 1))
    assert "should fill" in refusal(path, patched(real, end + 40, "<Q", (1 << 64) - 1))


@read_and_mapped
def test_compressed_records_are_not_unpacked(path):
    content = archive(state(tensor()), {"0": bytes(16 * MB)}, compression=zipfile.ZIP_DEFLATED)
    assert len(content) < MB
    assert "is compressed" in refusal(path, content)


def test_checksums(tmp_path):
    content = archive(state(tensor()))
    for damaged in (by_hand.FLOATS, b"archive/data.pkl\x80"):
        at = content.index(damaged) + len(damaged) - 1
        message = refusal(tmp_path / "f", patched(content, at, "B", content[at] ^ 1))
        assert "its checksum is wrong" in message


def test_byte_orders(path):
    for order in (b"", b"middle", b"little\n", b"l" * 9999):
        assert "'byteorder' is neither" in refusal(path, archive(state(tensor()), order=order))
