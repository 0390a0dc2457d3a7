"""Whose photos are at stake: image sets, the member / non-member split, and domains.

A domain is a name that prompts can contain (a person, a style, an object), the images of it that
the model was pre-trained on (members) and images from the same distribution that it was not
(non-members). The lab knows both exactly; for a checkpoint of your own they come as folders.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from s2l.config import DomainConfig, UserError, key_of, unknown
from s2l.lab import people as lab_people
from s2l.store import read_json

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MIN_SIDE = 32  # pixels; smaller files are thumbnails, not photos


@dataclass(frozen=True)
class ImageSet:
    """N images with one caption and one id each. `images` is (N, 3, H, W) uint8."""

    images: torch.Tensor
    captions: tuple[str, ...]
    ids: tuple[str, ...]

    def __post_init__(self):
        n = len(self.images)
        if self.images.ndim != 4 or self.images.shape[1] != 3 or self.images.dtype != torch.uint8:
            raise ValueError(f"images must be (N, 3, H, W) uint8, not {tuple(self.images.shape)} {self.images.dtype}")
        if len(self.captions) != n or len(self.ids) != n:
            raise ValueError(f"{n} images need {n} captions and ids, not {len(self.captions)} and {len(self.ids)}")

    def __len__(self) -> int:
        return len(self.images)

    def floats(self) -> torch.Tensor:
        """(N, 3, H, W) float32 in [0, 1]."""
        return self.images.float() / 255

    def subset(self, indices) -> ImageSet:
        indices = [int(i) for i in indices]
        return ImageSet(
            self.images[indices], tuple(self.captions[i] for i in indices), tuple(self.ids[i] for i in indices)
        )


@dataclass(frozen=True)
class MembershipSplit:
    """Members and non-members of one domain, meant to be a random split of one distribution."""

    members: ImageSet
    nonmembers: ImageSet

    def all(self) -> ImageSet:
        """Members first, then non-members: the order of every score array in a result."""
        m, n = self.members, self.nonmembers
        return ImageSet(torch.cat([m.images, n.images]), m.captions + n.captions, m.ids + n.ids)


@dataclass(frozen=True)
class Domain:
    """A target. `split` is None when nobody knows the members: then there is no ROC."""

    name: str
    split: MembershipSplit | None
    repeats: tuple[int, ...] = ()  # how often each member was repeated in pre-training; () if unknown
    role: str = ""  # "calibration" or "reporting" in the lab
    key: str = ""  # names this domain's data in cache keys
    notes: tuple[str, ...] = field(default=())  # what was skipped or looks wrong, for the report


# --- the lab ---------------------------------------------------------------------------------


def lab_folder() -> Path:
    """Where the embedded model lies: `$S2L_LAB`, else assets/lab of this repository."""
    return Path(os.environ.get("S2L_LAB") or Path(__file__).resolve().parents[1] / "assets" / "lab")


def lab_record() -> dict:
    """The lab's `lab.json`: its recipe, people, photo seeds, repeats and hashes."""
    path = lab_folder() / "lab.json"
    if not path.exists():
        raise UserError(f"no lab model in {lab_folder()}: make one with `python -m s2l lab build`")
    return read_json(path)


def lab_people_records() -> list[dict]:
    """The lab's celebrities, one dict each: index, name, role, photo_seeds, repeats, hashes."""
    return lab_record()["people"]


def unknown_words(prompt: str) -> list[str]:
    """Words of a prompt that no caption of the lab contains, in order."""
    known = set(lab_people.vocabulary())
    return [word for word in lab_people.words_of(prompt) if word not in known]


def _image_set(photos: list[lab_people.LabPhoto], resolution: int) -> ImageSet:
    pixels = np.stack([p.pixels(resolution) for p in photos])
    return ImageSet(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        tuple(p.caption for p in photos),
        tuple(str(p.photo_seed) for p in photos),
    )


def lab_domain(config: DomainConfig) -> Domain:
    """A celebrity of the lab, with members checked against the hashes of the training run."""
    record = lab_record()
    by_name = {row["name"].lower(): row for row in record["people"]}
    row = by_name.get(config.name.lower())
    if row is None:
        raise unknown("person", config.name, [r["name"] for r in record["people"]])
    person = lab_people.celebrities(len(record["people"]))[row["index"]]
    photos = lab_people.member_photos(person, record["n_members"])
    if config.n_members is not None:
        photos = photos[: config.n_members]
    held_out = lab_people.held_out_photos(person, config.n_nonmembers)
    members = _image_set(photos, record["resolution"])
    drawn = [lab_people.photo_hash(image.permute(1, 2, 0).numpy()) for image in members.images]
    if drawn != row["hashes"][: len(drawn)]:
        raise RuntimeError(
            f"the photos of {person.name} drawn here differ from those the lab was trained on: "
            "another version of Pillow draws differently; install the pinned requirements"
        )
    return Domain(
        name=person.name,
        split=MembershipSplit(members, _image_set(held_out, record["resolution"])),
        repeats=tuple(p.repeats for p in photos),
        role=person.role,
        key=key_of("lab", record["resolution"], row, config.n_members, config.n_nonmembers),
    )


# --- folders of images -----------------------------------------------------------------------


def _square(image: Image.Image, resolution: int) -> np.ndarray:
    """Centre crop to a square, then resize: (resolution, resolution, 3) uint8."""
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((resolution, resolution), Image.Resampling.LANCZOS))


def _captions(folder: Path) -> dict[str, str]:
    """{file name: caption} from captions.jsonl or metadata.jsonl (rows with file_name and text)."""
    for name in ("captions.jsonl", "metadata.jsonl"):
        path = folder / name
        if path.exists():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            bad = [i for i, row in enumerate(rows, 1) if not {"file_name", "text"} <= set(row)]
            if bad:
                raise UserError(f'{path}, line {bad[0]}: each line needs {{"file_name": ..., "text": ...}}')
            return {row["file_name"]: row["text"] for row in rows}
    return {}


def load_folder(folder: str | Path, resolution: int, default_caption: str) -> tuple[ImageSet, list[str]]:
    """Read a folder of images as squares of `resolution` pixels; report what could not be used.

    Returns the set and a list of notes. Raises UserError when nothing usable is in the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of images")
    captions, notes = _captions(folder), []
    images, kept, seen = [], [], {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
        try:
            with Image.open(path) as image:
                if min(image.size) < MIN_SIDE:
                    notes.append(f"{path.name}: {image.width}x{image.height} pixels, too small (at least {MIN_SIDE})")
                    continue
                pixels = _square(image, resolution)
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            notes.append(f"{path.name}: unreadable ({type(error).__name__})")
            continue
        print_of = lab_people.photo_hash(pixels)
        if print_of in seen:
            notes.append(f"{path.name}: the same picture as {seen[print_of]}, left out")
            continue
        seen[print_of] = path.name
        images.append(pixels)
        kept.append(path.name)
    if not images:
        raise UserError(f"no usable image in {folder}; allowed: {', '.join(IMAGE_SUFFIXES)}")
    tensor = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return ImageSet(tensor, tuple(captions.get(n, default_caption) for n in kept), tuple(kept)), notes


def folder_domain(config: DomainConfig, resolution: int) -> Domain:
    """A domain from two folders; without them `split` is None."""
    if config.members is None and config.nonmembers is None:
        return Domain(config.name, None, key=key_of("name", config.name))
    if config.members is None or config.nonmembers is None:
        raise UserError("give both folders, --members and --nonmembers, or neither")
    caption = f"a photo of {config.name}"
    members, notes = load_folder(config.members, resolution, caption)
    nonmembers, more = load_folder(config.nonmembers, resolution, caption)
    notes += more
    prints = {lab_people.photo_hash(image.numpy()) for image in members.images}
    fresh = [i for i, image in enumerate(nonmembers.images) if lab_people.photo_hash(image.numpy()) not in prints]
    if len(fresh) < len(nonmembers):
        notes.append(f"{len(nonmembers) - len(fresh)} non-members are also members and were left out")
        nonmembers = nonmembers.subset(fresh)
    rng = np.random.default_rng(config.seed)
    if config.n_members is not None and config.n_members < len(members):
        members = members.subset(np.sort(rng.permutation(len(members))[: config.n_members]))
    if config.n_nonmembers < len(nonmembers):
        nonmembers = nonmembers.subset(np.sort(rng.permutation(len(nonmembers))[: config.n_nonmembers]))
    hashes = [lab_people.photo_hash(image.numpy()) for image in torch.cat([members.images, nonmembers.images])]
    key = key_of("folder", config.name, hashes, members.captions, nonmembers.captions)
    return Domain(config.name, MembershipSplit(members, nonmembers), key=key, notes=tuple(notes))
