"""Where a file of torch lies, and how it is read."""

import pytest

pytest.register_assert_rewrite("checkpoint.hostile")


@pytest.fixture
def path(request, tmp_path, monkeypatch):
    """Return a path for a file, which is read, or with the parameter "mapped" mapped."""
    from npbn.checkpoint import torch_file

    if getattr(request, "param", "read") == "mapped":
        monkeypatch.setattr(torch_file, "_MAPPED_FROM", 1)
    return tmp_path / "model.pt"
