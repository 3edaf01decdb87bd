"""What is deployed: classify images with a network that torch trained, where there is no torch.

python npbn_app.py MODEL.pt CONFIG.json IMAGES.npy LOGITS.npy
"""

import json
import sys

import numpy as np

import npbn


def main(model: str, config: str, images: str, logits: str) -> None:
    """Load, fold, predict."""
    with open(config, encoding="utf-8") as file:
        net = npbn.from_config(json.load(file))
    net.load_state_dict(npbn.load(model))
    net = npbn.fold_batch_norm(net)
    np.save(logits, net.predict(np.load(images)))


if __name__ == "__main__":
    main(*sys.argv[1:])
