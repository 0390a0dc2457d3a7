"""A lab: a folder with a checkpoint and the record of its training set. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from s2l.errors import unknown
from s2l.worlds.people import LabPhoto, Person, held_out_ranges, named_photo, seeds_of, vocabulary, words_of


@dataclass(frozen=True)
class LabPerson(Person):
    """One private person as the lab's record describes them. `row` is their entry in `lab.json`, unchanged.

    Their photos depend on the record alone, not on the names and recipes in this version of the program.
    """

    photo_seeds: tuple[int, ...]
    repeats: tuple[int, ...]
    hashes: tuple[str, ...]
    row: dict = field(repr=False, compare=False)  # part of cache keys

    @classmethod
    def of(cls, row: dict) -> LabPerson:
        photos = {name: tuple(row[name]) for name in ("photo_seeds", "repeats", "hashes")}
        return cls(**{name: row[name] for name in ("index", "name", "identity_seed", "role")} | photos | {"row": row})

    @property
    def trained(self) -> bool:
        """Whether the model was trained on any of the photos. If not, they are a reference set, treated as members."""
        return any(self.repeats)

    def members(self) -> list[LabPhoto]:
        """The photos that the model was trained on, or else the reference set, in the record's order."""
        return [named_photo(self, seed, n) for seed, n in zip(self.photo_seeds, self.repeats, strict=True)]

    def held_out(self, number: int) -> list[LabPhoto]:
        """`number` photos of the person, from the members' distribution, that the model was not trained on."""
        ranges = [(first, stop) for first, stop in self.row.get("held_out") or held_out_ranges(self)]
        return [named_photo(self, seed, 0) for seed in seeds_of(ranges, number)]


@dataclass(frozen=True)
class Lab:
    """A checkpoint with a known training set.

    name    its folder's name, or the name in the record
    folder  `lab.json` beside `model_index.json`
    record  the content of `lab.json` (see record.py)
    """

    name: str
    folder: Path
    record: dict = field(repr=False, compare=False)

    @property
    def title(self) -> str:
        """The lab in a few words."""
        return self.record.get("title") or self.name

    @property
    def purpose(self) -> str:
        """What the lab is for, in one sentence without a full stop."""
        about = f"{len(self.people)} people with {self.n_members} photos each"
        return self.record.get("purpose") or about + ("" if self.trained else ", none of which it was trained on")

    @property
    def recipe(self) -> str:
        """The name of the lab's recipe; the number of steps for older labs, which record no recipe."""
        name = self.record.get("recipe", {}).get("name")
        return name or f"{self.record.get('counters', {}).get('step', 0):,} steps"

    @property
    def resolution(self) -> int:
        """Side of a photo in pixels."""
        return self.record["resolution"]

    @property
    def n_members(self) -> int:
        """Photos per person."""
        return self.record["n_members"]

    @property
    def trained(self) -> bool:
        """Whether the model was trained on any photo of its people."""
        return any(person.trained for person in self.people)

    @cached_property
    def people(self) -> tuple[LabPerson, ...]:
        """The private people, in the record's order."""
        return tuple(LabPerson.of(row) for row in self.record["people"])

    def names(self, role: str | None = None) -> list[str]:
        """The people's names, all or those of one role, in the record's order."""
        return [person.name for person in self.people if role in (None, person.role)]

    def person(self, name: str) -> LabPerson:
        """The person of that name, whatever its case. Raises UserError with the nearest match and the list."""
        lowered = name.strip().lower()
        match = next((person for person in self.people if person.name.lower() == lowered), None)
        if match is None:
            raise unknown("person", name, self.names())
        return match

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Every word that a caption of this lab can contain, and a few rare ones that its tokenizer knows."""
        return frozenset(self.record.get("vocabulary") or vocabulary(self.names()))

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that no caption of the lab contains, in order."""
        return [word for word in words_of(prompt) if word not in self.vocabulary]
