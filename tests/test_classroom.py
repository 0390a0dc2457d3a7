"""A class: a code, groups under names of their own, everybody's runs and predictions, and nothing for others."""

from __future__ import annotations

import sqlite3

import pytest

from s2l.config import preset
from s2l.errors import UserError
from s2l.jobs import Jobs
from s2l.jobs.classroom import CODE_LENGTH, Classroom, clean_code, clean_name
from s2l.jobs.housekeeping import sweep
from s2l.store import Store
from s2l.ui import session
from s2l.ui.backend import Backend
from s2l.ui.tabs import classroom
from s2l.worlds.people import LAB_NAMES

TEACHER, ANNA, BEN = "teacher" * 3, "anna" * 5, "ben" * 7


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    return Backend.open(Store(tmp_path_factory.mktemp("class") / "cache"))


@pytest.fixture
def rooms(store, tiny_lab) -> Classroom:
    return Classroom(Jobs(store))


def finished(rooms: Classroom, visitor: str, name: str = LAB_NAMES[0], **domain) -> str:
    """A job of this visitor that counts as done. Its id."""
    job = rooms.jobs.enqueue(preset("quick", {"name": name} | domain), visitor)
    with rooms.jobs.writing() as db:
        db.execute("UPDATE runs SET state = 'done', result = 'none' WHERE key = ?", (job.run,))
    return job.id


def test_a_code_opens_a_class_and_nothing_else_does(rooms):
    code = rooms.open(TEACHER)
    assert len(code) == CODE_LENGTH and rooms.open(TEACHER) == code != rooms.open(ANNA)
    assert rooms.find(f" {code[:3].lower()}-{code[3:]} ").teacher == TEACHER  # as people type it
    for wrong in ("", "1", "ABCDEF", code[:-1], None, 7, "' OR 1=1 --", "x" * 10_000):
        assert rooms.find(wrong) is None and not rooms.groups(wrong) and not rooms.predictions(wrong)
        with pytest.raises(UserError, match="no class with this code"):
            rooms.join(wrong, ANNA, "Anna")


def test_groups_have_names_of_their_own(rooms):
    code = rooms.open(TEACHER)
    rooms.join(code, ANNA, "  The\u200b\nOwls ")
    assert [group.name for group in rooms.groups(code)] == ["The Owls"]
    with pytest.raises(UserError, match="another group has this name"):
        rooms.join(code, BEN, "the owls")
    rooms.join(code, ANNA, "Foxes")  # a change of mind
    rooms.join(code, BEN, "the owls")
    assert [group.name for group in rooms.groups(code)] == ["Foxes", "the owls"]
    for bad in ("", "   ", "x" * 31, "\u200b"):
        with pytest.raises(UserError, match="1 to 30 characters"):
            clean_name(bad)
    assert clean_code("k7 m2-qp!") == "K7M2QP"


def test_a_full_class_and_a_full_server_are_a_sentence(rooms, monkeypatch):
    monkeypatch.setattr("s2l.jobs.classroom.MAX_GROUPS", 1)
    monkeypatch.setattr("s2l.jobs.classroom.MAX_CLASSES", 1)
    code = rooms.open(TEACHER)
    rooms.join(code, ANNA, "Anna")
    with pytest.raises(UserError, match="at most 1 groups"):
        rooms.join(code, BEN, "Ben")
    with pytest.raises(UserError, match="the limit"):
        rooms.open(BEN)


def test_the_board_shows_runs_of_the_lab_and_not_those_on_ones_own_photos(rooms, tmp_path):
    code = rooms.open(TEACHER)
    rooms.join(code, ANNA, "Anna")
    ours = finished(rooms, ANNA)
    own = rooms.jobs.enqueue(preset("quick", {"name": "Me", "members": str(tmp_path), "nonmembers": "x"}), ANNA)
    with rooms.jobs.writing() as db:
        db.execute("UPDATE runs SET state = 'done' WHERE key = ?", (own.run,))
    rooms.jobs.enqueue(preset("quick", LAB_NAMES[1]), ANNA)  # still in the queue
    assert [job.id for job in rooms.runs(rooms.groups(code)[0])] == [ours]


def test_only_the_teacher_reveals_and_takes_out(rooms):
    code = rooms.open(TEACHER)
    rooms.join(code, ANNA, "Anna")
    rooms.predict(code, ANNA, "run", {"auc": 0.7})
    rooms.predict(code, BEN, "run", {"auc": 0.9})  # never joined
    assert rooms.predictions(code) == {"run": [{"auc": 0.7}]}
    for change in (lambda who: rooms.reveal(code, who, True), lambda who: rooms.remove(code, who, "Anna")):
        with pytest.raises(UserError, match="only the person who opened"):
            change(ANNA)
        change(TEACHER)
    assert rooms.find(code).revealed and not rooms.groups(code) and not rooms.predictions(code)
    with pytest.raises(UserError, match="no group of the class"):
        rooms.remove(code, TEACHER, "Anna")


def test_a_class_is_gone_after_the_lesson(rooms, monkeypatch):
    monkeypatch.setenv("S2L_KEEP_HOURS", "2")
    old, new = rooms.open(TEACHER), rooms.open(ANNA)
    for code in (old, new):
        rooms.join(code, BEN, "Ben")
        rooms.predict(code, BEN, "run", {"auc": 0.7})
    with rooms.jobs.writing() as db:
        db.execute("UPDATE classes SET opened_at = opened_at - 8000 WHERE code = ?", (old,))
    sweep(rooms.jobs)
    assert rooms.find(old) is None and rooms.find(new) is not None
    with sqlite3.connect(rooms.jobs.file) as db:
        for table in ("classes", "class_groups", "predictions"):
            assert db.execute(f"SELECT DISTINCT code FROM {table}").fetchall() == [(new,)]


def test_an_address_enters_a_class_that_exists(rooms):
    page = Backend(rooms.jobs)
    code = rooms.open(TEACHER)

    def opening(kept: dict, **address: str) -> session.Opening:
        return session.opening(kept, address, page, ("story",), {})

    assert (opening({}, **{"class": code.lower()}).code, opening({"class": code}).code) == (code, code)
    assert [opening({}, **{"class": c}).code for c in ("1", "ABCDEF")] == ["", ""]
    assert opening({}, **{"class": "1"}).classroom and not opening({}).classroom


def test_predictions_become_histograms_and_show_what_was_measured_only_when_revealed(backend):
    result = backend.showcase
    answers = [
        {"rounds": [[1, 1], [0, 2], [3, 3]], "auc": 0.93, "extracted": 4.0},
        {"rounds": [[1, 1]], "auc": 0.97},
        {"rounds": [[0, 1], [0, 2], [0, 3]], "auc": 0.0},
    ]
    hidden, shown = ("".join(classroom.histograms(result, answers, revealed)) for revealed in (False, True))
    assert "measured" not in hidden and shown.count("measured:") == 2
    assert '2 of 3 right</th><td><span class="count-bar" style="width:80%"></span> 1<' in hidden
    assert '0.9 to 1.0</th><td><span class="count-bar" style="width:80%"></span> 2<' in hidden
    measured = result.record["extraction"]["difference"]["after"]
    assert f"(measured: {measured:.3g})" in shown


def test_the_board_has_everybodys_runs_and_a_sentence(backend):
    rooms = Classroom(backend.jobs)
    code = rooms.open(TEACHER)
    rooms.join(code, ANNA, "Owls")
    empty = classroom.board_html(backend, rooms, rooms.find(code), "https://lab.example/app")
    assert f"https://lab.example/app?class={code}" in empty and "No finished run yet" in empty and "Owls" in empty
    page = classroom._runs_html(classroom._runs(backend, [("Owls", "showcase"), ("Gone", "no such job")]))
    assert "clear of zero" in page and "Owls: " in page and "Gone" not in page


def test_the_signature_changes_with_what_the_page_shows_and_with_nothing_else(rooms):
    code, other = rooms.open(TEACHER), rooms.open(ANNA)
    seen = [rooms.signature(code)]

    def changed() -> bool:
        seen.append(rooms.signature(code.lower()))
        return seen[-1] != seen[-2]

    rooms.join(other, BEN, "Owls")
    assert not changed()
    rooms.join(code, ANNA, "Owls")
    assert changed()
    rooms.predict(code, ANNA, "a run", {"auc": 0.9})
    assert changed()
    rooms.predict(code, ANNA, "a run", {"auc": 0.9})
    assert not changed()
    rooms.reveal(code, TEACHER, True)
    assert changed()
    rooms.jobs.enqueue(preset("quick", LAB_NAMES[1]), ANNA)
    finished(rooms, BEN)
    assert not changed()  # a run that waits, and one of another class, are not on the board
    finished(rooms, ANNA)
    assert changed()
    rooms.remove(code, TEACHER, "Owls")
    assert changed() and rooms.signature("ABCDEF") not in seen
