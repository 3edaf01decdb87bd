"""Every number that was chosen by measurement, with the measurement.

One thread of a 2-core Zen 4 with 1 MB of second-level cache a core, NumPy 2.4, OpenBLAS, float32
unless stated. None of them moves a result beyond its documented bounds.
"""

# A block is what one loop works on at a time, and what a thread takes. BatchNorm forward + backward
# at (4096, 1024): 256 KB 16.6 ms, 512 KB 14.8, 1 MB 13.2, 2 MB 12.4, 8 MB 15.9.
BLOCK_BYTES = 1024 * 1024

# Arrays from this size on are shared out among threads. BatchNorm on two threads, in its time on
# one (forward, forward + backward, eval): 1.07, 0.88, 0.95 at 4 MB, 0.79, 0.76, 0.69 at 8 MB, 0.86,
# 0.79, 0.72 at 16 MB, 0.74, 0.73, 0.66 at 32 MB.
THREADED_BYTES = 8 * 1024 * 1024

# Numbers along NumPy's innermost loop, where a (C,) vector is repeated to reach it. At (1024, 256)
# a product with a vector of 256 numbers takes 68 µs, of 1024 or 4096 65 µs, of 8192 44 µs, and with
# an array of the same shape 38 µs: below 8192, NumPy's buffer, the vector is copied for every row.
LOOP = 8192

# Matrices up to this size are not worth the copy of the vector, 2.3 µs: at (64, 256) the product
# then takes 3.5 µs instead of 5.
REPEATED = 4 * LOOP

# Rows that one partial sum in the input's dtype spans before float64 takes over: a sum of k numbers
# loses up to (k − 1) / 2 eps. (256, 256) sums in 9.8 µs with 8, in 6.4 µs with 64. Products are
# summed by half as many. (Σd² of batches with heavy tails, 40,000 drawn: 4 rows lose up to 2.1
# eps, 8 rows 2.9.)
PARTIAL = 8

# Positions of an image that BLAS sums in float32 before float64 takes over, at most, and the least
# for which a call a piece is worth while. At (32, 64, 28, 28), 6 MB, a sum takes 98 µs and one of
# products 218; NumPy's 361, and as much again as a product for those.
PIECE, LANES = 256, 16

# float32 batches of up to so many numbers are computed in float64 throughout: (16, 256) forward in
# 27 µs against 38, backward in 23 against 41; at (64, 256) there is no difference, beyond it loses.
SMALL = 8192

# float32 batches up to this size are measured in float64 throughout, which needs no centring. In
# the time of the other road the statistics of (64, 256) take 0.24, of (256, 256) 0.41; a whole
# forward pass 0.77 to 0.83 at 512 KB, 0.85 to 1.01 at 1 MB and 1.19 to 1.23 at 4 MB.
WIDE_BYTES = 1024 * 1024

# Rows of which a larger batch's mean is guessed, to subtract before summing: std / 8 off.
SAMPLE = 64

# In evaluation up to one channel in so many is centred alone, where it needs to be; with more, all
# are. One dead channel of (64, 256), (1024, 256), (4096, 1024), in the time without: alone 1.07,
# 1.26, 0.85, all 1.18, 1.52, 1.19; 8 of (1024, 256): 1.54 and 1.55; 16 of (4096, 1024): 1.34, 1.26.
FEW = 64

# What a convolution has in memory at once of patches, of padded images and of products: each this
# at most, or what one row of output (one image) needs. The backward pass has the gradients of the
# first two beside them: far below 16 MB in all. Forward and backward of a 3x3 kernel at
# (64, 16, 28, 28) with 256 KB, 512 KB, 1, 2, 4, 16 MB: 38, 32, 29, 29, 32, 51 ms; at (8, 64, 56,
# 56): 130, 101, 103, 90, 99, 106 ms.
PATCH_BYTES = 1024 * 1024
