"""Cases for other languages: written to files, and replayed on an implementation.

>>> import tempfile
>>> import npbn
>>> from npbn.testing import npbn_implementation
>>> with tempfile.TemporaryDirectory() as folder:
...     number = export_cases(folder)
...     results = replay_cases(folder, npbn_implementation(npbn.BatchNorm1d))
>>> number == len(results)
True
>>> results[0].name, results[0].contract.status
('case_000', 'passed')
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import npbn
from npbn.errors import DataError
from npbn.testing import oracle, tolerances
from npbn.testing.case import Setup, Step
from npbn.testing.export_format import (
    INDEX,
    MEASURES,
    README,
    README_TEXT,
    RESULTS,
    Entry,
    write_arrays,
    write_index,
)
from npbn.testing.fixed_cases import fixed_cases
from npbn.testing.names import VECTORS
from npbn.testing.replay import ReplayResult, Verdict, replay_cases

__all__ = ["ReplayResult", "Verdict", "export_cases", "replay_cases"]


def export_cases(folder: str | os.PathLike[str]) -> int:
    """Write the fixed cases, each with its exact results and tolerances.

    The files are the same, byte for byte, at every call. ``README.txt`` describes them. The
    index is removed first and written last, so that an export that was cut short is none.

    Parameters
    ----------
    folder : str or path-like
        Where; made if it is not there. The files of an earlier export are replaced.

    Returns
    -------
    int
        How many cases were written.

    Raises
    ------
    DataError
        If a file cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX).unlink(missing_ok=True)
        (folder / README).write_bytes(README_TEXT.encode())
        entries = [
            _write_case(folder, f"case_{number:03}.npz", *case)
            for number, case in enumerate(fixed_cases())
        ]
        write_index(folder, npbn.__version__, entries)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write {error.filename or folder}: {reason}") from error
    return len(entries)


def _write_case(folder: Path, file: str, description: str, setup: Setup, step: Step) -> Entry:
    exact = oracle.step(setup, step)
    entry = Entry(
        file=file,
        sha256="",
        description=description,
        shape=list(step.x.shape),
        dtype=step.x.dtype.name,
        parameter_dtype=setup.dtype.name,
        training=step.training,
        tracked=setup.tracks,
        weight=setup.weight is not None,
        bias=setup.bias is not None,
        eps=setup.eps,
        momentum=setup.momentum,
        num_batches_tracked_before=setup.num_batches_tracked,
        num_batches_tracked_after=exact.num_batches_tracked,
        measures=_measures(setup, step),
    )
    arrays: dict[str, Any] = {"x": step.x, "grad_output": step.grad_output}
    for name in VECTORS:
        arrays[name] = getattr(setup, name)
    for name in RESULTS:
        dtype = step.x.dtype if name in ("y", "grad_input") else setup.dtype
        arrays[name] = _representable(getattr(exact, name.removesuffix("_after")), dtype)
    for measure in MEASURES:
        tolerance = getattr(tolerances, measure)(setup, step, exact)
        for name in RESULTS:
            allowed = getattr(tolerance, name.removesuffix("_after"))
            arrays[f"tolerance_{measure}_{name}"] = allowed
    arrays = {name: arrays[name] for name in entry.arrays()}
    return replace(entry, sha256=write_arrays(folder / file, arrays))


def _measures(setup: Setup, step: Step) -> list[str]:
    """Return the measures, without "correct" where a sum of squares overflows."""
    largest = np.abs(step.x.astype(np.float64)).max(initial=0)
    overflows = 4 * step.x.size * largest**2 > np.finfo(setup.dtype).max
    return ["contract"] if overflows and (step.training or not setup.tracks) else list(MEASURES)


def _representable(exact: np.ndarray | None, dtype: np.dtype) -> np.ndarray | None:
    """Replace values beyond the range of `dtype` by infinities, which are correct there."""
    if exact is None:
        return None
    with np.errstate(over="ignore"):
        rounded = exact.astype(dtype)
    return np.where(np.isinf(rounded), rounded, exact)
