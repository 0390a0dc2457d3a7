"""What is said to somebody whose input was wrong."""

from __future__ import annotations

import difflib


class UserError(ValueError):
    """The input was wrong; the message says what is allowed. The command line exits with code 2."""


def unknown(kind: str, value: str, allowed) -> UserError:
    """The error for a name that is not in a list: the nearest match and the whole list."""
    allowed = list(allowed)
    lowered = {a.lower(): a for a in allowed}
    near = difflib.get_close_matches(str(value).lower(), lowered, n=1, cutoff=0.5)
    hint = f" Did you mean {lowered[near[0]]!r}?" if near else ""
    return UserError(f"unknown {kind} {value!r}.{hint} Allowed: {', '.join(allowed)}")
