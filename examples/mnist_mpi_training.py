"""The training of mnist_mpi: on all ranks, and on groups of fewer."""

import argparse
import os
import sys
from time import perf_counter

import engine
import mnist_mpi_report
import numpy as np
from mnist_mpi_report import Run
from mnist_mpi_resume import Progress
from mnist_training import build, load
from mpi4py import MPI
from options import folder, prepare_folder
from program import FAILED
from threadpoolctl import threadpool_limits

import npbn
from npbn import distributed, models
from npbn.errors import DataError, DistributedError, NpbnError

WORLD = MPI.COMM_WORLD


class RefusedError(Exception):
    """Why training cannot begin; raised on all ranks alike."""


def run(options: argparse.Namespace) -> int:
    """Train and compare; return the exit status. An error is said by the ranks that have it."""
    try:
        return train_all(options)
    except RefusedError as error:
        if WORLD.rank == 0:
            print(f"mnist_mpi: error: {error}", file=sys.stderr)
    except DistributedError as error:  # the others have one of their own
        print(f"mnist_mpi: error on rank {WORLD.rank}: {error}", file=sys.stderr)
    except BrokenPipeError:
        raise
    except (NpbnError, OSError) as error:
        distributed.communicator(WORLD).fail(str(error))  # the others wait for this rank
        print(f"mnist_mpi: error on rank {WORLD.rank}: {error}", file=sys.stderr)
    return FAILED


def show(line: str = "") -> None:
    """Print on rank 0, and at once: under mpiexec standard output is a pipe."""
    if WORLD.rank == 0:
        print(line, flush=True)


def train_all(options: argparse.Namespace) -> int:
    """Train on all ranks, then on groups of fewer; show, save, and return the exit status."""
    threads, shared = share_cpus()
    train_set, test_set, progress = prepare(options)
    show(
        f"{options.network.upper()}, {options.dtype}: {len(train_set)} training and "
        f"{len(test_set)} test images, batches of {options.batch_size} over all ranks, "
        f"learning rate {options.lr}, engine {options.engine}"
    )
    if shared:
        show(f"{shared}: the seconds do not tell what more CPUs would bring")
    if options.engine != "numpy":
        show("what is compiled, or loaded from disk, is in the seconds of the first epochs")
    runs = []
    with threadpool_limits(threads):
        for size in group_sizes():
            # All groups of a size do the same: so no rank waits for what takes long.
            group = WORLD if size == WORLD.size else WORLD.Split(WORLD.rank // size)
            for synchronised in (True, False):
                run = Run(size, synchronised, of_all=size == WORLD.size)
                train(run, group, train_set, test_set, options, progress)
                runs.append(run)
    if WORLD.rank:
        return 0
    differences = mnist_mpi_report.differences(runs)
    mnist_mpi_report.print_table(runs, differences)
    mnist_mpi_report.save(options, runs, differences)
    progress.finish()
    return mnist_mpi_report.verdict(options.dtype, runs, differences)


def share_cpus() -> tuple[int, str]:
    """Share a machine's CPUs out among its ranks; return a rank's threads, and if CPUs lack."""
    ranks = WORLD.Split_type(MPI.COMM_TYPE_SHARED).size
    allowed = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    cpus = len(os.sched_getaffinity(0)) if allowed else os.cpu_count() or 1
    threads = max(1, cpus // ranks)
    npbn.set_num_threads(threads)
    return threads, f"{ranks} ranks take turns on {cpus} CPUs" if ranks > cpus else ""


def group_sizes() -> list[int]:
    """Return the numbers of ranks into which all can be split evenly, all of them first."""
    return [size for size in range(WORLD.size, 0, -1) if WORLD.size % size == 0]


def prepare(options: argparse.Namespace) -> tuple[npbn.ArrayDataset, npbn.ArrayDataset, Progress]:
    """Read the images, on every rank, and the checkpoint, on rank 0."""
    problem, prepared = "", None
    try:
        engine.choose(options)
        options.out = options.out or folder("mnist_mpi", options)
        if WORLD.rank == 0:
            prepare_folder(options.out)
        train_set, test_set = (load(options, train) for train in (True, False))
        check_shards(options, len(train_set), len(test_set))
        prepared = train_set, test_set, Progress(options, train_set)
    except (NpbnError, OSError) as error:
        problem = str(error)
    for rank, text in enumerate(WORLD.allgather(problem)):
        if text:
            raise RefusedError(f"rank {rank}: {text}" if rank else text)
    prepared[2].share()
    return prepared


def check_shards(options: argparse.Namespace, train: int, test: int) -> None:
    """Refuse what cannot be shared out among the ranks."""
    ranks = WORLD.size
    if min(options.batch_size, train, test) < ranks:
        raise DataError(
            f"{ranks} ranks take an image each at least, of batches and of images: there are "
            f"{options.batch_size} in a batch (--batch-size), {train} for training, {test} to test"
        )
    if options.network == "cnn":  # whose BatchNorm has many pixels of one image
        return
    for size in group_sizes():
        for batch in {options.batch_size, train % options.batch_size}:
            if 1 in {batch // size, -(-batch // size)}:
                raise DataError(
                    f"--batch-size {options.batch_size}: of a batch of {batch} of the {train} "
                    f"images one of {size} ranks gets a single one, which BatchNorm that is not "
                    "synchronised cannot normalise in training; choose another"
                )


def train(
    run: Run,
    group: MPI.Comm,
    train_set: npbn.ArrayDataset,
    test_set: npbn.ArrayDataset,
    options: argparse.Namespace,
    progress: Progress,
) -> None:
    """Train one network on one group of ranks, from where a killed run was."""
    rng = np.random.default_rng(options.seed)
    net = build(models, True, train_set, options, dtype=options.dtype, rng=rng)
    if run.synchronised:
        net = distributed.convert_sync_batch_norm(net, group)
    net = distributed.DataParallel(net, group)
    criterion, optimizer = npbn.CrossEntropyLoss(), npbn.SGD(net.parameters(), lr=options.lr)
    order = np.random.default_rng(options.seed)
    loader = distributed.DataLoader(
        train_set, options.batch_size, shuffle=True, rng=order, comm=group
    )
    tests = distributed.DataLoader(test_set, options.batch_size, comm=group)

    show(mnist_mpi_report.header(run, WORLD.size))
    done = progress.restore(run, net.module, optimizer, order)
    if done:
        show(f"resumed after epoch {done}, by {run.by[-1]} rank{'s' * (run.by[-1] > 1)}")
    for epoch in range(done + 1, options.epochs + 1):
        start = perf_counter()
        for x, target in loader:
            loss, _ = distributed.train_step(net, x, target, criterion, optimizer)
            if not np.isfinite(loss):  # with more ranks than one train_step says it
                raise DistributedError(f"expected a finite loss, got {loss}: try a smaller --lr")
            run.losses.append(loss)
        run.seconds.append(perf_counter() - start)
        run.accuracies.append(distributed.evaluate(net, tests, group).accuracy)
        run.by.append(run.ranks)
        progress.save(run, net.module, optimizer, order)  # first: what is shown is safe
        show(mnist_mpi_report.epoch_line(run, epoch, len(train_set), options.batch_size))
