"""Which engine computes: what chooses it, what refuses, and who sees the choice."""

import importlib.util
import os
import threading

import numpy as np
import pytest
from helpers import assert_same_bits
from processes import run_python

import npbn

numba_installed = pytest.mark.skipif(
    not importlib.util.find_spec("numba"), reason="numba is not installed"
)


@pytest.fixture(autouse=True)
def restored():
    with npbn.using_engine(npbn.get_engine()):
        yield


def run(program, **environment):
    """Return what a new process, without a chosen engine, writes to stdout and stderr."""
    done = run_python("-c", program, code=None, env={"NPBN_ENGINE": ""} | environment)
    return done.out.strip(), done.err.strip()


# -- choosing -------------------------------------------------------------------------------------


@numba_installed
def test_an_engine_stays_chosen_until_another_is():
    for name in ("numba", "numpy", "numba"):
        npbn.set_engine(name)
        assert npbn.get_engine() == npbn.get_engine() == name


@numba_installed
@pytest.mark.parametrize("outer", ["numpy", "numba"])
@pytest.mark.parametrize("inner", ["numpy", "numba"])
def test_a_block_uses_its_engine_and_restores_the_one_before_on_errors_too(outer, inner):
    npbn.set_engine(outer)
    with npbn.using_engine(inner):
        assert npbn.get_engine() == inner
    assert npbn.get_engine() == outer
    with pytest.raises(ZeroDivisionError), npbn.using_engine(inner):
        fail_with_another_engine()
    assert npbn.get_engine() == outer


def fail_with_another_engine():
    npbn.set_engine("numpy")
    raise ZeroDivisionError


@pytest.mark.parametrize("wrong", ["", "Numpy", "torch", None, 1])
def test_an_unknown_name_is_refused_with_those_there_are_and_changes_nothing(wrong):
    before = npbn.get_engine()
    for choose in (npbn.set_engine, lambda name: npbn.using_engine(name).__enter__()):
        with pytest.raises(ValueError, match="set_engine: expected one of numpy, numba, got") as e:
            choose(wrong)
        assert repr(wrong) in str(e.value)
        assert npbn.get_engine() == before


# -- NPBN_ENGINE ----------------------------------------------------------------------------------

SHOW = "import sys, npbn; print('numba' in sys.modules, npbn.get_engine(), 'numba' in sys.modules)"


@pytest.mark.process
@pytest.mark.parametrize("value", [None, "", "numpy"])
def test_without_the_variable_numpy_computes_and_numba_is_not_imported(value):
    given = {} if value is None else {"NPBN_ENGINE": value}
    assert run(SHOW, **given) == ("False numpy False", "")


@pytest.mark.process
@numba_installed
def test_the_variable_is_read_at_first_use_and_importing_npbn_never_imports_numba():
    assert run(SHOW, NPBN_ENGINE="numba") == ("False numba True", "")
    later = "import os, npbn; os.environ['NPBN_ENGINE'] = 'numba'; print(npbn.get_engine())"
    assert run(later) == ("numba", "")
    assert run(f"import npbn; npbn.set_engine('numpy'); {SHOW}", NPBN_ENGINE="numba")[0] == (
        "False numpy False"
    )


TYPO = "NPBN_ENGINE: expected one of numpy, numba, got 'typo'"


@pytest.mark.process
@pytest.mark.parametrize(
    "first_use",
    [
        "npbn.get_engine()",
        "npbn.using_engine('numpy').__enter__()",
        "npbn.BatchNorm1d(2)(np.ones((3, 2), np.float32))",
    ],
)
def test_a_typo_in_the_variable_is_an_error_at_first_use_that_names_the_variable(first_use):
    program = (
        f"import numpy as np, npbn\ntry:\n    {first_use}\nexcept ValueError as error:\n"
        "    print(error)\nnpbn.set_engine('numpy')\nprint(npbn.get_engine())"
    )
    assert run(program, NPBN_ENGINE="typo") == (f"{TYPO}\nnumpy", "")


@pytest.mark.process
def test_a_layer_that_met_the_typo_is_as_it_was():
    program = (
        "import numpy as np, npbn\nbn, x = npbn.BatchNorm1d(2), np.ones((3, 2), np.float32)\n"
        "try:\n    bn(x)\nexcept ValueError:\n    print(bn.num_batches_tracked, bn.running_var)"
    )
    assert run(program, NPBN_ENGINE="typo") == ("0 [1. 1.]", "")


# -- numba that cannot be loaded ------------------------------------------------------------------

REFUSED = (
    "import sys, npbn\n{prepare}\nbefore = npbn.get_engine()\n"
    "try:\n    npbn.set_engine('numba')\nexcept ImportError as error:\n"
    "    print(error)\nprint(npbn.get_engine() == before == 'numpy')"
)


def refused(prepare, **environment):
    out, err = run(REFUSED.format(prepare=prepare), **environment)
    assert err == ""
    message, unchanged = out.split("\n")  # one line
    assert unchanged == "True"
    assert message.startswith("set_engine: the engine 'numba' cannot be loaded (")
    assert message.endswith("pip install 'npbn[fast]'")
    return message


@pytest.mark.process
def test_without_numba_one_line_says_what_to_install():
    assert "numba" in refused("sys.modules['numba'] = None")


@pytest.mark.process
def test_a_numba_that_does_not_fit_numpy_speaks_for_itself_in_one_line(tmp_path):
    (tmp_path / "numba").mkdir()
    words = "Numba needs NumPy 2.2 or less.\\n  Got NumPy 2.9."
    (tmp_path / "numba" / "__init__.py").write_text(f"raise ImportError('{words}')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    message = refused("", PYTHONPATH=path)
    assert "Numba needs NumPy 2.2 or less. Got NumPy 2.9." in message


@pytest.mark.process
def test_the_variable_that_names_an_engine_without_its_package_is_that_error_too():
    program = (
        "import sys, npbn\nsys.modules['numba'] = None\n"
        "try:\n    npbn.get_engine()\nexcept ImportError as error:\n    print(error)"
    )
    out, _ = run(program, NPBN_ENGINE="numba")
    assert out.startswith("NPBN_ENGINE: the engine 'numba' cannot be loaded (")


# -- threads --------------------------------------------------------------------------------------


@numba_installed
def test_other_threads_see_the_engine_that_is_chosen():
    seen = []
    worker = threading.Thread(target=lambda: seen.append(npbn.get_engine()))
    with npbn.using_engine("numba"):
        worker.start()
        worker.join()
    assert seen == ["numba"]


@numba_installed
def test_an_engine_switched_while_another_thread_is_inside_a_pass_leaves_its_results_right():
    """Every result is, to the bit, the one of either engine, whichever it met."""
    rng = np.random.default_rng(0)
    x, grad = rng.normal(1, 2, (2, 64, 32)).astype(np.float32)

    def step():
        layer = npbn.BatchNorm1d(32)
        return layer(x), layer.backward(grad), layer.running_var

    expected = []
    for name in ("numpy", "numba"):
        with npbn.using_engine(name):
            expected.append(step())
    found, done = [], threading.Event()

    def work():
        while not done.is_set():
            found.append(step())

    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(300):
        npbn.set_engine("numba")
        npbn.set_engine("numpy")
    done.set()
    worker.join()
    assert found
    bound = 4 * np.finfo(np.float32).eps
    for y, grad_input, running_var in found:
        # A pass is one engine's; that its backward may be the other's moves the last bit.
        np.testing.assert_allclose(y, expected[0][0], rtol=bound, atol=bound)
        np.testing.assert_allclose(grad_input, expected[0][1], rtol=bound, atol=bound)
        np.testing.assert_allclose(running_var, expected[0][2], rtol=bound)
    npbn.set_engine("numpy")
    for mine, theirs in zip(step(), expected[0], strict=True):
        assert_same_bits(mine, theirs)
