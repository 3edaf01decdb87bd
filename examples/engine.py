"""The engine that the option --engine names, and what the compiled engine gains."""

import argparse
import copy
from time import perf_counter

import numpy as np

import npbn
from npbn.errors import NpbnError

ROUNDS = 20


def choose(options: argparse.Namespace) -> None:
    """Use the engine that was asked for, and have ``options.engine`` name the one in use.

    Raises
    ------
    NpbnError
        If it cannot be loaded; the message is one line.
    """
    try:
        if options.engine is not None:
            npbn.set_engine(options.engine)
        options.engine = npbn.get_engine()
    except (ImportError, ValueError) as error:
        raise NpbnError(str(error)) from error


def gain(net: npbn.Module, x: np.ndarray, target: np.ndarray) -> float:
    """Return the speed of a training step with the engine in use, in the NumPy engine's.

    Copies of the network train on one batch with the two engines in turn; the ratio of the median
    times. What has to be compiled is compiled in a round that is not counted.
    """
    engines = ("numpy", npbn.get_engine())
    nets = [copy.deepcopy(net) for _ in engines]
    optimizers = [npbn.SGD(each.parameters(), lr=0.01) for each in nets]
    criterion = npbn.CrossEntropyLoss()
    seconds = np.empty((ROUNDS + 1, 2))
    for times in seconds:
        for i, engine in enumerate(engines):
            with npbn.using_engine(engine):
                start = perf_counter()
                npbn.train_step(nets[i], x, target, criterion, optimizers[i])
                times[i] = perf_counter() - start
    numpy, other = np.median(seconds[1:], axis=0)
    return float(numpy / other)
