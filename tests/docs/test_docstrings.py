"""The docstrings of everything public, validated by numpydoc."""

import contextlib
import inspect

import pytest

import npbn
import npbn.distributed
import npbn.testing

validate = pytest.importorskip("numpydoc.validate", reason="pip install '.[docs]'").validate

MODULES = (npbn, npbn.functional, npbn.data, npbn.errors, npbn.init, npbn.distributed, npbn.testing)
with contextlib.suppress(ImportError):  # without torch
    from npbn import torch_reference

    MODULES += (torch_reference,)
# What numpydoc asks for and npbn does without.
ALLOWED = {
    "GL01",  # a summary on the line after the quotes
    "ES01",  # an extended summary
    "SA01",  # a section "See Also"
    "PR07",  # a description, where the type says all: "x : ndarray, shape (N, C)"
    "RT03",
}


def public():
    """Yield the dotted name of every public class, its own methods, and every public function."""
    seen = set()
    for module in MODULES:
        for name in module.__all__:
            found = getattr(module, name)
            if not callable(found) or id(found) in seen:
                continue
            seen.add(id(found))
            yield f"{module.__name__}.{name}"
            for attribute, value in vars(found).items() if inspect.isclass(found) else ():
                inherited = any(attribute in vars(base) for base in found.__mro__[1:])
                if not attribute.startswith("_") and callable(value) and not inherited:
                    yield f"{module.__name__}.{name}.{attribute}"


def excused(name, code):
    """Whether numpydoc is not to ask for this here."""
    module, _, last = name.rpartition(".")
    found = getattr(npbn, last, None) if module == "npbn" else None
    if code == "EX01":  # examples: of the classes and functions of `npbn` itself
        return found is None
    if code == "PR01":  # a tuple's fields, and what a protocol has, are documented as attributes
        documented = next((m for m in MODULES if m.__name__ == module), None)
        documented = getattr(documented, last, None)
        return inspect.isclass(documented) and "Attributes\n" in inspect.getdoc(documented)
    return code in ALLOWED


@pytest.mark.parametrize("name", list(public()))
def test_numpydoc_finds_nothing(name):
    errors = [error for error in validate(name)["errors"] if not excused(name, error[0])]
    assert errors == []
