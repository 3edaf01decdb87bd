"""BatchNorm in the wild: npbn.testing on the BatchNorm of every library that is installed.

Each target is checked in a process of its own, and its report is kept in ``DIR/wild/``. The page
is made of all reports there: run this in several environments where the libraries do not fit
into one, with the same ``--out``.
"""

from pathlib import Path
from typing import NamedTuple

FINDINGS = Path(__file__).parent / "findings"
SECONDS = 3000  # for a target


class Target(NamedTuple):
    """What is checked, the package on the index that it is in, and its environment."""

    name: str
    package: str
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def command(self) -> str:
        """What is typed to reproduce a report, but for its options."""
        settings = "".join(f"{name}={value} " for name, value in self.environment)
        return f"{settings}python -m npbn.testing {self.name}"

    @property
    def file(self) -> str:
        """The report's name."""
        parts = (self.name, *(value for _, value in self.environment))
        return "-".join(parts).replace(":", ".") + ".json"


def _keras(backend: str) -> Target:
    return Target("keras.layers:BatchNormalization", "keras", (("KERAS_BACKEND", backend),))


TARGETS = (
    Target("npbn:BatchNorm1d", "npbn"),
    Target("npbn:BatchNorm2d", "npbn"),
    Target("torch.nn:BatchNorm1d", "torch"),
    Target("torch.nn:BatchNorm2d", "torch"),
    Target("torch.nn:BatchNorm3d", "torch"),
    Target("torch.nn:SyncBatchNorm", "torch"),
    Target("torch.nn.functional:batch_norm", "torch"),
    Target("flax.linen:BatchNorm", "flax"),
    Target("flax.nnx:BatchNorm", "flax"),
    Target("haiku:BatchNorm", "dm-haiku"),
    Target("equinox.nn:BatchNorm", "equinox"),
    _keras("numpy"),
    _keras("torch"),
    _keras("jax"),
    Target("tinygrad.nn:BatchNorm", "tinygrad"),
    Target("paddle.nn:BatchNorm1D", "paddlepaddle"),
    Target("paddle.nn:BatchNorm2D", "paddlepaddle"),
    Target("mygrad.nnet.layers:batchnorm", "mygrad"),
    Target("onnxruntime:InferenceSession", "onnxruntime"),
    Target("onnx.reference:ReferenceEvaluator", "onnx"),
    Target("openvino:Core", "openvino"),
)
