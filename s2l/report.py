"""A finished run on paper: result.json, roc.png, extractions.png and a self-contained report.html.

The words and numbers come from here for the command line too, so that both say the same.
"""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from s2l import __version__, figures
from s2l.config import LAB, RunConfig
from s2l.options import reproduce_command

if TYPE_CHECKING:
    from s2l.experiment import Result

__all__ = ["FILES", "Row", "headline", "outcome", "reproduce_command", "result_json", "write_report"]

FILES = ("result.json", "roc.png", "extractions.png", "report.html")
RESPONSIBLE_USE = (
    "Run this only on models and photos that you own or may test. It shows whether a model leaks photos of people: "
    "do not use it to obtain, publish or sell pictures of anybody."
)


# --- words and numbers -----------------------------------------------------------------------


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


def _percent(confidence: float) -> str:
    return f"{100 * confidence:g} %"


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _rate(point: dict) -> str:
    if point["tpr"] is None:
        return "too few held-out photos"
    return f"{point['tpr']:.3f} [{point['low']:.2f}, {point['high']:.2f}], FPR {point['realised_fpr']:.3f}"


def _attack_rows(attack: dict) -> list[Row]:
    before, after, change = attack["before"], attack["after"], attack["difference"]
    title = attack["title"]
    aucs = [f"{x['auc']:.3f} [{x['delong']['low']:.2f}, {x['delong']['high']:.2f}]" for x in (before, after)]
    difference = f"{change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"
    rows = [Row(title, "AUC", *aucs, difference, _p_value(change["p_value"]))]
    for points in zip(before["tpr_at_fpr"], after["tpr_at_fpr"], strict=True):
        target = _percent(points[0]["target_fpr"])
        rows.append(Row(title, f"TPR at no more than {target} FPR", *map(_rate, points), detail=True))
    shake = attack["shake"]
    text = f"{shake['auc']:.3f} [{shake['delong']['low']:.2f}, {shake['delong']['high']:.2f}]"
    rows.append(Row(title, "AUC of the change of the score alone", "", text, detail=True))
    best = [f"{x['best_accuracy']['balanced_accuracy']:.3f}" for x in (before, after)]
    return [*rows, Row(title, "best balanced accuracy (optimistic)", *best, detail=True)]


def _extraction_rows(found: dict) -> list[Row]:
    before, after, change = found["before"], found["after"], found["difference"]
    members, control = before["members"]["n_references"], before["nonmembers"]["n_references"]

    def row(what: str, part: str, field: str, *more: str, detail: bool = False) -> Row:
        return Row("Extraction", what, *(str(x[part][field]) for x in (before, after)), *more, detail=detail)

    difference = f"{change['difference']:+d} [{change['low']:+.0f}, {change['high']:+.0f}]"
    p_value = _p_value(change["p_value"])
    return [
        row(f"training photos extracted, of {members}", "members", "distinct", difference, p_value),
        Row("Extraction", f"of these, eidetic at k = {before['k']}", str(before["eidetic"]), str(after["eidetic"])),
        row(f"control: held-out photos, of {control}", "nonmembers", "distinct"),
        row("generations close to a training photo", "members", "matching_generations", detail=True),
    ]


def outcome(result: Result) -> list[Row]:
    """Every measured number of a run with its interval; rows with `detail` are for the long table."""
    rows = [row for attack in result.record["attacks"].values() for row in _attack_rows(attack)]
    if result.record["extraction"] is not None:
        rows += _extraction_rows(result.record["extraction"])
    if (blind := result.record["control"]) is not None:
        auc = f"{blind['auc']:.3f} [{blind['low']:.2f}, {blind['high']:.2f}]"
        rows.append(Row("Blind control", "AUC of a classifier that never sees the model", auc, ""))
    return rows


def _direction(change: dict, confidence: float) -> int:
    """+1 or -1 for a change that both its interval and its p-value call one, else 0."""
    if change["p_value"] >= 1 - confidence:
        return 0
    return 1 if change["low"] > 0 else -1 if change["high"] < 0 else 0


def headline(result: Result) -> list[str]:
    """What this run showed, one sentence a question: the verdict, a colon, the numbers. A change needs its interval."""
    record = result.record
    confidence = record["config"]["audit"]["confidence"]
    if not record["attacks"] and record["extraction"] is None:
        return [
            "What leaked cannot be measured: it is not known which photos this model was trained on, so this run "
            "shows what the model draws before and after fine-tuning, without a ROC curve and extraction counts."
        ]
    sentences = []
    for attack in record["attacks"].values():
        change = attack["difference"]
        verdict = {1: "is stronger after fine-tuning", -1: "is weaker after fine-tuning", 0: "shows no clear change"}
        sentences.append(
            f"The {attack['title']} attack {verdict[_direction(change, confidence)]}: it tells training photos from "
            f"held-out ones with an AUC of {attack['before']['auc']:.3f} before and {attack['after']['auc']:.3f} after "
            f"(chance is 0.5), a paired difference of {change['difference']:+.3f} "
            f"({_percent(change['confidence'])} interval {change['low']:+.3f} to {change['high']:+.3f})."
        )
    if (found := record["extraction"]) is not None:
        before, after, change = found["before"], found["after"], found["difference"]
        verdict = {1: "More photos came out", -1: "Fewer photos came out", 0: "No clear change in what came out"}
        sentences.append(
            f"{verdict[_direction(change, confidence)]}: {change['after']} of {change['n_members']} training photos "
            f"after fine-tuning and {change['before']} before, in {before['n_generations']:,} generations each (l2 at "
            f"most {before['delta']:g}), while of {before['nonmembers']['n_references']} held-out photos, which cannot "
            f"leak, the same search finds {after['nonmembers']['distinct']} and {before['nonmembers']['distinct']}."
        )
    return sentences


def seeds(config: RunConfig) -> dict[str, str]:
    """Which seeds the run used, in words."""
    first, last = config.sp_set.seed, config.sp_set.seed + config.sp_set.set_size - 1
    start, end = config.extraction.seed, config.extraction.seed + config.extraction.n_generations - 1
    return {
        "choice of photos": str(config.domain.seed),
        "SP set, one an image": f"{first} to {last}",
        "fine-tuning": str(config.finetune.seed),
        "noise of the attacks": str(config.audit.seed),
        "generations, one an image, the same before and after": f"{start} to {end}",
    }


def result_json(result: Result) -> dict:
    """The content of result.json: the record, the program's version and the command that repeats the run."""
    config = RunConfig.model_validate(result.record["config"])
    return result.record | {"s2l_version": __version__, "command": reproduce_command(config)}


# --- the report ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A figure of the report: PNG, one plain sentence, and what a screen reader says."""

    png: bytes
    sentence: str
    alt: str
    narrow: bool = False

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def _sections(result: Result, roc: bytes | None, extractions: bytes) -> list[tuple[str, list[Picture]]]:
    """Titles and figures in the order of the story: generated, trained, told apart, came out."""
    record = result.record
    name = record["domain"]["name"]
    split = record["extraction"] is not None
    sections = [
        (
            "What was generated",
            [
                Picture(
                    figures.png(figures.sp_set_figure(result)),
                    f"The synthetic private set is what the model itself draws for {name}"
                    + (
                        ", here above some of the real training photos, which the attacker never sees."
                        if split
                        else "."
                    ),
                    f"First pictures of the synthetic private set of {name}",
                )
            ],
        ),
        (
            "What was trained",
            [
                Picture(
                    figures.png(figures.loss_figure(record["finetune"]["log"])),
                    "The loss says how well the model predicts noise on its own pictures while it trains on them; "
                    "a steady or slowly falling curve is healthy, a jump is not.",
                    "Training loss against training step",
                    narrow=True,
                )
            ],
        ),
    ]
    if roc is not None:
        pictures = [
            Picture(
                roc,
                "Each curve shows how many training photos an attacker finds (up) for how many wrongly accused "
                "held-out photos (right): on the dotted line he guesses, and the right half enlarges the corner where "
                "he is nearly always right.",
                "ROC curves before and after fine-tuning",
            )
        ]
        for attack, found in record["attacks"].items():
            pictures.append(
                Picture(
                    figures.png(figures.score_histogram_figure(result, attack)),
                    f"Where the scores of {found['title']} for training photos and held-out photos overlap, nobody can "
                    "tell them apart.",
                    f"Histogram of {found['title']} scores of members and held-out photos",
                )
            )
        sections.append(("What an attacker can tell", pictures))
    pictures = [
        Picture(
            extractions,
            "Each column is one seed drawn before and after fine-tuning"
            + (
                ", with the training photo that came closest to it; columns are chosen by the smaller of the two "
                "distances, so neither side is favoured."
                if split
                else "; without known training photos there is nothing to compare it with."
            ),
            "Generated pictures before and after fine-tuning beside the nearest training photos",
        )
    ]
    if split:
        pictures += [
            Picture(
                figures.png(figures.extraction_figure(result, of="nonmembers")),
                "The control: the same search for photos that no model ever saw, so any thick frame here is likeness "
                "and not leakage.",
                "The closest pairs of generations and held-out photos",
            ),
            Picture(
                figures.png(figures.distance_histogram_figure(result)),
                "If training photos (filled) lie further left than held-out photos (outlined), the model draws its "
                "training photos rather than the person.",
                "Histogram of distances to the nearest generation",
            ),
        ]
    sections.append(("What came out", pictures))
    return sections


def _split_sentence(record: dict, config: RunConfig) -> str:
    domain = record["domain"]
    if record["extraction"] is None:
        return "No folders of members and non-members were given."
    counts = f"{domain['n_members']} training photos (members) and {domain['n_nonmembers']} held-out photos"
    if config.model == LAB and config.domain.members is None:
        return (
            f"{counts}: a random split of one distribution, since the same program drew all of them and only the "
            "members were ever trained on."
        )
    return (
        f"{counts}, from two folders. The curve means what it says only if both are a random split of one source: "
        "otherwise an attack may simply tell the folders apart."
    )


def _limits(record: dict, config: RunConfig) -> list[str]:
    limits = []
    if record["control"] is not None and record["control"]["confounded"]:
        limits.append(
            "The blind control tells members from held-out photos without the model: the two sets differ by "
            "themselves, so part of every AUC above is not leakage."
        )
    limits += [
        "This is one person and one run: the intervals speak of other photos of this person, not of other people."
    ]
    sampler = config.extraction.sampler
    if record["extraction"] is not None:
        limits += [
            f"Extraction counts grow with the number of generations and depend on guidance: these hold for "
            f"{config.extraction.n_generations:,} generations with {sampler.scheduler}, {sampler.num_inference_steps} "
            f"steps, guidance {sampler.guidance_scale:g}.",
            f"The autoencoder alone costs an l2 of {record['extraction']['floor']['mean']:.3f} on average: nothing "
            "can be expected closer than that.",
            "TPR at a very low FPR rests on a few held-out photos; where there are too few, no number is given.",
        ]
    if config.model == LAB:
        limits.append(
            "The lab's model is small and its people are drawn: the mechanism carries over to large models, the "
            "figures do not."
        )
    return limits


def _stage_rows(stages: dict) -> list[tuple[str, str, str, str]]:
    return [
        (
            name,
            f"{row['seconds']:.1f}",
            {True: "from the cache", False: "computed"}.get(row.get("cached"), ""),
            row.get("key", ""),
        )
        for name, row in stages.items()
    ]


def render_html(result: Result, roc: bytes | None, extractions: bytes) -> str:
    """report.html as text: images inside, nothing loaded from anywhere."""
    from s2l.finetune.registry import FINETUNERS  # titles; loads torch

    config, record = RunConfig.model_validate(result.record["config"]), result.record
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = lambda text: re.sub(r"(?<!\w)-(?=\d)", "−", text)
    methods = [FINETUNERS[m].title if m in FINETUNERS else m for m in config.finetune.methods]
    return environment.get_template("report.html.j2").render(
        config=config,
        record=record,
        name=record["domain"]["name"],
        method=" + ".join(methods),
        headline=[sentence.partition(":") for sentence in headline(result)],
        rows=outcome(result),
        confidence=_percent(config.audit.confidence),
        sections=_sections(result, roc, extractions),
        split=_split_sentence(record, config),
        limits=_limits(record, config),
        seeds=seeds(config),
        stages=_stage_rows(record["stages"]),
        responsible_use=RESPONSIBLE_USE,
        command=reproduce_command(config),
        settings=json.dumps(record["config"], indent=1),
        version=__version__,
    )


def _write(path: Path, content: bytes) -> Path:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
    return path


def write_report(result: Result, folder: str | Path) -> list[Path]:
    """Write FILES into `folder` and return their paths; without a split no roc.png, and the report says why."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    roc = figures.png(figures.roc_all(result)) if result.record["attacks"] else None
    extractions = figures.png(figures.extraction_figure(result))
    html = render_html(result, roc, extractions)
    text = json.dumps(result_json(result), indent=1, allow_nan=False) + "\n"
    paths = [_write(folder / "result.json", text.encode())]
    if roc is not None:
        paths.append(_write(folder / "roc.png", roc))
    else:
        (folder / "roc.png").unlink(missing_ok=True)  # of an earlier run: it would belong to another result
    paths.append(_write(folder / "extractions.png", extractions))
    paths.append(_write(folder / "report.html", html.encode()))
    return paths
