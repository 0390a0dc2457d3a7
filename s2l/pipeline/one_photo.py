"""Was this one in there? One photo on the base model of a finished run, beside the photos whose membership is known."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from s2l import attacks
from s2l.config import AuditConfig, DomainConfig
from s2l.data.domain import Domain, ImageSet
from s2l.data.lab_domain import lab_domain
from s2l.errors import UserError
from s2l.labs import Lab, find_lab
from s2l.measure.distances import pairwise_l2
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.record import Part, Result

COPY = 0.08  # l2 of a copy that was saved again: no two photos of one person are so close (results/lab.json: .089)
QUALITY = 75  # of an example that was saved as JPEG
_one_model = threading.Lock()


@dataclass(frozen=True)
class Standing:
    """A photo's score by one attack, and where it lies.

    beaten   share of the held-out photos with a lower score, in [0, 1]
    members  share of the members with a lower score
    """

    title: str
    score: float
    beaten: float
    members: float


@dataclass(frozen=True)
class OnePhoto:
    """What can be said of one photo.

    standings  {attack: its score and rank} on the model before fine-tuning
    nearest    (set, index) of the person's photo that is nearest by l2
    distance   that l2, in [0, 1]
    usual      the largest such distance of a held-out photo: no score can be judged of a photo that is farther away
    repeats    how often the nearest photo was repeated in pre-training; 0 for a held-out one
    """

    standings: dict[str, Standing]
    nearest: tuple[Part, int]
    distance: float
    usual: float
    repeats: int

    @property
    def alike(self) -> bool:
        """Whether the photo is of the kind that the threshold is made for."""
        return self.distance <= self.usual

    @property
    def copy(self) -> bool:
        """Whether it is the nearest photo itself, perhaps saved again."""
        return self.distance <= COPY


def side_of(result: Result) -> int:
    """Width and height, in pixels, of the photos that a run's lab knows. Raises UserError if the run is of no lab."""
    return _lab(result).resolution


def judge(pixels: np.ndarray, result: Result, runtime: Runtime = Runtime()) -> OnePhoto:
    """Score a photo (H, W, 3) uint8 as a photo of the run's person: same model, attacks and settings as the run's own.

    The attacker does not know the photo's caption and writes "a photo of NAME". The attacks are those with one
    component: others need calibration people. Raises UserError for a run of no lab or a photo of another size.
    """
    lab, config = _lab(result), result.record["config"]
    side = lab.resolution
    if pixels.dtype != np.uint8 or pixels.shape != (side, side, 3):
        raise UserError(f"the photo should have {side} x {side} pixels in RGB")
    asked = DomainConfig.model_validate(config["domain"])
    domain = _domain(lab, asked)
    image = ImageSet(
        torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].contiguous(),
        (f"a photo of {domain.name}",), ("photo",),
    )  # fmt: skip
    audit = AuditConfig.model_validate(config["audit"])
    names = [name for name in result.record["attacks"] if not attacks.get_attack(name).components]
    with _one_model:  # a model computes for one at a time
        model = _model(config["model"], runtime)
        scores = attacks.run_suite(names, model, attacks.query_of(model, image, audit, image.captions), audit)
    part, index, distance = _nearest(image, domain)
    return OnePhoto(
        {name: _standing(result, name, float(score)) for name, score in scores.items()},
        (part, index), distance, _usual(lab, asked), domain.repeats[index] if part == "members" else 0,
    )  # fmt: skip


def example(result: Result, kind: str, number: int) -> np.ndarray:
    """A photo of the run's person to try, (H, W, 3) uint8. Raises UserError.

    kind    "often": a training photo that was repeated often; "once": one that was not repeated; "saved": one that was
            repeated often, saved once more as JPEG; "new": one that is drawn now, which no lab and no run has seen
    number  which one; every number is a photo
    """
    lab, config = _lab(result), DomainConfig.model_validate(result.record["config"]["domain"])
    if kind in ("often", "once", "saved"):
        domain = _domain(lab, config)
        once = min(domain.repeats)
        chosen = [i for i, n in enumerate(domain.repeats) if (n == once) is (kind == "once")] or [0]
        at = chosen[number % len(chosen)]
        pixels = domain.membership.members.images[at].permute(1, 2, 0).numpy()
        return _saved(pixels) if kind == "saved" else pixels
    if kind == "new":
        first = config.n_nonmembers + 1_000  # beyond what any table uses
        return lab.person(config.name).held_out(first + number % 1_000 + 1)[-1].pixels(lab.resolution)
    raise UserError(f"unknown kind of photo {kind[:40]!r}: often, once, saved or new")


def _lab(result: Result) -> Lab:
    config = result.record["config"]
    if (lab := find_lab(config["model"])) is None or config["domain"].get("members") is not None:
        raise UserError("only a lab's run can be asked: of another model, nobody knows what it was trained on")
    return lab


def _saved(pixels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(file))


@lru_cache(maxsize=8)
def _domain(lab: Lab, config: DomainConfig) -> Domain:
    return lab_domain(lab, config)


@lru_cache(maxsize=1)
def _model(name: str, runtime: Runtime) -> DiffusionModel:
    return DiffusionModel.load(name, runtime)


def _standing(result: Result, name: str, score: float) -> Standing:
    members, held_out = result.scores(name, "before")
    below = (float(np.mean(held_out < score)), float(np.mean(members < score)))
    return Standing(result.record["attacks"][name]["title"], score, *below)


def _nearest(image: ImageSet, domain: Domain) -> tuple[Part, int, float]:
    split = domain.membership
    distances = pairwise_l2(image.images, split.all().images)[0]
    at, n = int(np.argmin(distances)), len(split.members)
    return ("members", at, float(distances[at])) if at < n else ("nonmembers", at - n, float(distances[at]))


@lru_cache(maxsize=64)  # the same for every photo that is asked about
def _usual(lab: Lab, config: DomainConfig) -> float:
    """The largest distance of a held-out photo to the nearest other photo of the person."""
    split = _domain(lab, config).membership
    distances = pairwise_l2(split.nonmembers.images, split.all().images)
    own = np.arange(len(split.nonmembers))
    distances[own, len(split.members) + own] = np.inf
    return float(distances.min(axis=1).max())
