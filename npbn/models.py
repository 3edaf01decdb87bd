"""Networks to compare."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

import numpy as np
from numpy.typing import DTypeLike

from npbn.layers import BatchNorm1d, Linear, ReLU, Sequential
from npbn.rng import generator

__all__ = ["MLP"]


class MLP(Sequential):
    """The reference network: three fully connected layers, with BatchNorm or without.

    With: fc1 → batch_norm1 → relu → fc2 → batch_norm2 → fc3, fc1 and fc2 without a bias,
    which BatchNorm would cancel. (There is no activation after the second block: it is the
    published network, kept as it is.) Without: fc1 → relu → fc2 → fc3, all with bias.

    Parameters
    ----------
    input_size, hidden_dim, output_size : int
    use_batch_norm : bool
    dtype : {float32, float64, float16}
    rng : numpy.random.Generator, optional
        Source of the initial values.

    Examples
    --------
    >>> import numpy as np
    >>> MLP(4, 3, 2, rng=np.random.default_rng(0))
    MLP(
      (fc1): Linear(in_features=4, out_features=3, bias=False)
      (batch_norm1): BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True,
                                 track_running_stats=True)
      (relu): ReLU()
      (fc2): Linear(in_features=3, out_features=3, bias=False)
      (batch_norm2): BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True,
                                 track_running_stats=True)
      (fc3): Linear(in_features=3, out_features=2, bias=True)
    )
    """

    def __init__(
        self,
        input_size: int = 784,
        hidden_dim: int = 256,
        output_size: int = 10,
        use_batch_norm: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | None = None,
    ):
        rng = generator(rng)
        bias = not use_batch_norm
        fc1 = Linear(input_size, hidden_dim, bias, dtype=dtype, rng=rng)
        fc2 = Linear(hidden_dim, hidden_dim, bias, dtype=dtype, rng=rng)
        fc3 = Linear(hidden_dim, output_size, dtype=dtype, rng=rng)
        if use_batch_norm:
            super().__init__(
                fc1=fc1,
                batch_norm1=BatchNorm1d(hidden_dim, dtype=dtype),
                relu=ReLU(),
                fc2=fc2,
                batch_norm2=BatchNorm1d(hidden_dim, dtype=dtype),
                fc3=fc3,
            )
        else:
            super().__init__(fc1=fc1, relu=ReLU(), fc2=fc2, fc3=fc3)
