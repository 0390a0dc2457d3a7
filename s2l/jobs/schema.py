"""The tables of the job database, as migration steps.

`PRAGMA user_version` counts the steps applied to a file. A file of an older program is brought up to date when it is
opened, all steps in one transaction. A step never changes once it is released; a change is a new step.
"""

from __future__ import annotations

import sqlite3

from s2l.errors import UserError

# Each step is a list of statements. The first one also fits files from before steps were counted: they have all of it.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE IF NOT EXISTS runs (
          key TEXT PRIMARY KEY, config TEXT NOT NULL, state TEXT NOT NULL, queued_at REAL, started_at REAL,
          finished_at REAL, cancel_at REAL, worker TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '',
          result TEXT NOT NULL DEFAULT '', live TEXT NOT NULL DEFAULT '{}')""",
        """CREATE TABLE IF NOT EXISTS jobs (
          id TEXT PRIMARY KEY, visitor TEXT NOT NULL, run TEXT NOT NULL REFERENCES runs(key), created_at REAL NOT NULL,
          cancelled INTEGER NOT NULL DEFAULT 0, UNIQUE (visitor, run))""",
        "CREATE INDEX IF NOT EXISTS jobs_of_run ON jobs (run)",
    ),
    (
        """CREATE TABLE classes (
          code TEXT PRIMARY KEY, teacher TEXT NOT NULL, opened_at REAL NOT NULL,
          revealed INTEGER NOT NULL DEFAULT 0)""",
        """CREATE TABLE class_groups (
          code TEXT NOT NULL, visitor TEXT NOT NULL, name TEXT NOT NULL, joined_at REAL NOT NULL,
          PRIMARY KEY (code, visitor))""",
        """CREATE TABLE predictions (
          code TEXT NOT NULL, visitor TEXT NOT NULL, run TEXT NOT NULL, answers TEXT NOT NULL,
          PRIMARY KEY (code, visitor, run))""",
    ),
)


def migrate(db: sqlite3.Connection, steps: tuple[tuple[str, ...], ...] = STEPS) -> None:
    """Bring the tables of an open database up to date; nothing changes if a step fails.

    Several processes may open a file at once: one of them migrates, the others wait for it. Raises UserError for a file
    of a newer program.
    """
    if _version(db) == len(steps):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db)  # another process may have migrated it meanwhile
        if version > len(steps):
            raise UserError(
                f"the job database was written by a newer version of the program (its tables are version {version}, "
                f"this program knows {len(steps)}): install that version, or give another folder with S2L_CACHE"
            )
        for statement in (statement for step in steps[version:] for statement in step):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(steps)}")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _version(db: sqlite3.Connection) -> int:
    return db.execute("PRAGMA user_version").fetchone()[0]
