"""Running one command: its output, its errors on one line, its exit status."""

from collections.abc import Sequence

from npbn.cli.options import parser
from npbn.errors import NpbnError
from npbn.io.ending import run_program


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process, ``sys.argv[1:]``.

    Returns
    -------
    int
        The exit status: 0; 1 if ``info`` finds unhealthy values or ``diff`` a difference; 2 on an
        error, which is printed to stderr on one line; 130 if interrupted; 141 if stdout was closed.

    Raises
    ------
    SystemExit
        After ``--help`` and ``--version``, and on arguments that are not accepted.
    """
    options = parser().parse_args(arguments)
    # A file may be nested too deeply.
    expected = (NpbnError, RecursionError)
    return run_program(f"npbn {options.command}", lambda: int(options.run(options)), expected)
