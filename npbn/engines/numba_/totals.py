"""Sums of blocks, combined in the same way for both layouts."""

import numpy as np

from npbn.engines.numba_.compiling import compiled


@compiled
def add_in_pairs(parts):
    """Add the rows of (K, C) in pairs, then pairs of pairs, ...; the total is left in row 0."""
    step = 1
    while step < len(parts):
        for k in range(0, len(parts) - step, 2 * step):
            row, other = parts[k], parts[k + step]
            for c in range(len(row)):
                row[c] += other[c]
        step *= 2


@compiled
def make_finite(shift):
    """Replace infinities and NaN by 0: ∞ − ∞ would be NaN, where the mean is ∞."""
    for c in range(len(shift)):
        if not np.isfinite(shift[c]):
            shift[c] = 0.0


@compiled
def finish(count, shift, sums, squares, mean, rest, m2):
    """Write mean, rest and m2 from Σ (x − shift) and Σ (x − shift)²; see the NumPy engine."""
    for c in range(len(shift)):
        offset = sums[c] / count
        mean[c] = shift[c] + offset
        rest[c] = (shift[c] - mean[c]) + offset if np.isfinite(mean[c]) else 0.0
        around_mean = squares[c] - sums[c] * offset
        m2[c] = 0.0 if around_mean < 0.0 else around_mean
