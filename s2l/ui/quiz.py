"""Predict, then reveal: the visitor's answers are kept and compared with the attack's.

Answers of one run are a plain dict that the browser keeps:
    {"rounds": [[chosen, right], ...], "auc": guess, "extracted": guess, "attack": skipped, "extraction": skipped}
"""

from __future__ import annotations

from math import comb, isfinite

import numpy as np
from markupsafe import Markup

from s2l.errors import UserError
from s2l.record import AttackOutcome, Part, Result, When
from s2l.report.findings import auc_in_words
from s2l.report.verdicts import short_caution
from s2l.ui import backend, html, runs

ROUNDS, CHOICES = 3, 4
ORDINAL = ("first", "second", "third", "last")
ENOUGH = 10  # photos of a kind that must be left to ask about


def clean(kept: object) -> dict[str, dict]:
    """What the browser kept, as {run: answers}; anything else is dropped, because a visitor may have edited it."""
    if not isinstance(kept, dict):
        return {}
    quiz = {}
    for run, answers in list(kept.items())[-50:]:
        if not isinstance(run, str) or not isinstance(answers, dict):
            continue
        rounds = answers.get("rounds")
        rounds = [r for r in rounds if _pair(r)][:ROUNDS] if isinstance(rounds, list) else []
        guesses = {n: float(answers[n]) for n in ("auc", "extracted") if _number(answers.get(n))}
        skips = {n: True for n in ("attack", "extraction") if answers.get(n) is True}
        quiz[run] = {"rounds": rounds} | guesses | skips
    return quiz


def _pair(row: object) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(isinstance(x, int) and 0 <= x < CHOICES for x in row)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def _asked(n: int) -> np.ndarray:
    """Photos that a round may ask about: not those that the Target tab shows, if enough others are left."""
    return np.arange(backend.N_SHOWN if n >= backend.N_SHOWN + ENOUGH else 0, n)


def four(result: Result, number: int) -> tuple[list[tuple[Part, int]], int]:
    """The photos of a round as (set, index), and which of them is the member. The same for everybody."""
    rng = runs.generator(result, number)
    members, held_out = result.record["domain"]["n_members"], result.record["domain"]["n_nonmembers"]
    photos: list[tuple[Part, int]] = [
        ("nonmembers", int(i)) for i in rng.choice(_asked(held_out), CHOICES - 1, replace=False)
    ]
    right = int(rng.integers(CHOICES))
    photos.insert(right, ("members", int(rng.choice(_asked(members)))))
    return photos, right


def possible(result: Result | None) -> bool:
    return (
        result is not None and bool(result.record["attacks"]) and result.record["domain"]["n_nonmembers"] >= CHOICES - 1
    )


def attack_right(result: Result, attack: str, number: int, when: When = "after") -> bool:
    """Does the attack give the member of a round the highest score of the four?"""
    scores = result.record["attacks"][attack]["scores"][when]
    photos, right = four(result, number)
    return int(np.argmax([scores[of][i] for of, i in photos])) == right


def share_right(result: Result, attack: str, when: When = "after") -> float:
    """How often the attack is right over all rounds that could be asked: each member, with any held-out photos."""
    members, held_out = (scores[_asked(len(scores))] for scores in result.scores(attack, when))
    beaten = (held_out < members[:, None]).sum(axis=1)
    return sum(comb(int(n), CHOICES - 1) for n in beaten) / (len(members) * comb(len(held_out), CHOICES - 1))


def revealed(answers: dict, tab: str) -> bool:
    """May the results of a tab ("attack" or "extraction") be shown?"""
    if answers.get(tab):
        return True
    if tab == "attack":
        return len(answers.get("rounds", [])) >= ROUNDS and "auc" in answers
    return "extracted" in answers


def question_html(result: Result, answers: dict) -> Markup:
    """The next photo round, above the rounds that were answered: their photos stay, with what the attack says."""
    rounds = answers.get("rounds", [])
    frame = Markup('<div class="quiz">{}{}</div>')
    past = [answered_html(result, number, chosen) for number, (chosen, _) in enumerate(rounds)]
    if len(rounds) >= ROUNDS:
        return html.block(frame.format(score_html(result, answers), Markup("").join(past)))
    last = Markup("").join(reversed(past))
    photos, _ = four(result, len(rounds))
    name = result.record["domain"]["name"]
    cards = Markup("").join(
        html.choice(runs.picture_uris(result, of, [i])[0], f"photo {j + 1} of {name}", f"photo {j + 1}", pick=j)
        for j, (of, i) in enumerate(photos)
    )
    question = Markup(
        "<h3>First your prediction, {} of {}: which of these four was a training photo?</h3><p class=quiet>One of them "
        'is a member; the model was never trained on the others. All show {}.</p><div class="choose four">{}</div>'
    ).format(len(rounds) + 1, ROUNDS, name, cards)
    return html.block(frame.format(question, last))


def answered_html(result: Result, number: int, chosen: int) -> Markup:
    """A round that was answered: its photos, which was the member, what was chosen, and the order of the attack."""
    photos, right = four(result, number)
    found = asked_attack(result)
    scores = [found["scores"]["after"][of][i] for of, i in photos]
    places = np.argsort(np.argsort([-score for score in scores])) + 1
    repeats = result.record["domain"]["repeats"]
    cards = []
    for j, (of, i) in enumerate(photos):
        words = [f"photo {j + 1}" + (" (you)" if j == chosen else ""), f"attack: {ORDINAL[places[j] - 1]}"]
        if j == right:
            words.append("training photo" + (f", {repeats[i]} ×" if repeats else ""))
        cards.append(
            html.picture(
                runs.picture_uris(result, of, [i])[0],
                f"photo {j + 1} of round {number + 1}",
                "\n".join(words),
                j == right,
            )
        )
    said = "Right" if chosen == right else "No"
    why = (
        ("The attack found it too." if chosen == right else "The attack found it.")
        if places[right] == 1
        else f"The attack puts it {ORDINAL[places[right] - 1]} of four."
    )
    return Markup(
        '<div class="answered"><p role="status"><b>Round {}: {}. Photo {} was the training photo{}.</b> {} It orders '
        "the four by its {} score: first is the most suspicious. × is how often a photo was repeated in training.</p>"
        '<div class="choose four">{}</div></div>'
    ).format(
        number + 1, said, right + 1, "" if chosen == right else f"; you chose {chosen + 1}", why, found["title"],
        Markup("").join(cards),
    )  # fmt: skip


def score_html(result: Result, answers: dict) -> Markup:
    """The visitor's right answers beside those of every attack on the same photos.

    The share over all possible rounds gives away much of the AUC, so it is shown only once the AUC is.
    """
    rounds, show_share = answers.get("rounds", []), revealed(answers, "attack")
    mine = sum(chosen == right for chosen, right in rounds)
    rows = [("You", f"{mine} of {len(rounds)}", "")] if rounds else []
    for name, found in result.record["attacks"].items():
        right = sum(attack_right(result, name, i) for i in range(ROUNDS))
        title = f"The {found['title']} attack, after the shake"
        rows.append((title, f"{right} of {ROUNDS}", f"{100 * share_right(result, name):.0f} %"))
    rows.append(("Pure guessing, on average", f"{ROUNDS / CHOICES:g} of {ROUNDS}", f"{100 / CHOICES:g} %"))
    head = ("Which of four was a training photo?", f"right in these {ROUNDS} rounds", "in all possible rounds")
    columns = len(head) if show_share else len(head) - 1
    why = Markup("An attack picks the photo with the highest score. {} rounds are few, so luck matters.").format(ROUNDS)
    if show_share:
        why += Markup(
            " The <b>AUC</b> counts all pairs instead: in what share of them does the member score higher than the "
            "held-out photo? Guessing gives 0.5. {} rounds and the AUC may therefore disagree: believe the AUC."
        ).format(ROUNDS)
    table = html.table(head[:columns], [row[:columns] for row in rows])
    return Markup("{}<p class=quiet>{}</p>").format(table, why)


def asked_name(result: Result) -> str:
    """The attack whose AUC the visitor guesses, by name: the last one of the run."""
    return list(result.record["attacks"])[-1]


def asked_attack(result: Result) -> AttackOutcome:
    """What was measured of the attack whose AUC the visitor guesses."""
    return result.record["attacks"][asked_name(result)]


def auc_html(result: Result, answers: dict) -> Markup:
    """The visitor's guess of the AUC beside what was measured."""
    if "auc" not in answers:
        return Markup()
    found = asked_attack(result)
    guess, after = answers["auc"], found["after"]
    inside = after["delong"]["low"] <= guess <= after["delong"]["high"]
    caution = short_caution(result.record["control"])
    verdict = "inside the measured interval" if inside else "outside the measured interval"
    return html.block(
        Markup(
            '<p role="status">Your guess of the AUC after the shake ({}): <b>{:.2f}</b>, {}. Measured: <b>{}</b>, '
            "before {}. {}</p>"
        ).format(found["title"], guess, verdict, auc_in_words(after), auc_in_words(found["before"]), caution)
    )


def said_html(result: Result, answers: dict) -> Markup:
    """The visitor's predictions of the Membership tab beside what was measured; the photo rounds are folded."""
    if not answers.get("rounds"):
        return auc_html(result, answers)
    table = html.fold("rounds", "Your photo rounds beside the attacks'", score_html(result, answers))
    return auc_html(result, answers) + html.block(table)


def check_count(result: Result, guess: float | None) -> float:
    """A guessed number of photos. Raises UserError if it is missing or impossible."""
    n = result.record["domain"]["n_members"]
    if guess is None or not 0 <= guess <= n:
        raise UserError(f"enter your guess first: a number from 0 to {n}")
    return float(guess)


def extracted_html(result: Result, answers: dict) -> Markup:
    """The visitor's guess of the number of extracted photos beside the count."""
    if "extracted" not in answers or result.record["extraction"] is None:
        return Markup()
    change, guess = result.record["extraction"]["difference"], int(answers["extracted"])
    return html.block(
        Markup(
            '<p role="status">Your guess: <b>{}</b> of {n_members} training photos after the shake. Counted: '
            "<b>{after}</b>, and {before} before.</p>"
        ).format(guess, **change)
    )
