"""The command line: `python -m s2l COMMAND`. Each command builds settings and calls the core.

Wrong input gives one sentence and exit code 2, Ctrl-C exit code 130: `base.Commands` handles both. Torch is imported
inside the commands only, so that `--help` and most typing errors are answered at once.
"""

from s2l.cli import run, steps, audit, split, gate, lists, lab, warm, bench, card, page  # noqa: F401, I001  (importing registers the commands, in this order)
from s2l.cli.base import app, main

__all__ = ["app", "main"]
