"""Files that are cut short or changed give one clear error, or what was saved."""

import pickle

import pytest
from checkpoint.states import FLAT, STATE, SUFFIXES, same
from hypothesis import given
from hypothesis import strategies as st

from npbn.checkpoint import load, save
from npbn.errors import CheckpointError


@pytest.fixture(scope="module", params=SUFFIXES)
def path(request, tmp_path_factory):
    return tmp_path_factory.mktemp("damage") / f"x{request.param}"


@pytest.fixture(scope="module", params=[STATE, FLAT], ids=["nested", "flat"])
def content(request, path):
    save(request.param, path, metadata={"epoch": 3})
    return path.read_bytes()


def outcome(path, data):
    """Load these bytes; return the state and metadata, or None for one clear error."""
    path.write_bytes(data)
    try:
        found = load(path)
    except CheckpointError:
        return None
    return dict(found), found.metadata


@given(data=st.data())
def test_a_truncated_file_is_refused(path, content, data):
    assert outcome(path, content[: data.draw(st.integers(0, len(content) - 1))]) is None


def test_one_byte_less_or_more_is_refused(path, content):
    assert outcome(path, content[:-1]) is None
    assert outcome(path, content + b"\0") is None


@given(data=st.data(), flip=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(path, content, data, flip):
    """In .safetensors the values have no checksum: there a byte may change values, nothing else."""
    expected = outcome(path, content)
    place = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[place] ^= flip
    found = outcome(path, bytes(damaged))
    if path.suffix == ".safetensors" and place >= 8 + int.from_bytes(content[:8], "little"):
        assert found is None or (found[0].keys(), found[1]) == (expected[0].keys(), expected[1])
    else:
        assert found is None or same(found, expected)


STARTS = (b"", b"PK\3\4", b"PK\5\6", b"\x20\0\0\0\0\0\0\0{", b"\x80\x02}", b"\x93NUMPY")


@given(start=st.sampled_from(STARTS), noise=st.binary(max_size=90))
def test_noise_is_refused(path, start, noise):
    assert outcome(path, start + noise) is None


def test_a_file_of_another_kind_is_what_it_contains(path, tmp_path):
    other = tmp_path / f"y{SUFFIXES[path.suffix == SUFFIXES[0]]}"
    save(STATE, other)
    assert same(outcome(path, other.read_bytes())[0], STATE)
    assert outcome(path, pickle.dumps(1)) is None
    assert outcome(path, b"") is None
