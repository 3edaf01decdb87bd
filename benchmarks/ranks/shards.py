"""A batch over several ranks: each rank's shard, and what training on shards has to result in.

With synchronised BatchNorm the result is that of the whole batch in one process. Without, each
rank normalises by its own shard; the reference here takes such a step in float64.
"""

import numpy as np

import npbn
from benchmarks import network
from benchmarks.network import Problem, State
from benchmarks.task import Task
from npbn.distributed.buckets import filled

WIDTH = 256
CHANNELS = (WIDTH, WIDTH)  # of the BatchNorm layers


def draw(batch: int) -> Problem:
    """Draw a batch for all ranks together, and the network's initial state."""
    return network.draw({"batch": batch, "batch_norm": True, "width": WIDTH})


def shard(problem: Problem, rank: int, ranks: int) -> Problem:
    """Return the problem with one rank's samples, as npbn's loader deals them out."""
    x, target = (np.array_split(a, ranks)[rank] for a in (problem.x, problem.target))
    return problem._replace(x=np.ascontiguousarray(x), target=target)


def bucket_bytes() -> list[int]:
    """Return the sizes of the network's buckets of gradients as they are sent."""
    net = npbn.MLP(network.INPUTS, WIDTH, network.CLASSES, rng=np.random.default_rng(0))
    buckets = filled(reversed(list(net.parameters())))
    return [sum(p.data.nbytes for p in bucket) for bucket in buckets]


def prove_shards(problem: Problem, task: Task, ranks: int, owner: int, mine: int | None) -> None:
    """Run three steps on this rank's shard and compare with float64; BatchNorm by the shard.

    Parameters
    ----------
    problem : Problem
        The batch of all ranks.
    task : Task
    ranks : int
    owner : int
        The rank whose running statistics this one has after a step.
    mine : int or None
        The rank of whose shard the task returns the loss; None if it is that of all.

    Raises
    ------
    WrongError
    """
    shards = [shard(problem, rank, ranks) for rank in range(ranks)]
    exact = network.double(problem.state)
    for i in range(network.STEPS):
        # Every step begins with rank 0's running statistics.
        exact, losses = shards_step(exact, shards, owner if i == network.STEPS - 1 else 0)
        outcome = task.run()
    results = task.read(outcome)
    loss = np.mean(losses) if mine is None else losses[mine]
    network.compare("loss", results["loss"], np.float64(loss), network.TOLERANCE * abs(loss))
    for name, start in problem.state.items():
        change = np.linalg.norm(exact[name] - start)
        flips = network.FLIPS / np.sqrt(len(problem.x) * problem.width)
        rounding = network.STEPS * np.finfo(np.float32).eps * np.linalg.norm(exact[name])
        allowed = (network.TOLERANCE + flips) * change + rounding
        network.compare(name, results[name], exact[name], float(allowed))


def shards_step(state: State, shards: list[Problem], owner: int) -> tuple[State, list[float]]:
    """Return the state after a step of SGD on shards of one size, and each shard's loss.

    A step is linear in the gradient: the mean of the states that each shard's gradient leads to
    is the state that the mean of the gradients leads to.
    """
    ends, losses = [], []
    for one in shards:
        ends.append({name: values.copy() for name, values in state.items()})
        losses.append(network.train_step(ends[-1], one.x.astype(np.float64), one.target, True))
    mean = {
        name: ends[owner][name] if "running" in name else np.mean([e[name] for e in ends], axis=0)
        for name in state
    }
    return mean, losses
