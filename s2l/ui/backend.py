"""What the page asks for: people and their photos, jobs, results. No gradio here."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import jinja2
import numpy as np

from s2l.assets import ASSETS
from s2l.config import LAB, FineTuneConfig
from s2l.environment import Program
from s2l.errors import UserError
from s2l.jobs import Job, Jobs
from s2l.jobs.limits import Limits, OwnModel, plain_name
from s2l.labs import Lab, default_lab
from s2l.record import Result, load_result
from s2l.report import shipped
from s2l.report.showcase import load_showcase
from s2l.store import Store
from s2l.ui import weights
from s2l.ui.heavy import ready
from s2l.worlds.people import LabPhoto

SHOWCASE = "showcase"
FILES = ("report.html", "result.json")  # what a run gives to download
N_SHOWN = 16  # photos of each kind on the first tab


@dataclass(frozen=True)
class Shown:
    """A photo on the page: (H, W, 3) uint8 pixels, and how often it was repeated in pre-training."""

    pixels: np.ndarray
    repeats: int


def name_of_files(result: Result) -> str:
    """What the files of a run begin with: "mira-solwyn-lora-demo"."""
    config = result.record["config"]
    words = (config["domain"]["name"], *config["finetune"]["methods"], config["preset"])
    return "-".join(re.sub(r"[^0-9a-z]+", "-", word.casefold()).strip("-") for word in words)[:80]


@dataclass(eq=False)
class Backend:
    """One app on one cache. `jobs` has the worker's queue, `showcase` a finished run that is always there.

    shows_ours   the examples are those of the program, not a run that S2L_SHOWCASE names
    """

    jobs: Jobs = field(default_factory=lambda: Jobs(Store()))
    showcase: Result | None = None
    shows_ours: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _securing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, store: Store | None = None) -> Backend:
        """The backend of a cache, with the showcase of the assets if there is one. Raises UserError."""
        Limits.read()  # an invalid variable is reported now, not in the middle of a lesson
        store = store or Store()
        own = Program.read().showcase
        folder = own or ASSETS / "showcase"
        showcase = load_showcase(folder, store) if (folder / "result.json").exists() else None
        return cls(Jobs(store), showcase, shows_ours=own is None)

    @cached_property
    def own_model(self) -> OwnModel:
        return OwnModel.read()

    @property
    def store(self) -> Store:
        return self.jobs.store

    @property
    def public(self) -> Path:
        """The one folder of the cache that is served."""
        return self.store.root / "public"

    # --- people ---

    @cached_property
    def lab(self) -> Lab:
        """The lab of the page: what plain `lab` means on this server."""
        return default_lab()

    @cached_property
    def names(self) -> list[str]:
        return self.lab.names()

    @cached_property
    def facts(self) -> dict:
        """{"n_members", "resolution", "people"} of the lab."""
        return {"n_members": self.lab.n_members, "resolution": self.lab.resolution, "people": len(self.names)}

    def portrait(self, name: str) -> np.ndarray:
        """One member photo, (H, W, 3) uint8."""
        return self.lab.person(name).members()[0].pixels(self.lab.resolution)

    @lru_cache(maxsize=64)  # noqa: B019  (one backend lives as long as the app)
    def photos(self, name: str) -> tuple[list[Shown], list[Shown]]:
        """The first member photos of a person, the most repeated first, and as many held-out ones."""
        person, resolution = self.lab.person(name), self.lab.resolution
        members = person.members()[:N_SHOWN]

        def shown(photos: Sequence[LabPhoto]) -> list[Shown]:
            return [Shown(photo.pixels(resolution), photo.repeats) for photo in photos]

        return shown(members), shown(person.held_out(len(members)))

    # --- methods ---

    @cached_property
    def _base(self):
        ready()
        from s2l.model.diffusion import DiffusionModel, Runtime

        return DiffusionModel.load(LAB, Runtime(device="cpu", dtype="float32"))

    def trained_parameters(self, config: FineTuneConfig) -> tuple[int, int]:
        """(parameters that these methods train, parameters of the model), counted on the lab's model."""
        relevant = {"methods", "settings", "train_text_encoder", "seed"}
        return self._count(config.model_copy(update={"seed": 0}).model_dump_json(include=relevant))

    @lru_cache(maxsize=256)  # noqa: B019
    def _count(self, settings: str) -> tuple[int, int]:
        ready()
        from s2l.finetune import weight_methods, weights_of

        config = FineTuneConfig.model_validate_json(settings)
        with self._lock:  # peft patches the model while it works
            copy = self._base.copy()
            trained = [p for m in weight_methods(config.methods) for p in weights_of(m).prepare(copy, config)]
            return sum(p.numel() for p in trained), self._base.num_parameters()

    # --- results ---

    def result_of(self, shown: str) -> Result | None:
        """The result that the page shows: of a job by its id, or the showcase. Raises UserError if it is gone."""
        if shown == SHOWCASE:
            return self.showcase
        job = self.jobs.job(shown) if shown else None
        if job is None or job.state != "done":
            return None
        try:
            return self._result(job.result)
        except KeyError:
            raise UserError("this result is no longer in the cache: press Run to make it again") from None

    @lru_cache(maxsize=16)  # noqa: B019
    def _result(self, key: str) -> Result:
        if (entry := shipped.named(key)) is not None:
            return shipped.load(entry, self.store)
        return load_result(key, self.store)

    def finished(self, visitor: str) -> list[Job]:
        return [job for job in self.jobs.jobs_of(visitor) if job.state == "done"]

    def secure_finetune(self, pictures: Sequence[str], person: str, steps: object, rank: object) -> dict:
        """Judge uploaded pictures, train on them and audit the weights (jobs/secure.py), one upload at a time.

        Returns the answer with "weights", the address of the weights as a download or None. Raises UserError.
        """
        from s2l.jobs import secure, uploads

        if not self._securing.acquire(blocking=False):
            raise UserError("another upload is being processed: try again in a few minutes")
        try:
            answer, folder = secure.ask(self.store, pictures, plain_name(person), steps, rank)
            try:
                made = folder / "weights.zip"
                address = None
                if made.exists():
                    name = "secure-fine-tuning-weights.zip"

                    def make(place: Path) -> None:
                        made.rename(place / name)

                    public = self._public_folder("secure", folder.name, make)
                    address = f"gradio_api/file={public / name}"
            finally:
                uploads.discard(folder)
        finally:
            self._securing.release()
        return answer | {"weights": address}

    @cached_property
    def _secret(self) -> bytes:
        """Makes the addresses of public files unguessable; kept next to the job store."""
        path = self.jobs.folder / "secret"
        if not path.exists():
            path.write_text(secrets.token_hex(32))
        return path.read_text().encode()

    def _public_folder(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """An unguessable folder below the public one, made when first asked for."""
        token = hashlib.sha256(self._secret + f"{kind} {key}".encode()).hexdigest()[:32]
        folder = self.public / "results" / token
        if folder.exists():
            os.utime(folder)  # used just now, so it expires last
            return folder
        with self._lock:
            if not folder.exists():
                working = folder.with_name(token + f".{secrets.token_hex(4)}")
                working.mkdir(parents=True)
                try:
                    make(working)
                    working.rename(folder)
                finally:
                    shutil.rmtree(working, ignore_errors=True)
        return folder

    def published(self, result: Result) -> dict[str, Path]:
        """{"report.html", "result.json"} of a result as files in the public folder."""
        ready()
        from s2l.report import render as report

        def make(folder: Path) -> None:
            try:
                report.write_report(result, folder)
                for name in FILES:  # in a folder of downloads, those of different runs must differ
                    (folder / name).rename(folder / f"{name_of_files(result)}-{name}")
            except (LookupError, AttributeError, TypeError, jinja2.TemplateError) as error:
                logging.getLogger(__name__).exception("no report of %s", result.key)
                raise UserError("this run was made by another version of the program: run it again") from error

        folder = self._public_folder("named report", result.copy, make)
        return {name: folder / f"{name_of_files(result)}-{name}" for name in FILES}

    def sp_set_zip(self, result: Result) -> Path:
        """The run's synthetic private set as one file: pictures and metadata.jsonl."""
        name = f"{name_of_files(result)}-sp-set.zip"

        def make(folder: Path) -> None:
            source = result.store.root / result.record["folders"]["sp_set"]
            with zipfile.ZipFile(folder / name, "w") as archive:  # pictures are compressed already
                for path in [*sorted(source.glob("*.png")), source / "metadata.jsonl"]:
                    archive.write(path, f"sp-set/{path.name}")

        return self._public_folder("named sp-set", result.copy, make) / name

    def weights_zip(self, result: Result) -> Path | None:
        """The run's fine-tuned weights as one file (weights.py); None where there are none to download."""
        if not weights.files_of(result):
            return None
        name = f"{name_of_files(result)}-weights.zip"
        what = " + ".join(result.record["config"]["finetune"]["methods"])

        def make(folder: Path) -> None:
            weights.write_zip(result, what, folder / name)

        return self._public_folder("named weights", result.copy, make) / name
