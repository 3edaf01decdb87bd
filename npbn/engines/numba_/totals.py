"""What both layouts do with the sums of blocks."""

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
    """Replace what cannot be subtracted: ∞ − ∞ would be NaN, where the mean is ∞."""
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
        about_mean = squares[c] - sums[c] * offset
        m2[c] = 0.0 if about_mean < 0.0 else about_mean
