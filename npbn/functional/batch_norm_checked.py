"""BatchNorm as a function that checks its arguments; `npbn.functional.batch_norm` is it.

The name of the function hides that of the module ``npbn/functional/batch_norm.py``, in which the
computation is: the function's docstring has the equations too.
"""

import numpy as np
from numpy.typing import ArrayLike

from npbn.arguments import check_number
from npbn.errors import ShapeError
from npbn.functional.batch_norm import batch_norm_forward, normalise_and_average
from npbn.functional.checks import check_batch_norm, plainly_fits


def batch_norm(
    x: ArrayLike,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> np.ndarray:
    """Batch normalisation, with the signature of ``torch.nn.functional.batch_norm``.

    For each channel, over its n values in the batch [1]_, algorithm 1::

        mean = Σ x / n
        var  = Σ (x − mean)² / n                       biased
        x̂    = (x − mean) / sqrt(var + eps)
        y    = weight · x̂ + bias

    In training, `running_mean` and `running_var` are updated **in place** if they are given (no
    other function of npbn.functional writes into its arguments)::

        running_mean = (1 − momentum) · running_mean + momentum · mean
        running_var  = (1 − momentum) · running_var  + momentum · var · n / (n − 1)     unbiased

    In evaluation they take the place of mean and var. The gradients, with g for that of y, are::

        grad_bias   = Σ g
        grad_weight = Σ g · x̂
        grad_input  = weight / sqrt(var + eps) · (g − x̂ · grad_weight / n − grad_bias / n)

    Parameters
    ----------
    x : array_like, shape (N, C) or (N, C, ...), float16, float32 or float64
        The input.
    running_mean, running_var : ndarray, shape (C,), or None
        Needed in evaluation; updated in training if they are given.
    weight, bias : ndarray, shape (C,), or None
        Scale and shift; None means 1 and 0.
    training : bool
        Whether the statistics of the batch normalise, or the running ones.
    momentum : float
        Weight of the **new** value in the running statistics.
    eps : float
        Added to the variance, under the root.

    Returns
    -------
    ndarray, shape and dtype of x
        The output.

    Raises
    ------
    ShapeError, DtypeError, BatchSizeError
        If they do not fit together; nothing has been changed then.
    ValueError
        If `eps` is not positive in training (negative in evaluation), or the running statistics
        are missing in evaluation or read-only in training, or `momentum` is no number.

    See Also
    --------
    npbn.functional.batch_norm_forward, npbn.functional.batch_norm_backward :
        The computation. `help` of the latter derives the gradient. Both are in the file
        ``npbn/functional/batch_norm.py``, whose first lines state the accuracy.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", 2015, arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> from npbn.functional import batch_norm
    >>> mean, var = np.zeros(1), np.ones(1)
    >>> batch_norm(np.array([[1.0], [3.0]]), mean, var, training=True, eps=1e-12)
    array([[-1.],
           [ 1.]])
    >>> mean, var       # 0.9 · 0 + 0.1 · 2, and 0.9 · 1 + 0.1 · 2, the variance unbiased
    (array([0.2]), array([1.1]))
    """
    x = np.asarray(x)
    if x.ndim < 2:
        raise ShapeError(f"batch_norm: expected input of shape (N, C, ...), got {x.shape}")
    for name, array in (("running_mean", running_mean), ("running_var", running_var)):
        if array is not None and not isinstance(array, np.ndarray):  # a copy would be updated
            raise TypeError(f"batch_norm: expected {name} as an ndarray, got {array!r}")
    weight = None if weight is None else np.asarray(weight)
    bias = None if bias is None else np.asarray(bias)
    vectors = (running_mean, running_var, weight, bias)
    if not plainly_fits(x, x.shape[1], vectors, training, eps):
        check_batch_norm("batch_norm", x, x.shape[1], vectors, training, eps)
    if training and running_mean is not None and running_var is not None:
        if not (running_mean.flags.writeable and running_var.flags.writeable):
            raise ValueError("batch_norm: expected running statistics that can be written to")
        check_number("batch_norm", "momentum", momentum)
        y, _, averages = normalise_and_average(
            x, running_mean, running_var, weight, bias, momentum, eps
        )
        running_mean[...], running_var[...] = averages
        return y
    return batch_norm_forward(x, running_mean, running_var, weight, bias, training, eps)[0]
