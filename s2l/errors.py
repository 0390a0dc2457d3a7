"""Errors about wrong input, as one sentence that says what is allowed."""

from __future__ import annotations

import difflib


class UserError(ValueError):
    """The input was wrong; the message says what is allowed. The command line exits with code 2.

    `field` is the path of the setting at fault ("sp_set.set_size"), if it is one; `reason` is the message without it.
    Whoever took the input replaces the path by the name it has there: an option, or the label of a form row.
    """

    def __init__(self, reason: str, field: str | None = None):
        super().__init__(f"{field}: {reason}" if field else reason)
        self.reason, self.field = reason, field

    def named(self, word: str | None) -> str:
        """The message with `word` in the place of the field's path; as it is where there is no word."""
        return f"{word}: {self.reason}" if word else str(self)


def unknown(kind: str, value: str, allowed) -> UserError:
    """The error for a name that is not in a list: the nearest match and the whole list."""
    allowed = list(allowed)
    lowered = {a.lower(): a for a in allowed}
    near = difflib.get_close_matches(str(value).lower(), lowered, n=1, cutoff=0.5)
    hint = f" Did you mean {lowered[near[0]]!r}?" if near else ""
    return UserError(f"unknown {kind} {value!r}.{hint} Allowed: {', '.join(allowed)}")
