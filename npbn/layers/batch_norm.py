"""BatchNorm1d, BatchNorm2d and BatchNorm3d: they differ in the shapes of input that they take."""

from typing import ClassVar

from npbn.layers.batch_norm_base import BatchNorm

__all__ = ["BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]


class BatchNorm1d(BatchNorm):
    """Batch normalisation of inputs (N, C) or (N, C, L); torch's ``nn.BatchNorm1d``.

    In training each channel is normalised by the mean and the biased variance of its values in
    the batch, over N, or N and L, then scaled and shifted::

        y = (x − mean) / sqrt(var + eps) · weight + bias

    and the running statistics are averaged, with the unbiased variance of the batch::

        running = (1 − momentum) · running + momentum · batch

    In evaluation the running statistics take the place of the batch's. [1]_, algorithm 1.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    eps : float
        Added to the variance, under the root; above 0 in training.
    momentum : float or None
        Weight of the **new** value in the running statistics (TensorFlow's is the weight of the
        old one). None averages all batches since the last reset alike; unlike torch it does not
        count empty batches, which have no statistics.
    affine : bool
        Whether scale and shift are learnt; without them they are 1 and 0.
    track_running_stats : bool
        False keeps no running statistics: evaluation then normalises by the batch too.
    bias : bool
        False learns a scale without a shift.
    dtype : {float32, float64, float16}
        Of parameters and running statistics. The input has the same dtype; float16 input is
        accepted with float32 parameters too, computed in float32.

    Attributes
    ----------
    num_features, eps, momentum, affine, track_running_stats
        The arguments.
    weight : Parameter, shape (C,), or None
        Scale, at first 1.
    bias : Parameter, shape (C,), or None
        Shift, at first 0.
    running_mean, running_var : ndarray, shape (C,), or None
        At first 0 and 1.
    num_batches_tracked : ndarray, shape (), int64, or None
        Batches seen; with momentum None, those that were not empty.

    Raises
    ------
    ValueError
        On an argument of the wrong kind. In training, if `eps` is not above 0 or running
        statistics are read-only.
    ShapeError, DtypeError
        On an input of another rank, number of channels or dtype.
    BatchSizeError
        On a batch with one value per channel in training, or without running statistics.

    See Also
    --------
    npbn.functional.batch_norm : The same as a function, with the equations.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", 2015, arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> bn = BatchNorm1d(1, dtype=np.float64)
    >>> x = np.array([[1.0], [2.0], [3.0], [6.0]])
    >>> bn(x).round(3).ravel()                          # by the batch: mean 3, variance 3.5
    array([-1.069, -0.535,  0.   ,  1.604])
    >>> bn.running_mean, bn.running_var.round(3)        # 10 % of the batch's, variance unbiased
    (array([0.3]), array([1.367]))
    >>> bn.eval()(x).round(3).ravel()                   # by the running statistics
    array([0.599, 1.454, 2.31 , 4.876])
    """

    input_shapes: ClassVar[dict[int, str]] = {2: "(N, C)", 3: "(N, C, L)"}


class BatchNorm2d(BatchNorm):
    """Batch normalisation of inputs (N, C, H, W); torch's ``nn.BatchNorm2d``.

    In training each channel is normalised by the mean and the biased variance of its values in
    the batch, over N, H and W, then scaled and shifted::

        y = (x − mean) / sqrt(var + eps) · weight + bias

    and the running statistics are averaged, with the unbiased variance of the batch::

        running = (1 − momentum) · running + momentum · batch

    In evaluation the running statistics take the place of the batch's. [1]_, algorithm 1.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    eps : float
        Added to the variance, under the root; above 0 in training.
    momentum : float or None
        Weight of the **new** value in the running statistics (TensorFlow's is the weight of the
        old one). None averages all batches since the last reset alike; unlike torch it does not
        count empty batches, which have no statistics.
    affine : bool
        Whether scale and shift are learnt; without them they are 1 and 0.
    track_running_stats : bool
        False keeps no running statistics: evaluation then normalises by the batch too.
    bias : bool
        False learns a scale without a shift.
    dtype : {float32, float64, float16}
        Of parameters and running statistics. The input has the same dtype; float16 input is
        accepted with float32 parameters too, computed in float32.

    Attributes
    ----------
    num_features, eps, momentum, affine, track_running_stats
        The arguments.
    weight : Parameter, shape (C,), or None
        Scale, at first 1.
    bias : Parameter, shape (C,), or None
        Shift, at first 0.
    running_mean, running_var : ndarray, shape (C,), or None
        At first 0 and 1.
    num_batches_tracked : ndarray, shape (), int64, or None
        Batches seen; with momentum None, those that were not empty.

    Raises
    ------
    ValueError
        On an argument of the wrong kind. In training, if `eps` is not above 0 or running
        statistics are read-only.
    ShapeError, DtypeError
        On an input of another rank, number of channels or dtype.
    BatchSizeError
        On a batch with one value per channel in training, or without running statistics.

    See Also
    --------
    npbn.functional.batch_norm : The same as a function, with the equations.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", 2015, arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> bn = BatchNorm2d(1, dtype=np.float64)
    >>> x = np.array([1.0, 2.0, 3.0, 6.0]).reshape(1, 1, 2, 2)      # one image: mean 3
    >>> bn(x).round(3)
    array([[[[-1.069, -0.535],
             [ 0.   ,  1.604]]]])
    >>> bn.running_mean, bn.running_var.round(3)
    (array([0.3]), array([1.367]))
    """

    input_shapes: ClassVar[dict[int, str]] = {4: "(N, C, H, W)"}


class BatchNorm3d(BatchNorm):
    """Batch normalisation of inputs (N, C, D, H, W); torch's ``nn.BatchNorm3d``.

    In training each channel is normalised by the mean and the biased variance of its values in
    the batch, over N, D, H and W, then scaled and shifted::

        y = (x − mean) / sqrt(var + eps) · weight + bias

    and the running statistics are averaged, with the unbiased variance of the batch::

        running = (1 − momentum) · running + momentum · batch

    In evaluation the running statistics take the place of the batch's. [1]_, algorithm 1.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    eps : float
        Added to the variance, under the root; above 0 in training.
    momentum : float or None
        Weight of the **new** value in the running statistics (TensorFlow's is the weight of the
        old one). None averages all batches since the last reset alike; unlike torch it does not
        count empty batches, which have no statistics.
    affine : bool
        Whether scale and shift are learnt; without them they are 1 and 0.
    track_running_stats : bool
        False keeps no running statistics: evaluation then normalises by the batch too.
    bias : bool
        False learns a scale without a shift.
    dtype : {float32, float64, float16}
        Of parameters and running statistics. The input has the same dtype; float16 input is
        accepted with float32 parameters too, computed in float32.

    Attributes
    ----------
    num_features, eps, momentum, affine, track_running_stats
        The arguments.
    weight : Parameter, shape (C,), or None
        Scale, at first 1.
    bias : Parameter, shape (C,), or None
        Shift, at first 0.
    running_mean, running_var : ndarray, shape (C,), or None
        At first 0 and 1.
    num_batches_tracked : ndarray, shape (), int64, or None
        Batches seen; with momentum None, those that were not empty.

    Raises
    ------
    ValueError
        On an argument of the wrong kind. In training, if `eps` is not above 0 or running
        statistics are read-only.
    ShapeError, DtypeError
        On an input of another rank, number of channels or dtype.
    BatchSizeError
        On a batch with one value per channel in training, or without running statistics.

    See Also
    --------
    npbn.functional.batch_norm : The same as a function, with the equations.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", 2015, arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> bn = BatchNorm3d(2, dtype=np.float64)
    >>> x = np.arange(16.0).reshape(1, 2, 2, 2, 2)      # channel means 3.5 and 11.5
    >>> bn(x).mean(axis=(0, 2, 3, 4))
    array([0., 0.])
    >>> bn.running_mean
    array([0.35, 1.15])
    """

    input_shapes: ClassVar[dict[int, str]] = {5: "(N, C, D, H, W)"}
