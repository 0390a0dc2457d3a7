"""What result.json holds, field by field, and a finished run. Loads no torch, so that the page opens at once.

The types below describe plain JSON: they cost nothing at run time, let mypy check who reads which field, and are the
source of docs/result-schema.md. A field that older results lack is `NotRequired`; one that could not be measured is
null. Higher scores mean members; lists over pictures have the order of their set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypeVar

import numpy as np
from typing_extensions import TypedDict

from s2l.damage import damage
from s2l.store import Store, read_json

if TYPE_CHECKING:
    from s2l.data.domain import ImageSet

When = Literal["before", "after"]  # the base model, the fine-tuned model
BOTH: tuple[When, When] = ("before", "after")
Part = Literal["members", "nonmembers"]
T = TypeVar("T")


# --- intervals and comparisons ---------------------------------------------------------------------


class Interval(TypedDict):
    """A confidence interval."""

    low: Annotated[float, "the lower end"]
    high: Annotated[float, "the upper end"]
    confidence: Annotated[float, "such as .95"]
    method: Annotated[str, "how it was computed, with its source"]


class Change(TypedDict):
    """A paired difference: the same photos, after minus before."""

    difference: Annotated[float, "the change of the AUC"]
    low: Annotated[float, "the lower end of its interval"]
    high: Annotated[float, "the upper end of its interval"]
    p_value: Annotated[float, 'two-sided, of "no difference"']
    method: Annotated[str, "how it was computed, with its source"]
    confidence: Annotated[float, "of the interval"]
    per_domain: Annotated[list[float] | None, "in tables over people, the change of each person"]


# --- attacks ---------------------------------------------------------------------------------------


class BestAccuracy(TypedDict):
    """The best threshold in hindsight, called ASR in the literature: optimistic."""

    balanced_accuracy: Annotated[float, "the highest over all thresholds"]
    threshold: Annotated[float, "the score at which it is reached"]
    tpr: Annotated[float, "true positive rate there"]
    fpr: Annotated[float, "false positive rate there"]


class OperatingPoint(TypedDict):
    """The true positive rate at a bounded false positive rate. Numbers are null with too few held-out photos."""

    target_fpr: Annotated[float, "the bound: .1, .01 or .001"]
    tpr: Annotated[float | None, "share of members at or above the threshold"]
    low: Annotated[float | None, "the lower end of its exact binomial interval"]
    high: Annotated[float | None, "the upper end of its exact binomial interval"]
    realised_fpr: Annotated[float | None, "share of held-out photos at or above the threshold"]
    threshold: Annotated[float | None, "photos with at least this score are called members"]
    n_members: Annotated[int, "members judged"]
    n_nonmembers: Annotated[int, "held-out photos judged"]
    note: Annotated[str, "why there are no numbers, in words; otherwise empty"]


class Summary(TypedDict):
    """One score on members and held-out photos."""

    auc: Annotated[float, "the area under the ROC curve; .5 is chance"]
    delong: Annotated[Interval, "its interval by DeLong's method"]
    bootstrap: Annotated[Interval, "its interval by a bootstrap over photos"]
    best_accuracy: Annotated[BestAccuracy, "the best threshold in hindsight"]
    tpr_at_fpr: Annotated[list[OperatingPoint], "for FPR 10 %, 1 % and 0.1 %"]
    n_members: Annotated[int, "members judged"]
    n_nonmembers: Annotated[int, "held-out photos judged"]


class Reference(Summary):
    """Both models together: weight * log(distance after) - log(distance before)."""

    weight: Annotated[float, "`audit.shake_weight`"]
    difference: Annotated[Change, "paired with `before`"]


class FrozenRates(TypedDict):
    """The rates at a threshold that was frozen on other photos."""

    threshold: Annotated[float, "frozen on the calibration part"]
    tpr: Annotated[float, "true positive rate"]
    tpr_exact: Annotated[Interval, "its exact binomial interval; valid because the threshold was frozen beforehand"]
    tpr_cluster: Annotated[Interval | None, "by a bootstrap over people; null for one person"]
    realised_fpr: Annotated[float, "false positive rate"]
    fpr_exact: Annotated[Interval, "its exact binomial interval"]
    fpr_cluster: Annotated[Interval | None, "by a bootstrap over people; null for one person"]
    n_domains: Annotated[int, "people judged"]
    n_members: Annotated[int, "members judged"]
    n_nonmembers: Annotated[int, "held-out photos judged"]


class FrozenPoint(TypedDict):
    """A bounded false positive rate whose threshold was frozen on the calibration part."""

    target_fpr: Annotated[float, "the bound: .1, .01 or .001"]
    n_calibration: Annotated[int, "held-out photos that the threshold was frozen on"]
    point: Annotated[FrozenRates | None, "null with too few calibration photos"]
    note: Annotated[str, "why there is no point, in words; otherwise empty"]


class SetEvidence(TypedDict):
    """Was the model trained on the photos as one set?"""

    p_value: Annotated[float, "one-sided; a small value is evidence that the set as a whole was trained on"]
    effect: Annotated[float, "the AUC of the set; .5 is no effect"]
    statistic: Annotated[float, "of the test"]
    method: Annotated[str, "the test, with its source"]
    n_members: Annotated[int, "photos in the set"]
    n_nonmembers: Annotated[int, "held-out photos that it is compared with"]


class ExposedPhoto(TypedDict):
    """A member with one of the highest scores after fine-tuning."""

    index: Annotated[int, "its place among the members"]
    score_before: Annotated[float, "its score on the base model"]
    score_after: Annotated[float, "its score on the fine-tuned model"]
    fpr_rank_before: Annotated[float, "share of held-out photos that score at least as high before"]
    fpr_rank_after: Annotated[float, "share of held-out photos that score at least as high after"]


class SplitScores(TypedDict):
    """All scores of one model."""

    members: Annotated[list[float], "one per member"]
    nonmembers: Annotated[list[float], "one per held-out photo"]


class Scale(TypedDict):
    """How a component of an attack is scaled."""

    median: Annotated[float, "of the calibration scores"]
    iqr: Annotated[float, "their third quartile minus their first"]


class Calibration(TypedDict):
    """How an attack with two components (CLiD) weighs them."""

    alpha: Annotated[float, "the weight of the first component"]
    scales: Annotated[list[Scale], "one per component"]
    fitted_on: Annotated[int, "number of calibration sets; 0 for the uncalibrated attack"]
    auc: Annotated[float | None, "mean AUC on these sets: optimistic"]


class OriginalCaptions(TypedDict):
    """The attack after fine-tuning with the base model's captions, for methods that replace the name by a token."""

    after: Annotated[Summary, "with the original captions"]
    difference: Annotated[Change, "paired with `before`"]


class AttackOutcome(TypedDict):
    """One attack on both models."""

    title: Annotated[str, "its name for readers"]
    source: Annotated[str, "the paper to cite"]
    settings: Annotated[dict[str, Any], "its settings"]
    unet_evaluations: Annotated[int, "the cost of judging one photo"]
    before: Annotated[Summary, "on the base model"]
    after: Annotated[Summary, "on the fine-tuned model"]
    difference: Annotated[Change, "the paired change of the AUC"]
    shake: Annotated[Summary, "the *change* of the score, used as a score, with the base model as the reference"]
    shake_relative: Annotated[
        Summary | None,
        "the same for the *relative* change, log(distance before / distance after). If fine-tuning only scales all "
        "distances, `shake` repeats the base model's score and this one is at chance. Null for scores that are not "
        "distances",
    ]
    shake_reference: Annotated[
        Reference | None,
        "both models together, the fine-tuned one as the reference of the base model. Null for scores that are not "
        "distances, and where the model after is un-shaken",
    ]
    original_captions: Annotated[OriginalCaptions | None, "null if the method keeps the name in captions"]
    calibration: Annotated[Calibration | None, "null for attacks with one component"]
    frozen: Annotated[
        dict[When, list[FrozenPoint]] | None,
        "TPR at thresholds frozen on the calibration part, for FPR 10 %, 1 % and 0.1 %; null without one",
    ]
    set_evidence: Annotated[dict[When, SetEvidence], "was the model trained on the photos as one set?"]
    most_exposed: Annotated[list[ExposedPhoto], "the members with the highest scores after"]
    scores: Annotated[dict[When, SplitScores], "all scores, for figures of your own"]


# --- extraction ------------------------------------------------------------------------------------


class Search(TypedDict):
    """A search for photos among generations."""

    n_references: Annotated[int, "photos searched for"]
    distinct: Annotated[int, "distinct photos with a generation within delta: the main result"]
    share: Annotated[float, "the same as a share of all photos"]
    share_low: Annotated[float, "the lower end of its exact 95 % interval"]
    share_high: Annotated[float, "the upper end of its exact 95 % interval"]
    matching_generations: Annotated[int, "generations with a photo within delta: what the published code counts"]
    nearest_generation: Annotated[list[int], "one per photo"]
    distances: Annotated[list[float], "l2 distance of each photo to that generation"]
    nearest_reference: Annotated[list[int], "the nearest photo, one per generation"]
    generation_distances: Annotated[list[float], "l2 distance of each generation to that photo"]
    curve: Annotated[list[int], "`distinct` at each of `thresholds`"]
    hits: Annotated[list[list[int]], "every pair [generation, photo] within delta"]


class Match(TypedDict):
    """A photo that was extracted."""

    reference: Annotated[int, "its place among the members"]
    generation: Annotated[int, "the nearest generation"]
    distance: Annotated[float, "their l2 distance"]
    extracted: Annotated[bool, "whether it lies within delta"]
    repeats: Annotated[int, "how often the photo was repeated in pre-training; 1 if unknown"]
    neighbours: Annotated[int | None, "training photos, counting repeats, within delta of the photo"]
    eidetic: Annotated[bool, "whether these are at most `k`"]


class Extraction(TypedDict):
    """One model's generations against members and held-out photos."""

    delta: Annotated[float, "a photo is extracted if a generation lies within this l2 distance"]
    k: Annotated[
        int, "an extracted photo is eidetic if at most this many training photos, counting repeats, are so close"
    ]
    n_generations: Annotated[int, "pictures searched, the same before and after"]
    thresholds: Annotated[list[float], "values of delta in the curves"]
    members: Annotated[Search, "the search for training photos"]
    nonmembers: Annotated[Search, "the same search for held-out photos: the control"]
    eidetic: Annotated[int, "extracted photos that are (k, l2, delta)-eidetic"]
    matches: Annotated[list[Match], "the extracted photos, nearest first"]
    repeats: Annotated[list[int], "how often each member was repeated; 1 if unknown"]
    nonmembers_scaled: Annotated[float, "the control's `distinct`, scaled to the number of members"]
    nonmember_generations_scaled: Annotated[float | None, "the control's `matching_generations`, scaled likewise"]
    nonmember_curve_scaled: Annotated[list[float], "the control's `curve`, scaled likewise"]


class Cost(TypedDict):
    """What the generations of one model cost, in UNet evaluations: one latent through the UNet counts as one."""

    selection: Annotated[int, "for choosing seeds"]
    denoising: Annotated[int, "for generating the pictures"]
    unet_evaluations: Annotated[int, "the sum of both"]
    per_1000: Annotated[float, "distinct training photos per 1,000 evaluations"]
    low: Annotated[float, "the lower end of its exact 95 % interval"]
    high: Annotated[float, "the upper end of its exact 95 % interval"]
    nonmembers_per_1000: Annotated[float, "the control, scaled to the number of members"]


class Opinion(TypedDict):
    """A pair of photo and generation by other distances."""

    reference: Annotated[int, "the photo's place among the members"]
    generation: Annotated[int, "the generation's place"]
    extracted: Annotated[bool, "whether the pair lies within delta"]
    l2: Annotated[float, "root mean square over pixels"]
    tiled_l2: Annotated[float | None, "the largest over sixteen tiles; null where these do not fit the picture"]
    ssim: Annotated[float, "structural similarity; 1 for equal pictures"]


class Growth(TypedDict):
    """Distinct training photos against the number of generations."""

    counts: Annotated[list[int], "numbers of generations"]
    mean: Annotated[list[float], "mean over all subsets of that size"]
    low: Annotated[list[float], "the lower end of the 95 % interval for new generations"]
    high: Annotated[list[float], "the upper end of that interval"]


class CountChange(TypedDict):
    """Distinct training photos, after minus before."""

    before: Annotated[int, "with the base model"]
    after: Annotated[int, "with the fine-tuned model"]
    difference: Annotated[int, "after minus before"]
    low: Annotated[float, "the lower end of its interval, by a bootstrap over photos"]
    high: Annotated[float, "the upper end of that interval"]
    only_before: Annotated[int, "photos extracted before only"]
    only_after: Annotated[int, "photos extracted after only"]
    p_value: Annotated[float, "McNemar's test, exact"]
    n_members: Annotated[int, "photos searched for"]


class Floor(TypedDict):
    """The l2 distance that the autoencoder alone causes."""

    mean: Annotated[float, "over held-out photos"]
    p95: Annotated[float, "their 95th percentile"]
    n: Annotated[int, "number of photos"]


class ExtractionOutcome(TypedDict):
    """The extraction with both models' generations."""

    before: Annotated[Extraction, "with the base model's generations"]
    after: Annotated[Extraction, "with the fine-tuned model's generations"]
    difference: Annotated[CountChange, "after minus before"]
    floor: Annotated[Floor, "what the autoencoder alone causes"]
    cost: NotRequired[Annotated[dict[When, Cost], "what the generations cost"]]
    opinions: NotRequired[
        Annotated[dict[When, list[Opinion]], "the nearest pairs and all extracted pairs, by other distances"]
    ]
    curve: NotRequired[Annotated[dict[When, Growth], "distinct training photos against the number of generations"]]


# --- without the photos ----------------------------------------------------------------------------


class Cluster(TypedDict):
    """Generations that all resemble each other."""

    generations: Annotated[list[int], "their places, increasing"]
    medoid: Annotated[int, "the most central one: the flag"]
    size: Annotated[int, "number of generations"]
    mean_distance: Annotated[float, "tiled l2 over their pairs"]
    max_distance: Annotated[float, "the largest of these"]


class BlindScore(TypedDict):
    """How often the flags are right."""

    delta: Annotated[float, "a flag is right within this l2 distance of a member"]
    n_flags: Annotated[int, "number of flags"]
    true_flags: Annotated[int, "flags that are right"]
    precision: Annotated[float | None, "their share; null without flags"]
    precision_low: Annotated[float | None, "the lower end of its interval"]
    precision_high: Annotated[float | None, "the upper end of its interval"]
    n_members: Annotated[int, "number of members"]
    distinct: Annotated[int, "members that were flagged"]
    recall: Annotated[float, "their share"]
    recall_low: Annotated[float, "the lower end of its interval"]
    recall_high: Annotated[float, "the upper end of its interval"]
    n_nonmembers: Annotated[int, "number of held-out photos: the control"]
    nonmember_flags: Annotated[int, "flags within delta of one of them"]
    nonmember_distinct: Annotated[int, "held-out photos that were flagged"]
    nonmember_scaled: Annotated[float, "the same, scaled to the number of members"]
    flags: Annotated[list[int], "the flagged generations"]
    nearest_member: Annotated[list[int], "for each flag, the nearest member"]
    member_distances: Annotated[list[float], "for each flag, the l2 distance to that member"]
    nonmember_distances: Annotated[list[float], "for each flag, the l2 distance to the nearest held-out photo"]


class Flags(TypedDict):
    """What an attacker without the photos flags among one model's generations."""

    clusters: Annotated[list[Cluster], "largest first"]
    score: Annotated[BlindScore | None, "null without known members"]


class Blind(TypedDict):
    """Flags that use only the generations and the person's name; they are compared with the photos afterwards."""

    edge: Annotated[float, "generations of a cluster lie within this tiled l2 of each other"]
    min_size: Annotated[int, "a cluster has at least this many generations"]
    before: Annotated[Flags, "with the base model's generations"]
    after: Annotated[Flags, "with the fine-tuned model's generations"]


class FineDifference(TypedDict):
    """The same question at the finest scale, for folders of one's own: compression, sharpness, noise, colour."""

    auc: Annotated[float, "about .5 for a random split"]
    p_value: Annotated[float, "one-sided, by exchanging the labels at random"]
    differ: Annotated[bool, "true if `p_value` is at most .025: the folders differ by themselves"]
    reason: Annotated[str, 'what tells them apart best: "compression or noise", "sharpness" or "colour"']
    by_group: Annotated[dict[str, float], "by each of these alone, the distance in standard deviations"]
    method: Annotated[str, "how it was measured"]


class Control(TypedDict):
    """A classifier that never sees the model tries to tell members from held-out photos."""

    auc: Annotated[float, "about .5 for a random split"]
    low: Annotated[float, "the lower end of its interval"]
    high: Annotated[float, "the upper end of its interval"]
    confounded: Annotated[
        bool,
        "true if `p_value` is at most .025: the sets differ by themselves, and the attacks' AUC is not only leakage",
    ]
    method: Annotated[str, "how it was measured"]
    p_value: NotRequired[
        Annotated[float, "one-sided, by exchanging the labels at random; older results have none and judged by `low`"]
    ]
    fine: NotRequired[Annotated[FineDifference, "only for folders of one's own: a lab's split is random"]]


# --- un-shake --------------------------------------------------------------------------------------


class UnshakePoint(TypedDict):
    """The Loss attack at one w."""

    w: Annotated[float, "-1 is the fine-tuned model, 0 the base model"]
    auc: Annotated[float, "the area under the ROC curve"]
    low: Annotated[float, "the lower end of its interval by DeLong's method"]
    high: Annotated[float, "the upper end of that interval"]


class Unshake(TypedDict):
    """The model after is not the fine-tuned one but base + w (base - fine-tuned)."""

    w: Annotated[float, "of the model after"]
    space: Annotated[str, 'what was mixed: "weights", or "scores", both models\' noise predictions']
    loss_curve: Annotated[
        list[UnshakePoint] | None,
        "the Loss attack for w from -2 to 4, always in scores, where one more number per photo gives the whole curve; "
        "null without the Loss attack or known members",
    ]


# --- a run -----------------------------------------------------------------------------------------


class Checkpoint(TypedDict):
    """The base model."""

    name: Annotated[str, 'as given: "lab", "lab:NAME", a folder, a file or a hub id']
    lab: NotRequired[Annotated[str | None, 'the lab\'s name; null for others. Older results lack it: "lab" is "fresh"']]
    revision: Annotated[str | None, "the commit of a hub id"]
    key: Annotated[str, "a hash of the weights and, unless it is a lab, of its configuration and tokenizer"]
    precision: Annotated[str, "of the computation"]
    parameters: Annotated[int, "of UNet and text encoder"]
    notes: NotRequired[Annotated[list[str], "what had to be done to load it, such as wrappers taken off names"]]


class LeftOut(TypedDict):
    """Photos of a folder that are not used for one reason."""

    reason: Annotated[str, "why"]
    count: Annotated[int, "number of photos"]
    names: Annotated[list[str], "the first names"]


class NearCopies(TypedDict):
    """Photos that are nearly equal: by a perceptual hash, confirmed by their pixels."""

    count: Annotated[int, "photos that have a near-copy; between the folders, held-out photos"]
    pairs: Annotated[list[list[str]], "the first pairs of names"]


class FolderFacts(TypedDict):
    """One folder of photos; counts by kind are over the photos used."""

    found: Annotated[int, "photos in the folder: `used`, `unread` and those left out"]
    used: Annotated[int, "photos that are used"]
    unread: Annotated[int, "photos that were not needed"]
    left_out: Annotated[list[LeftOut], "by reason"]
    other_files: Annotated[dict[str, int], "files that are neither pictures nor captions, by suffix"]
    captioned: Annotated[int, "used photos with a caption of their own"]
    unmatched_captions: Annotated[int, "captions that match no picture"]
    formats: Annotated[dict[str, int], "photos by file format"]
    sizes: Annotated[dict[str, int], "photos by width x height in pixels, upright"]
    jpeg_qualities: Annotated[dict[str, int], "JPEGs by quality, estimated from the quantization tables"]
    jpeg_tables: Annotated[int, "different sets of quantization tables"]
    metadata: Annotated[dict[str, int], "photos by kind of metadata, such as EXIF"]
    near_copies: Annotated[NearCopies, "within the folder"]


class FolderReport(TypedDict):
    """What the two folders hold."""

    members: Annotated[FolderFacts, "the members' folder"]
    nonmembers: Annotated[FolderFacts, "the held-out photos' folder"]
    near_copies: Annotated[NearCopies, "between the folders: [held-out photo, member]"]
    differences: Annotated[list[str], "in words: how the files of the two folders were saved differently"]


class Person(TypedDict):
    """The person under test."""

    name: Annotated[str, "the name in prompts"]
    role: NotRequired[Annotated[str, 'in a lab: "calibration" (settings were chosen on them) or "reporting"']]
    n_members: Annotated[int, "training photos that the attacks judge; 0 without folders"]
    n_nonmembers: Annotated[int, "held-out photos that the attacks judge; 0 without folders"]
    n_calibration: NotRequired[Annotated[list[int], "[members, held-out photos] set aside by `calibration_share`"]]
    repeats: NotRequired[Annotated[list[int], "how often each member was repeated; empty if unknown"]]
    notes: Annotated[list[str], "what was left out or looks wrong, such as unreadable files and duplicates"]
    key: Annotated[str, "a hash of the photos and captions"]
    report: NotRequired[Annotated[FolderReport, "of photos of your own: what the folders hold and how it was saved"]]


class LogLine(TypedDict):
    """One step of a fine-tuning."""

    step: Annotated[int, "from 1"]
    loss: Annotated[float, "of the step's batch"]
    lr: Annotated[float, "the learning rate"]
    images_per_s: Annotated[float, "speed"]


class Training(TypedDict):
    """The fine-tuning."""

    finetune: Annotated[dict[str, Any], "the settings, as in `config`"]
    methods: Annotated[list[str], "the methods in the combination"]
    name: Annotated[str, "the name in the captions"]
    base_model: Annotated[str, "the key of the weights that it started from"]
    learning_rates: Annotated[dict[str, float], "of each method: its own where the settings say null"]
    trained_parameters: Annotated[int, "number of parameters that were trained"]
    model_parameters: Annotated[int, "number of parameters of the model"]
    sp_images: Annotated[int, "number of pictures trained on"]
    log: Annotated[list[LogLine], "one entry per step"]


class Timing(TypedDict):
    """One stage, in *this call*."""

    key: NotRequired[Annotated[str, "of the stage in the cache; `total` has none"]]
    title: NotRequired[Annotated[str, "its name for readers"]]
    seconds: Annotated[float, "that it took"]
    cached: NotRequired[Annotated[bool, "whether it was there already; `total` has none"]]


class RunRecord(TypedDict):
    """The whole file."""

    schema_version: Annotated[int, "1"]
    kind: NotRequired[Annotated[str, '"run"; "audit" if the model was fine-tuned elsewhere']]
    key: Annotated[str, "the result's name in the cache: equal keys mean equal settings, weights and photos"]
    config: Annotated[
        dict[str, Any],
        "the whole `RunConfig` (in an audit: `AuditRunConfig`): everything that decides the result, all seeds and "
        "every setting of the methods and attacks that were used. `run --config result.json` (or `audit --config`) "
        "repeats the run. Older results list the settings of all methods",
    ]
    model: Annotated[Checkpoint, "the base model"]
    domain: Annotated[Person, "the person"]
    finetune: Annotated[Training | None, "what was trained; null in an audit of a whole checkpoint"]
    tuned_notes: NotRequired[
        Annotated[list[str], "what another tool wrote as the fine-tuned model, what was done to use it, its captions"]
    ]
    attacks: Annotated[dict[str, AttackOutcome], "by the attack's name; empty without known members"]
    extraction: Annotated[ExtractionOutcome | None, "null without known members"]
    blind: NotRequired[Annotated[Blind | None, "what an attacker without the photos would flag"]]
    control: Annotated[Control | None, "the blind control; null without known members"]
    unshake: NotRequired[Annotated[Unshake | None, "present if the model after is the un-shaken one"]]
    folders: Annotated[
        dict[str, str],
        "where the pictures are, relative to the cache: `sp_set` and `finetune` (not in an audit), `before`, `after`, "
        "and if known `members` and `nonmembers`",
    ]
    stages: Annotated[dict[str, Timing], "by stage, and `total`"]
    versions: Annotated[dict[str, str], "of Python and of the libraries that affect numbers"]
    s2l_version: NotRequired[Annotated[str, "of this program; in the written file, not in the cache"]]
    command: NotRequired[Annotated[str, "the shortest command that repeats the run; in the written file likewise"]]


# The page's sections, in its order.
SECTIONS: tuple[type, ...] = (
    RunRecord, Checkpoint, Person, FolderReport, FolderFacts, LeftOut, NearCopies, Training, LogLine, Timing,
    AttackOutcome, Summary, BestAccuracy, OperatingPoint,
    Change, Interval, Reference, OriginalCaptions, Calibration, Scale, FrozenPoint, FrozenRates, SetEvidence,
    ExposedPhoto, SplitScores, ExtractionOutcome, Extraction, Search, Match, CountChange, Floor, Cost, Opinion,
    Growth, Blind, Flags, Cluster, BlindScore, Control, FineDifference, Unshake, UnshakePoint,
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A finished run. `record` is result.json (docs/result-schema.md); `store` holds its pictures."""

    record: RunRecord
    store: Store

    @property
    def key(self) -> str:
        return self.record["key"]

    @property
    def copy(self) -> str:
        """Names this copy of the run: a shipped one has its key, but compressed pictures."""
        return f"{self.key} in {self.store.root}"

    @property
    def extraction(self) -> ExtractionOutcome:
        """The extraction results. Raises ValueError for a run without known members."""
        return known(self.record["extraction"])

    @property
    def training(self) -> Training:
        """The record of the fine-tuning. Raises ValueError for an audit of a whole checkpoint, which has none."""
        return known(self.record["finetune"])

    def images(self, what: str) -> ImageSet:
        """ "sp_set", "before", "after" (generations), "members" or "nonmembers"."""
        from s2l.data.sp_set import load_images  # loads torch

        return load_images(self.store.root / self.record["folders"][what])

    def scores(self, attack: str, when: When) -> tuple[np.ndarray, np.ndarray]:
        """(member scores, non-member scores) of an attack, `when` = "before" or "after"."""
        scores = self.record["attacks"][attack]["scores"][when]
        return np.array(scores["members"]), np.array(scores["nonmembers"])


def known(part: T | None) -> T:
    """`part`, which must not be null. Raises ValueError if it is: this kind of run has no such part."""
    if part is None:
        raise ValueError("this result has no such part")
    return part


def load_result(key: str, store: Store | None = None) -> Result:
    """A finished run from the cache. Raises KeyError when there is none of that key, or its file is damaged."""
    store = store or Store()
    path = store.path("result", key) / "result.json"
    if not path.exists() or damage(path) is not None:
        raise KeyError(key)
    return Result(read_json(path), store)
