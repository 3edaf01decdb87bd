"""The command line: look into files of networks, convert, fold, export, compare, predict."""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import npbn
from npbn import cli_inputs as inputs
from npbn.checkpoint.parts import described
from npbn.errors import ConfigError, NpbnError
from npbn.quoting import printable

DESCRIPTION = """\
Look into files of networks, convert, fold, export and compare them, and predict.

FILE is .npz, .safetensors or what torch.save wrote, of any name and without torch. Where that is
more than a state_dict, info shows what there is, and --key and --strip-prefix take it.
A state_dict names arrays, not layers: fold, export-onnx and predict also need the network, from the
file's own metadata (npbn.save(net, FILE) puts it there), from --network, or from --config, a JSON
file as json.dump(npbn.to_config(net), file) writes it.
"""
BROKEN_PIPE = 141  # as shells show a program that SIGPIPE ended
WIDEST = 60  # characters of the column of keys
EPILOG = """\
exit status: 0 if all is well, 1 if info finds unhealthy numbers or diff a difference, 2 on an error

examples:
  npbn info model.pt
  npbn convert model.pt model.npz --network mlp
  npbn convert run.pth.tar model.npz --key state_dict --strip-prefix module.
  npbn fold model.npz folded.safetensors
  npbn export-onnx folded.safetensors model.onnx
  npbn export-onnx pooled.npz model.onnx --input-shape 3,32,32
  npbn diff model.pt model.npz
  npbn predict model.npz t10k-images-idx3-ubyte
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # of what the terminal has no characters for
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `npbn info FILE | head -1`: what reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except MemoryError:
        reason = "more memory is needed than there is"
    except RecursionError:
        reason = "the file is nested too deeply"
    except (NpbnError, OSError, ModuleNotFoundError) as error:
        reason = " ".join(str(error).split())
    print(f"npbn {options.command}: error: {printable(reason, 2000)}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """One that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: error: {printable(message, 2000)}; --help explains\n")


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

    def with_part(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument("--key", help="where the state is in the file, such as state_dict")
        sub.add_argument(
            "--strip-prefix", default="", metavar="P", help="taken from all keys, such as module."
        )
        return sub

    what = "show keys, shapes, dtypes and metadata, and numbers that look ill"
    with_part(command("info", info, what, "FILE"))
    sub = command("convert", convert, "write the same arrays in another format", "IN", "OUT")
    with_network(with_part(sub))
    sub = command("fold", fold, "fold every BatchNorm into the layer beside it", "IN", "OUT")
    with_network(with_part(sub))
    sub = command("export-onnx", export_onnx, "write the network as an ONNX model", "IN", "OUT")
    with_network(with_part(sub))
    sub.add_argument("--fold", action="store_true", help="fold BatchNorm first")
    sub.add_argument(
        "--input-shape",
        type=_shape,
        metavar="C,H,W",
        help="of one sample, where the first layer does not tell it",
    )
    sub = command("diff", diff, "show the largest difference of each array", "A", "B")
    sub.add_argument(
        "--tolerance",
        type=_tolerance,
        default=0.0,
        metavar="T",
        help="differences up to T count as none (default: 0)",
    )
    what = "print the class of each image, a line each"
    sub = command("predict", predict, what, "FILE", "IMAGES")
    with_network(with_part(sub))
    sub.add_argument(
        "--logits", action="store_true", help="print all logits instead, separated by commas"
    )
    sub.epilog = (
        "IMAGES is .npy, or IDX as MNIST's, also with .gz, of shape (N, H, W) or as the network "
        "takes it; bytes are divided by 255."
    )
    return top


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError("expected sizes, such as 1,28,28") from None


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:  # NaN is not
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {printable(text)}")
    return value


# -- commands -------------------------------------------------------------------------------------


def info(options: argparse.Namespace) -> int:
    """Show what is in a file; return 1 if statistics look unhealthy."""
    state = inputs.loaded(options.file, options)
    found = dict(inputs.arrays(state))
    width = _width(found)
    ill = []
    for key, array in found.items():
        print(f"{printable(key, 200):{width}}  {array.dtype!s:8} {array.shape!s}")
        ill += [f"{printable(key, 200)}: {complaint}" for complaint in _complaints(key, array)]
    for key, value in state.items():
        if not isinstance(value, np.ndarray):
            print(f"{printable(str(key), 200):{width}}  {described(value)}")
    total = sum(array.size for array in found.values())
    size = sum(array.nbytes for array in found.values())
    print(f"{len(found)} arrays, {total:,} numbers, {size:,} bytes")
    for name, value in state.metadata.items():
        if name != "config":
            print(f"{printable(name)}: {printable(str(value), 500)}")
    for way in inputs.ways_in(state, options):
        print(f"a state within: npbn convert {shlex.quote(str(options.file))} OUT.npz {way}")
    for complaint in ill:
        print(f"unhealthy: {complaint}")
    return 1 if ill else 0


def _width(keys: Iterable[str]) -> int:
    return min(max((len(printable(key, 200)) for key in keys), default=0), WIDEST)


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
    state = inputs.loaded(vars(options)["in"], options)
    metadata = dict(state.metadata)
    if options.config or options.network:
        metadata["config"] = npbn.to_config(inputs.network(options, state))
    npbn.save(state, options.out, metadata=metadata)
    return 0


def fold(options: argparse.Namespace) -> int:
    """Fold every BatchNorm into the layer beside it."""
    state = inputs.loaded(vars(options)["in"], options)
    folded = npbn.fold_batch_norm(inputs.network(options, state))
    metadata = {k: v for k, v in state.metadata.items() if k != "config"}
    npbn.save(folded, options.out, metadata=metadata)
    return 0


def export_onnx(options: argparse.Namespace) -> int:
    """Write the network as an ONNX model."""
    network = inputs.network(options, inputs.loaded(vars(options)["in"], options))
    npbn.export_onnx(network, options.out, fold=options.fold, input_shape=options.input_shape)
    return 0


def diff(options: argparse.Namespace) -> int:
    """Show the largest difference of each array; return 1 if there is any."""
    mine, other = (dict(inputs.arrays(npbn.load(path))) for path in (options.a, options.b))
    width = _width([*mine, *other])
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
        print(f"{printable(key, 200):{width}}  {printable(what, 500)}")
    return 1 if differs else 0


@np.errstate(all="ignore")
def _largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return max |a − b|, where equal infinities and two NaN count as equal."""
    inexact = {a.dtype.kind, b.dtype.kind} & {"f", "c"}
    wide = np.result_type(a, b, np.float64) if inexact else object
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
