"""Two runs side by side on the Compare tab: what differs between them, with intervals where they share their photos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup

from s2l.pipeline import identity
from s2l.record import Result
from s2l.report.findings import auc_in_words, config_of, control_warning
from s2l.ui import form, html, runs
from s2l.ui.heavy import ready

SEEDS = 6  # generations of each run that are shown
SAME = (
    "Both runs judge the same photos, so each difference has an interval: an interval that contains 0 means no clear "
    "difference."
)
OTHER = "The two runs judge different photos: a difference may come from the photos, so it has no interval here."


def settings_of(result: Result) -> dict[str, str]:
    """Every setting of a run and of its methods and attacks, defaults included, whatever version recorded it."""
    ready()
    return flat(identity.spelled_out(config_of(result.record)).model_dump(mode="json"))


def flat(values: dict, prefix: str = "") -> dict[str, str]:
    """{"finetune.max_train_steps": "300", ...} of a nested configuration."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = form.value_in_words(value)
    return found


def same_photos(first: Result, second: Result) -> bool:
    """Whether two runs judge the same members and the same held-out photos."""
    folders = (first.record["folders"], second.record["folders"])
    return all(
        folders[0].get(of) is not None and folders[0].get(of) == folders[1].get(of) for of in ("members", "nonmembers")
    )


def _change(value: float, low: float, high: float, digits: int = 3) -> str:
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def differences(first: Result, second: Result) -> list[tuple[str, str, str, str]]:
    """(what, run A, run B, B minus A) after the shake, of all that both runs measured."""
    ready()
    from s2l.measure.extraction_summary import paired_counts
    from s2l.measure.intervals import paired_auc_difference

    rows, paired = [], same_photos(first, second)
    one, two = first.record, second.record
    for name, found in one["attacks"].items():
        if (other := two["attacks"].get(name)) is None:
            continue
        text = f"{other['after']['auc'] - found['after']['auc']:+.3f}"
        if paired:
            change = paired_auc_difference(*first.scores(name, "after"), *second.scores(name, "after"))
            text = _change(change.difference, change.low, change.high)
        aucs = auc_in_words(found["after"]), auc_in_words(other["after"])
        rows.append((f"AUC of the {found['title']} attack", *aucs, text))
    if one["extraction"] is not None and two["extraction"] is not None:
        a, b = (result.extraction["after"] for result in (first, second))
        x, y = one["extraction"]["difference"], two["extraction"]["difference"]
        text = f"{y['after'] - x['after']:+d}"
        if paired and (a["delta"], a["n_generations"]) == (b["delta"], b["n_generations"]):
            one_out, two_out = (np.array(side["members"]["distances"]) <= side["delta"] for side in (a, b))
            found_both = paired_counts(one_out, two_out)
            text = _change(found_both.difference, found_both.low, found_both.high, 0)
        counts = f"{x['after']} of {x['n_members']}", f"{y['after']} of {y['n_members']}"
        rows.append(("Training photos that come out", *counts, text))
    return rows


def sentence(rows: Sequence[tuple[str, str, str, str]], paired: bool) -> str:
    """The conclusion from the rows of `differences`."""
    if not rows:
        return "The two runs measured nothing in common."
    if not paired:
        return OTHER
    clear = [(what, change) for what, _, _, change in rows if _sign(change)]
    if not clear:
        return "Between run A and run B, nothing that was measured differs clearly: every interval contains 0."
    said = "; ".join(
        f"{what}: {'higher' if _sign(change) > 0 else 'lower'} in run B, {change}" for what, change in clear
    )
    return f"{said}. All other differences are unclear." if len(clear) < len(rows) else f"{said}."


def caution(first: Result, second: Result) -> str:
    """That the photos of one or both runs differ by themselves, or ""."""
    runs_of = [name for name, run in (("A", first), ("B", second)) if control_warning(run.record["control"])]
    if not runs_of:
        return ""
    return (
        f"In run {' and run '.join(runs_of)} the two sets of photos differ by themselves, so the AUCs there are no "
        "evidence of a leak."
    )


def _sign(change: str) -> int:
    """+1 or -1 if the whole interval of a difference in words lies on one side of 0."""
    _, bracket, ends = change.partition("[")
    if not bracket:
        return 0
    low, high = (float(end) for end in ends.rstrip("]").split(", "))
    return 1 if low > 0 else -1 if high < 0 else 0


def _pictures(result: Result, title: str) -> Markup:
    """What a run's model draws after the shake, from its first seeds."""
    total = result.record["config"]["extraction"]["n_generations"]
    drawn = [
        html.picture(uri, f"run {title}, generation {i + 1} after the shake")
        for i, uri in enumerate(runs.picture_uris(result, "after", range(min(SEEDS, total))))
    ]
    return Markup('<h4>{}: {}</h4><div class="six">{}</div>').format(title, runs.what(result), Markup("").join(drawn))


def _side(result: Result, title: str, own: Iterable[str]) -> Markup:
    settings = settings_of(result)
    differing = Markup("").join(
        Markup("<li>{}: {}</li>").format(form.setting_in_words(name), settings[name][:80])
        for name in sorted(set(own) & settings.keys())
    )
    parts = [Markup("<h4>{}: {}</h4>").format(title, runs.what(result))]
    parts += [
        Markup('<p class="verdict {}"><b>{}.</b></p>').format(tone, verdict)
        for verdict, _, tone in runs.verdicts(result)
    ]
    if differing:
        parts.append(Markup("<p>Settings that differ from the other run:</p><ul>{}</ul>").format(differing))
    parts.append(
        Markup("<details><summary>All numbers of this run</summary>{}</details>").format(runs.outcome_html(result))
    )
    return Markup('<div class="card">{}</div>').format(Markup("").join(parts))


def sides_html(first: Result | None, second: Result | None) -> Markup:
    """Two runs: their difference, their pictures, and what differs in their settings."""
    if first is None or second is None:
        return html.block(Markup("<p class=quiet>Choose two runs. Your own finished runs appear in both lists.</p>"))
    if first.copy == second.copy and first.record == second.record:
        return html.block(Markup("<p class=quiet>Both are the same run: choose two different ones.</p>"))
    a, b = settings_of(first), settings_of(second)
    differ = {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}
    note = Markup() if differ else Markup("<p class=quiet>The two runs have the same settings.</p>")
    rows, paired = differences(first, second), same_photos(first, second)
    table = html.table(("after the shake", "run A", "run B", "B − A [95 %]" if paired else "B − A"), rows)
    return html.block(
        Markup('<p class="verdict" role="status">{}</p>').format(f"{sentence(rows, paired)} {caution(first, second)}"),
        note, table if rows else Markup(), Markup("<p class=quiet>{}</p>").format(SAME if paired else OTHER),
        Markup('<h3>What each model draws, from its first seeds</h3><div class="sides">'),
        *(Markup("<div>{}</div>").format(_pictures(r, t)) for r, t in ((first, "A"), (second, "B"))),
        Markup('</div><div class="sides">'), _side(first, "A", differ), _side(second, "B", differ), Markup("</div>"),
    )  # fmt: skip
