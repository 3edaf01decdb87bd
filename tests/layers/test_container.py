"""Sequential: names, indices, slices, and what it refuses."""

import re
from collections import OrderedDict
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from torch import nn

import npbn


def linears(*sizes):
    rng = np.random.default_rng(0)
    return [npbn.Linear(a, b, rng=rng) for a, b in pairwise(sizes)]


def test_layers_by_position_are_numbered():
    assert list(npbn.Sequential(*linears(2, 3, 4)).state_dict()) == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]


@pytest.mark.parametrize("make", [npbn.Sequential, lambda **named: npbn.Sequential(named)])
def test_layers_by_keyword_or_from_a_mapping_keep_their_names_and_order(make):
    second, first = linears(2, 3, 4)
    net = make(second=second, relu=npbn.ReLU(), first=first)
    assert [name for name, _ in net.named_children()] == ["second", "relu", "first"]
    assert list(net) == [second, net.relu, first]
    assert net.second is second


@given(count=st.integers(0, 6), data=st.data())
def test_indices_and_slices_are_a_lists(count, data):
    layers = [npbn.Identity() for _ in range(count)]
    net = npbn.Sequential(*layers)
    assert len(net) == count
    assert list(net) == layers
    index = data.draw(st.integers(-count - 2, count + 1))
    if -count <= index < count:
        assert net[index] is layers[index]
    else:
        with pytest.raises(IndexError):
            net[index]
    part = data.draw(st.slices(count))
    assert isinstance(net[part], npbn.Sequential)
    assert list(net[part]) == layers[part]
    its = nn.Sequential(*[nn.Identity() for _ in layers])[part]
    assert [name for name, _ in net[part].named_children()] == [
        name for name, _ in its._modules.items()
    ]


def test_a_slice_shares_its_layers():
    net = npbn.Sequential(*linears(2, 3, 4))
    net[1:][0].weight.data[...] = 7
    assert (net[1].weight.data == 7).all()


def test_append_adds_at_the_end_and_returns_the_network():
    net = npbn.Sequential()
    first, second = linears(2, 3, 4)
    assert net.append(first).append(second) is net
    assert list(net) == [first, second]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_extend_adds_several_at_the_end_and_returns_the_network():
    first, second, third = linears(2, 3, 4, 5)
    net = npbn.Sequential(first)
    assert net.extend(iter([second, third])) is net
    assert list(net) == [first, second, third]
    assert [name for name, _ in net.named_children()] == ["0", "1", "2"]


@pytest.mark.parametrize("make", [npbn.Sequential, lambda *layers: npbn.ModuleList(layers)])
def test_extend_refuses_all_if_it_refuses_one(make):
    net = make(npbn.ReLU())
    for layers, error in [([npbn.ReLU(), 3], TypeError), (5, TypeError)]:
        with pytest.raises(error):
            net.extend(layers)
        assert len(net) == 1
    taken = npbn.Sequential({"2": npbn.ReLU()})
    with pytest.raises(KeyError, match="not taken, got '2'"):
        taken.extend([npbn.ReLU(), npbn.ReLU()])
    assert len(taken) == 1


@pytest.mark.parametrize("index", [0, 1, -1, -2])
def test_an_item_is_replaced_in_its_place_and_under_its_name(index):
    def replaced(library):
        net = library.Sequential(OrderedDict(fc=library.Linear(2, 3), act=library.ReLU()))
        net[index] = library.Sigmoid()
        return repr(net)

    assert replaced(npbn) == replaced(nn)


def test_assignment_refuses_what_is_no_layer_or_no_place_and_changes_nothing():
    net = npbn.Sequential(npbn.ReLU())
    for index, layer, error in [(0, 3, TypeError), (1, npbn.ReLU(), IndexError)]:
        with pytest.raises(error):
            net[index] = layer
    assert repr(net) == "Sequential(\n  (0): ReLU()\n)"


@pytest.mark.parametrize("value", [5, np.tanh, np.ones(2), npbn.ReLU])
def test_what_is_no_module_is_not_assigned_over_one_as_in_torch(value):
    net = npbn.Sequential(fc=npbn.Linear(2, 2), relu=npbn.ReLU())
    with pytest.raises(TypeError, match=r"Sequential\.relu is a Module: expected a Module or None"):
        net.relu = value
    with pytest.raises(TypeError):
        nn.Sequential(OrderedDict(relu=nn.ReLU())).relu = value
    assert [name for name, _ in net.named_children()] == ["fc", "relu"]


class Block:
    """A block as a torch user writes it first: forward and backward, without _apply."""

    def forward(self, x):
        return self.fc(x)

    def backward(self, grad_output, input_grad=True):
        return self.fc.backward(grad_output, input_grad)


@pytest.mark.parametrize("kind", [npbn.Module, npbn.Linear])
@pytest.mark.parametrize("methods", [("forward", "backward"), ("backward",), ("forward",)])
def test_a_layer_with_forward_or_backward_of_its_own_is_refused_with_what_to_write(kind, methods):
    own = {name: vars(Block)[name] for name in methods}
    block = type("Block", (kind,), own)(*(2, 2) if kind is npbn.Linear else ())
    net = npbn.Sequential(npbn.ReLU())
    adding = (
        net.append,
        lambda layer: net.__setitem__(0, layer),
        lambda layer: setattr(net, "0", layer),
    )
    for add in (npbn.Sequential, *adding):
        with pytest.raises(TypeError, match=rf"a {methods[0]} of its own; .* _apply\(x, predict\)"):
            add(block)
    assert repr(net) == "Sequential(\n  (0): ReLU()\n)"


@pytest.mark.parametrize("name", ["", ".", "a.b", "training", "forward", "append", "_apply"])
def test_a_name_that_is_taken_or_has_a_dot_is_refused(name):
    with pytest.raises(KeyError, match=re.escape(repr(name))):
        npbn.Sequential({name: npbn.ReLU()})


def test_append_refuses_a_name_in_use_and_changes_nothing():
    net = npbn.Sequential({"1": npbn.ReLU()})
    with pytest.raises(KeyError, match="1"):
        net.append(npbn.Identity())
    assert repr(net) == "Sequential(\n  (1): ReLU()\n)"


@pytest.mark.parametrize("what", [3, npbn.ReLU, None, "relu"])
def test_what_is_no_module_is_refused(what):
    with pytest.raises(TypeError, match="Module"):
        npbn.Sequential(npbn.ReLU(), what)
    with pytest.raises(TypeError, match="Module"):
        npbn.Sequential().append(what)


def test_layers_by_position_and_by_name_at_once_are_refused():
    with pytest.raises(TypeError, match="both"):
        npbn.Sequential(npbn.ReLU(), relu=npbn.ReLU())
