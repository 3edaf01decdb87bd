"""Check a program in any language: it reads a line of JSON and writes a line of JSON back.

    python -m npbn.testing --command "node batch_norm.mjs"

The program is started once. It answers each line of its standard input with one line on its
standard output, flushed, and ends when its input does. What it writes to standard error is
shown. ``examples/testing/`` has such programs in C and JavaScript.

The first line is a greeting, which a program may take its time for (it may be started more
than once); the answer says what the program is::

    {"request": "describe", "protocol": 1}
    {"name": "my kernel", "unsupported": ["rank5", "float64"], "convention": "pytorch"}

``unsupported`` names what it is not meant to do, of :data:`npbn.testing.protocol.CAPABILITIES`.
``convention`` is one of :data:`npbn.testing.conventions.CONVENTIONS`: what momentum weighs, which
variance is stored, and which pass moves the statistics. The default is "pytorch"; the others have
neither the plain average nor a counter. All three may be left out.

Each further line is one step of one BatchNorm, with all that it depends on: a program keeps
nothing from line to line::

    {"request": "step", "training": true, "eps": 1e-05, "momentum": 0.1,
     "num_batches_tracked": 0, "x": ARRAY, "grad_output": ARRAY, "weight": ARRAY, "bias": ARRAY,
     "running_mean": ARRAY, "running_var": ARRAY}

``grad_output`` is null where the step goes forward alone, ``weight`` and ``bias`` where there
are none, ``running_mean`` and ``running_var`` where nothing is tracked (the batch normalises in
evaluation too), ``momentum`` for the plain average. The answer has the output; with a
``grad_output`` its gradients; and, if there are running statistics, these after the step::

    {"y": ARRAY, "grad_input": ARRAY, "grad_weight": ARRAY, "grad_bias": ARRAY,
     "running_mean": ARRAY, "running_var": ARRAY, "num_batches_tracked": 1}

or, where the program refuses, ``{"error": "why"}``. An ARRAY is an object::

    {"dtype": "float32", "shape": [2, 3], "values": [0.5, -1, 3e-08, "NaN", "Infinity", 7]}

with the values in row-major order (the last axis runs fastest). They are written with the
digits that float64 needs, and are exact in ``dtype``: float16, float32 or float64. NaN and
infinities are strings, as JSON has no such numbers. Memory is not shared through a pipe:
behaviours about memory layouts do not apply.
"""

import math
import shlex
from typing import Any

import numpy as np

from npbn.testing.case import Setup
from npbn.testing.pipe_process import PipeError, Program, short
from npbn.testing.protocol import Gradients, Implementation

NO_LAYOUTS = ("layouts", "vector_layouts")
DTYPES = ("float16", "float32", "float64")
WORDS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def implementation(command: str, seconds: float = 10.0) -> Implementation:
    """Return a program as an implementation.

    Parameters
    ----------
    command : str
        The program and its arguments, as a shell splits them; no shell runs them.
    seconds : float
        How long an answer may take. The program is then ended, and started anew for the next
        step.

    Raises
    ------
    ValueError
        In one line: if it cannot be started, or does not answer the greeting.
    """
    try:
        if not (words := shlex.split(command)):
            raise PipeError("expected a program, got nothing")
        program = Program(words, seconds)
        about = program.greet()
        program.end()  # each process that checks starts its own
        name, convention = about.get("name", command), about.get("convention", "pytorch")
        unsupported = about.get("unsupported", [])
        if not isinstance(unsupported, list) or not all(type(name) is str for name in unsupported):
            raise PipeError(f"unsupported: expected a list of strings, got {short(unsupported)}")
        return Implementation(
            lambda setup: _Layer(program, setup), str(name), (*NO_LAYOUTS, *unsupported), convention
        )
    except (OSError, PipeError, ValueError) as error:
        raise ValueError(f"--command {command!r}: {error}") from error


class _Layer:
    """One BatchNorm whose running statistics are kept here."""

    def __init__(self, program: "Program", setup: Setup):
        self.program = program
        self.num_batches_tracked = setup.num_batches_tracked if setup.tracks else None
        self.load(setup)

    def load(self, setup: Setup) -> None:
        """Take other weights and statistics; the next step sends them."""
        self.setup = setup
        self.running_mean, self.running_var = setup.running_mean, setup.running_var

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        """Run the step without a gradient; keep what backward has to send again."""
        setup = self.setup
        self.question = {
            "request": "step",
            "training": training,
            "eps": setup.eps,
            "momentum": setup.momentum,
            "num_batches_tracked": self.num_batches_tracked or 0,
            "x": encode(x),
            "grad_output": None,
            "weight": encode(setup.weight),
            "bias": encode(setup.bias),
            "running_mean": encode(self.running_mean),
            "running_var": encode(self.running_var),
        }
        answer = self.program.ask(self.question)
        y = decode(answer, "y")
        if setup.tracks:
            self.running_mean = decode(answer, "running_mean")
            self.running_var = decode(answer, "running_var")
            self.num_batches_tracked = answer.get("num_batches_tracked")
        return y

    def backward(self, grad_output: np.ndarray) -> Gradients:
        """Run the same step again, with a gradient."""
        answer = self.program.ask({**self.question, "grad_output": encode(grad_output)})
        weight, bias = self.setup.weight, self.setup.bias
        return (
            decode(answer, "grad_input"),
            None if weight is None else decode(answer, "grad_weight"),
            None if bias is None else decode(answer, "grad_bias"),
        )


def encode(array: np.ndarray | None) -> dict[str, Any] | None:
    """Return an array in the form of the protocol."""
    if array is None:
        return None
    array = np.asarray(array)
    values: list[Any] = array.astype(np.float64).ravel().tolist()
    if not np.isfinite(array).all():
        values = [WORDS.get(str(value), value) for value in values]
    return {"dtype": array.dtype.name, "shape": list(array.shape), "values": values}


def decode(answer: dict[str, Any], name: str) -> np.ndarray:
    """Return an array of an answer.

    Raises
    ------
    PipeError
        If it is missing, or its parts do not fit together.
    """
    given = answer.get(name)
    if not isinstance(given, dict) or not {"dtype", "shape", "values"} <= given.keys():
        raise PipeError(f"{name}: expected an object with dtype, shape, values; got {short(given)}")
    dtype, shape, values = given["dtype"], given["shape"], given["values"]
    if dtype not in DTYPES:
        raise PipeError(f"{name}: expected a dtype of {', '.join(DTYPES)}, got {short(dtype)}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise PipeError(f"{name}: expected a shape such as [2, 3], got {short(shape)}")
    try:
        numbers = np.array([float(value) for value in values], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        expected = 'a flat list of numbers, "NaN", "Infinity" and "-Infinity"'
        raise PipeError(f"{name}: expected {expected}: {error}") from error
    if numbers.size != math.prod(shape):
        raise PipeError(f"{name}: {numbers.size} values do not make an array of shape {shape}")
    with np.errstate(over="ignore"):
        return numbers.astype(dtype).reshape(shape)
