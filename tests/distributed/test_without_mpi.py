"""Where there is no MPI; nothing here needs it."""

import sys

import pytest
from processes import run_python

import npbn
from npbn import distributed

# What takes a communicator asks for MPI's when it is given none.
CALLS = {
    "communicator": distributed.communicator,
    "SyncBatchNorm": lambda: distributed.SyncBatchNorm(3),
    "convert_sync_batch_norm": lambda: distributed.convert_sync_batch_norm(npbn.BatchNorm1d(3)),
    "DataParallel": lambda: distributed.DataParallel(npbn.Linear(4, 3)),
    "DataLoader": lambda: distributed.DataLoader(npbn.ArrayDataset([1.0]), 1),
    "evaluate": lambda: distributed.evaluate(npbn.Linear(4, 3), []),
}


@pytest.mark.parametrize(
    "error",
    [ModuleNotFoundError("No module named 'mpi4py'"), RuntimeError("cannot load MPI library")],
    ids=["no mpi4py", "no MPI library"],
)
@pytest.mark.parametrize("call", CALLS)
def test_without_mpi_one_line_says_what_to_install(monkeypatch, call, error):
    class Absent:
        def find_spec(self, name, *_):
            if name.split(".")[0] == "mpi4py":
                raise error

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    for name in [name for name in sys.modules if name.split(".")[0] == "mpi4py"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError) as caught:
        CALLS[call]()
    expected = "npbn.distributed needs mpi4py and an MPI library: pip install 'npbn[mpi]'"
    assert str(caught.value) == expected


@pytest.mark.process
def test_import_npbn_loads_neither_this_package_nor_mpi():
    code = "import sys, npbn; print([m for m in sys.modules if 'distributed' in m or 'mpi4' in m])"
    assert run_python("-c", code) == (0, "[]\n", "")
