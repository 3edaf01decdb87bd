"""The commands ``convert``, ``fold``, ``export-onnx``, ``diff`` and ``predict``."""

from __future__ import annotations

import argparse

import numpy as np

import npbn
from npbn.cli import inputs
from npbn.cli.info import column_width, totals
from npbn.errors import ConfigError
from npbn.io.quoting import printable
from npbn.layers.batch_norm import BatchNorm


def convert(options: argparse.Namespace) -> int:
    """Write the same arrays in another format."""
    state = inputs.loaded(vars(options)["in"], options)
    metadata = dict(state.metadata)
    if options.config or options.network:
        metadata["config"] = npbn.to_config(inputs.network(options, state))
    npbn.save(state, options.out, metadata=metadata)
    with_network = ", with the description of the network" if "config" in metadata else ""
    _report(options, f"{totals(inputs.arrays(state).values())}{with_network}")
    return 0


def fold(options: argparse.Namespace) -> int:
    """Fold every BatchNorm into the layer beside it."""
    state = inputs.loaded(vars(options)["in"], options)
    network = inputs.network(options, state)
    folded = npbn.fold_batch_norm(network)
    metadata = {k: v for k, v in state.metadata.items() if k != "config"}
    npbn.save(folded, options.out, metadata=metadata)
    number = sum(isinstance(layer, BatchNorm) for layer in network.modules())
    _report(options, f"{totals(folded.state_dict().values())}, {number} BatchNorm folded")
    return 0


def export_onnx(options: argparse.Namespace) -> int:
    """Write the network as an ONNX model."""
    network = inputs.network(options, inputs.loaded(vars(options)["in"], options))
    npbn.export_onnx(network, options.out, fold=options.fold, input_shape=options.input_shape)
    _report(options, f"an ONNX model of {options.out.stat().st_size:,} bytes, input x, output y")
    return 0


def _report(options: argparse.Namespace, what: str) -> None:
    print(f"wrote {printable(str(options.out), 500)}: {what}")


def diff(options: argparse.Namespace) -> int:
    """Show the largest difference of each array; return 1 if there is any."""
    a, b = inputs.arrays(npbn.load(options.a)), inputs.arrays(npbn.load(options.b))
    names = inputs.names([*a, *b])
    width = column_width(names.values())
    differs = False
    for key, name in names.items():
        if key not in a or key not in b:
            what, same = f"only in {options.a if key in a else options.b}", False
        elif a[key].shape != b[key].shape:
            what, same = f"shapes {a[key].shape} and {b[key].shape}", False
        else:
            largest = _largest_difference(a[key], b[key])
            what, same = f"{largest:.3g}", largest <= options.tolerance
            if a[key].dtype != b[key].dtype:
                what += f" ({a[key].dtype} and {b[key].dtype})"
        differs |= not same
        print(f"{printable(name, 200):{width}}  {printable(what, 500)}")
    return 1 if differs else 0


@np.errstate(all="ignore")
def _largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return max |a − b|, where equal infinities and two NaN count as equal."""
    inexact = {a.dtype.kind, b.dtype.kind} & {"f", "c"}
    wide = np.result_type(a, b, np.float64) if inexact else np.dtype(object)
    same = (a == b) | ((a != a) & (b != b))
    difference = np.abs(a.astype(wide) - b.astype(wide))
    difference = np.where(same, 0, difference)
    return float(difference.max()) if difference.size else 0.0


def predict(options: argparse.Namespace) -> int:
    """Print the class, or the logits, of each image."""
    network = inputs.network(options, inputs.loaded(options.file, options))
    logits = network.predict(inputs.images(options.images, network))
    if logits.ndim != 2 or not logits.shape[1]:
        raise ConfigError(f"expected a network with outputs (N, classes), got {logits.shape}")
    for row in logits:
        print(",".join(map(str, row.tolist())) if options.logits else int(row.argmax()))
    return 0
