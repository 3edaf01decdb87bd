"""The same program with torch, to compare with.

python torch_app.py MODEL.pt IMAGES.npy LOGITS.npy
"""

import sys

import numpy as np
import torch
from torch import nn


def main(model: str, images: str, logits: str) -> None:
    """Load and predict."""
    net = nn.Sequential()
    for name, layer in (
        ("fc1", nn.Linear(784, 256, bias=False)),
        ("batch_norm1", nn.BatchNorm1d(256)),
        ("relu", nn.ReLU()),
        ("fc2", nn.Linear(256, 256, bias=False)),
        ("batch_norm2", nn.BatchNorm1d(256)),
        ("fc3", nn.Linear(256, 10)),
    ):
        net.add_module(name, layer)
    net.load_state_dict(torch.load(model))
    with torch.inference_mode():
        np.save(logits, net.eval()(torch.from_numpy(np.load(images))).numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
