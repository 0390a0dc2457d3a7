"""A class: groups under the names they chose, who see each other's runs and predictions. No accounts.

Whoever opens a class gets its code; who has the code may join and look. Everything is deleted after S2L_KEEP_HOURS.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
import unicodedata
from dataclasses import dataclass

from s2l.errors import UserError
from s2l.jobs.store import Job, Jobs

LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # no 0, 1, I and O, which are misread from a wall
CODE_LENGTH = 6
NAME_LENGTH = 30
MAX_CLASSES, MAX_GROUPS, MAX_RUNS = 500, 60, 5  # on a server, in a class, of a group on the board
NO_CLASS = "there is no class with this code: ask your teacher for the code of today"


@dataclass(frozen=True)
class Class:
    """A class. `teacher` is the visitor who opened it; `revealed`: the measured values stand beside the predictions."""

    code: str
    teacher: str
    revealed: bool


@dataclass(frozen=True)
class Group:
    """A visitor in a class, under the name they chose."""

    visitor: str
    name: str


def clean_code(text: object) -> str:
    """A code as it is stored: "k7 m2-qp" -> "K7M2QP"."""
    return "".join(c for c in str(text)[:40].upper() if c in LETTERS)


def clean_name(text: object) -> str:
    """A group's name on one line. Raises UserError if it is empty or too long."""
    name = " ".join("".join(c if c.isprintable() else " " for c in unicodedata.normalize("NFC", str(text))).split())
    if not 1 <= len(name) <= NAME_LENGTH:
        raise UserError(f"give your group a name of 1 to {NAME_LENGTH} characters")
    return name


class Classroom:
    """The classes of a job store."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs

    def open(self, teacher: str) -> str:
        """A new class of this visitor, or the one they have open. Its code. Raises UserError if there are too many."""
        with self.jobs.writing() as db:
            if (row := db.execute("SELECT code FROM classes WHERE teacher = ?", (teacher,)).fetchone()) is not None:
                return row["code"]
            if db.execute("SELECT count(*) FROM classes").fetchone()[0] >= MAX_CLASSES:
                raise UserError(f"{MAX_CLASSES} classes are open, which is the limit: try again tomorrow")
            code = "".join(secrets.choice(LETTERS) for _ in range(CODE_LENGTH))
            db.execute("INSERT INTO classes (code, teacher, opened_at) VALUES (?, ?, ?)", (code, teacher, time.time()))
        return code

    def find(self, code: object) -> Class | None:
        """The class with that code."""
        with self.jobs.reading() as db:
            row = db.execute("SELECT * FROM classes WHERE code = ?", (clean_code(code),)).fetchone()
        return None if row is None else Class(row["code"], row["teacher"], bool(row["revealed"]))

    def join(self, code: object, visitor: str, name: object) -> Class:
        """Enter a class, or change one's name in it. Raises UserError."""
        name = clean_name(name)
        with self.jobs.writing() as db:
            found = self._need(db, code)
            others = db.execute(
                "SELECT name FROM class_groups WHERE code = ? AND visitor != ?", (found["code"], visitor)
            ).fetchall()
            if name.casefold() in {row["name"].casefold() for row in others}:
                raise UserError("another group has this name already: choose another one")
            if len(others) >= MAX_GROUPS:
                raise UserError(f"a class has at most {MAX_GROUPS} groups")
            db.execute(
                "INSERT INTO class_groups (code, visitor, name, joined_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (code, visitor) DO UPDATE SET name = excluded.name",
                (found["code"], visitor, name, time.time()),
            )
        return Class(found["code"], found["teacher"], bool(found["revealed"]))

    def remove(self, code: object, teacher: str, name: object) -> None:
        """Take a group out of one's own class. Raises UserError."""
        with self.jobs.writing() as db:
            found = self._own(db, code, teacher)
            row = db.execute(
                "SELECT visitor FROM class_groups WHERE code = ? AND name = ?", (found, str(name))
            ).fetchone()
            if row is None:
                raise UserError("no group of the class has this name")
            for table in ("class_groups", "predictions"):
                db.execute(f"DELETE FROM {table} WHERE code = ? AND visitor = ?", (found, row["visitor"]))

    def reveal(self, code: object, teacher: str, revealed: bool) -> None:
        """Show the measured values beside the predictions of one's own class, or hide them. Raises UserError."""
        with self.jobs.writing() as db:
            db.execute("UPDATE classes SET revealed = ? WHERE code = ?", (int(revealed), self._own(db, code, teacher)))

    def signature(self, code: object) -> str:
        """What a class's page shows, as one short text: while it stays the same, nothing new has happened."""
        asked = (
            "SELECT code, teacher, revealed FROM classes WHERE code = ?",
            "SELECT visitor, name FROM class_groups WHERE code = ? ORDER BY joined_at",
            "SELECT jobs.id, runs.result FROM jobs JOIN runs ON runs.key = jobs.run JOIN class_groups USING (visitor)"
            " WHERE code = ? AND runs.state = 'done' ORDER BY jobs.id",
            "SELECT visitor, run, answers FROM predictions WHERE code = ? ORDER BY visitor, run",
        )
        with self.jobs.reading() as db:
            rows = [tuple(row) for query in asked for row in db.execute(query, (clean_code(code),)).fetchall()]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    def groups(self, code: object) -> list[Group]:
        """Who joined a class, in the order of joining."""
        with self.jobs.reading() as db:
            rows = db.execute(
                "SELECT visitor, name FROM class_groups WHERE code = ? ORDER BY joined_at", (clean_code(code),)
            ).fetchall()
        return [Group(row["visitor"], row["name"]) for row in rows]

    def runs(self, group: Group) -> list[Job]:
        """A group's newest finished runs of people of a lab; runs on photos of their own stay theirs."""
        done = [job for job in self.jobs.jobs_of(group.visitor) if job.state == "done"]
        return [job for job in done if job.config.domain.members is None][:MAX_RUNS]

    def predict(self, code: object, visitor: str, run: str, answers: dict) -> None:
        """Keep what a group predicted of a run (the run's key). Nothing happens for who is in no class."""
        with self.jobs.writing() as db:
            joined = db.execute(
                "SELECT 1 FROM class_groups WHERE code = ? AND visitor = ?", (clean_code(code), visitor)
            ).fetchone()
            if joined:
                db.execute(
                    "INSERT INTO predictions (code, visitor, run, answers) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (code, visitor, run) DO UPDATE SET answers = excluded.answers",
                    (clean_code(code), visitor, run, json.dumps(answers)),
                )

    def predictions(self, code: object) -> dict[str, list[dict]]:
        """{run's key: the answers of every group that predicted something of it}, the most answered run first."""
        with self.jobs.reading() as db:
            rows = db.execute("SELECT run, answers FROM predictions WHERE code = ?", (clean_code(code),)).fetchall()
        found: dict[str, list[dict]] = {}
        for row in rows:
            found.setdefault(row["run"], []).append(json.loads(row["answers"]))
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def forget(self, hours: float) -> int:
        """Delete the classes opened more than `hours` ago with all that belongs to them; returns how many."""
        with self.jobs.writing() as db:
            gone = db.execute("DELETE FROM classes WHERE opened_at < ?", (time.time() - 3600 * hours,)).rowcount
            for table in ("class_groups", "predictions"):
                db.execute(f"DELETE FROM {table} WHERE code NOT IN (SELECT code FROM classes)")
        return gone

    def _need(self, db: sqlite3.Connection, code: object) -> sqlite3.Row:
        row = db.execute("SELECT * FROM classes WHERE code = ?", (clean_code(code),)).fetchone()
        if row is None:
            raise UserError(NO_CLASS)
        return row

    def _own(self, db: sqlite3.Connection, code: object, teacher: str) -> str:
        row = self._need(db, code)
        if not secrets.compare_digest(row["teacher"].encode(), teacher.encode()):
            raise UserError("only the person who opened the class can do this")
        return row["code"]
