"""Batch normalisation: forward, backward and the running statistics.

For each channel, over the batch (and the positions L, or H and W, of the input), with
n values a channel [1]_, algorithm 1::

    mean = Σ x / n
    var  = Σ (x − mean)² / n                       biased
    x̂    = (x − mean) / sqrt(var + eps)
    y    = weight · x̂ + bias

In evaluation `mean` and `var` are the running statistics, which training has averaged::

    running_mean = (1 − momentum) · running_mean + momentum · mean
    running_var  = (1 − momentum) · running_var  + momentum · var · n / (n − 1)     unbiased

Two roads lead there. Small float32 batches are computed in float64, by these equations:
:mod:`npbn.functional.batch_norm_small`. The others stay in their dtype (float16 is computed in
float32) and look after their digits: :mod:`npbn.functional.batch_norm_large`.

**Accuracy.** With eps the machine epsilon of the input's dtype, for every finite input with up
to 10⁶ values a channel and |mean| / std up to 10⁶, against exact arithmetic:

- y: 8 eps · max(1, |weight · x̂|, |bias|); exactly `bias` in a constant channel
- batch mean: 2 eps · max(|mean|, std); batch variance: 4 eps · var; the running statistics
  likewise, wherever the result can be represented
- gradients: 8 eps · Σ|terms|, see :func:`batch_norm_backward`

References
----------
.. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
   Reducing Internal Covariate Shift", 2015, arXiv:1502.03167.
"""

import numpy as np

from npbn.errors import ShapeError
from npbn.functional.batch_norm_exact import BatchNormCache
from npbn.functional.batch_norm_large import large_backward, large_forward
from npbn.functional.batch_norm_small import is_small, small_backward, small_forward
from npbn.functional.checks import check_batch_norm
from npbn.functional.statistics import BatchStatistics


@np.errstate(all="ignore")
def batch_norm_forward(
    x: np.ndarray,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    training: bool = False,
    eps: float = 1e-5,
) -> tuple[np.ndarray, BatchNormCache]:
    """Normalise each channel; changes none of its arguments.

    Parameters
    ----------
    x : ndarray, shape (N, C) or (N, C, ...), float16, float32 or float64
    running_mean, running_var : ndarray, shape (C,), or None
        Used (and needed) when not training.
    weight, bias : ndarray, shape (C,), or None
        Scale and shift; None means 1 and 0.
    training : bool
        Whether the batch's own statistics normalise.
    eps : float
        Added to the variance, under the root.

    Returns
    -------
    y : ndarray, shape and dtype of x
    cache : BatchNormCache
        ``cache.statistics`` is what :func:`updated_running_statistics` takes.

    Notes
    -----
    The arguments are taken as checked (:func:`npbn.functional.checks.check_batch_norm`).
    """
    dtype = x.dtype
    x = np.ascontiguousarray(x, np.float32 if dtype == np.float16 else dtype)
    forward = small_forward if is_small(x) else large_forward
    y, cache = forward(x, running_mean, running_var, weight, bias, training, eps)
    return y.astype(dtype, copy=False), cache


@np.errstate(all="ignore")
def batch_norm_backward(
    grad_output: np.ndarray, cache: BatchNormCache, input_grad: bool = True
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Return the gradients of input, weight and bias.

    With g for `grad_output`, sums over a channel's n values, std = sqrt(var + eps)::

        grad_bias   = Σ g
        grad_weight = Σ g · x̂
        grad_input  = weight / std · (g − grad_bias / n − x̂ · grad_weight / n)

    When the running statistics normalised they are constants, and the last two terms of
    `grad_input` fall away. The second form follows from the equations of [1]_ (section 3)
    by collecting the paths through mean and variance.

    **Error bound**: 8 eps · Σ|terms|, the terms those of the sums above, with |x̂| + 1/2 for
    x̂ (the shift may miss the mean by std / 2). Derivation, in units u = eps / 2: a product
    g · (x − shift) loses 2 u and its partial sum of 4 at most 3 u, a partial sum of 8 numbers g
    7 u, the factors in front 3 u; so grad_bias loses 8 u and grad_weight 8 u of their terms;
    grad_input loses 10 u in the factor of x − shift, 1 u in that itself, 1 u in the product and
    2 u in the two sums. With more axes BLAS sums up to 256 positions at a time (float64 and
    odd sizes: NumPy, by pairs): 35 u on a unit that adds 8 numbers at once, 18 u by pairs, where
    3 u and 7 u stand above. Errors seen stay below 2 eps.

    Parameters
    ----------
    grad_output : ndarray, shape and dtype of the forward pass's output
    cache : BatchNormCache
    input_grad : bool
        Whether `grad_input` is wanted; None is returned in its place otherwise.

    Returns
    -------
    grad_input : ndarray, shape and dtype of `grad_output`, or None
    grad_weight, grad_bias : ndarray, shape (C,), dtype of `weight`
        Without a weight: float64.

    References
    ----------
    .. [1] Ioffe and Szegedy 2015, arXiv:1502.03167.
    """
    grad = np.ascontiguousarray(grad_output, cache.x.dtype)
    backward = small_backward if is_small(cache.x) else large_backward
    grad_input, grad_weight, grad_bias = backward(grad, cache, input_grad)
    if cache.weight is not None:
        dtype = cache.weight.dtype
        grad_weight, grad_bias = grad_weight.astype(dtype), grad_bias.astype(dtype)
    if input_grad:
        grad_input = grad_input.astype(grad_output.dtype, copy=False)
    return grad_input, grad_weight, grad_bias


@np.errstate(all="ignore")
def updated_running_statistics(
    running_mean: np.ndarray,
    running_var: np.ndarray,
    statistics: BatchStatistics,
    momentum: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the running mean and variance with a batch averaged in, as new arrays.

    `momentum` is the weight of the **new** value, as in torch; an empty batch has no value
    and changes nothing.
    """
    if statistics.count == 0:
        return running_mean.copy(), running_var.copy()
    mean = _averaged(running_mean, statistics.mean, momentum)
    return mean, _averaged(running_var, statistics.unbiased_var, momentum)


def _averaged(old: np.ndarray, new: np.ndarray, momentum: float) -> np.ndarray:
    average = np.multiply(old, 1 - momentum, dtype=np.float64)
    average += momentum * new
    return average.astype(old.dtype)


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

    When training, `running_mean` and `running_var` (if given) are updated **in place**,
    as torch does; it is the one function of npbn that writes into its arguments.

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
        If `eps` is not positive in training (negative in evaluation), or the running
        statistics are missing in evaluation.

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
    check_batch_norm("batch_norm", x, x.shape[1], vectors, training, eps)
    y, cache = batch_norm_forward(x, running_mean, running_var, weight, bias, training, eps)
    if training and running_mean is not None:
        running_mean[...], running_var[...] = updated_running_statistics(
            running_mean, running_var, cache.statistics, momentum
        )
    return y
