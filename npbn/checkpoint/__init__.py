"""State in files: a crash while saving loses nothing, and loading executes nothing."""

from npbn.checkpoint.files import Checkpoint, load, save

__all__ = ["Checkpoint", "load", "save"]
