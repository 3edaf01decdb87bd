"""What `import npbn` loads, and which part of npbn may import which."""

import ast
import importlib
import sys
from pathlib import Path

import pytest
from processes import run_python

import npbn

PACKAGE = Path(npbn.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
PARTS = {Path(file).parts[0].removesuffix(".py") for file in FILES}
TOP = ["layers", "data", "optim", "models", "training", "torch_reference"]
AFTER = ["data", "optim", "testing", "torch_reference", "training"]  # with networks, not to train
# What a part may not import of npbn; a file that is not named here is for all of them to use.
MAY_NOT_IMPORT = {
    "functional": [*TOP, "init"],
    "layers": TOP[1:],
    "data": [*TOP[:1], *TOP[2:], "init"],
    "optim.py": ["data", "models", "training", "torch_reference"],
    "models.py": ["data", "optim", "training", "torch_reference"],
    "training.py": ["models", "torch_reference"],
    "checkpoint": [
        "data",
        "functional",
        "layers",
        "models",
        "optim",
        "torch_reference",
        "training",
    ],
    "config.py": AFTER,
    "folding.py": AFTER,
    "onnx_export.py": AFTER,
    "population.py": AFTER,
    "distributed": ["models", "testing", "torch_reference"],
    "cli.py": ["testing", "torch_reference"],
    "__main__.py": ["testing", "torch_reference"],
    "__init__.py": ["torch_reference", "testing", "distributed"],
    "torch_reference.py": ["models", "testing"],
    "testing": [],
}


# The packages that files import where they are called for.
EXTRAS = {
    "onnx_export.py": {"onnx"},
    "checkpoint/safetensors_file.py": {"safetensors"},
    "distributed/mpi.py": {"mpi4py"},
    "distributed/watch.py": {"mpi4py"},
}


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
    return names


@pytest.mark.process
def test_import_loads_nothing_beyond_numpy_and_the_standard_library():
    program = (
        "import sys, numpy.random\n"  # some modules of NumPy are not below its name
        "before = set(sys.modules)\n"
        "import npbn\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(names - sys.stdlib_module_names - {'numpy'}))\n"
    )
    assert run_python("-W", "error", "-c", program) == (0, "npbn\n", "")


@pytest.mark.parametrize("file", FILES)
def test_torch_is_imported_by_the_reference_alone(file):
    tops = {name.partition(".")[0] for name in imported(file)}
    if file == "torch_reference.py":
        assert "torch" in tops
    elif not file.startswith("testing/"):
        assert tops - sys.stdlib_module_names <= {"numpy", "npbn"} | EXTRAS.get(file, set())
    else:
        assert "torchvision" not in tops


@pytest.mark.parametrize("file", FILES)
def test_the_arrows_between_the_parts_hold(file):
    part = Path(file).parts[0]
    forbidden = MAY_NOT_IMPORT.get(part, [*TOP, "functional"])
    for name in imported(file):
        top, _, rest = name.partition(".")
        if top == "npbn":
            target = rest.partition(".")[0]
            if part in ("testing", "cli.py") and not target:  # outside, as npbn's users are
                continue
            assert target not in forbidden, f"{file} imports {name}"
            # Not `from npbn import Linear`: that goes through all of npbn, and round in a circle.
            assert target in PARTS, f"{file} imports {name}"


@pytest.mark.parametrize("file", [f for f in FILES if not Path(f).name.startswith("_")])
def test_every_public_name_exists(file):
    module = importlib.import_module("npbn." + file.removesuffix(".py").replace("/", "."))
    names = getattr(module, "__all__", [])
    assert [name for name in names if not hasattr(module, name)] == []


def test_the_packages_list_their_public_names_once_and_have_them():
    for module in (npbn, npbn.functional, npbn.data, npbn.layers, npbn.errors, npbn.init):
        assert len(set(module.__all__)) == len(module.__all__)
        assert [name for name in module.__all__ if not hasattr(module, name)] == []
