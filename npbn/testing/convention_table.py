"""How each framework defines the arguments of BatchNorm and what it stores."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Convention:
    """How a framework's BatchNorm reads its arguments and keeps its statistics.

    All of them normalise by the biased variance in training.

    Attributes
    ----------
    name : str
        As people write it.
    momentum_weighs : {"new", "old"}
        The value that `momentum` is the weight of: ``running = momentum · new +
        (1 − momentum) · running``, or the other way round.
    stores : {"biased", "unbiased"}
        The variance that is averaged into the running variance.
    eps, momentum : float or None
        Defaults; None where the caller has to say.
    source : str
        Where the framework says so.
    note : str
        What the rest does not say.
    cumulative : bool
        Whether momentum None is taken, for the plain average of all batches.
    moves_in : {"forward", "backward"}
        The pass of training that averages the batch into the running statistics.
    """

    name: str
    momentum_weighs: Literal["new", "old"]
    stores: Literal["biased", "unbiased"]
    eps: float | None
    momentum: float | None
    source: str
    note: str = ""
    cumulative: bool = False
    moves_in: Literal["forward", "backward"] = "forward"

    def weight_of_new(self, momentum: float) -> float:
        """Return the weight that `momentum` gives the new value."""
        return momentum if self.momentum_weighs == "new" else 1 - momentum


CONVENTIONS: dict[str, Convention] = {
    "pytorch": Convention(
        "PyTorch torch.nn.BatchNormNd",
        momentum_weighs="new",
        stores="unbiased",
        eps=1e-5,
        momentum=0.1,
        cumulative=True,
        source="PyTorch documentation, torch.nn.BatchNorm1d: description, note and parameters",
        note="Evaluation with track_running_stats=False normalises by the batch.",
    ),
    "onnx": Convention(
        "ONNX BatchNormalization, opset 15",
        momentum_weighs="old",
        stores="biased",
        eps=1e-5,
        momentum=0.9,
        source="ONNX Operators, BatchNormalization-15: summary ('ReduceVar refers to the "
        "population variance') and attributes",
        note="The running statistics are outputs, and only of training_mode=1.",
    ),
    "keras": Convention(
        "Keras keras.layers.BatchNormalization",
        momentum_weighs="old",
        stores="biased",
        eps=1e-3,
        momentum=0.99,
        source="Keras API documentation, BatchNormalization layer: 'During training', "
        "moving_mean and moving_var; keras.ops.moments for the variance",
        note="Keras 3, and tf.keras with fused=False. TensorFlow's fused kernel stores the "
        "unbiased variance: see 'tensorflow_fused'.",
    ),
    "tensorflow_fused": Convention(
        "tf.keras.layers.BatchNormalization of Keras 2 through TensorFlow's fused kernel",
        momentum_weighs="old",
        stores="unbiased",
        eps=1e-3,
        momentum=0.99,
        source="TensorFlow source, core/kernels/fused_batch_norm_op.cc, rest_size_adjust "
        "('Bessel's correction'); tensorflow/tensorflow issue 55545, keras-team/keras "
        "pull request 9028",
        note="fused=None takes this kernel wherever it can, on CPU and GPU alike, so that "
        "inputs (N, H, W, C) and (N, C) of one model may store different variances. One value "
        "per channel is multiplied by 1 on the CPU and gives NaN on the GPU.",
    ),
    "flax": Convention(
        "JAX/Flax flax.linen.BatchNorm",
        momentum_weighs="old",
        stores="biased",
        eps=1e-5,
        momentum=0.99,
        source="Flax API reference, flax.linen.BatchNorm: momentum, 'decay rate for the "
        "exponential moving average of the batch statistics', and use_fast_variance",
        note="use_fast_variance=True, the default, computes E[x²] - E[x]², clipped at 0, which "
        "loses the variance's digits when |mean| is large against the standard deviation.",
    ),
    "cudnn": Convention(
        "cuDNN cudnnBatchNormalizationForwardTraining",
        momentum_weighs="new",
        stores="unbiased",
        eps=None,
        momentum=None,
        source="cuDNN API reference and cudnn.h, cudnnBatchNormalizationForwardTraining: "
        "exponentialAverageFactor; that the variance is unbiased is not written there but "
        "measured: apache/mxnet issue 21111, tensorflow/tensorflow pull request 40338",
        note="momentum is exponentialAverageFactor and given at each call: 1 at the first, "
        "1 / (1 + k) after k earlier ones for the plain average. epsilon has to reach "
        "CUDNN_BN_MIN_EPSILON, 1e-5 in older headers and 0 in newer ones.",
    ),
    "haiku": Convention(
        "JAX/Haiku haiku.BatchNorm",
        momentum_weighs="old",
        stores="biased",
        eps=1e-5,
        momentum=None,
        source="dm-haiku source, haiku/_src/batch_norm.py and moving_averages.py: decay_rate, "
        "which has no default",
        note="The variance is E[x²] - E[x]². The averages start at 0 and are divided by "
        "1 - decay_rate^t after t batches (zero_debias), so that the first batch replaces them.",
    ),
    "equinox": Convention(
        "JAX/Equinox equinox.nn.BatchNorm",
        momentum_weighs="old",
        stores="biased",
        eps=1e-5,
        momentum=0.99,
        source="Equinox source, equinox/nn/_batch_norm.py",
        note="The first batch replaces the statistics. Unless made with mode='batch', it "
        "normalises by the running statistics in training too, after they have moved.",
    ),
    "paddle": Convention(
        "PaddlePaddle paddle.nn.BatchNormND",
        momentum_weighs="old",
        stores="biased",
        eps=1e-5,
        momentum=0.9,
        source="Paddle source, paddle/phi/kernels/cpu/batch_norm_kernel.cc, running_var_arr",
        note="On the CPU one value per channel is returned as it is.",
    ),
    "mxnet": Convention(
        "Apache MXNet mxnet.gluon.nn.BatchNorm",
        momentum_weighs="old",
        stores="biased",
        eps=1e-5,
        momentum=0.9,
        source="MXNet source, src/operator/nn/batch_norm.cc, BatchNormBackwardImpl, 'update "
        "running averages'",
        note="The statistics move in backward: a forward pass alone leaves them.",
        moves_in="backward",
    ),
}


def find_convention(given: str | Convention) -> Convention:
    """Look up a convention by name.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    if isinstance(given, Convention):
        return given
    if not isinstance(given, str) or given not in CONVENTIONS:
        raise ValueError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {given!r}")
    return CONVENTIONS[given]
