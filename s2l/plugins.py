"""Catalogues of named items: the program's own attacks and methods, and those of installed packages.

A package offers an item through an entry point of the catalogue's group. Packages are imported only when the whole
list or a name is needed that the program itself does not have. If that fails, `problems` says why in one sentence.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, TypeVar

from s2l.errors import UserError, unknown


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Catalogue(Mapping[str, T]):
    """{name: item}, the program's own first, in the order in which they were added.

    `kind` is what error messages call an item ("attack"), `group` the group of entry points. An entry point has the
    name of its item, and loads either the item or a module that adds it.
    """

    def __init__(self, kind: str, group: str, of: type[T]):
        self.kind, self.group, self.of = kind, group, of
        self._items: dict[str, T] = {}
        self._problems: dict[str, str] = {}
        self._plugins: set[str] = set()
        self._plugins_loaded = False
        self._lock = threading.RLock()  # loading adds items

    def add(self, item: T) -> T:
        """Add an item under its name."""
        if item.name in self._items:
            raise ValueError(f"the {self.kind} {item.name!r} is registered twice")
        self._items[item.name] = item
        return item

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the program's own items."""
        return tuple(name for name in self._items if name not in self._plugins)

    @property
    def problems(self) -> dict[str, str]:
        """{name: what is wrong} of installed items that cannot be used."""
        self._load_plugins()
        return self._problems

    def known(self, name: str) -> T:
        """The item of a name. Raises UserError with the nearest match, or with why an installed one cannot be used."""
        if name in self:
            return self[name]
        if name in self.problems:
            raise UserError(self.problems[name])
        raise unknown(self.kind, name, sorted(self))

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            self._load_plugins()
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(tuple(self._items))

    def __len__(self) -> int:
        self._load_plugins()
        return len(self._items)

    def _load_plugins(self) -> None:
        """Load what installed packages offer, once."""
        with self._lock:
            if self._plugins_loaded:
                return
            self._plugins_loaded = True
            for entry in entry_points(group=self.group):
                self._load(entry)

    def _load(self, entry: EntryPoint) -> None:
        before = set(self._items)
        try:
            loaded = entry.load()
            if isinstance(loaded, self.of) and loaded.name not in set(self._items) - before:
                self.add(loaded)
            if entry.name not in set(self._items) - before:
                raise LookupError(f"it brings no {self.kind} of that name")
        except Exception as error:  # another package's module can raise anything
            for name in set(self._items) - before:
                del self._items[name]
            source = entry.dist.name if entry.dist is not None else entry.value
            reason = str(error).strip().partition("\n")[0]
            what = reason if isinstance(error, LookupError) else f"{type(error).__name__}: {reason}"
            self._problems[entry.name] = (
                f"the {self.kind} {entry.name!r} of the package {source} cannot be used: {what}"
            )
        else:
            self._plugins |= set(self._items) - before
