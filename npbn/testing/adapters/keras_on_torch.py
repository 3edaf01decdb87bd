"""Keras on torch: the layer of :mod:`npbn.testing.adapters.keras`, its gradients by autograd."""

from typing import Any

from npbn.testing.adapters import keras, torch_nn


class Layer(torch_nn.Layer, keras.Layer):
    """A step of ``BatchNormalization`` as one of a torch module."""

    def apply(self, x: Any, training: bool) -> Any:
        """Return the output."""
        self.build(x.detach().numpy())
        self.weight, self.bias = (v if v is None else v.value for v in self.parameters())
        return self.norm(x, training=training)
