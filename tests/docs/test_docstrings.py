"""The docstrings of everything public, validated by numpydoc."""

import inspect

import pytest

import npbn
import npbn.distributed
import npbn.testing

validate = pytest.importorskip("numpydoc.validate", reason="pip install '.[docs]'").validate

MODULES = (npbn, npbn.functional, npbn.data, npbn.errors, npbn.init, npbn.distributed, npbn.testing)
# What numpydoc asks for and npbn does without: a summary on a line of its own (it is on the
# first), an extended summary, "See Also", an example of every method, and a full stop after the
# description of a parameter that is a shape.
ALLOWED = {"GL01", "GL02", "ES01", "SA01"}


def public():
    """Yield the dotted name of every public class, its methods, and every public function."""
    seen = set()
    for module in MODULES:
        for name in module.__all__:
            found = getattr(module, name)
            if not callable(found) or id(found) in seen:
                continue
            seen.add(id(found))
            yield f"{module.__name__}.{name}"
            if inspect.isclass(found):
                for attribute, value in vars(found).items():
                    if not attribute.startswith("_") and callable(value):
                        yield f"{module.__name__}.{name}.{attribute}"


@pytest.mark.parametrize("name", public())
def test_numpydoc_finds_nothing(name):
    errors = [(code, text) for code, text in validate(name)["errors"] if code not in ALLOWED]
    assert errors == []
