"""One module a library, imported in the contender's own process.

A module has a function for each kind of work it takes part in, ``batch_norm``, ``train_step``
or ``predict``, from the problem to a :class:`benchmarks.task.Task`; ``set_threads(n)`` if
environment and threadpoolctl do not reach its threads; ``clear()`` if it keeps compiled code.
"""

MODULES = {
    "npbn numba": "npbn_numba",
    "npbn numpy": "npbn_numpy",
    "torch eager": "torch_eager",
    "torch.compile": "torch_compile",
    "jax.jit": "jax_jit",
    "MyGrad": "mygrad_",
    "thinc": "thinc_",
    "onnxruntime": "onnxruntime_",
    "textbook NumPy": "textbook",
    "floor": "floor",
}
ENGINES = ("npbn numba", "npbn numpy")  # npbn, once with each of its engines


def modules(*names: str) -> dict[str, str]:
    """Return the full names of contenders' modules."""
    return {name: f"{__name__}.{MODULES[name]}" for name in names}
