"""Secure fine-tuning: an upload is judged, trained on within limits, audited, and only then handed out.

What a fine-tuning service could do in front of its own trainer, as one function. It runs in a process of its own, whose
memory and time are bounded, so that the page stays as it was:

    python -m s2l.jobs.secure FOLDER

FOLDER holds `request.json` and `pictures/`; `answer.json` and, if nothing is refused, `weights.zip` are written to it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from s2l.config import LAB, FineTuneConfig, Settings, checked
from s2l.errors import UserError
from s2l.jobs import uploads
from s2l.labs import default_lab
from s2l.store import Store, read_json, write_json

MIN_PICTURES, MAX_PICTURES = 16, 128
MAX_STEPS, MAX_RANK = 100, 8
CANARIES, HELD_OUT = 2, 60  # people, and photos of each, in the release audit: enough for a clear leak, in a minute
SECONDS = 600.0  # that one upload may take
FAILED = "the upload could not be processed: try again with fewer pictures or steps"


class Request(Settings):
    """What a client may choose. The method is LoRA."""

    person: str = Field(title="person", max_length=80)
    steps: int = Field(50, title="steps", ge=1, le=MAX_STEPS)
    rank: int = Field(4, title="rank", ge=1, le=MAX_RANK)

    @property
    def finetune(self) -> FineTuneConfig:
        settings = {"lora": {"rank": self.rank, "lora_alpha": self.rank}}
        return FineTuneConfig(methods=("lora",), max_train_steps=self.steps, settings=settings)


def reasons(gate: dict, release: dict | None) -> list[str]:
    """Why an upload or its weights are refused, a sentence each; [] if they are not."""
    said = [
        f"the gate {each['gate']!r} refuses the upload: its mean score {each['statistic']:.3f} exceeds the threshold "
        f"{each['threshold']['value']:.3f}"
        for each in gate["verdicts"]
        if each["refused"]
    ]
    for row in release["attackers"] if release is not None else ():
        if row["leaks"]:
            change = row["difference"]
            said.append(
                f"the release audit withholds the weights: {row['title']} tells training photos better than the base "
                f"model, by {change['difference']:.3f} of AUC [{change['low']:.3f}, {change['high']:.3f}]"
            )
    return said


def process(folder: Path) -> dict:
    """Judge, train and audit what FOLDER holds; returns and writes the answer. Raises UserError."""
    from s2l import finetune
    from s2l.data.domain import load_folder
    from s2l.gates.check import check_upload
    from s2l.jobs.worker import runtime
    from s2l.model.diffusion import DiffusionModel
    from s2l.pipeline.release import canaries_of, release_audit
    from s2l.pipeline.stages import Stages
    from s2l.pipeline.subject import Subject
    from s2l.pipeline.tuned import read_tuned

    request, pictures = checked(Request, read_json(folder / "request.json")), folder / "pictures"
    model, lab = DiffusionModel.load(LAB, runtime()), default_lab()
    gate, release = check_upload(model, lab, pictures), None
    if not gate["refused"]:
        images, _ = load_folder(pictures, model.resolution, f"a photo of {request.person}")
        tuned = folder / "tuned"
        finetune.finetune(model, images, request.finetune, tuned, request.person)
        people = canaries_of(lab, images, CANARIES, HELD_OUT)
        release = release_audit(Subject.of(model), read_tuned(model, tuned), people, stages=Stages(Store(folder)))
        if not release["refused"]:
            _pack(tuned, folder / "weights.zip")
    why = reasons(gate, release)
    answer = {
        "refused": bool(why),
        "reasons": why,
        "gates": [{name: each[name] for name in ("gate", "refused", "statistic", "threshold")}
                  for each in gate["verdicts"]],
        "release": None if release is None else {
            "refused": release["refused"], "base_auc": release["base_auc"], "attackers": release["attackers"],
        },
        "notes": [note.replace(str(pictures), "the upload") for note in gate["notes"]],
    }  # fmt: skip
    write_json(folder / "answer.json", answer)
    return answer


def _pack(tuned: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for file in [tuned / "config.json", *sorted(tuned.glob("*.safetensors"))]:
            archive.write(file, f"weights/{file.name}")


def ask(store: Store, pictures: Sequence[str | Path], person: object, steps: object, rank: object) -> tuple[dict, Path]:
    """(answer, folder): the whole path for uploaded pictures, in a process of its own; the uploads are deleted.

    The folder holds `weights.zip` if nothing was refused, and belongs to the caller. Raises UserError for a request
    outside the limits, for files that are no pictures, and for one that takes too long.
    """
    try:
        request = checked(Request, {"person": person, "steps": steps, "rank": rank})
        if not MIN_PICTURES <= len(pictures) <= MAX_PICTURES:
            raise UserError(f"from {MIN_PICTURES} to {MAX_PICTURES} pictures are needed, not {len(pictures)}")
    except UserError:
        for path in pictures:
            Path(path).unlink(missing_ok=True)
        raise
    folder = Path(uploads.keep(store, {"pictures": pictures})["pictures"]).parent
    try:
        write_json(folder / "request.json", request.model_dump(mode="json"))
        _in_a_process(store, folder)
        answer = read_json(folder / "answer.json")
    except UserError:
        uploads.discard(folder)
        raise
    shutil.rmtree(folder / "pictures")
    return answer, folder


def _in_a_process(store: Store, folder: Path) -> None:
    package = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = os.environ | {"PYTHONPATH": path, "S2L_CACHE": str(store.root)}
    with open(folder / "log", "wb") as log:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "s2l.jobs.secure", str(folder)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, timeout=SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise UserError(FAILED) from None
    if (folder / "refusal.json").exists():  # a sentence for the client
        raise UserError(read_json(folder / "refusal.json")["error"])
    if done.returncode or not (folder / "answer.json").exists():
        raise UserError(FAILED)


def main(folder: Path) -> int:
    """The process: what a client may know of an error is written down, everything else stays in the log."""
    if hasattr(os, "nice"):
        os.nice(5)  # the page comes first
    try:
        process(folder)
    except UserError as error:
        write_json(folder / "refusal.json", {"error": str(error).replace(str(folder), "the upload")})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
