"""The zip container of torch's files: the positions of its records. Nothing is copied.

A zip file ends in a directory with the names and positions of its records. Every number in it may
be wrong, so each is checked against the file before it is used. No two records may share bytes,
with which a small file could pass for a large one. Source of the format: PKWARE's APPNOTE.TXT,
sections 4.3 and 4.5. ``torch.save`` does not compress, so that records can be mapped into memory;
compressed records are not supported.
"""

import struct
from itertools import pairwise
from mmap import mmap
from typing import NamedTuple, TypeAlias

from npbn.errors import CheckpointError

Bytes: TypeAlias = bytes | bytearray | mmap

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_HEADER = struct.Struct("<4s5H3L2H")
_IN_EXTRA_FIELD = 0xFFFFFFFF  # the number needs 64 bits and is in the extra field
_ENCRYPTED = 1


class Record(NamedTuple):
    """The position of a record in the file, and what the directory says about it."""

    offset: int
    size: int
    crc: int
    compressed: bool


def read_records(file: Bytes) -> dict[str, Record]:
    """Return the records of a zip file by name."""
    start, end, count = _find_directory(file)
    records: dict[str, Record] = {}
    extents = [(start, end)]
    position = start
    while position < end:
        name, header, record, position = _read_entry(file, position, end)
        offset = _find_data(file, name, header, start)
        extents.append((header, offset + record.size))
        if name in records:
            raise CheckpointError(f"two records have the name {name[:80]!r}")
        records[name] = record._replace(offset=offset)
    if len(records) != count:
        raise CheckpointError(f"its directory promises {count} records and has {len(records)}")
    extents.sort()
    if any(stop > begin for (_, stop), (begin, _) in pairwise(extents)):
        raise CheckpointError("it is damaged: its records overlap or end after the file")
    return {name: record for name, record in records.items() if not name.endswith("/")}


def _find_directory(file: Bytes) -> tuple[int, int, int]:
    """Return the directory's first byte, the byte after its last, and its number of entries."""
    longest = _END.size + 0xFFFF  # a comment may follow
    tail = bytes(file[-longest:])
    at = tail.rfind(b"PK\5\6")
    while at >= 0:
        if at + _END.size <= len(tail):
            _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(tail, at)
            if at + _END.size + comment == len(tail):
                break
        at = tail.rfind(b"PK\5\6", 0, at)
    else:
        raise CheckpointError("it is cut short or damaged: the zip file has no directory")

    end = len(file) - len(tail) + at
    locator = end - _LOCATOR_64.size
    if locator >= 0 and file[locator : locator + 4] == b"PK\6\7":
        _, _, end, _ = _LOCATOR_64.unpack_from(file, locator)
        if end + _END_64.size > locator or file[end : end + 4] != b"PK\6\6":
            raise CheckpointError("it is damaged: the zip file has no 64-bit directory")
        numbers = _END_64.unpack_from(file, end)
        disk, first_disk, here, count, size, start = numbers[4:]
    if disk or first_disk or here != count:
        raise CheckpointError("it is one part of a zip file in several parts")
    if start + size != end:
        raise CheckpointError(
            f"it is damaged: the directory should fill bytes {start} to {start + size}, "
            f"but ends at {end}"
        )
    return start, end, count


def _read_entry(file: Bytes, position: int, end: int) -> tuple[str, int, Record, int]:
    """Return an entry's name, the position of its header, its record, and the next position."""
    if position + _ENTRY.size > end:
        raise CheckpointError("it is damaged: the directory ends within an entry")
    fields = _ENTRY.unpack_from(file, position)
    magic, _, _, flags, method, _, _, crc, packed, size = fields[:10]
    name_length, extra_length, comment_length, disk, _, _, header = fields[10:]
    extra_at = position + _ENTRY.size + name_length
    following = extra_at + extra_length + comment_length
    if magic != b"PK\1\2" or following > end:
        raise CheckpointError(f"it is damaged: no directory entry at byte {position}")
    name = _decode(bytes(file[extra_at - name_length : extra_at]))
    extra = bytes(file[extra_at : extra_at + extra_length])
    size, packed, header = _long_numbers(name, extra, [size, packed, header])
    if flags & _ENCRYPTED:
        raise CheckpointError(f"the record {name[:80]!r} is encrypted")
    if disk:
        raise CheckpointError(f"the record {name[:80]!r} is in another part of the zip file")
    compressed = bool(method) or packed != size
    return name, header, Record(header, packed, crc, compressed), following


def _long_numbers(name: str, extra: bytes, numbers: list[int]) -> list[int]:
    """Replace numbers that need 64 bits by those in the entry's extra field."""
    missing = [i for i, number in enumerate(numbers) if number == _IN_EXTRA_FIELD]
    at = 0
    while missing and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == 1:
            if length < 8 * len(missing) or at + length > len(extra):
                break
            for i, number in zip(
                missing, struct.unpack_from(f"<{len(missing)}Q", extra, at), strict=True
            ):
                numbers[i] = number
            return numbers
        at += length
    if missing:
        raise CheckpointError(
            f"it is damaged: the record {name[:80]!r} lacks its 64-bit size or position"
        )
    return numbers


def _find_data(file: Bytes, name: str, header: int, end: int) -> int:
    """Return where a record's bytes begin, after a header that has to have the same name."""
    if header + _HEADER.size > end:
        raise CheckpointError(
            f"the record {name[:80]!r} should begin at byte {header}: it is cut short"
        )
    fields = _HEADER.unpack_from(file, header)
    magic, name_length, extra_length = fields[0], int(fields[-2]), int(fields[-1])
    name_at = header + _HEADER.size
    encoded = name.encode()
    if magic != b"PK\3\4" or file[name_at : name_at + name_length] != encoded:
        raise CheckpointError(f"it is damaged: the record {name[:80]!r} is not at byte {header}")
    return name_at + name_length + extra_length


def _decode(name: bytes) -> str:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise CheckpointError(f"the record name {name[:80]!r} is not UTF-8") from None
    parts = text.removesuffix("/").split("/")
    if "\\" in text or "\0" in text or any(part in ("", ".", "..") for part in parts):
        raise CheckpointError(f"the record name {text[:80]!r} is not one that torch.save writes")
    return text
