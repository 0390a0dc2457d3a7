"""Errors about wrong input, as one sentence that says what is allowed."""

from __future__ import annotations

import difflib


class UserError(ValueError):
    """The input was wrong; the message says what is allowed. The command line exits with code 2.

    `field` is the path of the invalid setting ("sp_set.set_size"), if there is one; `reason` is the message without it.
    The command line shows the option's name in place of the path, the page the label of the form row.
    """

    def __init__(self, reason: str, field: str | None = None):
        super().__init__(f"{field}: {reason}" if field else reason)
        self.reason, self.field = reason, field

    def named(self, label: str | None) -> str:
        """The message with `label` in place of the field's path; unchanged if there is no label."""
        return f"{label}: {self.reason}" if label else str(self)


def unknown(kind: str, value: str, allowed) -> UserError:
    """The error for a name that is not in a list: the nearest match and the whole list."""
    allowed = list(allowed)
    lowered = {a.lower(): a for a in allowed}
    near = difflib.get_close_matches(str(value).lower(), lowered, n=1, cutoff=0.5)
    hint = f" Did you mean {lowered[near[0]]!r}?" if near else ""
    return UserError(f"unknown {kind} {value!r}.{hint} Allowed: {', '.join(allowed)}")
