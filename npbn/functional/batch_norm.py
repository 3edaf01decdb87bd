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

Everything is computed in float64 and rounded once, to the dtype of the input.

References
----------
.. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
   Reducing Internal Covariate Shift", 2015, arXiv:1502.03167.
"""

from typing import NamedTuple

import numpy as np

from npbn.errors import BatchSizeError, DtypeError, ShapeError
from npbn.functional.checks import float_array
from npbn.functional.statistics import BatchStatistics, centre, channel_axes, per_channel


class BatchNormCache(NamedTuple):
    """What :func:`batch_norm_backward` needs of the forward pass.

    Attributes
    ----------
    x_hat : ndarray, shape of x, float64
        The normalised input, before weight and bias.
    inv_std : ndarray, shape (C,), float64
        1 / sqrt(var + eps).
    weight : ndarray, shape (C,), or None
        The scale, as it was given.
    statistics : BatchStatistics or None
        The batch's own; None when the running statistics normalised.
    """

    x_hat: np.ndarray
    inv_std: np.ndarray
    weight: np.ndarray | None
    statistics: BatchStatistics | None


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
    The arguments are taken as checked, see :func:`check_batch_norm`.
    """
    if training:
        x_hat, statistics = centre(x)
        var = statistics.var
    else:
        statistics, var = None, running_var.astype(np.float64)
        x_hat = x - per_channel(running_mean.astype(np.float64), x.ndim)
    inv_std = 1 / np.sqrt(var + eps)
    x_hat *= per_channel(inv_std, x.ndim)
    y = x_hat if weight is None else x_hat * per_channel(weight, x.ndim)
    if bias is not None:
        y = y + per_channel(bias, x.ndim)
    return np.array(y, x.dtype, order="C"), BatchNormCache(x_hat, inv_std, weight, statistics)


@np.errstate(all="ignore")
def batch_norm_backward(
    grad_output: np.ndarray, cache: BatchNormCache, input_grad: bool = True
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Return the gradients of input, weight and bias.

    With g for `grad_output`, sums over a channel's n values::

        grad_bias   = Σ g
        grad_weight = Σ g · x̂
        grad_input  = weight / sqrt(var + eps) · (g − grad_bias / n − x̂ · grad_weight / n)

    When the running statistics normalised they are constants, and the last two terms of
    `grad_input` fall away. The second form follows from the equations of [1]_ (section 3)
    by collecting the paths through mean and variance.

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
    x_hat, inv_std, weight, statistics = cache
    ndim = grad_output.ndim
    grad = grad_output.astype(np.float64)
    grad_bias = grad.sum(channel_axes(ndim))
    grad_weight = (grad * x_hat).sum(channel_axes(ndim))
    grad_input = None
    if input_grad:
        if statistics is not None and statistics.count:
            grad -= per_channel(grad_bias / statistics.count, ndim)
            grad -= x_hat * per_channel(grad_weight / statistics.count, ndim)
        grad *= per_channel(inv_std if weight is None else inv_std * weight, ndim)
        grad_input = np.array(grad, grad_output.dtype, order="C")
    if weight is not None:
        grad_weight, grad_bias = grad_weight.astype(weight.dtype), grad_bias.astype(weight.dtype)
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
    averaged = (
        (1 - momentum) * old.astype(np.float64) + momentum * new
        for old, new in (
            (running_mean, statistics.mean),
            (running_var, statistics.unbiased_var),
        )
    )
    mean, var = averaged
    return mean.astype(running_mean.dtype), var.astype(running_var.dtype)


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
        See :func:`check_batch_norm`; nothing has been changed then.
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


def check_batch_norm(
    who: str,
    x: np.ndarray,
    num_features: int,
    vectors: dict[str, np.ndarray | None],
    training: bool,
    eps: float,
) -> None:
    """Raise unless the arguments of :func:`batch_norm_forward` fit together.

    Parameters
    ----------
    who : str
        The function or layer, for the message.
    x : ndarray
    num_features : int
        C, the number of channels expected along axis 1.
    vectors : dict
        The per-channel arrays by name: running_mean, running_var, weight, bias.
    training : bool
        Whether the batch's statistics will normalise.
    eps : float

    Raises
    ------
    ShapeError
        Wrong channel count of `x`, or a per-channel array that is not ``(C,)``.
    DtypeError
        Not float, or of another dtype than the per-channel arrays (float16 beside
        float32 is allowed).
    BatchSizeError
        One value per channel in training: its variance is 0, whatever it is.
    ValueError
        `eps`, or missing running statistics.
    """
    float_array(who, x)
    if x.shape[1] != num_features:
        raise ShapeError(f"{who}: expected {num_features} channels along axis 1, got {x.shape}")
    given = {name: array for name, array in vectors.items() if array is not None}
    for name, array in given.items():
        if array.shape != (num_features,):
            raise ShapeError(
                f"{who}: expected {name} of shape ({num_features},), got {array.shape}"
            )
    if ("running_mean" in given) != ("running_var" in given):
        raise ValueError(f"{who}: running_mean and running_var go together, got only one of them")
    dtypes = {array.dtype for array in given.values()}
    mixed_precision = x.dtype == np.float16 and dtypes == {np.dtype(np.float32)}
    if dtypes - {x.dtype} and not mixed_precision:
        found = ", ".join(f"{name} {array.dtype}" for name, array in given.items())
        raise DtypeError(
            f"{who}: input is {x.dtype} but {found}; convert the input with x.astype(...), "
            "or the network with net.float() or net.double() "
            "(float16 input with float32 parameters is the one mixture allowed)"
        )
    if training and x.size == num_features > 0:
        raise BatchSizeError(
            f"{who}: Expected more than 1 value per channel when training, got input of shape "
            f"{x.shape}; if it is the last batch of an epoch, DataLoader(..., drop_last=True) "
            "leaves it out"
        )
    if training and not eps > 0:
        raise ValueError(f"{who}: expected eps > 0 in training, got {eps}")
    if not training and not eps >= 0:
        raise ValueError(f"{who}: expected eps >= 0, got {eps}")
    if not training and "running_mean" not in given:
        raise ValueError(f"{who}: running_mean and running_var are needed in evaluation, got None")
