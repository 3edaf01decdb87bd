"""The training of mnist_compare: two networks, each in npbn and in PyTorch, in lockstep."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from types import ModuleType
from typing import Any

import engine
import mnist_report
import numpy as np
from mnist_resume import Progress
from options import EMBEDDED, folder, prepare_folder
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import npbn
from npbn import models
from npbn.data import MNIST
from npbn.errors import DataError

POOLING = "Two pixels that close in a pooling window do the same.\n"
FLOAT64_LIMIT = 1e-9  # what two float64 implementations may differ by over a whole run
Step = tuple[Callable[..., tuple[float, np.ndarray]], Any, Any]  # the step, network, criterion


@dataclass
class Run:
    """One network, trained in npbn and, if it is there, in torch.

    `optimizers` holds one for each library, `rng` draws the order of the images. `losses` and
    `seconds` hold a value per epoch for each library, `differences` a value per step for each
    quantity. `gain` is the speed of a step with a compiled engine, in that of the NumPy engine.
    """

    title: str
    net: npbn.Module
    model: Any = None
    optimizers: dict[str, Any] = field(default_factory=dict)
    rng: np.random.Generator | None = None
    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    differences: dict[str, list[float]] = field(default_factory=dict)
    gain: float | None = None


def compare(options: argparse.Namespace) -> int:
    """Train, test, show and save."""
    engine.choose(options)
    reference = torch_reference(options)
    alone = [] if reference else ["npbn-alone"]
    options.out = options.out or folder("mnist_compare", options, *alone)
    prepare_folder(options.out)
    if options.download:
        from npbn.torch_reference import download_mnist

        if options.data == EMBEDDED:
            raise DataError("--download needs a folder to put MNIST into: --data DIR")
        download_mnist(options.data)
    train_set, test_set = (load(options, train) for train in (True, False))
    print(
        f"npbn's engine {options.engine}; "
        f"{len(train_set)} training and {len(test_set)} test images; results go to {options.out}"
    )
    progress = Progress(options, train_set, reference)
    npbn.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        runs = [
            train(title, use_batch_norm, train_set, options, reference, progress)
            for title, use_batch_norm in (("with BatchNorm", True), ("without BatchNorm", False))
        ]
        tests = [
            evaluate(images, data, runs, options, reference)
            for images, data in (("training images", train_set), ("test images", test_set))
        ]
    for test in tests:
        mnist_report.print_tests(test)
    results = mnist_report.results(options, runs, tests[1])
    mnist_report.save(options.out, runs, results)
    progress.finish()
    return verdict(options, runs)


def torch_reference(options: argparse.Namespace) -> ModuleType | None:
    """Return the module of the PyTorch network, or None where there is to be none."""
    if options.no_torch:
        return None
    import torch

    from npbn import torch_reference

    torch.set_num_threads(options.threads)
    return torch_reference


def load(options: argparse.Namespace, train: bool) -> npbn.ArrayDataset:
    """Read one half of the data set, in the dtype of the run and the shape of its network."""
    flatten = options.network == "mlp"
    data = MNIST(options.data, train, flatten=flatten)
    images = data.images.astype(options.dtype, copy=False)
    if not flatten:
        height, width = images.shape[1:]
        if min(height, width) < 4:
            raise DataError(
                "--network cnn halves images twice and takes 4 x 4 pixels or more, but those of "
                f"{options.data} have {height} x {width}"
            )
        images = images.reshape(len(images), 1, height, width)  # one channel
    elif len(data) % options.batch_size == 1 or options.batch_size == 1:
        raise DataError(
            f"--batch-size {options.batch_size} leaves a batch of one of the {len(data)} images, "
            "which BatchNorm cannot normalise in training; choose another"
        )
    return npbn.ArrayDataset(images, data.labels)


def build(
    library: ModuleType,
    use_batch_norm: bool,
    data: npbn.ArrayDataset,
    options: argparse.Namespace,
    **keywords: Any,
) -> Any:
    """Return the network for this data from `library`, npbn.models or npbn.torch_reference."""
    images, labels = data.arrays
    widths = (options.hidden_dim, max(int(labels.max()) + 1, 10), use_batch_norm)
    if options.network == "cnn":
        return library.CNN(images.shape[1], images.shape[2:], *widths, **keywords)
    return library.MLP(images.shape[1], *widths, **keywords)


def train(
    title: str,
    use_batch_norm: bool,
    data: npbn.ArrayDataset,
    options: argparse.Namespace,
    reference: ModuleType | None,
    progress: Progress,
) -> Run:
    """Train one network in both libraries, in lockstep, from where a killed run was."""
    run, steppers = prepare(title, use_batch_norm, data, options, reference)
    loader = npbn.DataLoader(data, options.batch_size, shuffle=True, rng=run.rng)
    if options.engine != "numpy":
        batch = (array[: options.batch_size] for array in data.arrays)
        run.gain = engine.gain(run.net, *batch)  # before training, which then compiles nothing
    quiet = not (sys.stdout.isatty() and sys.stderr.isatty())
    mnist_report.print_header(run)
    done = progress.restore(run)
    if done:
        print(f"resumed after epoch {done}")
    steps = {"total": options.epochs * len(loader), "initial": done * len(loader)}
    with tqdm(**steps, unit="step", leave=False, disable=quiet) as bar:
        for epoch in range(done + 1, options.epochs + 1):
            train_epoch(run, loader, steppers, reference, bar)
            progress.save(run, epoch)  # first: what is shown is safe
            tqdm.write(mnist_report.epoch_line(run, epoch, len(data)))
    if run.gain is not None:
        print(mnist_report.gain_line(run))
    return run


def prepare(
    title: str,
    use_batch_norm: bool,
    data: npbn.ArrayDataset,
    options: argparse.Namespace,
    reference: ModuleType | None,
) -> tuple[Run, dict[str, Step]]:
    """Build one network in both libraries, with the same weights; return what a step takes."""
    rng = np.random.default_rng(options.seed)
    net = build(models, use_batch_norm, data, options, dtype=options.dtype, rng=rng)
    run = Run(title, net, rng=np.random.default_rng(options.seed))
    run.optimizers["npbn"] = npbn.SGD(net.parameters(), lr=options.lr)
    steppers: dict[str, Step] = {"npbn": (npbn.train_step, net, npbn.CrossEntropyLoss())}
    if reference:
        import torch

        dtype = getattr(torch, options.dtype)
        run.model = build(reference, use_batch_norm, data, options, dtype=dtype)
        reference.copy_to_torch(net, run.model)
        run.optimizers["torch"] = torch.optim.SGD(run.model.parameters(), lr=options.lr)
        steppers["torch"] = (reference.train_step, run.model, torch.nn.CrossEntropyLoss())
    return run, steppers


def train_epoch(
    run: Run,
    loader: npbn.DataLoader,
    steppers: dict[str, Step],
    reference: ModuleType | None,
    bar: tqdm,
) -> None:
    """Train for an epoch, every batch in both libraries, and note loss and seconds of each."""
    losses, seconds = dict.fromkeys(steppers, 0.0), dict.fromkeys(steppers, 0.0)
    for x, target in loader:
        logits = {}
        for library, (step, network, criterion) in steppers.items():
            optimizer, start = run.optimizers[library], perf_counter()
            loss, logits[library] = step(network, x, target, criterion, optimizer)
            seconds[library] += perf_counter() - start
            losses[library] += loss * len(target) / len(loader.dataset)
        if reference:
            record(run, logits, reference)
        bar.update()
    for library in steppers:
        run.losses.setdefault(library, []).append(losses[library])
        run.seconds.setdefault(library, []).append(seconds[library])


def record(run: Run, logits: dict[str, np.ndarray], reference: ModuleType) -> None:
    """Note how far the two libraries are apart after a step."""
    found = {"logits": float(np.abs(logits["npbn"] - logits["torch"]).max())}
    found |= reference.max_abs_diff(run.net, run.model)
    for quantity, difference in found.items():
        run.differences.setdefault(quantity, []).append(difference)


def evaluate(
    images: str,
    data: npbn.ArrayDataset,
    runs: list[Run],
    options: argparse.Namespace,
    reference: ModuleType | None,
) -> mnist_report.Test:
    """Test the networks as they train and as they predict, in both libraries."""
    loader = npbn.DataLoader(data, options.batch_size)
    with_batch_norm, plain = runs
    found = {}
    for name, run, train_mode in (
        ("batchnorm_train_mode", with_batch_norm, True),
        ("batchnorm_eval_mode", with_batch_norm, False),
        ("plain_eval_mode", plain, False),
    ):
        found[name] = {"npbn": npbn.evaluate(run.net, loader, train_mode=train_mode)}
        if reference:
            found[name]["torch"] = reference.evaluate(run.model, loader, train_mode=train_mode)
    return mnist_report.Test(images, found)


def verdict(options: argparse.Namespace, runs: list[Run]) -> int:
    """Say in words how well the libraries agree; return the exit status."""
    if not runs[0].differences:
        return 0
    largest = float(np.max(list(mnist_report.max_abs_diff(runs).values())))
    if options.dtype == "float32":
        print(
            f"\nThe largest difference is {largest:.1e}. float32 keeps 7 digits, and the libraries "
            "round differently:\nwhere a ReLU's input comes that close to 0, one lets a gradient "
            "through that the other stops, and from\nthere on their weights differ. "
            f"{POOLING if options.network == 'cnn' else ''}"
            f"With --dtype float64 the libraries stay within {FLOAT64_LIMIT:.0e} of each other."
        )
        return 0
    agreed = largest <= FLOAT64_LIMIT  # False for NaN
    print(
        f"\nThe largest difference is {largest:.1e}: "
        f"{'below' if agreed else 'NOT below'} the {FLOAT64_LIMIT:.0e} that float64 should hold."
    )
    return 0 if agreed else 1
