"""Exported cases, written once: to read, not to change."""

import itertools
import json

import pytest
from plain_batch_norm import Plain

from npbn.testing import export
from npbn.testing.protocol import class_implementation


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """All cases: for slow tests."""
    folder = tmp_path_factory.mktemp("cases")
    export.export_cases(folder)
    return folder


@pytest.fixture(scope="session")
def index(exported):
    return json.loads((exported / "index.json").read_text())


@pytest.fixture(scope="session")
def right(exported):
    """What a right implementation gets."""
    return export.replay_cases(exported, class_implementation(Plain))


@pytest.fixture(scope="session")
def few_exported(tmp_path_factory):
    """The first twelve cases."""
    folder = tmp_path_factory.mktemp("few")
    first = list(itertools.islice(export.fixed_cases(), 12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "fixed_cases", lambda: first)
        assert export.export_cases(folder) == 12
    return folder


@pytest.fixture(scope="session")
def few_index(few_exported):
    return json.loads((few_exported / "index.json").read_text())
