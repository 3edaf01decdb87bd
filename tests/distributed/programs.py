"""What test_mpi*.py run under mpiexec: ``mpiexec -n 2 python programs.py NAME [ARGUMENTS]``."""

import os
import signal
import sys
import time

import numpy as np

import npbn
from npbn import distributed

SIZES = 4, 3, 2  # of the network
GUILTY = 1  # the rank that makes trouble, at step 3


def shard(step, rank, dtype=np.float32):
    rng = np.random.default_rng([step, rank])
    return rng.normal(size=(5, SIZES[0])).astype(dtype), rng.integers(SIZES[-1], size=5)


def training(trouble, timeout=10_000.0, steps=6):
    """Train, and do at step 3, on rank 1, what `trouble(x, target, net, comm)` does to the batch.

    After the training a rank says so. By default a rank waits for the others longer than the tests
    do: whatever ends before was ended by the trouble.
    """
    comm = distributed.communicator(timeout=timeout)
    net = distributed.convert_sync_batch_norm(npbn.MLP(*SIZES, rng=np.random.default_rng(0)), comm)
    net = distributed.DataParallel(net, comm)
    criterion, optimizer = npbn.CrossEntropyLoss(), npbn.SGD(net.parameters(), lr=0.1)
    for step in range(steps):
        x, target = shard(step, comm.rank)
        if (step, comm.rank) == (3, GUILTY):
            x, target = trouble(x, target, net, comm) or (x, target)
        distributed.train_step(net, x, target, criterion, optimizer)
    print(f"rank {comm.rank} finished")


# -- trouble -------------------------------------------------------------------------------------


def nothing(x, target, net, comm):
    pass


def raises(x, target, net, comm):
    raise ValueError("the disk is full")


def raises_in_backward(x, target, net, comm):
    def broken(*_):
        raise ValueError("the disk is full")

    net.module.fc1._backward = broken


def nan(x, target, net, comm):
    x[2, 1] = np.nan


def infinite_weight(x, target, net, comm):
    net.module.fc3.bias.data[0] = np.inf


def infinite_gradient(x, target, net, comm):
    """In the middle of the pass, so that no loss shows it."""
    inner = net.module.fc1._backward
    net.module.fc1._backward = lambda grad, cache, wanted: inner(grad * np.inf, cache, wanted)


def killed(x, target, net, comm):
    os.kill(os.getpid(), signal.SIGKILL)


def terminated(x, target, net, comm):
    os.kill(os.getpid(), signal.SIGTERM)


def leaves(x, target, net, comm):
    sys.exit(0)


def leaves_with_text(x, target, net, comm):
    sys.exit("the disk is full")


def sleeps(x, target, net, comm):
    time.sleep(10_000)


def another_shape(x, target, net, comm):
    return x[:, :3], target


def another_dtype(x, target, net, comm):
    return x.astype(np.float64), target


def evaluates(x, target, net, comm):
    distributed.evaluate(net, [(x, target)], comm)


def gathers_as_much(x, target, net, comm):
    comm.allgather(np.zeros(1 + 2 * SIZES[1]), "something else")


def gathers_more(x, target, net, comm):
    comm.allgather(np.zeros(1000), "something else")


def sums(x, target, net, comm):
    comm.start_sum(np.zeros(1 + 2 * SIZES[1]), "something else").wait()


def broadcasts(x, target, net, comm):
    comm.broadcast(np.zeros(3), "something else")


def predicts_in_training(x, target, net, comm):
    """One forward pass more than the others."""
    net(x)


def in_eval_mode(x, target, net, comm):
    net.eval()


def another_reduction(x, target, net, comm):
    criterion = npbn.CrossEntropyLoss(reduction="sum")
    criterion(net(x), target)
    net.backward(criterion.backward(), criterion=criterion)


# -- other programs ------------------------------------------------------------------------------


def another_network(hidden="3", dtype="float32", frozen=""):
    """Rank 1 has another one, or a frozen layer."""
    comm = distributed.communicator()
    other = comm.rank == GUILTY
    net = npbn.MLP(4, int(hidden) if other else 3, 2, dtype=dtype if other else "float32")
    if frozen and other:
        net.fc2.freeze()
    distributed.DataParallel(net, comm)


def another_loader():
    comm = distributed.communicator()
    data = npbn.ArrayDataset(np.arange(20.0))
    distributed.DataLoader(data, batch_size=4 + comm.rank, comm=comm)


def float16():
    """A network of float16: all ranks agree, and follow one process in float16.

    All numbers are below 2, where a rounding to float16 loses half an eps at most: a step rounds
    them once on either side. Those of the gradients count a tenth, of numbers below 1.
    """
    comm = distributed.communicator()
    net = npbn.MLP(*SIZES, dtype="float16", rng=np.random.default_rng(comm.rank))
    net = distributed.DataParallel(distributed.convert_sync_batch_norm(net, comm), comm)
    alone = npbn.MLP(*SIZES, dtype="float16", rng=np.random.default_rng(0))
    criterion, steps = npbn.CrossEntropyLoss(), 3
    optimizers = [npbn.SGD(one.parameters(), lr=0.1) for one in (net, alone)]
    for step in range(steps):
        x, target = shard(step, comm.rank, np.float16)
        distributed.train_step(net, x, target, criterion, optimizers[0])
        shards = [shard(step, rank, np.float16) for rank in range(comm.size)]
        whole = [np.concatenate(parts) for parts in zip(*shards, strict=True)]
        npbn.train_step(alone, *whole, criterion, optimizers[1])
    assert_same_on_all(net, comm)
    for (key, value), actual in zip(
        alone.state_dict().items(), net.module.state_dict().values(), strict=True
    ):
        off = np.abs(actual.astype(float) - value.astype(float)).max()
        assert off <= 2 * steps * np.finfo(np.float16).eps, (key, off)
    print(f"rank {comm.rank} finished")


class Counting:
    """An mpi4py communicator that notes what its collective operations send from this rank."""

    def __init__(self, comm):
        self._comm, self.messages = comm, []

    def __getattr__(self, name):
        return getattr(self._comm, name)

    def Iallgather(self, mine, parts):
        self.messages.append(("gather", mine.nbytes))
        return self._comm.Iallgather(mine, parts)

    def Iallreduce(self, place, array):
        self.messages.append(("sum", array.nbytes))
        return self._comm.Iallreduce(place, array)


def messages():
    """Print what a step sends."""
    comm = distributed.communicator()
    net = distributed.convert_sync_batch_norm(npbn.MLP(*SIZES), comm)
    net = distributed.DataParallel(net, comm)
    criterion, optimizer = npbn.CrossEntropyLoss(), npbn.SGD(net.parameters(), lr=0.1)
    comm._comm = Counting(comm._comm)
    distributed.train_step(net, *shard(0, comm.rank), criterion, optimizer)
    if comm.rank == 0:
        print(comm._comm.messages)


def made():
    """What communicator() gives for what."""
    import copy
    import pickle

    from mpi4py import MPI

    comm = distributed.communicator()
    assert distributed.communicator(MPI.COMM_WORLD) is comm
    assert distributed.communicator(comm) is comm
    assert copy.deepcopy(npbn.Sequential(distributed.SyncBatchNorm(3)))[0].comm is comm
    assert distributed.communicator(MPI.COMM_WORLD.Dup()) is not comm
    assert repr(comm) == (
        f"MPICommunicator of 1: rank 0 is process {os.getpid()} on {MPI.Get_processor_name()}"
    )
    for call, words in (
        (lambda: pickle.dumps(comm), "cannot be pickled: save net.state_dict()"),
        (lambda: distributed.communicator(4), "expected a communicator of mpi4py's, got int"),
    ):
        said = ""
        try:
            call()
        except TypeError as error:
            said = str(error)
        assert words in said, said
    print(f"rank {comm.rank} finished")


def assert_same_on_all(net, comm):
    """Of all that is state: the bytes."""
    mine = np.concatenate([np.ravel(a).astype(np.float64) for a in net.state_dict().values()])
    everyone = comm.allgather(mine, "the states")
    assert all(row.tobytes() == mine.tobytes() for row in everyone), everyone


def equality(number, examples, steps, dtype="float64"):
    """Training on drawn splits, over the first P of the ranks, is that of one process.

    The ranks are divided into groups of P, for P = 1 to all: each group trains by itself, on the
    same splits. All ranks draw alike, as they have the same seed and the same answers.
    """
    from hypothesis import Phase, given, seed, settings
    from hypothesis import strategies as st
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    groups = {p: world.Split(world.rank // p, world.rank) for p in range(1, world.size + 1)}

    @seed(int(number))
    @settings(max_examples=int(examples), database=None, deadline=None, phases=[Phase.generate])
    @given(st.data())
    def compare(data):
        for group in groups.values():
            samples = data.draw(st.integers(2, 12))
            # Drawn for all groups of ranks alike; a smaller group ends before the last cut.
            cuts = sorted(data.draw(st.lists(st.integers(0, samples), min_size=3, max_size=3)))
            bounds = [0, *cuts[: group.size - 1], samples]
            draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
            train_both(group, bounds, draw, dtype, int(steps))

    compare()
    print(f"rank {world.rank} finished")


def train_both(group, bounds, draw, dtype, steps):
    """Compare with one process: to 1e-12; in float32 to 1e-12 · eps of float32 / of float64."""
    comm = distributed.communicator(group)
    start = npbn.MLP(*SIZES, dtype=dtype, rng=np.random.default_rng(comm.rank))
    net = distributed.DataParallel(distributed.convert_sync_batch_norm(start, comm), comm)
    alone = npbn.MLP(*SIZES, dtype=dtype, rng=np.random.default_rng(0))
    optimizers = [npbn.SGD(n.parameters(), lr=0.02, momentum=0.9) for n in (net, alone)]
    criterion = npbn.CrossEntropyLoss(weight=np.array([0.5, 2.0], dtype), ignore_index=-7)
    mine = slice(bounds[comm.rank], bounds[comm.rank + 1])
    bound = 1e-12 * np.finfo(dtype).eps / np.finfo(float).eps
    for _ in range(steps):
        x = draw.normal(size=(bounds[-1], SIZES[0])).astype(dtype)
        target = np.where(draw.random(len(x)) < 0.2, -7, draw.integers(SIZES[-1], size=len(x)))
        target[0] = 1  # of all ignored the loss would be NaN
        loss, _ = distributed.train_step(net, x[mine], target[mine], criterion, optimizers[0])
        expected, _ = npbn.train_step(alone, x, target, criterion, optimizers[1])
        assert abs(loss - expected) <= bound * max(1, expected)
    assert_same_on_all(net, comm)
    for (key, actual), value in zip(
        net.module.state_dict().items(), alone.state_dict().values(), strict=True
    ):
        np.testing.assert_allclose(actual, value, rtol=0, atol=bound * max(1, np.abs(value).max()))
        assert actual.dtype == value.dtype, key


def separate_output():
    """Write to files of this rank's own, in the directory that NPBN_OUTPUT names.

    On one terminal the ranks' lines run into each other, and the last ones may get lost.
    """
    rank = os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or "0"
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(f"{os.environ['NPBN_OUTPUT']}/{name}{rank}", os.O_CREAT | os.O_WRONLY)
        os.dup2(file, number)


if __name__ == "__main__":
    if "NPBN_OUTPUT" in os.environ:
        separate_output()
    program = globals()[sys.argv[1]]
    if program.__code__.co_varnames[:2] == ("x", "target"):
        training(program, *map(float, sys.argv[2:]))
    else:
        program(*sys.argv[2:])
