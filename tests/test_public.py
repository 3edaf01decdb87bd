"""What npbn shows: public names and nothing else, and help where a user looks for it."""

import inspect
import pydoc
import types

import pytest
from processes import run_python

import npbn
from npbn import functional

LAZY = ["distributed", "testing"]


def test_dir_shows_public_names_and_nothing_else():
    assert dir(npbn) == sorted([*npbn.__all__, *LAZY, "__version__"])
    for name in dir(npbn):
        value = getattr(npbn, name)
        assert isinstance(value, types.ModuleType) or callable(value) or name == "__version__"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'npbn' has no attribute 'Lineer'"):
        npbn.Lineer  # noqa: B018


@pytest.mark.process
@pytest.mark.parametrize(
    "expression",
    ["npbn.distributed.SyncBatchNorm", "npbn.testing.check_batch_norm"],
)
def test_subpackages_are_loaded_when_they_are_used(expression):
    assert run_python("-c", f"import npbn; {expression}").err == ""


def test_help_of_the_function_batch_norm_has_the_mathematics():
    text = pydoc.render_doc(npbn.functional.batch_norm, renderer=pydoc.plaintext)
    for line in ("y    = weight · x̂ + bias", "grad_weight = Σ g · x̂"):
        assert line in text
    for name in ("batch_norm_forward", "batch_norm_backward"):  # named there, and to be had
        assert f"npbn.functional.{name}" in text
        file = inspect.getsourcefile(getattr(functional, name)).replace("\\", "/")
        assert file.endswith("npbn/functional/batch_norm.py")


VARIANTS = [
    [npbn.BatchNorm1d, npbn.BatchNorm2d, npbn.BatchNorm3d],
    [npbn.GhostBatchNorm1d, npbn.GhostBatchNorm2d],
    [npbn.BatchRenorm1d, npbn.BatchRenorm2d],
]


def sections(kind):
    """Return the sections of a docstring by title."""
    lines = inspect.getdoc(kind).splitlines()
    starts = [i for i in range(1, len(lines)) if lines[i] and set(lines[i]) == {"-"}]
    ends = [start - 1 for start in starts[1:]] + [len(lines)]
    return {
        lines[start - 1]: lines[start + 1 : end] for start, end in zip(starts, ends, strict=True)
    }


@pytest.mark.parametrize("variants", VARIANTS)
def test_variants_are_documented_in_full_and_alike(variants):
    """Each has all sections; those that are common do not drift apart."""
    first = sections(variants[0])
    for kind in variants:
        mine = sections(kind)
        assert list(mine) == list(first)
        assert {"Parameters", "Attributes", "Raises", "References", "Examples"} <= mine.keys()
        for title in ("Parameters", "Attributes", "Raises", "References"):
            assert mine[title] == first[title], title
        assert any(f"{kind.__name__}(" in line for line in mine["Examples"])
        documented = " ".join(line.split(" : ")[0] for line in mine["Parameters"])
        for name in inspect.signature(kind).parameters:
            assert name in documented
