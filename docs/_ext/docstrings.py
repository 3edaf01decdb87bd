"""Docstrings are written to be read as text; here what reStructuredText would misread is escaped.

``|mean|`` is an absolute value there and not a substitution, ``(*, C)`` a shape and not the start
of emphasis.
"""

import re

LITERAL = re.compile(r"(``.+?``)")


def escape(app, what, name, obj, options, lines):
    """Escape bars and lone asterisks, but not in literal blocks, doctests and ``literals``."""
    literal, indent = False, 0
    for i, line in enumerate(lines):
        depth = len(line) - len(line.lstrip())
        if literal and line.strip() and depth <= indent:
            literal = False
        if not literal and not line.lstrip().startswith((">>>", "...")):
            parts = LITERAL.split(line)
            parts[::2] = [re.sub(r"\||(?<=\()\*(?=[,)])", r"\\\g<0>", part) for part in parts[::2]]
            lines[i] = "".join(parts)
        if not literal and line.rstrip().endswith("::"):
            literal, indent = True, depth


def setup(app):
    """Run before numpydoc does."""
    app.connect("autodoc-process-docstring", escape, priority=400)
    return {"parallel_read_safe": True}
