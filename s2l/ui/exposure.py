"""What a finished run says beyond its curves: a conclusion, the most exposed photos, the set, growth, blind flags."""

from __future__ import annotations

from markupsafe import Markup

from s2l.record import BOTH, Blind, Result
from s2l.report.findings import control_warning, reference_set, set_rule, set_sentence
from s2l.report.verdicts import REFERENCED, blind_finding, direction_of, reference_of, short_caution
from s2l.ui import html, runs, words

MOST = 8  # photos, or groups, that are shown


# --- conclusions -------------------------------------------------------------------------------------------


def conclusion_html(
    result: Result | None, attack: str = "", extraction: bool = True, title: str = "What this run shows"
) -> Markup:
    """Does the base model leak, what did the shake change, and how sure is that: one paragraph from the numbers.

    `attack` is the one to speak of; "" for the attack that has a finding about both models, or the last one. Without
    `extraction`, the counts stay unsaid: a visitor may not have predicted them yet.
    """
    if result is None or not result.record["attacks"]:
        return Markup()
    return html.block(
        Markup('<p class="verdict conclusion-of"><b>{}.</b> {}</p>').format(
            title,
            " ".join([*_membership(result, attack), *(_extraction(result) if extraction else []), how_sure(result)]),
        )
    )


def headline_html(result: Result, example: bool) -> Markup:
    """What a run says about membership, in a few sentences."""
    title = runs.title_of(result, example)
    return conclusion_html(result, extraction=False, title=title) + html.block(runs.notes_html(result))


def _membership(result: Result, attack: str) -> list[str]:
    record = result.record
    known = record["attacks"]
    name = attack if attack in known else REFERENCED if REFERENCED in known else list(known)[-1]
    found, confidence = known[name], record["config"]["audit"]["confidence"]
    before, after, title = found["before"], found["after"], found["title"]
    low, high = before["delong"]["low"], before["delong"]["high"]
    auc = f"AUC {before['auc']:.2f} [{low:.2f}, {high:.2f}], where guessing has 0.50"
    leaks = (
        "already leaks which photos it was trained on" if low > 0.5 else "gives no clear sign of which photos it saw"
    )
    if caution := short_caution(record["control"]):
        return [f"The {title} attack has {auc} before the shake, and AUC {after['auc']:.2f} after it. {caution}"]
    moved = direction_of(found["difference"], confidence)
    verdict = {1: "makes it worse", -1: "makes the attack weaker, not stronger", 0: "changes nothing clearly"}[moved]
    change = found["difference"]
    said = [
        f"The base model {leaks} ({title} attack: {auc}).",
        f"The shake {verdict}: AUC {after['auc']:.2f}, a change of {change['difference']:+.3f} "
        f"[{change['low']:+.3f}, {change['high']:+.3f}].",
    ]
    if name == REFERENCED and (reference := reference_of(record)) is not None:
        both = direction_of(reference["difference"], confidence)
        words = {1: "finds more", -1: "finds less", 0: "finds about as much"}[both]
        said.append(f"Somebody who has both models {words}: AUC {reference['auc']:.2f}.")
    return said


def _extraction(result: Result) -> list[str]:
    found = result.record["extraction"]
    if found is None:
        return []
    change, n = found["difference"], found["after"]["nonmembers"]
    return [
        f"{change['before']} of {change['n_members']} private photos come out of the base model and {change['after']} "
        f"after the shake; of {n['n_references']} photos that cannot leak, the same search finds {n['distinct']}."
    ]


def how_sure(result: Result) -> str:
    """What the intervals of this run can carry, in a sentence or two."""
    if reference_set(result.record) or control_warning(result.record["control"]):
        return "How sure: not at all, for the reason in the warning."
    if result.record["config"]["preset"] == "quick":
        return "How sure: not at all. A quick run is too small for conclusions."
    return (
        "How sure: with other photos of this person, 95 of 100 such brackets hold the true value; other people: step 6."
    )


# --- the record's further parts ----------------------------------------------------------------------------


def exposed_html(result: Result, attack: str) -> Markup:
    """The training photos that an attack scores highest after the shake."""
    found = result.record["attacks"][attack]
    exposed = found.get("most_exposed", [])[:MOST]
    if not exposed:
        return Markup()
    n = found["after"]["n_nonmembers"]

    def share(rank: float) -> str:
        return f"{100 * rank:.3g} %" if rank else f"under {100 / n:.2g} %"

    uris = runs.picture_uris(result, "members", [photo["index"] for photo in exposed])
    cards = html.pictures(
        html.picture(uri, f"training photo {photo['index'] + 1}",
                     f"{share(photo['fpr_rank_after'])}\nbefore {share(photo['fpr_rank_before'])}")
        for uri, photo in zip(uris, exposed, strict=True)
    )  # fmt: skip
    return html.block(
        Markup(
            "<h3>The most exposed photos</h3><p class=quiet>The training photos with the highest {} score after the "
            "shake. Below each: the share of innocent photos that score as high, which is how many an attacker must "
            "accuse wrongly to call this one a training photo.</p>{}"
        ).format(found["title"], cards)
    )


def set_html(result: Result, attack: str) -> Markup:
    """The photos as one set: evidence about all together is stronger than about one."""
    found = result.record["attacks"][attack]
    if "set_evidence" not in found:
        return Markup()
    confidence = result.record["config"]["audit"]["confidence"]
    text = f"{set_sentence(found, confidence)} Rule: {set_rule(confidence)}."
    text += f" {short_caution(result.record['control'])}"
    return html.block(Markup("<p>{}</p>").format(text.rstrip()))


def growth_html(result: Result) -> Markup:
    """How many training photos come out, against the number of generations; empty where it was not recorded."""
    found = result.record["extraction"]
    if found is None or result.extraction.get("curve") is None:
        return Markup()
    from s2l import figures

    drawing = runs.drawn(
        result, "growth", lambda dark, narrow: figures.extraction_curve_figure(result, dark, narrow),
        "Training photos that come out against the number of generations, before and after the shake",
    )  # fmt: skip
    return html.block(
        Markup(
            "<p class=quiet>Compare counts only at the same number of generations. Shaded: the 95 % interval for that "
            'many new ones.</p><div class="narrow">{}</div>'
        ).format(drawing)
    )


def blind_html(result: Result) -> Markup:
    """What an attacker who has none of the photos would flag; empty where it was not measured."""
    blind = result.record.get("blind")
    if blind is None:
        return Markup()
    parts = [
        Markup("<h4>{} the shake</h4>{}").format(when.capitalize(), _flags(result, blind, when))
        for when in BOTH
        if blind[when]["clusters"]
    ]
    return html.block(
        Markup("<p>{}</p>{}").format(
            words.explained(blind_finding(blind).sentence, ("tiled l2",)), Markup("").join(parts)
        )
    )


def _flags(result: Result, blind: Blind, when: str) -> Markup:
    """One picture of each group of near-duplicates before or after, with its size."""
    side = blind["before"] if when == "before" else blind["after"]
    groups, score = side["clusters"][:MOST], side["score"]
    uris = runs.picture_uris(result, when, [group["medoid"] for group in groups])
    shots = []
    for i, (uri, group) in enumerate(zip(uris, groups, strict=True)):
        right = score is not None and score["member_distances"][i] <= score["delta"]
        words = f"{group['size']} alike" + ("\n✓ a training photo" if right else "")
        shots.append(html.picture(uri, f"flagged picture {i + 1}, {when} the shake", words, right))
    return html.pictures(shots)
