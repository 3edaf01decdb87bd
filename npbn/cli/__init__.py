"""The command line, ``npbn COMMAND ...``: main runs it."""

from npbn.cli.options import parser
from npbn.cli.program import main

__all__ = ["main", "parser"]
