"""The environment variables that the program reads, each declared once. Loads no torch.

An invalid value is reported in one sentence when the program starts, not in the middle of a lesson. Variables are read
each time they are needed, so that a test or a notebook may change one. Those for a server are in jobs/limits.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from s2l.errors import UserError

PREFIX = "S2L_"

# An opt-in: only "1" counts, so that a typing error never switches anything on.
Switch = Annotated[bool, BeforeValidator(lambda value: value in (True, "1"))]


class Variables(BaseSettings):
    """Base of every group of variables. The field `max_queue` is S2L_MAX_QUEUE; an empty variable counts as not set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")
    groups: ClassVar[list[type[Variables]]] = []

    def __init_subclass__(cls, **facts: Any) -> None:
        super().__init_subclass__(**facts)
        Variables.groups.append(cls)

    @classmethod
    def read(cls) -> Self:
        """From the environment. Raises UserError with one sentence about the first wrong value."""
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise UserError(
                f"{variable(name)} should be {_allowed(cls.model_fields[name])} (given: {first['input']!r})"
            ) from None


def variable(field: str) -> str:
    """The name of a field's variable."""
    return PREFIX + field.upper()


def _allowed(field: FieldInfo) -> str:
    """What a value may be, from the bounds on its field."""
    bounds = {name: getattr(part, name) for part in field.metadata for name in ("ge", "le") if hasattr(part, name)}
    return f"a number from {bounds['ge']:g} to {bounds['le']:g}" if len(bounds) == 2 else "a valid value"


class Program(Variables):
    """What every command and the page read."""

    cache: Path = Field(
        Path("cache"),
        description="folder for everything that is computed; a Space loses it on restart unless a volume is mounted",
    )
    lab: str = Field(
        "fresh",
        description="what plain `lab` means: the name of a shipped lab (`python -m s2l labs`), or a folder with "
        "`lab.json` beside `model_index.json`",
    )
    showcase: Path | None = Field(
        None, description="folder of the example run that the page shows; default: the shipped one"
    )
    accept_responsible_use: Switch = Field(
        False,
        description="`1`: the same as `--i-have-permission` on the command line; visitors of the app tick a box each "
        "time",
    )


def table() -> list[tuple[str, str, str]]:
    """(name, default, description) of every variable, for the docs."""
    return [
        (variable(name), _default(field), field.description or "")
        for group in Variables.groups
        for name, field in group.model_fields.items()
    ]


def _default(field: FieldInfo) -> str:
    return "" if field.default in (None, False, "") else f"{field.default:g}" if _number(field) else str(field.default)


def _number(field: FieldInfo) -> bool:
    return isinstance(field.default, int | float)
