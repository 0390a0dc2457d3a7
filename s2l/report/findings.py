"""What a finished run or audit found, in rows and sentences: for the report, the command line and the app."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from s2l import __version__
from s2l.config import LAB, AuditRunConfig, RunConfig, checked
from s2l.measure import nonmembers_needed
from s2l.options import reproduce_command
from s2l.record import (
    AttackOutcome,
    Blind,
    BlindScore,
    Change,
    Cost,
    ExtractionOutcome,
    FrozenPoint,
    OperatingPoint,
    Part,
    RunRecord,
    Summary,
    When,
    known,
)

if TYPE_CHECKING:
    from s2l.record import Result


@dataclass(frozen=True)
class Row:
    """One line of the outcome: what was measured, before, after, and the paired difference."""

    group: str  # the attack's title, or "Extraction"
    what: str
    before: str
    after: str
    difference: str = ""
    p_value: str = ""
    detail: bool = False  # left out of the short table


def _two(group: str, what: str, values: Iterable[str], *paired: str, detail: bool = False) -> Row:
    """A row from its two values, before and after; `paired` is their difference and its p-value, if there is one."""
    before, after = values
    difference, p_value = paired or ("", "")
    return Row(group, what, before, after, difference, p_value, detail)


def percent(confidence: float) -> str:
    """.95 -> "95 %"."""
    return f"{100 * confidence:g} %"


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def config_of(record: RunRecord) -> RunConfig | AuditRunConfig:
    """The settings of a record: those of a run, or of an audit. Raises UserError for those of another version."""
    return checked(AuditRunConfig if record.get("kind") == "audit" else RunConfig, record["config"])


def _rate(point: OperatingPoint) -> str:
    if point["tpr"] is None:
        return _too_few("held-out", point["target_fpr"], point["n_nonmembers"])
    return f"{point['tpr']:.3f} [{point['low']:.2f}, {point['high']:.2f}], FPR {point['realised_fpr']:.3f}"


def _too_few(kind: str, target_fpr: float, has: int) -> str:
    return f"too few {kind} photos: needs at least {nonmembers_needed(target_fpr)}, has {has}"


def auc_in_words(summary: Summary) -> str:
    """ "0.598 [0.49, 0.70]"."""
    return f"{summary['auc']:.3f} [{summary['delong']['low']:.2f}, {summary['delong']['high']:.2f}]"


def change_in_words(found: Change) -> str:
    """A paired difference with its interval: "+0.019 [-0.005, +0.044]"."""
    return f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _attack_rows(attack: AttackOutcome) -> list[Row]:
    before, after, title = attack["before"], attack["after"], attack["title"]

    def paired(what: str, summary: Summary, change: Change, detail: bool = False) -> Row:
        aucs = auc_in_words(before), auc_in_words(summary)
        return _two(title, what, aucs, change_in_words(change), _p_value(change["p_value"]), detail=detail)

    rows = [paired("AUC", after, attack["difference"])]
    if (reference := attack.get("shake_reference")) is not None:
        what = "AUC of both models together: fine-tuned model as reference"
        rows.append(paired(what, reference, reference["difference"]))
    for points in zip(before["tpr_at_fpr"], after["tpr_at_fpr"], strict=True):
        target = percent(points[0]["target_fpr"])
        rows.append(_two(title, f"TPR at no more than {target} FPR", map(_rate, points), detail=True))
    for frozen in frozen_pairs(attack):
        what = f"TPR at the threshold frozen for {percent(frozen[0]['target_fpr'])} FPR"
        rows.append(_two(title, what, map(_frozen_rate, frozen), detail=True))
    rows.append(Row(title, "AUC of the change of the score alone", "", auc_in_words(attack["shake"]), detail=True))
    if (relative := attack.get("shake_relative")) is not None:
        rows.append(Row(title, "AUC of the relative change alone", "", auc_in_words(relative), detail=True))
    if (original := attack.get("original_captions")) is not None:
        what = "AUC with the original captions (no token for the name)"
        rows.append(paired(what, original["after"], original["difference"], detail=True))
    best = [f"{x['best_accuracy']['balanced_accuracy']:.3f}" for x in (before, after)]
    return [*rows, _two(title, "best balanced accuracy (optimistic)", best, detail=True)]


def frozen_pairs(attack: AttackOutcome) -> list[tuple[FrozenPoint, FrozenPoint]]:
    """(before, after) a target FPR, where a calibration part froze thresholds."""
    frozen = attack.get("frozen")
    return list(zip(frozen["before"], frozen["after"], strict=True)) if frozen else []


def _frozen_rate(frozen: FrozenPoint) -> str:
    point = frozen["point"]
    if point is None:
        return _too_few("calibration", frozen["target_fpr"], frozen["n_calibration"])
    tpr, fpr = point["tpr_exact"], point["fpr_exact"]
    return (
        f"{point['tpr']:.3f} [{tpr['low']:.2f}, {tpr['high']:.2f}], "
        f"FPR {point['realised_fpr']:.3f} [{fpr['low']:.3f}, {fpr['high']:.3f}]"
    )


def _blind_rows(blind: Blind) -> list[Row]:
    """What somebody without the training photos would flag, and how often that is right."""
    sides = [blind["before"], blind["after"]]
    counts = [str(len(side["clusters"])) for side in sides]
    rows = [_two("Without the training photos", "groups of near-duplicates that an attacker would flag", counts)]
    scores = [side["score"] for side in sides if side["score"] is not None]
    if not scores:
        return rows

    def right(score: BlindScore) -> str:
        if score["precision"] is None:
            return "nothing flagged"
        interval = f"[{score['precision_low']:.2f}, {score['precision_high']:.2f}]"
        return f"{score['true_flags']} (precision {score['precision']:.2f} {interval})"

    wrong = [str(score["nonmember_flags"]) for score in scores]
    return [
        *rows,
        _two(rows[0].group, "flags that show a training photo", map(right, scores), detail=True),
        _two(rows[0].group, "flags that show a held-out photo", wrong, detail=True),
    ]


def _extraction_rows(found: ExtractionOutcome) -> list[Row]:
    before, after, change = found["before"], found["after"], found["difference"]
    members, control = before["members"]["n_references"], before["nonmembers"]["n_references"]

    def row(
        what: str, part: Part, field: Literal["distinct", "matching_generations"], *more: str, detail: bool = False
    ) -> Row:
        return _two("Extraction", what, (str(x[part][field]) for x in (before, after)), *more, detail=detail)

    difference = f"{change['difference']:+d} [{change['low']:+.0f}, {change['high']:+.0f}]"
    p_value = _p_value(change["p_value"])
    return [
        row(f"training photos extracted, of {members}", "members", "distinct", difference, p_value),
        Row("Extraction", f"of these, eidetic at k = {before['k']}", str(before["eidetic"]), str(after["eidetic"])),
        row(f"control: held-out photos, of {control}", "nonmembers", "distinct"),
        row("generations close to a training photo", "members", "matching_generations", detail=True),
        *_cost_rows(found.get("cost")),  # results of older versions have none
    ]


def _cost_rows(cost: dict[When, Cost] | None) -> list[Row]:
    """What the generations cost, and how many training photos that bought."""
    if cost is None:
        return []
    spent = [f"{cost[when]['unet_evaluations']:,}" for when in ("before", "after")]
    rates = ["{per_1000:.2f} [{low:.2f}, {high:.2f}]".format(**cost[when]) for when in ("before", "after")]
    return [
        _two("Extraction", "UNet evaluations, choice of seeds included", spent, detail=True),
        _two("Extraction", "training photos per 1,000 UNet evaluations", rates, detail=True),
    ]


def outcome(result: Result) -> list[Row]:
    """Every measured number of a run with its interval; rows with `detail` are for the long table."""
    rows = [row for attack in result.record["attacks"].values() for row in _attack_rows(attack)]
    if result.record["extraction"] is not None:
        rows += _extraction_rows(result.record["extraction"])
    if (flags := result.record.get("blind")) is not None:
        rows += _blind_rows(flags)
    if (control := result.record["control"]) is not None:
        auc = f"{control['auc']:.3f} [{control['low']:.2f}, {control['high']:.2f}]"
        rows.append(Row("Blind control", "AUC of a classifier that never sees the model", auc, ""))
    return rows


def set_sentence(attack: AttackOutcome, confidence: float) -> str:
    """Whether the photos as one set were trained on, by one attack: a p-value before and after in one sentence."""
    before, after = (attack["set_evidence"][when]["p_value"] for when in ("before", "after"))
    where = {
        (True, True): "under both models",
        (False, True): "under the fine-tuned model only",
        (True, False): "under the model before fine-tuning only",
        (False, False): "under neither model",
    }[before < 1 - confidence, after < 1 - confidence]
    n = attack["set_evidence"]["after"]["n_members"]
    return (
        f"By {attack['title']} the set stands out {where}: were these {n} photos like the held-out ones, scores this "
        f"high would occur with p {_is(before)} before fine-tuning and p {_is(after)} after it."
    )


def set_rule(confidence: float) -> str:
    """How to read the p-values of `set_sentence`."""
    return f"a p below {1 - confidence:.2g} is evidence that the photos as a set were trained on"


def _is(p: float) -> str:
    return _p_value(p) if p < 0.001 else f"= {_p_value(p)}"


def seeds(config: RunConfig | AuditRunConfig) -> dict[str, str]:
    """Which seeds were used, in words."""
    start, end = config.extraction.seed, config.extraction.seed + config.extraction.pool_size - 1
    found = {"choice of photos": str(config.domain.seed)}
    if isinstance(config, RunConfig):
        first, last = config.sp_set.seed, config.sp_set.seed + config.sp_set.set_size - 1
        found |= {"SP set, one an image": f"{first} to {last}", "fine-tuning": str(config.finetune.seed)}
    return found | {
        "noise of the attacks": str(config.audit.seed),
        "generations, one an image, the same before and after": f"{start} to {end}",
    }


def result_json(result: Result) -> RunRecord:
    """The content of result.json: the record, the program's version and the command that repeats the run."""
    return result.record | {"s2l_version": __version__, "command": command_of(result)}


def command_of(result: Result) -> str:
    """The command that makes the run again, in the precision that it was made in."""
    return reproduce_command(config_of(result.record), dtype=result.record["model"]["precision"])


# --- how far to trust it ---------------------------------------------------------------------------


def of_a_lab(record: RunRecord, config: RunConfig | AuditRunConfig) -> bool:
    """Whether the model was a lab's. Results of before labs had names know one lab only."""
    return bool(record["model"].get("lab", config.model == LAB))


def reference_set(record: RunRecord) -> bool:
    """Whether the photos judged as members are known to be none: a lab that was trained on no private photo."""
    repeats = record["domain"]["repeats"]  # empty where nobody knows how often a photo was repeated
    return bool(repeats) and not any(repeats)


def split_sentence(record: RunRecord, config: RunConfig | AuditRunConfig) -> str:
    """Where members and held-out photos come from."""
    domain = record["domain"]
    if reference_set(record):
        return (
            f"{domain['n_members']} photos of a reference set and {domain['n_nonmembers']} held-out photos: a random "
            "split of one distribution, since the same program drew all of them. The model was trained on none."
        )
    if record["extraction"] is None:
        return "No folders of members and non-members were given."
    counts = f"{domain['n_members']} training photos (members) and {domain['n_nonmembers']} held-out photos"
    if any(aside := domain.get("n_calibration", [0, 0])):
        counts += f", besides {aside[0]} and {aside[1]} that were set aside to freeze thresholds and weights on"
    if of_a_lab(record, config) and config.domain.members is None:
        return (
            f"{counts}: a random split of one distribution, since the same program drew all of them and only the "
            "members were ever trained on."
        )
    return (
        f"{counts}, from two folders. The curve means what it says only if both are a random split of one source: "
        "otherwise an attack may simply tell the folders apart."
    )


def quick_note(record: RunRecord) -> str:
    """That the preset `quick` is too small to conclude anything from, or ""."""
    if record["config"]["preset"] != "quick":
        return ""
    return "A quick run: so few pictures and photos show how it works, not what leaks."


def warning(record: RunRecord) -> str:
    """What a reader must know before any number, or ""."""
    if reference_set(record):
        return (
            f"This model was trained on no photo of {record['domain']['name']}. What is called a member or a training "
            "photo below is one of a reference set, judged as if it were one: the numbers show what chance gives."
        )
    control = record["control"]
    if control is None or not control["confounded"]:
        return ""
    return (
        "This split is confounded: a classifier that never sees the model tells members from held-out photos with an "
        f"AUC of {control['auc']:.2f} (interval {control['low']:.2f} to {control['high']:.2f}, wholly above .5), so "
        "the two sets differ by themselves, and part of every AUC below is not leakage."
    )


def combination_sentence(attack: AttackOutcome) -> str:
    """How the weights of an attack with components were fitted."""
    fitted = known(attack["calibration"])
    if not fitted["fitted_on"]:
        return (
            f"{attack['title']} is not calibrated: there was no calibration data, so its score is the first component "
            "alone."
        )
    sets = "one calibration set" if fitted["fitted_on"] == 1 else f"{fitted['fitted_on']} calibration people"
    return (
        f"{attack['title']} weighs its two scaled components {fitted['alpha']:g} to {1 - fitted['alpha']:.2g}; weight "
        f"and scales were fitted on {sets} under the model before fine-tuning, and frozen for both models; none of "
        "those photos is judged here."
    )


def limits(record: RunRecord, config: RunConfig | AuditRunConfig) -> list[str]:
    """What the numbers do not say, one sentence each."""
    found = [
        "This is one person and one model: the intervals speak of other photos of this person, not of other people."
    ]
    if len(record["attacks"]) > 1:
        found.append("Each p-value stands alone: none is corrected for the number of attacks.")
    sampler = config.extraction.sampler
    if record["extraction"] is not None:
        found += [
            f"Extraction counts grow with the number of generations and depend on guidance: these hold for "
            f"{config.extraction.n_generations:,} generations with {sampler.scheduler}, {sampler.num_inference_steps} "
            f"steps, guidance {sampler.guidance_scale:g}.",
            f"The autoencoder alone costs an l2 of {record['extraction']['floor']['mean']:.3f} on average: nothing "
            "can be expected closer than that.",
            "TPR at a very low FPR rests on a few held-out photos; where there are too few, no number is given.",
        ]
    if config.extraction.seed_pool is not None:
        found.append(
            f"The seeds are no random sample: the model before fine-tuning chose them from "
            f"{config.extraction.seed_pool:,}."
        )
    if config.extraction.guidance_w is not None:
        found.append(
            f"The generations after fine-tuning follow both models (w = {config.extraction.guidance_w:g}) at twice the "
            "cost: their difference from before is not that of the weights alone."
        )
    if of_a_lab(record, config):
        found.append(
            "The lab's model is small and its people are drawn: the mechanism carries over to large models, the "
            "figures do not."
        )
    return found
