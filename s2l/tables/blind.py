"""Which differences between two folders the blind controls see, and what attacks then claim: `results/blind.json`.

All photos are held-out photos of people of a lab, so nobody is a member. One side is changed (saved as JPEG, blurred,
cropped, ...); each control judges random splits, and each attack scores photos of both sides on the base model.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from s2l import attacks
from s2l.config import LAB, AuditConfig
from s2l.data.domain import ImageSet
from s2l.data.reencode import BEST, Recipe, recipe_for
from s2l.errors import UserError
from s2l.labs import find_lab
from s2l.measure.control import pixel_features, split_test, word_features
from s2l.measure.exchange import LEVEL
from s2l.measure.fine import fine_features, fine_test
from s2l.measure.intervals import binomial_interval
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.progress import Event, Progress, silent
from s2l.store import read_json, write_json
from s2l.worlds.people import LabPhoto

SIZES = {(40, 40): 100, (40, 120): 100, (200, 200): 50}  # (members, held-out photos): random splits
PEOPLE = 3  # calibration people; a split is of one person's photos
PHOTOS = 400  # of each person that the controls draw from
SCORED = 8  # of each person that the attacks score
ATTACKS = ("loss", "sima", "secmi")
RESAMPLES = 1000
SIDE = 64  # pixels of the lab's photos
JPEG = (95, 85, 75, 50)  # qualities

Change = Callable[[LabPhoto], np.ndarray]


# --- what is done to photos -------------------------------------------------------------------------------------------


def _plain(photo: LabPhoto) -> np.ndarray:
    return photo.pixels(SIDE)


def _jpeg(quality: int, photo: LabPhoto) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(_plain(photo)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def _blurred(sigma: float, photo: LabPhoto) -> np.ndarray:
    return ndimage.gaussian_filter(_plain(photo), (sigma, sigma, 0))


def _noisy(sd: float, photo: LabPhoto) -> np.ndarray:
    noise = np.random.default_rng(photo.photo_seed).normal(0, sd, (SIDE, SIDE, 3))
    return np.clip((_plain(photo) + noise).round(), 0, 255).astype(np.uint8)


def _cropped(share: float, photo: LabPhoto) -> np.ndarray:
    edge = SIDE * share / 2
    box = (edge, edge, SIDE - edge, SIDE - edge)
    return np.asarray(Image.fromarray(_plain(photo)).resize((SIDE, SIDE), Image.Resampling.LANCZOS, box))


def _reduced(how: Image.Resampling, photo: LabPhoto) -> np.ndarray:
    return np.asarray(Image.fromarray(photo.pixels(2 * SIDE)).resize((SIDE, SIDE), how))


def _brighter(factor: float, photo: LabPhoto) -> np.ndarray:
    return np.clip((_plain(photo) * factor).round(), 0, 255).astype(np.uint8)


VERSIONS: dict[str, Change] = {
    "as drawn": _plain,
    **{f"JPEG {quality}": partial(_jpeg, quality) for quality in JPEG},
    **{f"blur of sigma {sigma:g}": partial(_blurred, sigma) for sigma in (0.5, 1.0)},
    **{f"noise of sd {sd:g}": partial(_noisy, sd) for sd in (1.0, 3.0)},
    **{f"cropped by {100 * share:g} %": partial(_cropped, share) for share in (0.03, 0.06)},
    "halved by Lanczos": partial(_reduced, Image.Resampling.LANCZOS),
    "halved by bilinear": partial(_reduced, Image.Resampling.BILINEAR),
    **{f"brighter by {percent} %": partial(_brighter, 1 + percent / 100) for percent in (3, 10)},
}
QUALITIES = {f"JPEG {quality}": quality for quality in JPEG}


@dataclass(frozen=True)
class Kind:
    """A difference: the version of the members, that of the held-out photos, and the share of these that has it."""

    ours: str
    theirs: str
    share: float = 1.0


KINDS = {
    "none": Kind("as drawn", "as drawn"),
    "JPEG 75 in a quarter of one side": Kind("as drawn", "JPEG 75", 0.25),
    "JPEG 95 against JPEG 75": Kind("JPEG 95", "JPEG 75"),
    "halved by Lanczos against bilinear": Kind("halved by Lanczos", "halved by bilinear"),
    **{
        (f"lossless against {name}" if name in QUALITIES else f"one side {name}"): Kind("as drawn", name)
        for name in VERSIONS
        if name not in ("as drawn", "halved by Lanczos", "halved by bilinear")
    },
}


# --- the controls -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What the controls see of one person's photos: fine (N, 28) and coarse (N, P) features."""

    fine: np.ndarray
    coarse: np.ndarray


def _seen(images: list[np.ndarray]) -> Seen:
    return Seen(fine_features(images), pixel_features(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)))


def _mixed(ours: Seen, theirs: Seen, n: int, order: np.ndarray, changed: np.ndarray) -> Seen:
    """Rows of `order`: the first n of `ours`, the others of `theirs` where `changed`, else of `ours`."""
    late = np.r_[np.zeros(n, bool), changed][:, None]
    both = ((ours.fine, theirs.fine), (ours.coarse, theirs.coarse))
    return Seen(*(np.where(late, b[order], a[order]) for a, b in both))


def _warnings(kind: Kind, pairs: list[tuple[Seen, Seen]], captions: list[list[str]], sizes: Mapping) -> dict:
    """{"40/40": {"fine", "coarse", "either": rate with interval, "splits": number}}."""
    rates = {}
    for (n, m), splits in sizes.items():
        rng, counts = np.random.default_rng(n + m), dict.fromkeys(("fine", "coarse", "either"), 0)
        for i in range(splits):
            (ours, theirs), words = pairs[i % len(pairs)], captions[i % len(pairs)]
            order = rng.permutation(len(words))[: n + m]
            seen = _mixed(ours, theirs, n, order, rng.permutation(m) < round(kind.share * m))
            fine = fine_test(seen.fine, n)[1] <= LEVEL
            coarse = split_test(seen.coarse, word_features([words[j] for j in order]), n) <= LEVEL
            for name, warns in (("fine", fine), ("coarse", coarse), ("either", fine or coarse)):
                counts[name] += warns
        rates[f"{n}/{m}"] = {"splits": splits} | {name: _rate(count, splits) for name, count in counts.items()}
    return rates


def _rate(count: int, of: int) -> dict:
    interval = binomial_interval(count, of)
    return {"rate": count / of, "low": interval.low, "high": interval.high}


# --- the attacks ------------------------------------------------------------------------------------------------------


def _claim(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """Mean AUC over people of scores (P, N) of two versions of the same photos, with a bootstrap interval over photos.

    Each photo of one side is compared with every *other* photo of the same person on the other side.
    """
    people, n = ours.shape
    wins = (ours[:, :, None] > theirs[:, None, :]) + 0.5 * (ours[:, :, None] == theirs[:, None, :])

    def auc(chosen: Sequence[np.ndarray]) -> float:
        values = []
        for p, i in enumerate(chosen):
            other = i[:, None] != i[None, :]
            values.append(wins[p][np.ix_(i, i)][other].mean() if other.any() else 0.5)
        return float(np.mean(values))

    rng = np.random.default_rng(0)
    draws = [auc(list(rng.integers(0, n, (people, n)))) for _ in range(RESAMPLES)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return {"mean": auc([np.arange(n)] * people), "low": float(low), "high": float(high)}


def recipe_of(kind: Kind) -> Recipe:
    """How `split-check --fix` re-encodes both versions."""
    return recipe_for(SIDE, min(QUALITIES.get(version, BEST) for version in (kind.ours, kind.theirs)))


class _Pools:
    """One version of every photo, computed when a row asks for it."""

    def __init__(self, people: list[list[LabPhoto]], scored: int, runtime: Runtime):
        self.people, self.scored, self.runtime = people, scored, runtime
        self.captions = [[photo.caption for photo in photos] for photos in people]
        self.images = lru_cache(maxsize=4)(self._images)
        self.seen = lru_cache(maxsize=None)(lambda version: [_seen(images) for images in self.images(version)])
        self.fixed = lru_cache(maxsize=None)(self._fixed)
        self.scores = lru_cache(maxsize=None)(self._scores)
        self.model = lru_cache(maxsize=1)(lambda: DiffusionModel.load(LAB, runtime))

    def _images(self, version: str) -> list[list[np.ndarray]]:
        return [[VERSIONS[version](photo) for photo in photos] for photos in self.people]

    def _fixed(self, version: str, recipe: Recipe) -> list[Seen]:
        return [_seen([recipe.pixels(image) for image in images]) for images in self.images(version)]

    def _scores(self, version: str) -> dict[str, np.ndarray]:
        """{attack: scores (people, photos) on the base model}."""
        config, model, parts = AuditConfig(attacks=ATTACKS), self.model(), []
        for photos in self.people:
            some = photos[: self.scored]
            pixels = torch.from_numpy(np.stack([VERSIONS[version](photo) for photo in some])).permute(0, 3, 1, 2)
            ids = tuple(str(photo.photo_seed) for photo in some)
            images = ImageSet(pixels.contiguous(), tuple(photo.caption for photo in some), ids)
            query = attacks.make_query(model, images, config.seed)
            parts.append({name: attacks.run_attack(name, model, query, config).double().numpy() for name in ATTACKS})
        return {name: np.stack([part[name] for part in parts]) for name in ATTACKS}

    def row(self, kind: Kind, sizes: Mapping) -> dict:
        """One row of the table."""
        pairs = list(zip(self.seen(kind.ours), self.seen(kind.theirs), strict=True))
        ours, theirs = self.scores(kind.ours), self.scores(kind.theirs)
        # Where only a share of photos differs, so does that share of the comparisons.
        claims = {name: _diluted(_claim(ours[name], theirs[name]), kind.share) for name in ATTACKS}
        warned = _warnings(kind, pairs, self.captions, sizes)
        return asdict(kind) | {"warned": warned, "attacks": claims} | self.after_fix(kind, sizes)

    def after_fix(self, kind: Kind, sizes: Mapping) -> dict:
        """How often the controls warn when both sides are re-encoded, at the smallest and the largest number."""
        recipe = recipe_of(kind)
        pairs = list(zip(self.fixed(kind.ours, recipe), self.fixed(kind.theirs, recipe), strict=True))
        some = {size: sizes[size] for size in (min(sizes), max(sizes))}
        return {"treatment": recipe.treatment, "fixed": _warnings(kind, pairs, self.captions, some)}


def _diluted(claim: dict, share: float) -> dict:
    return {what: 0.5 + share * (value - 0.5) for what, value in claim.items()}


# --- the table --------------------------------------------------------------------------------------------------------


def run_blind(
    path: Path,
    only: str = "",
    kinds: Mapping[str, Kind] = KINDS,
    sizes: Mapping[tuple[int, int], int] = SIZES,
    people: int = PEOPLE,
    photos: int = PHOTOS,
    scored: int = SCORED,
    runtime: Runtime = Runtime(),
    progress: Progress = silent,
) -> dict:
    """Measure the rows that the table in `path` lacks and whose label contains `only`; returns the table.

    Of a row whose photos were re-encoded in another way than now, that part alone is measured again. Raises
    UserError if no label contains it.
    """
    lab = find_lab(LAB)
    if lab is None or not (wanted := {label: kind for label, kind in kinds.items() if only in label}):
        raise UserError(f"no difference of this table contains {only!r}", field="only")
    names = lab.names("calibration")[:people]
    pools = _Pools([lab.person(name).held_out(photos) for name in names], scored, runtime)
    table = read_json(path) if path.exists() else _header(lab.name, names, photos, scored)
    for i, (label, kind) in enumerate(wanted.items()):
        rows = table["rows"]
        if label not in rows:
            rows[label] = pools.row(kind, sizes)
        elif rows[label].get("treatment") != recipe_of(kind).treatment:
            rows[label] |= pools.after_fix(kind, sizes)
        table["rows"] = {name: rows[name] for name in kinds if name in rows}
        write_json(path, table)
        progress(Event("blind", i + 1, len(wanted), {"row": label}))
    return table


def _header(lab: str, names: Sequence[str], photos: int, scored: int) -> dict:
    return {
        "schema_version": 1,
        "kind": "blind",
        "title": "What the blind controls catch, and what the attacks then claim",
        "command": "python -m s2l blind",
        "lab": lab,
        "people": list(names),
        "photos": photos,
        "scored": scored,
        "rows": {},
    }
