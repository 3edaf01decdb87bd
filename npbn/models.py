"""The networks of the comparisons with torch: MLP and CNN."""

from __future__ import annotations  # np.random, named in hints, takes 20 ms to load

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from npbn.arguments import check_bool
from npbn.errors import ShapeError
from npbn.functional.windows import pair
from npbn.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from npbn.rng import generator

__all__ = ["CNN", "MLP"]


class MLP(Sequential):
    """The reference network: three fully connected layers, with BatchNorm or without.

    With BatchNorm its layers are fc1, batch_norm1, relu, fc2, batch_norm2 and fc3; fc1 and fc2
    have no bias, which BatchNorm would cancel. Without BatchNorm they are fc1, relu, fc2 and fc3,
    all with bias. There is no activation before fc3.

    Parameters
    ----------
    input_size, hidden_dim, output_size : int
        Features of the input, of both hidden layers, and of the output.
    use_batch_norm : bool
        Whether there are BatchNorm layers.
    dtype : {float32, float64, float16}
        Of the parameters; the input has the same.
    rng : numpy.random.Generator, optional
        Source of the initial values.

    Raises
    ------
    ValueError
        On a size that is no integer of at least 0, or `use_batch_norm` not a bool.
    ShapeError, DtypeError
        On an input that is not (N, input_size) or of another dtype.

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
        check_bool("MLP", "use_batch_norm", use_batch_norm)
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


class CNN(Sequential):
    """A convolutional network: two blocks that halve the image, then two fully connected layers.

    A block is a 3 x 3 convolution that keeps the size, BatchNorm, ReLU and max pooling over 2 x 2
    pixels; the convolutions have 16 and 32 output channels, and a bias if there is no BatchNorm.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    image_size : int or (int, int)
        Side of a square image, or height and width; each at least 4.
    hidden_dim, output_size : int
        Features between the fully connected layers, and of the output.
    use_batch_norm : bool
        Whether there are BatchNorm layers.
    dtype : {float32, float64, float16}
        Of the parameters; the input has the same.
    rng : numpy.random.Generator, optional
        Source of the initial values.

    Attributes
    ----------
    image_size : (int, int)
        Height and width.

    Raises
    ------
    ShapeError, DtypeError
        On an input that is not (N, in_channels, height, width) or of another dtype.
    ValueError
        On an `image_size` below 4, another size that is no integer of at least 1 (or 0 for
        features), or `use_batch_norm` not a bool.

    Examples
    --------
    >>> import numpy as np
    >>> CNN(1, 8, 3, 2, rng=np.random.default_rng(0))
    CNN(
      (conv1): Conv2d(1, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
      (batch_norm1): BatchNorm2d(16, eps=1e-05, momentum=0.1, affine=True, bias=True,
                                 track_running_stats=True)
      (relu1): ReLU()
      (pool1): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
      (conv2): Conv2d(16, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
      (batch_norm2): BatchNorm2d(32, eps=1e-05, momentum=0.1, affine=True, bias=True,
                                 track_running_stats=True)
      (relu2): ReLU()
      (pool2): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
      (flatten): Flatten(start_dim=1, end_dim=-1)
      (fc1): Linear(in_features=128, out_features=3, bias=True)
      (relu3): ReLU()
      (fc2): Linear(in_features=3, out_features=2, bias=True)
    )
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        hidden_dim: int = 256,
        output_size: int = 10,
        use_batch_norm: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | None = None,
    ):
        check_bool("CNN", "use_batch_norm", use_batch_norm)
        rng = generator(rng)
        self.image_size = height, width = pair("CNN", "image_size", image_size, least=4)
        conv: dict[str, Any] = {"kernel_size": 3, "padding": 1, "bias": not use_batch_norm}
        layers = {
            "conv1": Conv2d(in_channels, 16, **conv, dtype=dtype, rng=rng),
            "batch_norm1": BatchNorm2d(16, dtype=dtype) if use_batch_norm else None,
            "relu1": ReLU(),
            "pool1": MaxPool2d(2),
            "conv2": Conv2d(16, 32, **conv, dtype=dtype, rng=rng),
            "batch_norm2": BatchNorm2d(32, dtype=dtype) if use_batch_norm else None,
            "relu2": ReLU(),
            "pool2": MaxPool2d(2),
            "flatten": Flatten(),
            "fc1": Linear(32 * (height // 4) * (width // 4), hidden_dim, dtype=dtype, rng=rng),
            "relu3": ReLU(),
            "fc2": Linear(hidden_dim, output_size, dtype=dtype, rng=rng),
        }
        super().__init__({name: layer for name, layer in layers.items() if layer is not None})

    def _check_input(self, x: ArrayLike) -> None:
        # Convolutions take any size; fc1 would refuse a wrong one in terms of its features.
        shape, expected = np.shape(x), (self.conv1.in_channels, *self.image_size)
        if len(shape) != 4 or shape[1:] != expected:
            sizes = ", ".join(map(str, expected))
            raise ShapeError(f"CNN: expected input of shape (N, {sizes}), got {shape}")
