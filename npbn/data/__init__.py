"""Data sets: arrays in batches, the IDX file format, and MNIST."""

from npbn.data.idx import read_idx, write_idx
from npbn.data.loader import ArrayDataset, DataLoader
from npbn.data.mnist import MNIST

__all__ = ["MNIST", "ArrayDataset", "DataLoader", "read_idx", "write_idx"]
