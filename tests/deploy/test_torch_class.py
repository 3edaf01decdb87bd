"""A class that was trained in torch, deployed by a description of its layers."""

import json

import numpy as np
import torch

import npbn
from npbn.cli import main


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.bn1 = torch.nn.BatchNorm2d(4)
        self.fc = torch.nn.Linear(48, 4)

    def forward(self, x):
        return self.fc(torch.relu(self.bn1(self.conv1(x))).flatten(1))


def test_a_class_of_torchs_is_deployed_with_a_description(tmp_path):
    """As help(npbn.to_config) says: the same layers under the same names."""
    model = TorchNet().eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    net = npbn.Sequential(
        conv1=npbn.Conv2d(1, 4, 3, padding=1),
        bn1=npbn.BatchNorm2d(4),
        relu=npbn.ReLU(),
        flatten=npbn.Flatten(),
        fc=npbn.Linear(48, 4),
    )
    (tmp_path / "config.json").write_text(json.dumps(npbn.to_config(net)))
    files = tmp_path / "model.pt", tmp_path / "folded.npz"
    assert main(["fold", *map(str, files), "--config", str(tmp_path / "config.json")]) == 0
    state = npbn.load(tmp_path / "folded.npz")
    folded = npbn.from_config(state.metadata["config"], state=state).eval()
    assert not any(isinstance(layer, npbn.BatchNorm2d) for layer in folded)
    x = np.random.default_rng(0).random((7, 1, 3, 4)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(folded.predict(x), expected, rtol=1e-4, atol=1e-5)
