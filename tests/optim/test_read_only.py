"""A step that is refused has changed no parameter: a read-only one was noticed at its turn."""

import numpy as np
import pytest

import npbn

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_step(momentum):
    first, second = npbn.Parameter(np.ones(2)), npbn.Parameter(np.broadcast_to(1.0, (2,)))
    optimizer = npbn.SGD([first, second], lr=1.0, momentum=momentum)
    first.grad = second.grad = np.ones(2)
    with pytest.raises(ValueError, match=r"SGD\.step: expected parameters that can be written to"):
        optimizer.step()
    assert first.data.tolist() == [1, 1]
    assert optimizer.state == {}
    second.grad = None
    optimizer.step()
    assert first.data.tolist() == [0, 0]


def test_a_buffer_that_is_read_only_is_copied():
    values = [npbn.Parameter(np.ones(2)) for _ in range(4)]
    steps = []
    for pair in (values[:2], values[2:]):
        optimizer = npbn.SGD(pair, lr=0.5, momentum=0.5)
        for parameter in pair:
            parameter.grad = np.ones(2)
        optimizer.step()
        steps.append(optimizer)
    kept = steps[0].state[values[1]]["momentum_buffer"]
    kept.flags.writeable = False
    for optimizer in steps:
        optimizer.step()
    assert [p.data.tolist() for p in values[:2]] == [p.data.tolist() for p in values[2:]]
    assert kept.tolist() == [1, 1]


def test_step_with_an_option_of_a_later_group_that_is_no_number():
    first, second = npbn.Parameter(np.ones(2)), npbn.Parameter(np.ones(2))
    optimizer = npbn.SGD([{"params": [first]}, {"params": [second]}], lr=1.0)
    first.grad = second.grad = np.ones(2)
    optimizer.param_groups[1]["lr"] = None
    with pytest.raises(TypeError):
        optimizer.step()
    assert first.data.tolist() == [1, 1]
