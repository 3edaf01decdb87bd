"""What every layer promises, whatever it computes; subclasses name a layer and its inputs."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import LAYOUTS, SPECIALS, assert_same_bits, assert_within, sprinkle

from npbn.errors import BackwardError, DtypeError, ShapeError


def draw(seed, shape, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def snapshot(layer):
    """Return copies of all that a layer shows: state, gradients and mode."""
    gradients = [p.grad if p.grad is None else p.grad.copy() for p in layer.parameters()]
    return [*layer.state_dict().values(), *gradients, np.array(layer.training)]


def assert_unchanged(layer, before):
    for now, then in zip(snapshot(layer), before, strict=True):
        assert_same_bits(now, then)


def gradients(layer, grad):
    """Run backward; return the gradients of the input and of the parameters."""
    return [layer.backward(grad), *(p.grad for p in layer.parameters())]


def assert_refused(layer, good, bad, error, fragments):
    """Assert that the input `bad` raises, says why, and leaves all as the input `good` left it."""
    twin = copy.deepcopy(layer)
    y, _ = layer(good), twin(good)
    before = snapshot(layer)
    with pytest.raises(error) as caught:
        layer(bad)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
    assert_unchanged(layer, before)
    grad = draw(7, y.shape, y.dtype)  # the earlier forward is still the one that waits
    for mine, theirs in zip(gradients(layer, grad), gradients(twin, grad), strict=True):
        assert_same_bits(mine, theirs)


def assert_same_pass(layer, twin, x, grad):
    """Assert that both give the same bits, forward and backward, and end in the same state."""
    assert_same_bits(layer(x), twin(x))
    assert_same_bits(layer.backward(grad), twin.backward(grad))
    for mine, its in zip(layer.parameters(), twin.parameters(), strict=True):
        assert_same_bits(mine.grad, its.grad)
    assert list(layer.state_dict()) == list(twin.state_dict())
    for key, value in twin.state_dict().items():
        assert_same_bits(layer.state_dict()[key], value, key)


class LayerContract:
    """Give ``make()``, which returns a fresh float64 layer, and the ``shape`` of its inputs."""

    shape: tuple[int, ...]

    def make(self):
        raise NotImplementedError

    def run(self, layer=None, seed=0):
        """Return a layer after a forward pass, its output, and an upstream gradient."""
        layer = layer or self.make()
        y = layer(draw(seed, self.shape))
        return layer, y, draw(seed + 100, y.shape)

    def test_writing_over_the_output_changes_no_gradient(self):
        layer, y, grad = self.run()
        expected = gradients(self.run()[0], grad)
        y[...] = np.nan
        for mine, theirs in zip(gradients(layer, grad), expected, strict=True):
            assert_same_bits(mine, theirs)

    def test_no_later_call_writes_into_an_earlier_result(self):
        layer, results = self.make(), []
        for seed in range(3):
            layer.zero_grad()
            _, y, grad = self.run(layer, seed)
            results += [y, layer.predict(draw(seed, self.shape)), *gradients(layer, grad)]
            if seed == 0:
                kept = [result.copy() for result in results]
        layer.eval()
        self.run(layer, 5)[0].backward(grad)
        for now, then in zip(results[: len(kept)], kept, strict=True):
            assert_same_bits(now, then)

    def test_forward_and_backward_change_neither_input_nor_grad_output(self):
        layer, x = self.make(), draw(0, self.shape)
        grad = draw(1, layer(x).shape)
        layer.backward(grad)
        layer.predict(x)
        assert_same_bits(x, draw(0, self.shape))
        assert_same_bits(grad, draw(1, grad.shape))

    def test_gradients_add_up_and_one_that_was_kept_is_never_overwritten(self):
        layer, _, grad = self.run()
        layer.backward(grad)
        held = [p.grad for p in layer.parameters()]
        first = [g.copy() for g in held]
        fresh = copy.deepcopy(layer)
        fresh.zero_grad()
        for each in (layer, fresh):
            _, _, second_grad = self.run(each, seed=1)
            each.backward(second_grad)
        for p, alone, earlier in zip(layer.parameters(), fresh.parameters(), first, strict=True):
            assert_same_bits(p.grad, earlier + alone.grad)
        layer.zero_grad()
        assert all(p.grad is None for p in layer.parameters())
        self.run(layer, seed=2)[0].backward(grad)
        for now, then, p in zip(held, first, layer.parameters(), strict=True):
            assert_same_bits(now, then)
            assert not np.shares_memory(now, p.grad)

    def test_a_frozen_parameter_gets_no_gradient_and_the_others_theirs(self):
        for frozen in [name for name, _ in self.make().named_parameters()]:
            layer, twin = self.make(), self.make()
            dict(layer.named_parameters())[frozen].requires_grad = False
            for each in (layer, twin):
                _, _, grad = self.run(each)
                each.backward(grad)
            expected = dict(twin.named_parameters())
            for name, parameter in layer.named_parameters():
                assert_same_bits(parameter.grad, None if name == frozen else expected[name].grad)

    def test_without_input_grad_only_that_gradient_is_missing(self):
        layer, _, grad = self.run()
        twin, _, _ = self.run()
        twin.backward(grad)
        assert layer.backward(grad, input_grad=False) is None
        for mine, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
            assert_same_bits(mine.grad, theirs.grad)

    def test_backward_needs_a_forward_of_its_own(self):
        layer = self.make()
        layer.predict(draw(0, self.shape))
        grad = draw(1, layer.predict(draw(0, self.shape)).shape)
        for prepare in (lambda: None, lambda: self.run(layer)[0].backward(grad)):
            prepare()
            before = snapshot(layer)
            with pytest.raises(BackwardError, match="expected a forward pass") as caught:
                layer.backward(grad)
            assert type(layer).__name__ in str(caught.value)
            assert_unchanged(layer, before)

    @pytest.mark.parametrize("fault", ["shape", "rank", "dtype", "integers"])
    def test_a_wrong_grad_output_is_refused_and_the_forward_still_waits(self, fault):
        layer, _, grad = self.run()
        twin, _, _ = self.run()
        bad, error, came = {
            "shape": (grad[:-1], ShapeError, str(grad[:-1].shape)),
            "rank": (grad[None], ShapeError, str(grad[None].shape)),
            "dtype": (grad.astype(np.float32), DtypeError, "float32"),
            "integers": (grad.astype(np.int64), DtypeError, "int64"),
        }[fault]
        before = snapshot(layer)
        with pytest.raises(error) as caught:
            layer.backward(bad)
        assert came in str(caught.value)
        assert str(grad.shape if error is ShapeError else grad.dtype) in str(caught.value)
        assert_unchanged(layer, before)
        for mine, theirs in zip(gradients(layer, grad), gradients(twin, grad), strict=True):
            assert_same_bits(mine, theirs)

    def test_predict_is_the_forward_of_eval_mode_and_leaves_everything_as_it_was(self):
        layer, _, grad = self.run()
        twin, _, _ = self.run()
        before, x = snapshot(layer), draw(9, self.shape)
        assert_same_bits(layer.predict(x), copy.deepcopy(layer).eval()(x))
        assert layer.training
        assert_unchanged(layer, before)
        for mine, theirs in zip(gradients(layer, grad), gradients(twin, grad), strict=True):
            assert_same_bits(mine, theirs)

    def test_predict_from_eight_threads_gives_the_same_bits(self):
        layer, _, grad = self.run()
        twin, _, _ = self.run()
        before = snapshot(layer)
        inputs = [draw(seed, self.shape) for seed in range(4)] * 16
        expected = [layer.predict(x) for x in inputs]
        with ThreadPoolExecutor(8) as pool:
            for actual, desired in zip(pool.map(layer.predict, inputs), expected, strict=True):
                assert_same_bits(actual, desired)
        assert_unchanged(layer, before)
        for mine, theirs in zip(gradients(layer, grad), gradients(twin, grad), strict=True):
            assert_same_bits(mine, theirs)

    def test_backward_works_in_eval_mode_and_changes_no_state(self):
        layer, _, _ = self.run()
        layer.eval()
        state = layer.state_dict()
        _, _, grad = self.run(layer)
        assert layer.backward(grad).shape == self.shape
        for now, then in zip(layer.state_dict().values(), state.values(), strict=True):
            assert_same_bits(now, then)
        assert not layer.training

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_any_memory_layout_gives_the_same_numbers(self, layout):
        """Under 100 terms below 100: their rounding, 1e4 eps, stays under 1e-11."""
        layer, twin = self.make(), self.make()
        x = draw(0, self.shape)
        y, other_y = twin(x), layer(LAYOUTS[layout](x))
        grad = draw(1, y.shape)
        assert_within(other_y, y, 1e-11)
        actual, expected = gradients(layer, LAYOUTS[layout](grad)), gradients(twin, grad)
        for mine, theirs in zip(actual, expected, strict=True):
            assert_within(mine, theirs, 1e-11)

    def test_no_floating_point_warning_even_when_numpy_is_told_to_raise(self):
        rng, layer = np.random.default_rng(0), self.make()
        x = sprinkle(rng, draw(0, self.shape), (*SPECIALS, 1e308, -1e308, 1e-308), 0.5)
        with np.errstate(all="raise"):
            for mode in (True, False):
                y = layer.train(mode)(x)
                layer.backward(sprinkle(rng, y, SPECIALS, 0.5))
                layer.predict(x)
