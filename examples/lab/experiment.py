"""What an experiment is: a module with these names in it."""

import importlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from matplotlib.figure import Figure

from npbn.data import MNIST
from npbn.errors import DataError

Budget = Literal["quick", "default", "full"]
Trial = dict[str, Any]  # plain values, a seed among them: what one run of a network depends on
Record = dict[str, Any]  # a trial and its result in one


CLASSES = 10


class Digits(NamedTuple):
    """The images of a data set, (N, pixels) in [0, 1], and their labels, (N,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @classmethod
    def read(cls, folder: str) -> "Digits":
        """Read MNIST's files, or others of ten classes in their format."""
        train, test = MNIST(folder, train=True), MNIST(folder, train=False)
        found = max(train.labels.max(), test.labels.max()) + 1
        if found > CLASSES:
            raise DataError(f"expected labels below {CLASSES}, got {found - 1} in {folder}")
        pixels = [half.images.shape[1] for half in (train, test)]
        if pixels[0] != pixels[1]:
            raise DataError(f"expected images of one size, got {pixels} pixels in {folder}")
        return cls(train.images, train.labels, test.images, test.labels)


class Picture(NamedTuple):
    """A figure, a name for its file, and what it shows to those who cannot see it."""

    name: str
    alt: str
    figure: Figure


class Verdict(NamedTuple):
    """The parts of a claim with whether each was seen, and what was."""

    parts: dict[str, bool]
    seen: str

    @property
    def outcome(self) -> Literal["supported", "not supported", "mixed"]:
        """Whether all parts hold, none, or some."""
        held = self.parts.values()
        return "supported" if all(held) else "mixed" if any(held) else "not supported"


class Experiment(Protocol):
    """The names that the module of an experiment defines."""

    TITLE: str
    QUESTION: str
    CLAIM: str  # what the source says, in one clause
    SOURCE: str
    IDEA: str  # why the claim may hold, and what is done here to see; paragraphs

    def trials(self, budget: Budget) -> list[Trial]:
        """Return all runs of the experiment, each with its seed."""

    def seconds(self, trial: Trial) -> float:
        """Return about how long a trial takes, for the progress bar."""

    def run(self, trial: Trial, digits: Digits) -> dict[str, Any]:
        """Return what is measured, as plain values; None stands for what is not finite."""

    def pictures(self, records: list[Record]) -> list[Picture]:
        """Draw the results."""

    def verdict(self, records: list[Record]) -> Verdict:
        """Compare the results with the claim."""

    def table(self, records: list[Record]) -> list[list[str]]:
        """Return the numbers behind the pictures: a row of titles, then the others."""


def spread(values: Sequence[float], form: str = "{:.3g}") -> str:
    """Return median, smallest and largest as text."""
    low, middle, high = (form.format(q(values)) for q in (np.min, np.median, np.max))
    return f"{middle} ({low} to {high})"


def experiment(name: str) -> Experiment:
    """Return the experiment of that name."""
    return importlib.import_module(f"examples.lab.{name}")
