"""State in files: saved so that a crash loses nothing, loaded so that a file can run nothing."""

from npbn.checkpoint.files import Checkpoint, load, save

__all__ = ["Checkpoint", "load", "save"]
