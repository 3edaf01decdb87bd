"""The code that runs in a target's process: the target is loaded once, then called on request."""

import os
import pickle
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, NamedTuple

import numpy as np

from npbn.testing.case import Case, Setup, Step
from npbn.testing.compare import ConformanceError, Remark, run_step
from npbn.testing.layouts import LAYOUTS, VECTOR_LAYOUTS
from npbn.testing.names import VECTORS
from npbn.testing.protocol import CannotConstructError, Implementation
from npbn.testing.words import in_words

A_DAY = 86_400.0  # seconds
MEMORY = 8 * 2**30  # bytes of address space beyond what a loaded target has, on Linux


class Command(NamedTuple):
    """A program to be checked through a pipe (:mod:`npbn.testing.pipe`).

    Parameters
    ----------
    command : str
        The program and its arguments, as a shell would take them.
    """

    command: str


class Pickled(NamedTuple):
    """An object that a fresh interpreter can load."""

    data: bytes


class Request(NamedTuple):
    """A function to call on the implementation."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Described(NamedTuple):
    """The description of an implementation that the other process needs."""

    name: str
    unsupported: tuple[str, ...]
    convention: str


class TargetError(ValueError):
    """The target does not exist or cannot be checked."""


def main() -> None:
    """Serve requests that come on standard input; answer on what was standard output."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    serve(requests, answers, None)
    os._exit(0)  # whatever threads the target has started


def serve(requests: IO[bytes], answers: IO[bytes], target: object) -> None:
    """Answer requests until there are no more; the first says what the target is.

    An answer is "value" and what a function returned, "raised" and what the target raised, in
    words, or "error" and an error of this package.

    Parameters
    ----------
    requests, answers : binary files
    target : object
        The target itself, where this process was forked with it.
    """
    _print_to_stderr()
    warnings.simplefilter("ignore")
    implementation = None
    while True:
        try:
            message = pickle.load(requests)
        except EOFError:
            return
        try:
            with np.errstate(all="ignore"):  # what it warns of shows in its results
                if isinstance(message, Request):
                    answer = "value", message.function(implementation, *message.arguments)
                else:
                    named, convention = message
                    implementation = _load(target if named is None else named, convention)
                    answer = "value", _describe(implementation)
        except (ConformanceError, Remark, CannotConstructError, TargetError) as error:
            answer = "error", error
        except BaseException as error:  # SystemExit and KeyboardInterrupt of the target too
            answer = "raised", f"raised {in_words(error)}"
        pickle.dump(answer, answers)
        answers.flush()


def after_fork() -> None:
    """Make torch, if it is there, start its threads anew.

    Otherwise the first thread of this process that computes with it does so, without a lock: two
    that begin together fail with "Invalid thread pool!" (torch 2.13).
    """
    torch = sys.modules.get("torch")
    with suppress(AttributeError):  # None, or another module of that name
        torch.set_num_threads(torch.get_num_threads())  # type: ignore[union-attr]


def _print_to_stderr() -> None:
    """Redirect what the target prints to standard error."""
    with suppress(OSError):
        os.dup2(2, 1)
    with suppress(Exception):
        sys.stdout = sys.stderr = os.fdopen(
            os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace"
        )


def _load(target: object, convention: str | None) -> Implementation:
    from npbn.testing.targets import adapt, load_target

    try:
        if isinstance(target, str):
            found = load_target(target)
        elif isinstance(target, Command):
            from npbn.testing import pipe

            found = pipe.implementation(target.command, seconds=A_DAY)  # the worker's come first
        else:
            found = adapt(pickle.loads(target.data) if isinstance(target, Pickled) else target)
        if convention is not None:
            found = Implementation(found.make, found.name, found.unsupported, convention)
    except ValueError as error:
        raise TargetError(str(error)) from error
    return found


def _describe(implementation: Implementation) -> Described:
    """Make one BatchNorm, to check that it can be made and what it supports."""
    ones = np.ones(3, np.float32)
    setup = Setup(3, weight=ones, bias=ones, running_mean=ones, running_var=ones)
    try:
        layer = implementation.make(setup)
    except BaseException as error:
        reason = str(error) if isinstance(error, CannotConstructError) else in_words(error)
        raise CannotConstructError(
            f"{implementation.name} cannot be constructed: {reason}"
        ) from error
    if not hasattr(layer, "load"):
        implementation.unsupported |= {"reload"}
    _limit_memory()
    unsupported = tuple(sorted(implementation.unsupported))
    return Described(implementation.name, unsupported, implementation.convention_name)


def _limit_memory() -> None:
    """Limit memory to :data:`MEMORY`, so that larger allocations raise an error."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = used + MEMORY if hard == resource.RLIM_INFINITY else min(used + MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def know(implementation: Implementation, function: Callable[..., Any]) -> None:
    """Do nothing: receiving a function imports its module."""


def warm_up(implementation: Implementation) -> None:
    """Call the target as the checks do, so that it compiles before it is timed."""
    rng = np.random.default_rng(0)
    unsupported = implementation.unsupported
    layouts = ["contiguous"] if "layouts" in unsupported else list(LAYOUTS)
    for dtype in ("float32", "float64", "float16"):
        if dtype in unsupported:
            continue
        vectors: dict[str, Any] = {
            name: rng.uniform(1, 2, 3).astype("float64" if dtype == "float64" else "float32")
            for name in VECTORS
        }
        for number, layout in enumerate(layouts):
            of_vectors = VECTOR_LAYOUTS[number % len(VECTOR_LAYOUTS)]
            setup = Setup(3, **vectors, dtype=vectors["bias"].dtype, layout=of_vectors)
            for shape in ((4, 3), (4, 3, 2, 2)):
                x, grad = (rng.normal(size=shape).astype(dtype) for _ in range(2))
                for training in (True, False):
                    _try(implementation, setup, Step(x, training, grad, layout, layout))


def _try(implementation: Implementation, setup: Setup, step: Step) -> None:
    case = implementation.adapt(Case(setup, (step,)))
    with suppress(Exception):  # it will be reported when it is checked
        run_step(implementation.make(setup), case.steps[0], reads_statistics=False)
