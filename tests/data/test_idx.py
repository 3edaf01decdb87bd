"""The IDX reader and writer: round trips, and files that lie, break or are missing."""

import contextlib
import gzip
import os
import stat
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npbn.data import read_idx, write_idx
from npbn.errors import DataError
from npbn.io import atomic

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
MB = 1 << 20

dtypes = st.builds(str.__add__, st.sampled_from("<>"), st.sampled_from(sorted(CODES)))
shapes = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)
names = st.sampled_from(["array.idx", "array.idx.gz"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("idx")


def header(*shape, code=0x08):
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def refusal(path, content=None):
    """Write the content, read it, and return the message of the error, which names the file."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def peak_memory(run):
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Round trips


@given(data=st.data(), dtype=dtypes, shape=shapes, name=names)
def test_round_trip_gives_the_same_bits(folder, data, dtype, shape, name):
    array = data.draw(hnp.arrays(dtype, shape))
    write_idx(folder / name, array)
    back = read_idx(folder / name)

    native = array.astype(array.dtype.newbyteorder("="))
    assert (back.shape, back.dtype) == (native.shape, native.dtype)
    assert back.tobytes() == native.tobytes()  # bits, so that NaNs are compared too
    assert back.dtype.isnative
    assert back.flags.c_contiguous
    assert back.flags.writeable
    back[...] = 0


@pytest.mark.parametrize("name", ["array.idx", "array.idx.gz"])
def test_any_memory_layout_is_written(tmp_path, name):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for view in (
        np.asfortranarray(array),
        array[::-1, ::2, ::-2],
        np.broadcast_to(array, (2, 3, 4, 5)),
    ):
        write_idx(tmp_path / name, view)
        np.testing.assert_array_equal(read_idx(tmp_path / name), view)


@pytest.mark.parametrize(
    ("dtype", "payload"),
    [
        ("u1", "01 ff"),
        ("i1", "01 ff"),
        ("i2", "0001 ffff"),
        ("i4", "00000001 ffffffff"),
        ("f4", "3f800000 bf800000"),
        ("f8", "3ff0000000000000 bff0000000000000"),
    ],
)
def test_bytes_are_those_of_the_format(tmp_path, dtype, payload):
    array = np.array([[1], [255 if dtype == "u1" else -1]], dtype)
    content = header(2, 1, code=CODES[dtype]) + bytes.fromhex(payload)
    write_idx(tmp_path / "written", array)
    assert (tmp_path / "written").read_bytes() == content
    (tmp_path / "given").write_bytes(content)
    np.testing.assert_array_equal(read_idx(tmp_path / "given"), array, strict=True)


def test_compression_is_detected_by_content_not_by_name(tmp_path):
    content = header(3) + b"abc"
    (tmp_path / "plain.gz").write_bytes(content)
    (tmp_path / "packed").write_bytes(gzip.compress(content))
    assert read_idx(tmp_path / "plain.gz").tobytes() == b"abc"
    assert read_idx(tmp_path / "packed").tobytes() == b"abc"


def test_compressed_files_are_reproducible(tmp_path):
    array = np.arange(1000, dtype=np.int32)
    write_idx(tmp_path / "one.gz", array)
    write_idx(tmp_path / "another.gz", array)
    one, another = (tmp_path / "one.gz").read_bytes(), (tmp_path / "another.gz").read_bytes()
    assert one == another
    assert one[3] == 0  # the gzip header's flags: no file name
    assert one[4:8] == bytes(4)  # and no time


def test_paths_may_be_strings(tmp_path):
    write_idx(f"{tmp_path}/array.gz", np.arange(3, dtype=np.uint8))
    assert (tmp_path / "array.gz").read_bytes().startswith(b"\x1f\x8b")
    assert read_idx(f"{tmp_path}/array.gz").tolist() == [0, 1, 2]


def test_an_array_larger_than_one_chunk(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, 2 * MB + 3, np.uint8)
    for name in ("array", "array.gz"):
        write_idx(tmp_path / name, array)
        np.testing.assert_array_equal(read_idx(tmp_path / name), array, strict=True)


# Files that are refused


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
class TestRefusedContent:
    """Each content is refused alike whether it is compressed or not."""

    def test_bad_magic(self, tmp_path, pack):
        assert "not an IDX file" in refusal(tmp_path / "f", pack(b"\x89PNG\r\n\x1a\n"))

    @pytest.mark.parametrize("content", [b"", b"\0", b"\0\0\x08"])
    def test_magic_cut_short(self, tmp_path, pack, content):
        assert "not an IDX file" in refusal(tmp_path / "f", pack(content))

    def test_unknown_dtype_code(self, tmp_path, pack):
        message = refusal(tmp_path / "f", pack(header(1, code=0x0A) + b"a"))
        assert "0a is no dtype code" in message
        assert "08 09 0b 0c 0d 0e" in message

    def test_truncated_header(self, tmp_path, pack):
        message = refusal(tmp_path / "f", pack(header(1, 2, 3)[:-3]))
        assert "says 3 dimensions in 12 bytes" in message
        assert "after 9" in message

    def test_truncated_data(self, tmp_path, pack):
        message = refusal(tmp_path / "f", pack(header(2, 3, code=0x0C) + bytes(23)))
        assert "2 x 3 int32 values, 24 bytes" in message
        assert "only 23" in message

    def test_trailing_data(self, tmp_path, pack):
        message = refusal(tmp_path / "f", pack(header(2, 3) + bytes(7)))
        assert "2 x 3 uint8 values, 6 bytes" in message
        assert "holds more" in message

    def test_scalar_and_empty_arrays_have_a_size_too(self, tmp_path, pack):
        assert "one uint8 values, 1 bytes" in refusal(tmp_path / "f", pack(header()))
        assert "0 bytes, the file holds more" in refusal(tmp_path / "f", pack(header(3, 0) + b"a"))

    def test_shape_that_numpy_cannot_hold(self, tmp_path, pack):
        assert "no array can have" in refusal(tmp_path / "f", pack(header(*[1] * 255) + b"a"))
        huge = 2**32 - 1
        assert "no array can have" in refusal(tmp_path / "f", pack(header(huge, huge, huge, 0)))

    def test_header_that_promises_terabytes_allocates_none(self, tmp_path, pack):
        content = pack(header(2**20, 1024, 1024) + bytes(10))
        peak = peak_memory(lambda: refusal(tmp_path / "f", content))
        assert "1099511627776 bytes, the file holds only 10" in refusal(tmp_path / "f")
        assert peak < 4 * MB


def test_gzip_bomb_is_not_unpacked(tmp_path):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(header(10) + bytes(16 * MB)))
    peak = peak_memory(lambda: refusal(tmp_path / "bomb.gz"))
    assert "holds more" in refusal(tmp_path / "bomb.gz")
    assert peak < MB


def test_damaged_gzip(tmp_path):
    good = gzip.compress(header(1000) + np.random.default_rng(0).bytes(1000), mtime=0)
    deflate_error = good[:10] + b"\xff" * 20 + good[30:]
    with pytest.raises(zlib.error):
        gzip.decompress(deflate_error)
    checksum_error = good[:-8] + bytes(4) + good[-4:]
    trailing_garbage = good + b"garbage"
    for content in (good[:2], good[:15], good[:500], good[:-1]):
        assert "cannot read" in refusal(tmp_path / "f", content)
    for content in (deflate_error, checksum_error, trailing_garbage):
        assert "cannot read" in refusal(tmp_path / "f", content)


def test_missing_file_and_folder(tmp_path):
    assert "No such file" in refusal(tmp_path / "missing")
    assert "cannot read" in refusal(tmp_path)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError("bad disk")])
def test_any_operating_system_error(tmp_path, monkeypatch, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=f"cannot read .*f: {error.strerror or error}$"):
        read_idx(tmp_path / "f")
    with pytest.raises(DataError, match=f"cannot write .*f: {error.strerror or error}$"):
        write_idx(tmp_path / "f", np.zeros(1, np.uint8))


def read_or_refuse(path, content):
    path.write_bytes(content)
    with contextlib.suppress(DataError):  # and nothing else
        assert isinstance(read_idx(path), np.ndarray)


@given(
    start=st.sampled_from(
        [b"", b"\0\0", b"\0\0\x08\1\0\0\0", b"\0\0\x0b\2\0\0\0\1\0\0\0", b"\x1f\x8b\x08\0"]
    ),
    rest=st.binary(max_size=300),
    pack=st.booleans(),
)
def test_fuzz_random_bytes(folder, start, rest, pack):
    content = start + rest
    read_or_refuse(folder / "fuzz", gzip.compress(content) if pack else content)


@given(data=st.data(), pack=st.booleans())
def test_fuzz_one_changed_byte(folder, data, pack):
    content = header(2, 5, code=0x0B) + bytes(range(20))
    content = bytearray(gzip.compress(content, mtime=0) if pack else content)
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(folder / "fuzz", content)


# Arrays that are not written


@pytest.mark.parametrize("dtype", ["?", "u2", "i8", "u8", "f2", "c8", "U3", "O", "M8[s]", "u1,u1"])
def test_unsupported_dtype_writes_nothing(tmp_path, dtype):
    array = np.zeros(2, dtype)
    with pytest.raises(
        DataError, match="uint8, int8, int16, int32, float32, float64, not"
    ) as caught:
        write_idx(tmp_path / "f", array)
    assert str(array.dtype) in str(caught.value)
    assert not (tmp_path / "f").exists()


def test_dimension_beyond_32_bits_writes_nothing(tmp_path):
    with pytest.raises(DataError, match="4294967296"):
        write_idx(tmp_path / "f", np.zeros((2**32, 0), np.uint8))
    assert not (tmp_path / "f").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["f", "f.gz"])
@pytest.mark.parametrize("size", [3, 10**6])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, name, size):
    """Half a file was left in the place of a whole one."""
    path, replace = tmp_path / name, atomic.replace
    write_idx(path, np.arange(3, dtype=np.uint8))

    def full(name, write):
        """Make the temporary file a link to the device that is always full."""

        def linked(temporary):
            os.unlink(temporary)
            os.symlink("/dev/full", temporary)
            write(temporary)

        replace(name, linked)

    monkeypatch.setattr(atomic, "replace", full)
    noise = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    with pytest.raises(DataError, match=r"cannot write .*space"):
        write_idx(path, noise)
    assert read_idx(path).tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_what_is_replaced_keeps_its_permissions_and_links(tmp_path):
    path, link = tmp_path / "f", tmp_path / "link"
    write_idx(path, np.zeros(1, np.uint8))
    path.chmod(0o600)
    link.symlink_to(path)
    write_idx(link, np.ones(1, np.uint8))
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_idx(path).tolist() == [1]


def test_unwritable_place(tmp_path):
    with pytest.raises(DataError, match=r"cannot write .*No such file"):
        write_idx(tmp_path / "no" / "folder", np.zeros(2, np.uint8))
    with pytest.raises(DataError, match="cannot write"):
        write_idx(tmp_path, np.zeros(2, np.uint8))
