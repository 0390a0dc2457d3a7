"""The results of a run or audit in rows and sentences, for the report, the command line and the app."""

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
    Control,
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

SAME_SCORES = "identical scores"  # in place of a difference and its interval


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
    """A row from two values, before and after; `paired` is their difference and its p-value, if there is one."""
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


def is_unchanged(attack: AttackOutcome) -> bool:
    """Whether every photo has exactly the same score before and after: then nothing was compared."""
    return attack["scores"]["before"] == attack["scores"]["after"]


def _rate(point: OperatingPoint) -> str:
    if point["tpr"] is None:
        return _too_few("held-out", point["target_fpr"], point["n_nonmembers"])
    return f"{point['tpr']:.3f} [{point['low']:.2f}, {point['high']:.2f}], FPR {point['realised_fpr']:.3f}"


def _too_few(kind: str, target_fpr: float, has: int) -> str:
    return f"too few {kind} photos: needs at least {nonmembers_needed(target_fpr)}, has {has}"


def auc_in_words(summary: Summary) -> str:
    """ "0.598 [0.49, 0.70]"."""
    return f"{summary['auc']:.3f} [{summary['delong']['low']:.2f}, {summary['delong']['high']:.2f}]"


def change_in_words(change: Change) -> str:
    """A paired difference with its interval: "+0.019 [-0.005, +0.044]"."""
    return f"{change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"


def _attack_rows(attack: AttackOutcome) -> list[Row]:
    before, after, title = attack["before"], attack["after"], attack["title"]

    def paired(what: str, summary: Summary, change: Change, detail: bool = False) -> Row:
        aucs = auc_in_words(before), auc_in_words(summary)
        return _two(title, what, aucs, change_in_words(change), _p_value(change["p_value"]), detail=detail)

    unchanged = is_unchanged(attack)
    rows = [paired("AUC", after, attack["difference"])]
    if unchanged:
        rows = [_two(title, "AUC", map(auc_in_words, (before, after)), SAME_SCORES, "")]
    elif (reference := attack.get("shake_reference")) is not None:
        what = "AUC of both models together: fine-tuned model as reference"
        rows.append(paired(what, reference, reference["difference"]))
    for points in zip(before["tpr_at_fpr"], after["tpr_at_fpr"], strict=True):
        target = percent(points[0]["target_fpr"])
        rows.append(_two(title, f"TPR at no more than {target} FPR", map(_rate, points), detail=True))
    for frozen in frozen_pairs(attack):
        what = f"TPR at the threshold frozen for {percent(frozen[0]['target_fpr'])} FPR"
        rows.append(_two(title, what, map(_frozen_rate, frozen), detail=True))
    if not unchanged:
        rows.append(Row(title, "AUC of the change of the score alone", "", auc_in_words(attack["shake"]), detail=True))
    if not unchanged and (relative := attack.get("shake_relative")) is not None:
        rows.append(Row(title, "AUC of the relative change alone", "", auc_in_words(relative), detail=True))
    if (original := attack.get("original_captions")) is not None:
        what = "AUC with the original captions (no token for the name)"
        rows.append(paired(what, original["after"], original["difference"], detail=True))
    best = [f"{x['best_accuracy']['balanced_accuracy']:.3f}" for x in (before, after)]
    return [*rows, _two(title, "best balanced accuracy (optimistic)", best, detail=True)]


def frozen_pairs(attack: AttackOutcome) -> list[tuple[FrozenPoint, FrozenPoint]]:
    """(before, after) for each target FPR, if thresholds were frozen on a calibration part."""
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
    """What an attacker without the training photos would flag, and how often that is right."""
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


def _extraction_rows(extraction: ExtractionOutcome) -> list[Row]:
    before, after, change = extraction["before"], extraction["after"], extraction["difference"]
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
        *_cost_rows(extraction.get("cost")),  # results of older versions have none
    ]


def _cost_rows(cost: dict[When, Cost] | None) -> list[Row]:
    """What the generations cost, and how many training photos were extracted for it."""
    if cost is None:
        return []
    evaluations = [f"{cost[when]['unet_evaluations']:,}" for when in ("before", "after")]
    rates = ["{per_1000:.2f} [{low:.2f}, {high:.2f}]".format(**cost[when]) for when in ("before", "after")]
    return [
        _two("Extraction", "UNet evaluations, choice of seeds included", evaluations, detail=True),
        _two("Extraction", "training photos per 1,000 UNet evaluations", rates, detail=True),
    ]


def outcome(result: Result) -> list[Row]:
    """Every measured number of a run with its interval; rows with `detail` are for the long table only."""
    rows = [row for attack in result.record["attacks"].values() for row in _attack_rows(attack)]
    if result.record["extraction"] is not None:
        rows += _extraction_rows(result.record["extraction"])
    if (flags := result.record.get("blind")) is not None:
        rows += _blind_rows(flags)
    if (control := result.record["control"]) is not None:
        auc = f"{control['auc']:.3f} [{control['low']:.2f}, {control['high']:.2f}]"
        rows.append(Row("Blind control", "AUC of a classifier that never sees the model", auc, ""))
        if (fine := control.get("fine")) is not None:
            auc = f"{fine['auc']:.3f} (p {_is(fine['p_value'])})"
            rows.append(Row("Blind control", "the same on the finest differences of pixels", auc, ""))
    return rows


def set_sentence(attack: AttackOutcome, confidence: float) -> str:
    """One attack's evidence that the photos as a set were trained on: the p-values before and after in a sentence."""
    before, after = (attack["set_evidence"][when]["p_value"] for when in ("before", "after"))
    where = {
        (True, True): "under both models",
        (False, True): "under the fine-tuned model only",
        (True, False): "under the model before fine-tuning only",
        (False, False): "under neither model",
    }[before < 1 - confidence, after < 1 - confidence]
    n = attack["set_evidence"]["after"]["n_members"]
    return (
        f"In the {attack['title']} attack, the set stands out {where}: if these {n} photos were like the held-out "
        f"ones, scores at least this high would occur with p {_is(before)} before fine-tuning and p {_is(after)} after."
    )


def set_rule(confidence: float) -> str:
    """How to read the p-values of `set_sentence`."""
    return f"a p below {1 - confidence:.2g} is evidence that the photos as a set were trained on"


def _is(p: float) -> str:
    return _p_value(p) if p < 0.001 else f"= {_p_value(p)}"


def seeds(config: RunConfig | AuditRunConfig) -> dict[str, str]:
    """{what a seed decided: the seeds used}, in words."""
    start, end = config.extraction.seed, config.extraction.seed + config.extraction.pool_size - 1
    rows = {"choice of photos": str(config.domain.seed)}
    if isinstance(config, RunConfig):
        first, last = config.sp_set.seed, config.sp_set.seed + config.sp_set.set_size - 1
        rows |= {"SP set, one per picture": f"{first} to {last}", "fine-tuning": str(config.finetune.seed)}
    return rows | {
        "noise of the attacks": str(config.audit.seed),
        "generations, one each, the same before and after": f"{start} to {end}",
    }


def result_json(result: Result) -> RunRecord:
    """The content of result.json: the record, the program's version and the command that repeats the run."""
    return result.record | {"s2l_version": __version__, "command": command_of(result)}


def command_of(result: Result) -> str:
    """The command that repeats the run in the same precision."""
    return reproduce_command(config_of(result.record), dtype=result.record["model"]["precision"])


# --- how far to trust it ---------------------------------------------------------------------------


def of_a_lab(record: RunRecord, config: RunConfig | AuditRunConfig) -> bool:
    """Whether the model was a lab. Older results, from before labs had names, can only mean the one lab there was."""
    return bool(record["model"].get("lab", config.model == LAB))


def reference_set(record: RunRecord) -> bool:
    """Whether the photos judged as members are known not to be members: the lab was trained on no private photo."""
    repeats = record["domain"]["repeats"]  # empty if it is unknown how often photos were repeated
    return bool(repeats) and not any(repeats)


def split_sentence(record: RunRecord, config: RunConfig | AuditRunConfig) -> str:
    """Where members and held-out photos come from."""
    domain = record["domain"]
    if reference_set(record):
        return (
            f"{domain['n_members']} photos of a reference set and {domain['n_nonmembers']} held-out photos: a random "
            "split of one distribution, because the same program drew all of them. The model was trained on none of "
            "them."
        )
    if record["extraction"] is None:
        return "No folders of members and held-out photos were given."
    counts = f"{domain['n_members']} training photos (members) and {domain['n_nonmembers']} held-out photos"
    if any(aside := domain.get("n_calibration", [0, 0])):
        counts += f", besides {aside[0]} and {aside[1]} that were set aside to choose thresholds and weights"
    if of_a_lab(record, config) and config.domain.members is None:
        return (
            f"{counts}: a random split of one distribution, because the same program drew all of them and the model "
            "was trained on the members only."
        )
    return (
        f"{counts}, from two folders. The ROC curve measures leakage only if both are a random split of one source: "
        "otherwise an attack may simply recognize which folder a photo is from."
    )


def after_note(record: RunRecord) -> str:
    """What "after" means if it is not the fine-tuned model; otherwise ""."""
    if (unshake := record.get("unshake")) is None:
        return ""
    means = {"weights": "a mix of the weights", "scores": "a mix of the two models' noise predictions"}[
        unshake["space"]
    ]
    return (
        f"Here “after” is not the fine-tuned model but the un-shaken one, base + w (base - fine-tuned) with "
        f"w = {unshake['w']:g}, {means}; “after fine-tuning” and “the fine-tuned model” below mean this model."
    )


def loss_over_w(record: RunRecord) -> str:
    """The Loss attack's AUC for every integer w in words, or "" if it was not measured."""
    unshake = record.get("unshake")
    if unshake is None or (curve := unshake["loss_curve"]) is None:
        return ""
    points = [
        f"{point['auc']:.3f} [{point['low']:.2f}, {point['high']:.2f}] at w = {point['w']:g}"
        for point in curve
        if point["w"] == int(point["w"])
    ]
    return (
        f"Un-shaken in scores, the Loss attack has an AUC of {', '.join(points)}; w = -1 is the fine-tuned model "
        "itself and 0 the base model. Choosing the best w afterwards would make the attack look better than it is."
    )


def quick_note(record: RunRecord) -> str:
    """A warning that the preset `quick` is too small to draw conclusions from, or ""."""
    if record["config"]["preset"] != "quick":
        return ""
    return "A quick run: with so few pictures and photos it shows how the lab works, not what leaks."


def warning(record: RunRecord) -> str:
    """What a reader should know before looking at any number, or ""."""
    if reference_set(record):
        return (
            f"This model was trained on no photo of {record['domain']['name']}. The photos called members or "
            "training photos below are a reference set, judged as if they were members: the numbers show what chance "
            "alone gives."
        )
    return control_warning(record["control"])


def control_warning(control: Control | None) -> str:
    """That the two sets of photos differ by themselves, and in what, or ""."""
    if control is not None and (fine := control.get("fine")) is not None and fine["differ"]:
        return (
            f"The two folders differ by themselves, most clearly in {fine['reason']}: a classifier that sees only the "
            f"finest differences of pixels, and never the model, tells members from held-out photos with an AUC of "
            f"{fine['auc']:.2f} (p {_is(fine['p_value'])}). Attacks react to such differences, so no AUC or p-value "
            "below is evidence of a leak."
        )
    if control is None or not control["confounded"]:
        return ""
    judged = f"p {_is(control['p_value'])}" if "p_value" in control else "entirely above .5"
    return (
        "This split is confounded: a classifier that never sees the model tells members from held-out photos with an "
        f"AUC of {control['auc']:.2f} (interval {control['low']:.2f} to {control['high']:.2f}, {judged}). "
        "The two sets already differ without any model, so part of every AUC below is not leakage."
    )


def combination_sentence(attack: AttackOutcome) -> str:
    """How the weights of an attack with components were fitted."""
    fitted = known(attack["calibration"])
    if not fitted["fitted_on"]:
        return (
            f"{attack['title']} is not calibrated: there was no calibration data, so its score is only the first "
            "component."
        )
    sets = "one calibration set" if fitted["fitted_on"] == 1 else f"{fitted['fitted_on']} calibration people"
    return (
        f"{attack['title']} weighs its two scaled components {fitted['alpha']:g} to {1 - fitted['alpha']:.2g}. Weight "
        f"and scales were fitted on {sets} with the base model and are the same for both models; none of those photos "
        "is under test here."
    )


def limits(record: RunRecord, config: RunConfig | AuditRunConfig) -> list[str]:
    """What the numbers do not say, one sentence each."""
    sentences = [
        "This is one person and one model: the intervals are about other photos of this person, not about other people."
    ]
    if len(record["attacks"]) > 1:
        sentences.append("The p-values are not corrected for the number of attacks.")
    sampler = config.extraction.sampler
    defence = f", and {sampler.mitigation}, a defence that whoever has the weights can leave out"
    if record["extraction"] is not None:
        sentences += [
            f"Extraction counts grow with the number of generations and depend on guidance: these hold for "
            f"{config.extraction.n_generations:,} generations with {sampler.scheduler}, {sampler.num_inference_steps} "
            f"steps, guidance {sampler.guidance_scale:g}{defence if sampler.mitigation else ''}.",
            f"The autoencoder alone changes a photo by an l2 of {record['extraction']['floor']['mean']:.3f} on "
            "average: a generation can hardly be closer to a photo than that.",
            "TPR at a very low FPR depends on a few held-out photos; if there are too few, no number is given.",
        ]
    if config.extraction.seed_pool is not None:
        sentences.append(
            f"The seeds are not a random sample: the base model chose them from {config.extraction.seed_pool:,}."
        )
    if config.extraction.guidance_w is not None:
        sentences.append(
            f"The generations after fine-tuning use both models (w = {config.extraction.guidance_w:g}) at twice the "
            "cost: they differ from those before by more than the weights."
        )
    if config.unshake is not None and config.unshake.space == "scores":
        sentences.append(
            "A noise prediction of the un-shaken model takes two UNet evaluations, so its attacks cost twice what the "
            "table of attacks says."
        )
    if of_a_lab(record, config):
        sentences.append(
            "The lab's model is small and its people are drawings: the numbers do not carry over to large models "
            "trained on real photos."
        )
    return sentences
