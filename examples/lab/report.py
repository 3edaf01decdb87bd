"""The verdict on a claim, for a terminal."""

import shutil
import textwrap

from examples.lab.experiment import experiment
from examples.lab.results import Results

WIDEST = 100  # columns
COLUMN = 12  # of them for what stands before the text


def text(name: str, found: Results) -> str:
    """Return a line for the verdict, and lines for the claim, its parts and what was measured.

    Raises
    ------
    RuntimeError
        If the experiment cannot read the results.
    """
    about = experiment(name)
    try:
        verdict = about.verdict(found.records)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RuntimeError(
            f"{found.path} has results that {name} cannot read ({error!r}); move it away to run "
            "the experiment again"
        ) from error
    rows = [("claim", about.CLAIM), ("", f"({about.SOURCE})")]
    rows += [("seen" if held else "not seen", part) for part, held in verdict.parts.items()]
    first, *others = verdict.seen.split("; ")
    rows += [("measured", first), *(("", other) for other in others)]
    return "\n".join([f"\n{about.TITLE}: {verdict.outcome}", *(_row(*row) for row in rows)])


def _row(head: str, content: str) -> str:
    width = min(shutil.get_terminal_size().columns, WIDEST)
    start = f"  {head}".ljust(COLUMN)
    return textwrap.fill(content, width, initial_indent=start, subsequent_indent=" " * COLUMN)
