"""Contenders are refused where their result is wrong: each in one number."""

import importlib
from itertools import product

import numpy as np
import pytest

import npbn
from benchmarks import batch_norm, cnn, conv, inference, network, normalisation, scaling, train_step
from benchmarks.contenders import ENGINES, MODULES, modules, npbn_, textbook, torch_eager
from benchmarks.task import Task, WrongError


def drawn(mode="forward + backward", dtype="float32", data="plain", shape=(32, 50)):
    return normalisation.problem({"shape": shape, "dtype": dtype, "data": data, "mode": mode})


def step(use_batch_norm=True, batch=32):
    case = {"batch": batch, "batch_norm": use_batch_norm, "width": 32}
    return train_step.problem(case), inference.problem(case)


@pytest.mark.parametrize("contender", [npbn_, textbook, torch_eager])
@pytest.mark.parametrize("data", normalisation.DATA)
@pytest.mark.parametrize("shape", [(32, 50), (6, 5, 4, 3)])
def test_right_batch_norms_are_proved_right(contender, data, shape):
    for mode, dtype in product(normalisation.MODES, batch_norm.DTYPES):
        problem = drawn(mode, dtype, data, shape)
        batch_norm.prove(problem, contender.batch_norm(problem))


def spoiled(task, name, change):
    def read(outcome):
        results = {key: np.array(values) for key, values in task.read(outcome).items()}
        results[name] = change(results[name])
        return {key: values for key, values in results.items() if values is not None}

    return Task(task.run, read)


CHANGES = {
    "scaled": lambda values: values * np.float32(1.1),
    "in float64": lambda values: values.astype(np.float64),
    "missing": lambda values: None,
    "not a number": lambda values: np.where(values == values.max(), np.nan, values),
}


@pytest.mark.parametrize("name", normalisation.RESULTS["forward + backward"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_batch_norm_is_refused(name, change):
    problem = drawn()
    task = spoiled(textbook.batch_norm(problem), name, CHANGES[change])
    with pytest.raises(WrongError, match=rf"^{name} is "):
        batch_norm.prove(problem, task)


def test_the_dead_channel_is_among_those_that_are_proved():
    problem = drawn(data=normalisation.DEAD, shape=(16, 1000))
    dead = np.ptp(problem.step.x, axis=0) == 0
    assert dead.sum() == 1

    def spoil(y):
        return np.where(dead, y + np.float32(1), y)

    task = spoiled(textbook.batch_norm(problem), "y", spoil)
    with pytest.raises(WrongError):
        batch_norm.prove(problem, task)


@pytest.mark.slow
@pytest.mark.parametrize("contender", [npbn_, torch_eager])
@pytest.mark.parametrize("use_batch_norm", [True, False])
def test_right_networks_are_proved_right(contender, use_batch_norm):
    training, prediction = step(use_batch_norm)
    train_step.prove(training, contender.train_step(training))
    inference.prove(prediction, contender.predict(prediction))


@pytest.mark.parametrize("name", ["fc1.weight", "batch_norm2.bias", "batch_norm1.running_var"])
@pytest.mark.parametrize("change", ["not a number", "missing", "in float64"])
def test_a_wrong_training_step_is_refused(name, change):
    training, _ = step()
    task = spoiled(npbn_.train_step(training), name, CHANGES[change])
    with pytest.raises(WrongError, match=f"^{name} is "):
        train_step.prove(training, task)


def test_a_step_with_twice_the_learning_rate_is_refused():
    training, _ = step()
    task = npbn_.train_step(training)
    start = training.state["fc2.weight"]
    with pytest.raises(WrongError, match=r"^fc2\.weight is off by .* in norm, allowed is "):
        train_step.prove(training, spoiled(task, "fc2.weight", lambda w: 2 * w - start))


def test_a_wrong_prediction_is_refused():
    _, prediction = step()
    task = spoiled(npbn_.predict(prediction), "logits", lambda logits: logits[:, :5])
    with pytest.raises(WrongError, match=r"logits has shape \(32, 5\), should be \(32, 10\)"):
        inference.prove(prediction, task)


def test_the_reference_step_has_the_gradient_of_its_loss():
    problem, _ = step(batch=8)
    start = network.double(problem.state)
    x = problem.x.astype(np.float64)

    def loss(name, change):
        state = {key: values.copy() for key, values in start.items()}
        state[name] += change
        return network.train_step(state, x, problem.target, True)

    after = {key: values.copy() for key, values in start.items()}
    network.train_step(after, x, problem.target, True)
    rng = np.random.default_rng(0)
    for name in ("fc1.weight", "batch_norm1.weight", "batch_norm2.bias", "fc2.weight"):
        direction = rng.normal(size=start[name].shape) * 1e-5
        slope = (loss(name, direction) - loss(name, -direction)) / 2
        gradient = (start[name] - after[name]) / network.LEARNING_RATE
        assert slope == pytest.approx(np.sum(gradient * direction), rel=1e-4)


def test_the_floor_takes_eight_products_and_proves_nothing():
    floor = importlib.import_module(modules("floor")["floor"])
    task = floor.train_step(step()[0])
    assert task.read is None
    task.run()
    assert task.note.startswith("fastest with weights in ")
    for mode in normalisation.MODES:
        floor.batch_norm(drawn(mode)).run()


def test_every_contender_of_a_program_has_a_module():
    for program in (batch_norm, train_step, inference, conv, scaling):
        assert set(program.CONTENDERS) <= set(MODULES)
        assert program.CONTENDERS[:2] == ENGINES


@pytest.mark.slow
@pytest.mark.parametrize("contender", ENGINES)
def test_npbn_takes_part_with_each_of_its_engines(contender):
    engine = contender.removeprefix("npbn ")
    pytest.importorskip(engine)
    with npbn.using_engine(npbn.get_engine()):
        module = importlib.reload(importlib.import_module(modules(contender)[contender]))
        assert npbn.get_engine() == engine
        problem = drawn(shape=(5, 4))
        batch_norm.prove(problem, module.batch_norm(problem))


@pytest.mark.parametrize("contender", [npbn_, torch_eager])
@pytest.mark.parametrize("mode", conv.MODES)
def test_right_convolutions_are_proved_right_and_wrong_ones_refused(contender, mode):
    problem = conv.problem({"shape": (3, 4, 6, 5), "outputs": 2, "mode": mode})
    task = contender.conv2d(problem)
    conv.prove(problem, task)
    for name in ("y",) if mode == "forward" else ("y", "grad_input", "grad_weight"):
        for change in CHANGES.values():
            with pytest.raises(WrongError, match=rf"^{name} is "):
                conv.prove(problem, spoiled(task, name, change))


@pytest.mark.parametrize("contender", [npbn_, pytest.param(torch_eager, marks=pytest.mark.slow)])
def test_a_right_step_of_the_cnn_is_proved_right_and_a_wrong_one_refused(contender):
    problem = cnn.problem({"batch": 4})
    cnn.prove(problem, contender.cnn_step(problem))
    for name in ("conv1.weight", "batch_norm2.running_var"):
        task = contender.cnn_step(problem)
        start = problem.state[name]
        with pytest.raises(WrongError, match=rf"^{name} is off"):
            cnn.prove(problem, spoiled(task, name, lambda w, start=start: w + 0.01 * (w - start)))
