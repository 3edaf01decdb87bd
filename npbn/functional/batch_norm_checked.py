"""BatchNorm as a function, with torch's signature: arguments are checked."""

import numpy as np

from npbn.errors import ShapeError
from npbn.functional.batch_norm import batch_norm_forward, update_running_statistics
from npbn.functional.checks import check_batch_norm, plainly_fits


def batch_norm(
    x: np.ndarray,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> np.ndarray:
    """Normalise each channel of a batch, with the signature of torch's function.

    When training, `running_mean` and `running_var` (if given) are updated **in place**, as torch
    does; it is the one function of npbn that writes into its arguments.

    Parameters
    ----------
    x : ndarray, shape (N, C) or (N, C, ...), float16, float32 or float64
    running_mean, running_var : ndarray, shape (C,), or None
    weight, bias : ndarray, shape (C,), or None
    training : bool
        Normalise with the batch's statistics instead of the running ones.
    momentum : float
        Weight of the new value in the running statistics.
    eps : float
        Added to the variance, under the root.

    Returns
    -------
    ndarray, shape and dtype of x

    Raises
    ------
    ShapeError, DtypeError, BatchSizeError
        If they do not fit together; nothing has been changed then.
    ValueError
        If `eps` is not positive in training (negative in evaluation), or the running statistics
        are missing in evaluation, or read-only in training.

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
    vectors = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    if not plainly_fits(x, x.shape[1], vectors, training, eps):
        check_batch_norm("batch_norm", x, x.shape[1], vectors, training, eps)
    tracks = training and running_mean is not None
    if tracks and not (running_mean.flags.writeable and running_var.flags.writeable):
        raise ValueError("batch_norm: expected running statistics that can be written to")
    y, cache = batch_norm_forward(x, running_mean, running_var, weight, bias, training, eps)
    if tracks:
        update_running_statistics(running_mean, running_var, cache.statistics, momentum)
    return y
