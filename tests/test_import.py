"""What `import npbn` loads, and which part of npbn may import which.

Imports are found in the syntax tree, wherever they stand: those inside of functions too.
"""

import ast
import functools
import importlib
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from processes import run_python

import npbn

PACKAGE = Path(npbn.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
PARTS = {Path(file).parts[0].removesuffix(".py") for file in FILES}

# What a part may import of npbn, beside itself; "npbn" is the package from outside.
PLAIN = {"arguments", "errors", "io", "version"}  # which know of nothing else in npbn
LAYERS = {*PLAIN, "rng", "functional", "layers"}  # which know no engine
MAY_IMPORT = {
    **dict.fromkeys(PLAIN, frozenset()),
    "rng": set(),
    "engines": {"errors"},
    "functional": {"arguments", "errors", "rng", "engines"},
    "init": {"errors", "rng"},
    "layers": {*PLAIN, "rng", "functional", "init"},
    "models": LAYERS,
    "population": LAYERS | {"ranks"},
    "ranks": {"errors"},
    "optim": {"arguments", "errors", "layers", "engines"},
    "data": {*PLAIN, "rng"},
    "deploy": LAYERS,
    "checkpoint": {*PLAIN, "deploy"},  # the description of a network goes into its file
    "training": LAYERS | {"optim", "ranks"},
    "distributed": LAYERS | {"data", "optim", "population", "training"},
    "torch_reference": LAYERS | {"ranks", "training"},
    "testing": {"errors", "io", "npbn"},
    "cli": {*PLAIN, "npbn", "checkpoint", "layers"},
    "__main__": {"cli"},
    "__init__": PARTS - {"__init__", "__main__", "cli", "torch_reference"},  # two when first used
}

# The packages, beside NumPy, that a part may import; all of them extras, none by `import npbn`.
ADAPTED = {
    "torch",
    "jax",
    "flax",
    "haiku",
    "equinox",
    "keras",
    "tinygrad",
    "paddle",
    "mygrad",
    "onnx",
    "onnxruntime",
    "openvino",
}
EXTRAS = {
    "engines/numba_": {"numba"},
    "torch_reference.py": {"torch", "torchvision"},
    "deploy/onnx_export.py": {"onnx"},
    "deploy/onnx_operators.py": {"onnx"},
    "checkpoint/safetensors_file.py": {"safetensors"},
    "distributed/mpi.py": {"mpi4py"},
    "distributed/watch.py": {"mpi4py"},
    "testing": {"hypothesis"} | ADAPTED,
}


@functools.cache
def imported(file):
    """Return the dotted names that a file imports, wherever in it, as `package.module.name`."""
    names = set()
    for node in ast.walk(ast.parse(FILES[file].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = ["npbn", *Path(file).parts[:-1]]
            base = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and str(node.value).startswith("npbn.engines."):
            names.add(node.value)  # the engines are imported by name
    return names


def part_of(file):
    return Path(file).parts[0].removesuffix(".py")


@pytest.mark.process
def test_import_loads_nothing_beyond_numpy_and_the_standard_library():
    program = (
        "import sys, numpy.random\n"  # some modules of NumPy are not below its name
        "before = set(sys.modules)\n"
        "import npbn\n"
        "loaded = set(sys.modules) - before\n"
        "names = {name.partition('.')[0] for name in loaded}\n"
        "print(*sorted(names - sys.stdlib_module_names - {'numpy'}))\n"
        "print(*loaded & {'npbn.testing', 'npbn.distributed', 'npbn.torch_reference'})\n"
    )
    assert run_python("-W", "error", "-c", program) == (0, "npbn\n\n", "")


def test_other_packages_are_imported_where_they_are_named_and_there_they_are():
    wrong, used = [], defaultdict(set)
    for file in FILES:
        allowed = [name for name in EXTRAS if file == name or file.startswith(f"{name}/")]
        for name in imported(file):
            package = name.partition(".")[0]
            if package in sys.stdlib_module_names | {"numpy", "npbn"}:
                continue
            if not any(package in EXTRAS[part] for part in allowed):
                wrong.append(f"{file} imports {name}")
            for part in allowed:
                used[part].add(package)
    assert wrong == []
    assert used == EXTRAS


def test_every_part_imports_only_what_is_below_it():
    wrong = []
    for file in FILES:
        part = part_of(file)
        for name in imported(file):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if target not in PARTS:  # `from npbn import Linear` goes through all of npbn
                target = "npbn"
            if top == "npbn" and target not in MAY_IMPORT[part] | {part}:
                wrong.append(f"{file} imports {name}")
    assert wrong == []
    assert set(MAY_IMPORT) == PARTS


def test_the_arrows_go_one_way():
    below = {part: set(targets) - {"npbn"} for part, targets in MAY_IMPORT.items()}
    TopologicalSorter(below).prepare()  # which raises CycleError


def test_no_layer_chooses_an_engine():
    wrong = [
        f"{file} imports {name}"
        for file in FILES
        if part_of(file) != "engines"
        for name in imported(file)
        if name.startswith(("npbn.engines.numpy_", "npbn.engines.numba_"))
    ]
    assert wrong == []


def test_every_public_name_exists_and_is_listed_once():
    wrong, modules = [], 0
    for file in FILES:
        needs_more = file.startswith(("engines/numba_", "testing/adapters/"))
        if Path(file).name == "__main__.py" or needs_more:
            continue
        name = "npbn." + file.removesuffix(".py").replace("/", ".")
        module = importlib.import_module(name.removesuffix(".__init__"))
        names = getattr(module, "__all__", [])
        modules += bool(names)
        wrong += [f"{name}.{missing}" for missing in names if not hasattr(module, missing)]
        wrong += [f"{name}.{twice}" for twice in names if names.count(twice) > 1]
    assert wrong == []
    for module in (npbn, npbn.functional, npbn.data, npbn.layers, npbn.errors, npbn.engines):
        assert module.__all__
    assert modules >= 8
