"""The findings of a run: one per question, as data from which the sentence is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from s2l.record import AttackOutcome, Blind, Change, Control, CountChange, ExtractionOutcome, Reference, RunRecord
from s2l.report.findings import after_note, control_warning, is_unchanged, percent

if TYPE_CHECKING:
    from s2l.record import Result

REFERENCED = "loss"  # the attack that improved with the reference on the lab's calibration people (docs/search.md)

Direction = Literal[-1, 0, 1]


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    question   "attack", "extraction", "together" (both models), "unknown" (nobody knows the members) or "blind"
    about      the attack's name, where the question is asked for several attacks
    direction  +1 or -1 for a change that is clear by its interval and by its p-value, else 0
    numbers    the numbers behind the answer
    verdict    the answer in words
    details    the numbers in words; they follow the verdict in the sentence
    """

    question: str
    about: str
    direction: Direction
    numbers: dict[str, float]
    verdict: str
    details: str

    @property
    def sentence(self) -> str:
        return f"{self.verdict}: {self.details}"


def direction_of(change: Change | CountChange, confidence: float) -> Direction:
    """+1 or -1 for a change that is clear by its interval and by its p-value, else 0."""
    if change["p_value"] >= 1 - confidence:
        return 0
    return 1 if change["low"] > 0 else -1 if change["high"] < 0 else 0


def findings(result: Result) -> list[Finding]:
    """The findings of a run, the attacks first."""
    record = result.record
    confidence = record["config"]["audit"]["confidence"]
    if not record["attacks"] and record["extraction"] is None:
        blind = record.get("blind")
        return [_unknown(record.get("kind", "run")), *([blind_finding(blind)] if blind is not None else [])]
    answers = [_attack(name, attack, confidence) for name, attack in record["attacks"].items()]
    if (extraction := record["extraction"]) is not None:
        answers.append(_extraction(extraction, confidence))
    if (reference := reference_of(record)) is not None:
        answers.append(_together(record["attacks"][REFERENCED], reference, confidence))
    if control_warning(record["control"]):
        answers = [answer if answer.question == "extraction" else _cautioned(answer) for answer in answers]
    return answers


def _cautioned(answer: Finding) -> Finding:
    """The answer of an attack on two sets that differ by themselves: the caution is in the sentence, not beside it."""
    return replace(
        answer,
        verdict=f"{answer.verdict}, on folders that differ by themselves",
        details=f"{answer.details} Because the folders differ without any model, this is no evidence of a leak.",
    )


def short_caution(control: Control | None) -> str:
    """That the sets differ by themselves in one short sentence, to stand beside a number, or ""."""
    return "The two sets differ by themselves, so this is no evidence of a leak." if control_warning(control) else ""


def headline(result: Result) -> list[str]:
    """The findings as sentences, after what must be known before them: a split that is not fair, what "after" is."""
    return [
        *filter(None, [control_warning(result.record["control"]), after_note(result.record)]),
        *(finding.sentence for finding in findings(result)),
    ]


def unchanged_note(attacks: Mapping[str, AttackOutcome]) -> str:
    """A warning that two models give identical scores, which is no measurement of their difference, or ""."""
    titles = [attack["title"] for attack in attacks.values() if is_unchanged(attack)]
    if not titles:
        return ""
    return (
        f"Every photo has exactly the same score before and after fine-tuning in the {_listed(titles)} "
        f"attack{'s' if len(titles) > 1 else ''}: the fine-tuning changes nothing that is measured here, so there is "
        "no difference to report. Check that the fine-tuned weights are those that were meant, and that the captions "
        "use the new token if the fine-tuning added one."
    )


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _unknown(kind: str) -> Finding:
    details = (
        f"it is not known which photos this model was trained on, so this {kind} shows what the model generates before "
        "and after fine-tuning, without a ROC curve or extraction counts."
    )
    return Finding("unknown", "", 0, {}, "What leaked cannot be measured", details)


def _change_numbers(change: Change | CountChange) -> dict[str, float]:
    return {
        "difference": change["difference"],
        "low": change["low"],
        "high": change["high"],
        "p_value": change["p_value"],
    }


def _paired(change: Change) -> str:
    return (
        f"a paired difference of {change['difference']:+.3f} ({percent(change['confidence'])} interval "
        f"{change['low']:+.3f} to {change['high']:+.3f})"
    )


def _attack(name: str, attack: AttackOutcome, confidence: float) -> Finding:
    change, before, after = attack["difference"], attack["before"]["auc"], attack["after"]["auc"]
    if is_unchanged(attack):
        details = (
            f"it gives every photo exactly the same score before and after fine-tuning (AUC {before:.3f}), so nothing "
            "that it sees has changed."
        )
        words = f"The {attack['title']} attack has nothing to compare"
        return Finding("attack", name, 0, {"before": before, "after": after}, words, details)
    if all(side["delong"]["high"] < 0.5 for side in (attack["before"], attack["after"])):
        details = (
            f"its AUC is {before:.3f} before and {after:.3f} after, below 0.5 in both. An attack that guesses has 0.5: "
            "the two folders may be swapped, or come from different sources. No change can be read from it."
        )
        words = f"The {attack['title']} attack ranks held-out photos above training photos"
        return Finding("attack", name, 0, {"before": before, "after": after}, words, details)
    direction = direction_of(change, confidence)
    verdict = {1: "is stronger after fine-tuning", -1: "is weaker after fine-tuning", 0: "shows no clear change"}
    details = (
        f"it tells training photos from held-out ones with an AUC of {before:.3f} before and {after:.3f} after (chance "
        f"is 0.5), {_paired(change)}."
    )
    numbers = {"before": before, "after": after} | _change_numbers(change)
    return Finding("attack", name, direction, numbers, f"The {attack['title']} attack {verdict[direction]}", details)


def _extraction(extraction: ExtractionOutcome, confidence: float) -> Finding:
    before, after, change = extraction["before"], extraction["after"], extraction["difference"]
    direction = direction_of(change, confidence)
    verdict = {
        1: "More training photos are extracted after fine-tuning",
        -1: "Fewer training photos are extracted after fine-tuning",
        0: "The number of extracted photos shows no clear change",
    }
    details = (
        f"{change['after']} of {change['n_members']} training photos after fine-tuning and {change['before']} before, "
        f"in {before['n_generations']:,} generations each (l2 at most {before['delta']:g}). As a control, the same "
        f"search among {before['nonmembers']['n_references']} held-out photos, which cannot leak, finds "
        f"{after['nonmembers']['distinct']} after and {before['nonmembers']['distinct']} before."
    )
    numbers = {"before": change["before"], "after": change["after"]} | _change_numbers(change)
    return Finding("extraction", "", direction, numbers, verdict[direction], details)


def _together(alone: AttackOutcome, reference: Reference, confidence: float) -> Finding:
    change, direction = reference["difference"], direction_of(reference["difference"], confidence)
    verdict = {
        1: "is stronger than on the base model alone",
        -1: "is weaker than on the base model alone",
        0: "shows no clear change",
    }
    details = (
        f"with the fine-tuned model as its reference, it has an AUC of {reference['auc']:.3f} on the base model "
        f"instead of {alone['before']['auc']:.3f}, {_paired(change)}."
    )
    numbers = {"before": alone["before"]["auc"], "after": reference["auc"]} | _change_numbers(change)
    words = f"The {alone['title']} attack with both models together {verdict[direction]}"
    return Finding("together", REFERENCED, direction, numbers, words, details)


def reference_of(record: RunRecord) -> Reference | None:
    """The result of `REFERENCED` with both models together, if it was run and the models differ."""
    attack = record["attacks"].get(REFERENCED)
    return attack.get("shake_reference") if attack and not is_unchanged(attack) else None


def blind_finding(blind: Blind) -> Finding:
    """What an attacker without the training photos would claim, and whether it is true, if that is known."""
    before, after = blind["before"], blind["after"]
    counts = {"before": len(before["clusters"]), "after": len(after["clusters"])}
    verdict = (
        f"An attacker without the training photos would flag {counts['before']} groups of near-duplicates before "
        f"fine-tuning and {counts['after']} after it"
    )
    details = (
        f"each group has at least {blind['min_size']} generations, all within a tiled l2 of {blind['edge']:g} of each "
        "other, and the attacker would claim that its middle one is a training photo"
    )
    right = [side["score"]["true_flags"] for side in (before, after) if side["score"] is not None]
    if not right:
        details += "; without the photos this cannot be checked."
        return Finding("blind", "", 0, dict(counts), verdict, details)
    details += f", which is true of {right[0]} and {right[1]} of them."
    numbers = counts | {"true_before": right[0], "true_after": right[1]}
    return Finding("blind", "", 0, dict(numbers), verdict, details)
