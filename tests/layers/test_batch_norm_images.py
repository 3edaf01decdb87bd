"""BatchNorm2d and BatchNorm3d: what they do not share with BatchNorm1d, and how they differ."""

import numpy as np
import pytest
import torch
from helpers import LAYOUTS, assert_same_bits, batch, rngs
from hypothesis import given
from hypothesis import strategies as st

import npbn
from npbn.errors import ShapeError

pytestmark = pytest.mark.usefixtures("engine")
LAYERS = {
    npbn.BatchNorm2d: (torch.nn.BatchNorm2d, 4, "(N, 3, H, W)"),
    npbn.BatchNorm3d: (torch.nn.BatchNorm3d, 5, "(N, 3, D, H, W)"),
}
layers = pytest.mark.parametrize("kind", LAYERS)


@layers
@given(rng=rngs(), data=st.data())
def test_channels_last_in_memory_gives_the_same_bits_as_any_other_layout(kind, rng, data):
    _, rank, _ = LAYERS[kind]
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=rank - 2, max_size=rank - 2))
    shape = (data.draw(st.integers(2, 20)), 3, *sizes)
    x, grad = batch(rng, shape, "float32"), rng.normal(size=shape).astype(np.float32)
    results = {}
    for layout in ("contiguous", "channels last"):
        layer = kind(3)
        y = layer(LAYOUTS[layout](x))
        grad_input = layer.backward(LAYOUTS[layout](grad))
        state = [p.grad for p in layer.parameters()] + list(layer.state_dict().values())
        results[layout] = [y, grad_input, *state, layer.predict(LAYOUTS[layout](x))]
    for mine, other in zip(*results.values(), strict=True):
        assert_same_bits(mine, other)


@layers
@pytest.mark.parametrize(
    "shape", [(3,), (4, 3), (4, 3, 2), (4, 3, 2, 2), (4, 3, 2, 2, 2), (4, 2) + (2,) * 3]
)
def test_an_input_of_another_rank_or_channel_count_is_refused(kind, shape):
    _, rank, expected = LAYERS[kind]
    layer = kind(3)
    if len(shape) == rank and shape[1] == 3:
        layer(np.zeros(shape, np.float32))
        return
    with pytest.raises(ShapeError) as caught:
        layer(np.zeros(shape, np.float32))
    assert str(shape) in str(caught.value)
    assert (expected if len(shape) != rank else "3 channels") in str(caught.value)
    assert layer.num_batches_tracked == 0
