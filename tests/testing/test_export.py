"""Exported cases: what is written."""

import dataclasses
import hashlib
import io
import re
import struct
import zipfile

import numpy as np
import pytest

import npbn
from npbn.testing import export, export_format, oracle
from npbn.testing.case import Setup, Step
from npbn.testing.export import export_cases
from npbn.testing.fixed_cases import fixed_cases

PARAMETERS = ("weight", "bias", "running_mean", "running_var")


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(exported, index, tmp_path):
    again = tmp_path / "made" / "on the way"
    assert export_cases(again) == len(index["cases"])
    names = sorted(path.name for path in exported.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert all((exported / name).read_bytes() == (again / name).read_bytes() for name in names)


@pytest.mark.slow
def test_exporting_over_an_export(exported, tmp_path):
    for name in ("index.json", "case_000.npz", "README.txt"):
        (tmp_path / name).write_text("of another version")
    export_cases(tmp_path)
    for name in ("index.json", "case_000.npz", "README.txt"):
        assert (tmp_path / name).read_bytes() == (exported / name).read_bytes()


@pytest.mark.slow
def test_size(exported):
    assert sum(path.stat().st_size for path in exported.iterdir()) < 5_000_000


def test_index(few_exported, few_index):
    assert few_index["npbn_version"] == npbn.__version__
    for case in few_index["cases"]:
        digest = hashlib.sha256((few_exported / case["file"]).read_bytes()).hexdigest()
        assert case["sha256"] == digest
    readme = (few_exported / "README.txt").read_text()
    assert all(
        re.search(rf"\b{field.name}\b", readme) for field in dataclasses.fields(export.Entry)
    )
    assert not re.search(r"[^\x00-\x7f]|.{101}", readme)


def test_coverage():
    cases = [(setup, step) for _, setup, step in fixed_cases()]
    assert 300 <= len(cases) <= 400
    ranks = {(step.x.ndim, step.x.dtype.name, step.training) for _, step in cases}
    assert len(ranks) == 4 * 3 * 2
    options = {
        (step.x.dtype.name, step.training, s.weight is None, s.bias is None, s.tracks)
        for s, step in cases
    }
    assert len(options) == 3 * 2 * 4 * 2
    assert {0.0, 0.1, 1.0, None, -0.5, 1.5} <= {setup.momentum for setup, _ in cases}
    assert len({setup.eps for setup, _ in cases}) >= 6
    assert any(step.x.size == 0 for _, step in cases)
    assert all(setup.dtype == np.float32 for setup, step in cases if step.x.dtype == np.float16)
    for dtype, ratio in [("float32", 1e6), ("float64", 1e8)]:
        conditions = set()
        for _, step in cases:
            if step.x.dtype == dtype and step.x.size:
                x = step.x.astype(np.float64)
                axes = (0, *range(2, x.ndim))
                std = x.std(axes)
                with np.errstate(divide="ignore", invalid="ignore"):
                    largest = np.where(std > 0, abs(x.mean(axes)) / std, 0).max()
                conditions.add((step.training, largest > ratio / 2))
        assert {(True, True), (False, True)} <= conditions


@pytest.mark.slow
def test_files_are_what_the_readme_says(exported, index):
    """A reader in another language parses them so."""
    for case, (_, setup, step) in zip(index["cases"], fixed_cases(), strict=True):
        data = (exported / case["file"]).read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                # the local header has the sizes: no ZIP64, no compression, no data descriptor
                header = struct.unpack_from("<4s5H3I2H", data, member.header_offset)
                assert header[0] == b"PK\3\4"
                assert (header[2], header[3]) == (0, 0)
                assert header[7] == header[8] == member.file_size < 2**31
                raw = data[member.header_offset + 30 + header[9] + header[10] :][: header[8]]
                assert raw.startswith(b"\x93NUMPY\x01\x00")
                assert (10 + int.from_bytes(raw[8:10], "little")) % 64 == 0
                assert b"'descr': '<f" in raw[:128]
                assert b"'fortran_order': False" in raw[:128]
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            np.testing.assert_array_equal(arrays["x"], step.x)
            assert arrays["x"].dtype == step.x.dtype == case["dtype"]
            for name in PARAMETERS:
                assert (name in arrays) == (getattr(setup, name) is not None)
                if name in arrays:
                    np.testing.assert_array_equal(arrays[name], getattr(setup, name))
            exact = oracle.step(setup, step)
            assert case["num_batches_tracked_after"] == exact.num_batches_tracked
            for name in export_format.RESULTS:
                if name in arrays:
                    value = getattr(exact, name.removesuffix("_after"))
                    stored = arrays[name]
                    finite = np.isfinite(stored)
                    np.testing.assert_array_equal(stored[finite], value[finite])
                    assert np.all(abs(value[~finite]) > np.finfo(setup.dtype).max)
                    for measure in export_format.MEASURES:
                        tolerance = arrays[f"tolerance_{measure}_{name}"]
                        assert tolerance.shape == stored.shape
                        assert np.all(tolerance > 0)


def test_measures():
    """A float32 sum of squares overflows at 1e30, a float64 one does not."""
    for dtype, expected in [(np.float32, ["contract"]), (np.float64, ["correct", "contract"])]:
        setup = Setup(
            1, running_mean=np.zeros(1, dtype), running_var=np.ones(1, dtype), dtype=dtype
        )
        setup = dataclasses.replace(setup, dtype=np.dtype(dtype))
        x = np.array([[1e30], [0]], dtype)
        assert export._measures(setup, Step(x, True)) == expected
        assert export._measures(setup, Step(x, False)) == ["correct", "contract"]
