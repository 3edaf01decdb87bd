"""The command line: look into files of networks, convert, fold, export, compare, predict."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import npbn
from npbn.errors import ConfigError, DataError, NpbnError

DESCRIPTION = """\
Look into files of networks, convert, fold, export and compare them, and predict.

FILE is .npz or .safetensors, or .pt as torch.save(model.state_dict()) writes it, without torch.
A state_dict names arrays, not layers: fold, export-onnx and predict also need the network, from the
file's own metadata (npbn.save(net, FILE) puts it there), from --network, or from --config, a JSON
file as json.dump(npbn.to_config(net), file) writes it.
"""
EPILOG = """\
exit status: 0 if all is well, 1 if info finds unhealthy numbers or diff a difference, 2 on an error

examples:
  npbn info model.pt
  npbn convert model.pt model.npz --network mlp
  npbn fold model.npz folded.safetensors
  npbn export-onnx folded.safetensors model.onnx
  npbn diff model.pt model.npz
  npbn predict model.npz t10k-images-idx3-ubyte
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except (NpbnError, OSError, ModuleNotFoundError) as error:
        reason = " ".join(str(error).split())
        print(f"npbn {options.command}: error: {reason}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """One that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}; --help explains\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    as_written = argparse.RawDescriptionHelpFormatter
    top = _Parser("npbn", description=DESCRIPTION, epilog=EPILOG, formatter_class=as_written)
    top.add_argument("--version", action="version", version=f"npbn {npbn.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, what: str, *files: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=what, description=what)
        sub.set_defaults(run=run)
        for file in files:
            sub.add_argument(file.lower(), metavar=file, type=Path)
        return sub

    def with_network(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        group = sub.add_mutually_exclusive_group()
        group.add_argument("--config", type=Path, metavar="JSON", help="description of the network")
        group.add_argument("--network", choices=["mlp", "cnn"], help="npbn.MLP or npbn.CNN")
        return sub

    command(
        "info", info, "show keys, shapes, dtypes and metadata, and numbers that look ill", "FILE"
    )
    sub = command("convert", convert, "write the same arrays in another format", "IN", "OUT")
    with_network(sub)
    sub = command("fold", fold, "fold every BatchNorm into the layer beside it", "IN", "OUT")
    with_network(sub)
    sub = command("export-onnx", export_onnx, "write the network as an ONNX model", "IN", "OUT")
    with_network(sub).add_argument("--fold", action="store_true", help="fold BatchNorm first")
    sub = command("diff", diff, "show the largest difference of each array", "A", "B")
    sub.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="T",
        help="differences up to T count as none (default: 0)",
    )
    what = "print the class of each image, a line each"
    sub = command("predict", predict, what, "FILE", "IMAGES")
    with_network(sub)
    sub.add_argument(
        "--logits", action="store_true", help="print all logits instead, separated by commas"
    )
    sub.epilog = (
        "IMAGES is .npy, or IDX as MNIST's, also with .gz, of shape (N, H, W) or as the network "
        "takes it; bytes are divided by 255."
    )
    return top


# -- commands -------------------------------------------------------------------------------------


def info(options: argparse.Namespace) -> int:
    """Show what is in a file; return 1 if statistics look unhealthy."""
    loaded = npbn.load(options.file)
    arrays = dict(_arrays(loaded))
    metadata = {k: v for k, v in getattr(loaded, "metadata", {}).items() if k != "config"}
    width = max((len(key) for key in arrays), default=0)
    total, ill = 0, []
    for key, array in arrays.items():
        print(f"{key:{width}}  {array.dtype!s:8} {array.shape!s}")
        total += array.size
        ill += [f"{key}: {complaint}" for complaint in _complaints(key, array)]
    size = sum(array.nbytes for array in arrays.values())
    print(f"{len(arrays)} arrays, {total:,} numbers, {size:,} bytes")
    for name, value in metadata.items():
        print(f"{name}: {value}")
    for complaint in ill:
        print(f"unhealthy: {complaint}")
    return 1 if ill else 0


def _complaints(key: str, array: np.ndarray) -> list[str]:
    """Return what looks ill about an array."""
    if array.dtype.kind != "f" or not array.size:
        return []
    found = []
    wide = array.astype(np.float64)
    for what, ill in (("NaN", np.isnan(wide)), ("infinite", np.isinf(wide))):
        if ill.any():
            found.append(f"{np.count_nonzero(ill)} of {array.size} are {what}")
    if key.rpartition(".")[2] == "running_var":
        for what, ill in (("negative", wide < 0), ("zero: a dead channel", wide == 0)):
            if ill.any():
                found.append(f"{np.count_nonzero(ill)} of {array.size} variances are {what}")
    return found


def convert(options: argparse.Namespace) -> int:
    """Write the same arrays in another format."""
    loaded = npbn.load(vars(options)["in"])
    metadata = dict(getattr(loaded, "metadata", {}))
    if options.config or options.network:
        network = _network(options, loaded)
        metadata["config"] = npbn.to_config(network)
    npbn.save(loaded, options.out, metadata=metadata)
    return 0


def fold(options: argparse.Namespace) -> int:
    """Fold every BatchNorm into the layer beside it."""
    loaded = npbn.load(vars(options)["in"])
    folded = npbn.fold_batch_norm(_network(options, loaded))
    metadata = {k: v for k, v in getattr(loaded, "metadata", {}).items() if k != "config"}
    npbn.save(folded, options.out, metadata=metadata)
    return 0


def export_onnx(options: argparse.Namespace) -> int:
    """Write the network as an ONNX model."""
    network = _network(options, npbn.load(vars(options)["in"]))
    npbn.export_onnx(network, options.out, fold=options.fold)
    return 0


def diff(options: argparse.Namespace) -> int:
    """Show the largest difference of each array; return 1 if there is any."""
    mine, other = (dict(_arrays(npbn.load(path))) for path in (options.a, options.b))
    width = max((len(key) for key in [*mine, *other]), default=0)
    differs = False
    for key in dict.fromkeys([*mine, *other]):
        if key not in mine or key not in other:
            what, same = f"only in {options.a if key in mine else options.b}", False
        elif mine[key].shape != other[key].shape:
            what, same = f"shapes {mine[key].shape} and {other[key].shape}", False
        else:
            largest = _largest_difference(mine[key], other[key])
            what, same = f"{largest:.3g}", largest <= options.tolerance
            if mine[key].dtype != other[key].dtype:
                what += f" ({mine[key].dtype} and {other[key].dtype})"
        differs |= not same
        print(f"{key:{width}}  {what}")
    return 1 if differs else 0


@np.errstate(all="ignore")
def _largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return max |a − b|, where equal infinities and two NaN count as equal."""
    wide = np.result_type(a, b, np.float64) if "f" in a.dtype.kind + b.dtype.kind else object
    same = (a == b) | ((a != a) & (b != b))
    difference = np.abs(a.astype(wide) - b.astype(wide))
    difference = np.where(same, 0, difference)
    return float(difference.max()) if difference.size else 0.0


def predict(options: argparse.Namespace) -> int:
    """Print the class, or the logits, of each image."""
    network = _network(options, npbn.load(options.file))
    logits = network.predict(_images(options.images, network))
    if logits.ndim != 2:
        raise ConfigError(f"expected a network with outputs (N, classes), got {logits.shape}")
    for row in logits:
        print(",".join(map(str, row.tolist())) if options.logits else int(row.argmax()))
    return 0


# -- what the commands share ----------------------------------------------------------------------


def _arrays(state: Any, path: str = "") -> Any:
    """Yield all arrays of a state, however nested, by dotted name."""
    parts = state.items() if isinstance(state, dict) else enumerate(state)
    for name, value in parts:
        key = f"{path}{name}"
        if isinstance(value, dict | list | tuple):
            yield from _arrays(value, f"{key}.")
        elif isinstance(value, np.ndarray):
            yield key, value


def _network(options: argparse.Namespace, loaded: Any) -> npbn.Module:
    """Build the network that the options or the file describe, and load the file into it."""
    if options.network:
        network: npbn.Module = {"mlp": npbn.MLP, "cnn": npbn.CNN}[options.network](
            use_batch_norm=any("norm" in key for key in loaded)
        )
    elif options.config:
        network = npbn.from_config(_json(options.config))
    elif "config" in getattr(loaded, "metadata", {}):
        network = npbn.from_config(loaded.metadata["config"])
    else:
        try:
            network = npbn.from_state_dict(loaded)
        except ConfigError as error:
            raise ConfigError(
                f"the file does not tell its network; pass --network or --config ({error})"
            ) from error
    network.load_state_dict(loaded)
    return network.eval()


def _json(path: Path) -> Any:
    import json

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: expected JSON, got {error}") from error


def _images(path: Path, network: npbn.Module) -> np.ndarray:
    """Read images in the dtype and the shape that the network takes."""
    images = (
        np.load(path, allow_pickle=False) if path.suffix == ".npy" else npbn.data.read_idx(path)
    )
    dtype = next((p.dtype for p in network.parameters()), np.dtype(np.float32))
    images = images.astype(dtype) / dtype.type(255) if images.dtype == np.uint8 else images
    if images.ndim < 2 or images.dtype.kind not in "fiub":
        raise DataError(
            f"{path}: expected images of shape (N, ...), got {images.dtype} {images.shape}"
        )
    first = next((m for m in network.modules() if any(True for _ in m._own(npbn.Parameter))), None)
    if isinstance(first, npbn.Linear):
        images = images.reshape(len(images), -1)
    elif isinstance(first, npbn.Conv2d) and images.ndim == 3:
        images = images[:, None]
    return images.astype(dtype, copy=False)
