"""The arguments and the help of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import npbn
from npbn.cli.commands import convert, diff, export_onnx, fold, predict
from npbn.cli.info import info
from npbn.io.quoting import printable

DESCRIPTION = """\
Inspect files of networks; convert, fold, export and compare them; predict.

FILE is .npz, .safetensors or written by torch.save, under any name; torch is not needed. If it
holds more than a state_dict, info shows the contents, and --key and --strip-prefix select the
state_dict.

A state_dict names arrays, not layers. fold, export-onnx and predict also need the network:
- from the file's own metadata, where npbn.save(net, FILE) puts it;
- from --network, for npbn.MLP and npbn.CNN;
- from --config, a JSON file. For a network of your own, also one trained in torch, write its layers
  as a Sequential under the same names, and json.dump(npbn.to_config(net), file); see
  help(npbn.to_config).
"""
EPILOG = """\
exit status: 0; 1 if info finds unhealthy values or diff a difference; 2 on an error

examples:
  npbn info model.pt
  npbn convert model.pt model.npz --network mlp
  npbn convert run.pth.tar model.npz --key state_dict --strip-prefix module.
  npbn fold model.npz folded.safetensors
  npbn fold model.pt folded.npz --config config.json
  npbn export-onnx folded.safetensors model.onnx
  npbn export-onnx pooled.npz model.onnx --input-shape 3,32,32
  npbn diff model.pt model.npz
  npbn predict model.npz t10k-images-idx3-ubyte
"""
IMAGES = (
    "IMAGES is .npy or an IDX file such as MNIST's, plain or .gz, of shape (N, H, W) or the shape "
    "that the network takes. uint8 is divided by 255."
)

Run = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """A parser that reports an error on one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: error: {printable(message, 2000)}; --help explains\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Returns
    -------
    argparse.ArgumentParser
        The result of ``parse_args`` has an attribute ``run``, the function of the command.
    """
    as_written = argparse.RawDescriptionHelpFormatter
    top = _Parser("npbn", description=DESCRIPTION, epilog=EPILOG, formatter_class=as_written)
    top.add_argument("--version", action="version", version=f"npbn {npbn.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Run, what: str, *files: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=what, description=what)
        sub.set_defaults(run=run)
        for file in files:
            sub.add_argument(file.lower(), metavar=file, type=Path)
        return sub

    what = "show keys, shapes, dtypes, metadata, the description of the network, unhealthy values"
    _select_state(command("info", info, what, "FILE"))
    sub = command("convert", convert, "write the same arrays in another format", "IN", "OUT")
    _select_network(sub)
    sub = command("fold", fold, "fold every BatchNorm into the layer beside it", "IN", "OUT")
    _select_network(sub)
    sub = command("export-onnx", export_onnx, "write the network as an ONNX model", "IN", "OUT")
    _select_network(sub)
    sub.add_argument("--fold", action="store_true", help="fold BatchNorm first")
    what = "shape of one sample, where the first layer does not determine it"
    sub.add_argument("--input-shape", type=_shape, metavar="C,H,W", help=what)
    sub = command("diff", diff, "show the largest difference of each array", "A", "B")
    what = "ignore differences up to T (default: 0)"
    sub.add_argument("--tolerance", type=_tolerance, default=0.0, metavar="T", help=what)
    what = "print the class of each image, one on a line"
    sub = command("predict", predict, what, "FILE", "IMAGES")
    _select_network(sub)
    what = "print all logits instead, separated by commas"
    sub.add_argument("--logits", action="store_true", help=what)
    sub.epilog = IMAGES
    return top


def _select_state(sub: argparse.ArgumentParser) -> None:
    what = "where the state_dict is in the file, such as state_dict or model"
    sub.add_argument("--key", help=what)
    what = "remove this from the start of all keys, such as module."
    sub.add_argument("--strip-prefix", default="", metavar="P", help=what)


def _select_network(sub: argparse.ArgumentParser) -> None:
    _select_state(sub)
    group = sub.add_mutually_exclusive_group()
    what = "description of the network, from npbn.to_config"
    group.add_argument("--config", type=Path, metavar="JSON", help=what)
    group.add_argument("--network", choices=["mlp", "cnn"], help="npbn.MLP or npbn.CNN")


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
    if not value >= 0:  # NaN too
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {printable(text)}")
    return value
