"""The report of a run or audit: result.json, three figures and a self-contained report.html.

Its sentences and numbers come from findings.py, so that the command line, the app and the report say the same.
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
from s2l.record import BOTH, Blind, RunRecord, Timing, Training
from s2l.report.findings import (
    Row,
    after_note,
    combination_sentence,
    command_of,
    config_of,
    frozen_pairs,
    limits,
    loss_over_w,
    outcome,
    percent,
    quick_note,
    result_json,
    seeds,
    set_rule,
    set_sentence,
    split_sentence,
    warning,
)
from s2l.report.verdicts import blind_finding, findings, headline, short_caution, unchanged_note

if TYPE_CHECKING:
    from s2l.record import Result

__all__ = ["FILES", "Row", "command_of", "headline", "outcome", "result_json", "write_report"]

FILES = ("result.json", "roc.png", "histograms.png", "extractions.png", "report.html")
RESPONSIBLE_USE = (
    "Run this only on models and photos that you own or may test. It shows whether a model leaks photos of people: "
    "do not use it to obtain, publish or sell pictures of anyone."
)


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


@dataclass(frozen=True)
class Section:
    """A title, sentences below it, and figures."""

    title: str
    pictures: list[Picture]
    sentences: tuple[str, ...] = ()


def _sections(result: Result, pictures: dict[str, bytes]) -> list[Section]:
    """In the order of the story: SP set, training, membership, extraction, blind flags."""
    record, control = result.record, result.record["control"]
    sections = []
    if "sp_set" in record["folders"]:
        sections.append(_generated(result))
    if record["finetune"] is not None:
        sections.append(_trained(record["finetune"]))
    if record["attacks"]:
        confidence = record["config"]["audit"]["confidence"]
        evidence = [set_sentence(attack, confidence) for attack in record["attacks"].values()]
        caution = short_caution(control)
        evidence = [f"{text} {caution}".strip() for text in evidence]
        evidence.insert(0, f"Evidence about all photos together is stronger than about one: {set_rule(confidence)}.")
        sections.append(_membership(result, pictures["roc.png"]))
        if over_w := loss_over_w(record):
            sentences = (f"{over_w} {caution}".strip(),)
            sections.append(Section("Towards the fine-tuned model and away from it", [], sentences))
        sections.append(_most_exposed(result))
        sections.append(Section("The photos as one set", [], tuple(evidence)))
    sections.append(_extracted(result, pictures["extractions.png"]))
    if (blind := record.get("blind")) is not None:
        sections.append(_flagged(result, blind))
    return sections


def _generated(result: Result) -> Section:
    name = result.record["domain"]["name"]
    known = result.record["extraction"] is not None
    picture = Picture(
        figures.png(figures.sp_set_figure(result)),
        f"The synthetic private set is what the model itself generates for {name}"
        + (", here above some of the real training photos, which the attacker never sees." if known else "."),
        f"First pictures of the synthetic private set of {name}",
    )
    return Section("What was generated", [picture])


def _trained(finetune: Training) -> Section:
    picture = Picture(
        figures.png(figures.loss_figure(finetune["log"])),
        "The loss shows how well the model predicts noise on its own pictures while it trains on them; "
        "a steady or slowly falling curve is healthy, a jump is not.",
        "Training loss against training step",
        narrow=True,
    )
    return Section("What was trained", [picture])


def _membership(result: Result, roc: bytes) -> Section:
    pictures = [
        Picture(
            roc,
            "Each curve shows the share of training photos that an attacker finds (up) against the share of held-out "
            "photos wrongly accused (right): the dotted line is guessing, the shading is the curve's uncertainty, and "
            "the right half enlarges the part with few false accusations.",
            "ROC curves before and after fine-tuning",
        )
    ]
    for attack, entry in result.record["attacks"].items():
        pictures.append(
            Picture(
                figures.png(figures.score_histogram_figure(result, attack)),
                f"Where the {entry['title']} scores of training photos and held-out photos overlap, the attack "
                "cannot tell which is which.",
                f"Histogram of {entry['title']} scores of members and held-out photos",
            )
        )
    return Section("What an attacker can tell", pictures)


def _most_exposed(result: Result) -> Section:
    pictures = [
        Picture(
            figures.png(figures.most_exposed_figure(result, attack)),
            f"The training photos with the highest {entry['title']} score after fine-tuning; the number below each "
            "is the share of held-out photos that score at least as high, which is the rate of false accusations that "
            "an attacker must accept to call it a training photo.",
            f"The most exposed training photos by {entry['title']}",
        )
        for attack, entry in result.record["attacks"].items()
    ]
    return Section("The most exposed photos", pictures)


def _flagged(result: Result, blind: Blind) -> Section:
    sentences = (blind_finding(blind).sentence,)
    if not any(blind[when]["clusters"] for when in BOTH):
        return Section("What an attacker without the photos would flag", [], sentences)
    truth = blind["before"]["score"] is not None
    picture = Picture(
        figures.png(figures.blind_figure(result)),
        "Each picture represents one group of near-duplicates, with the number of generations in it"
        + (" and its distance to the nearest training photo." if truth else "."),
        "One picture of each group of near-duplicate generations, before and after fine-tuning",
    )
    return Section("What an attacker without the photos would flag", [picture], sentences)


def _extracted(result: Result, extractions: bytes) -> Section:
    split = result.record["extraction"] is not None
    pictures = [
        Picture(
            extractions,
            "Each column shows the generations of one seed before and after fine-tuning"
            + (
                ", with the training photo that came closest to it; columns are chosen by the smaller of the two "
                "distances, so neither model is favoured."
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
                "The control: the same search for photos that the model was not trained on, so any thick frame here "
                "is a resemblance, not leakage.",
                "The closest pairs of generations and held-out photos",
            ),
            Picture(
                figures.png(figures.distance_histogram_figure(result)),
                "If training photos (filled) are further left than held-out photos (outlined), the generations "
                "resemble the training photos more than they resemble other photos of the person.",
                "Histogram of distances to the nearest generation",
            ),
        ]
    if split and result.extraction.get("curve") is not None:
        pictures.append(
            Picture(
                figures.png(figures.extraction_curve_figure(result)),
                "More generations extract more photos, so compare counts only at the same number of generations; the "
                "shading is the 95 % interval for that many new generations.",
                "Training photos extracted against the number of generations, before and after fine-tuning",
                narrow=True,
            )
        )
    return Section("What was extracted", pictures)


def _stage_rows(stages: dict[str, Timing]) -> list[tuple[str, str, str, str]]:
    return [
        (
            row.get("title", name),
            f"{row['seconds']:.1f}",
            "" if (cached := row.get("cached")) is None else "from the cache" if cached else "computed",
            row.get("key", ""),
        )
        for name, row in stages.items()
    ]


def _method(record: RunRecord) -> str:
    """What changed the model, in words."""
    from s2l.finetune import FINETUNERS

    if record["finetune"] is None:
        path, notes = record["config"]["tuned"], record.get("tuned_notes")
        return f"The model in {path}: {notes[0]}" if notes else f"The checkpoint {path}"
    names = record["finetune"]["methods"]
    titles = " + ".join(FINETUNERS[m].title if m in FINETUNERS else m for m in names)
    return f"{titles} on {record['finetune']['sp_images']} of the model's own pictures"


def render_html(result: Result, pictures: dict[str, bytes]) -> str:
    """report.html as text, with `pictures` (file name -> PNG) and further figures embedded; it loads nothing."""
    config, record = config_of(result.record), result.record
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = lambda text: re.sub(r"(?<!\w)-(?=\d)", "−", text)
    from s2l.data.folder_report import folder_lines  # loads torch

    return environment.get_template("report.html.j2").render(
        config=config,
        record=record,
        name=record["domain"]["name"],
        method=_method(record),
        kind=record.get("kind", "run"),
        warnings=[text for text in (quick_note(record), warning(record), unchanged_note(record["attacks"])) if text],
        frozen=any(frozen_pairs(attack) for attack in record["attacks"].values()),
        combinations=[combination_sentence(a) for a in record["attacks"].values() if a.get("calibration")],
        after=after_note(record),
        findings=findings(result),
        rows=outcome(result),
        confidence=percent(config.audit.confidence),
        sections=_sections(result, pictures),
        split=split_sentence(record, config),
        folder_lines=folder_lines(record["domain"].get("report")),
        limits=limits(record, config),
        seeds=seeds(config),
        stages=_stage_rows(record["stages"]),
        responsible_use=RESPONSIBLE_USE,
        command=command_of(result),
        settings=json.dumps(record["config"], indent=1),
        version=__version__,
    )


def _write(path: Path, content: bytes) -> Path:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
    return path


def write_report(result: Result, folder: str | Path) -> list[Path]:
    """Write FILES into `folder` and return their paths; without members there are no ROC and histograms."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"extractions.png": figures.png(figures.extraction_figure(result))}
    if result.record["attacks"]:
        contents["roc.png"] = figures.png(figures.roc_all(result))
        contents["histograms.png"] = figures.png(figures.histograms_all(result))
    contents["report.html"] = render_html(result, contents).encode()
    contents["result.json"] = (json.dumps(result_json(result), indent=1, allow_nan=False) + "\n").encode()
    for name in set(FILES) - set(contents):
        (folder / name).unlink(missing_ok=True)  # left from an earlier run: it belongs to another result
    return [_write(folder / name, contents[name]) for name in FILES if name in contents]
