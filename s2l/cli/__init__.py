"""The command line: `python -m s2l COMMAND`. Each command builds settings and calls the core.

Wrong input is one sentence and exit code 2, Ctrl-C is exit code 130: both are handled in one place,
`base.Commands`. Imports of torch stay inside the commands: `--help` and most typing errors answer at once.
"""

from s2l.cli import run, steps, audit, gate, lists, lab, warm, bench, page  # noqa: F401, I001  (importing registers the commands, in this order)
from s2l.cli.base import app, main

__all__ = ["app", "main"]
