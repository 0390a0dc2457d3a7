"""Generate pictures from prompts into a folder: the SP set, and the generations that extraction searches.

Each picture has its own seed, so picture i is the same at any batch size. The folder holds one PNG per
picture and a `metadata.jsonl` (file_name, text, seed) that Hugging Face tools can read too. A killed run
keeps the pictures it had and generates the rest; processes of `accelerate launch` share the work. `pictures.jsonl`
has the hash of every picture as it was generated, so that another picture in its place is seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image

from s2l.config import PromptPart, SamplerConfig, SPSetConfig
from s2l.data.captions import caption_of, read_text
from s2l.data.decode import Unreadable, decode
from s2l.data.domain import ImageSet
from s2l.data.photos import pixel_array
from s2l.errors import UserError
from s2l.model.diffusion import DiffusionModel
from s2l.progress import Event, Progress, silent

HASHES = "pictures.jsonl"


def prompt_of(parts: Sequence[PromptPart], name: str, suffix: str, seed: int) -> str:
    """The prompt of one picture: a weighted draw from the mix that depends only on the picture's seed."""
    weights = np.array([part.weight for part in parts])
    rng = np.random.default_rng([5, seed])
    part = parts[int(rng.choice(len(parts), p=weights / weights.sum()))]
    return filled(part.template, name, suffix)


def filled(template: str, name: str, suffix: str) -> str:
    """A prompt of the mix, with the name in it."""
    text = template.replace("{name}", name)
    return " ".join(f"{text} {suffix}".split()).replace(" ,", ",")


def _file_name(seed: int) -> str:
    return f"{seed:08d}.png"


def check_disk(folder: Path, seeds: Sequence[int], resolution: int) -> None:
    """Raises UserError when the disk cannot hold those images of `seeds` that `folder` lacks. Creates nothing."""
    n = sum(not (folder / _file_name(seed)).exists() for seed in seeds)
    needed = n * resolution * resolution * 3 * 1.2
    place = folder.absolute()
    free = shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists())).free
    if needed > 0.9 * free:
        raise UserError(
            f"{n:,} images need about {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free: "
            "choose a smaller set size, or another disk (for the cache: with the S2L_CACHE variable)"
        )


def write_png(pixels: np.ndarray, path: Path, hashed: bool = False) -> None:
    """Write pixels (H, W, 3) uint8 whole or not at all; with `hashed`, the line with their hash comes first, so that a
    killed run leaves no picture without one."""
    temporary = path.with_suffix(".tmp")
    Image.fromarray(pixels).save(temporary, format="PNG")
    if hashed:
        _note_hash(temporary, path)
    os.replace(temporary, path)


def _note_hash(temporary: Path, path: Path) -> None:
    line = json.dumps({"file_name": path.name, "sha256": _sha256(temporary)}) + "\n"
    with open(path.with_name(HASHES), "a", encoding="utf-8") as table:  # one write: other processes add lines too
        table.write(line)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_pictures(folder: Path) -> None:
    """Raises UserError for a picture that is not the one that was generated in its place.

    Pictures without a hash (of earlier versions, of other tools) are not checked.
    """
    made: dict[str, str] = {}
    if (folder / HASHES).exists():
        for line in (folder / HASHES).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, LookupError):  # a line that a full disk cut
                row = json.loads(line)
                made[row["file_name"]] = row["sha256"]
    other = [name for name, sha in made.items() if (folder / name).is_file() and _sha256(folder / name) != sha]
    if other:
        more = f" and {len(other) - 1} more are" if len(other) > 1 else " is"
        raise UserError(
            f"{folder / other[0]}{more} not what was generated there: delete such pictures, and the command that made "
            f"them makes them again (or delete {HASHES} to use them as they are)"
        )


def processes(model: DiffusionModel) -> PartialState:
    """The processes of `accelerate launch`, and which of them this is; without it, this is the only one."""
    return PartialState(cpu=model.device.type == "cpu")


def generate_images(
    model: DiffusionModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: SamplerConfig,
    folder: Path,
    stage: str = "generate",
    progress: Progress = silent,
    generate: Callable | None = None,
) -> ImageSet:
    """Fill `folder` with one picture per (prompt, seed), resuming from what is there; returns the whole set.

    `generate` replaces `model.generate` and takes the same arguments (for other guidance). Several processes generate
    a share each and all return the whole set; the first one reports progress. Raises UserError when the disk cannot
    hold the set, or the folder holds another one.
    """
    folder = Path(folder)
    names = [_file_name(seed) for seed in seeds]
    rows = [
        {"file_name": name, "text": prompt, "seed": int(seed)}
        for name, prompt, seed in zip(names, prompts, seeds, strict=True)
    ]
    metadata = folder / "metadata.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if metadata.exists() and (before := metadata.read_text(encoding="utf-8")) != text:
        if before and (text.startswith(before) or before.startswith(text)):
            sizes = f"a set of {len(before.splitlines())} images and {len(names)} are asked for"
            raise UserError(f"{folder} holds {sizes}: choose an empty folder, or the same size")
        raise UserError(f"{folder} holds images of other prompts or seeds: choose an empty folder")
    check_disk(folder, seeds, model.resolution)
    check_pictures(folder)
    folder.mkdir(parents=True, exist_ok=True)
    todo = [i for i, name in enumerate(names) if not (folder / name).exists()]
    team = processes(model)
    team.wait_for_everyone()  # all processes see what is there before any of them generates
    if team.is_main_process and not metadata.exists():
        # Renamed when complete: a run killed here must recognize its own folder later.
        metadata.with_suffix(".tmp").write_text(text, encoding="utf-8")
        os.replace(metadata.with_suffix(".tmp"), metadata)
    mine, ready = todo[team.process_index :: team.num_processes], len(names) - len(todo)
    started, n_new = time.monotonic(), 0

    def report() -> None:
        if team.is_main_process:  # the others are about equally far
            speed = n_new / max(time.monotonic() - started, 1e-9)
            done = min(ready + n_new, len(names))
            progress(Event(stage, done, len(names), {"images_per_s": speed, "folder": str(folder)}))

    def keep(first: int, images: torch.Tensor) -> None:
        nonlocal n_new
        pixels = (images.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
        for i, picture in zip(mine[first : first + len(pixels)], pixels, strict=True):
            write_png(picture, folder / names[i], hashed=True)
        n_new += len(pixels) * team.num_processes
        report()

    report()
    if mine:
        (generate or model.generate)([prompts[i] for i in mine], [seeds[i] for i in mine], sampler, on_batch=keep)
    team.wait_for_everyone()
    return load_images(folder)


def load_images(folder: str | Path) -> ImageSet:
    """Read a folder written by `generate_images` (or any imagefolder with metadata.jsonl).

    Raises UserError when it is not one, or when pictures are missing (after an interrupted run).
    """
    folder = Path(folder)
    metadata = folder / "metadata.jsonl"
    if not metadata.exists():
        raise UserError(f"{folder} is not an image set: it has no metadata.jsonl")
    try:
        rows = [json.loads(line) for line in read_text(metadata).split("\n") if line.strip()]
        names = tuple(row["file_name"] for row in rows)
        # This program's own captions stay as they are, to the last space.
        texts = (row["text"] if isinstance(row.get("text"), str) else caption_of(row) for row in rows)
        captions = tuple(text for text in texts if text is not None)
        if len(captions) < len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError
    except Unreadable as error:
        raise UserError(f"{metadata}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f'{metadata}: each line needs {{"file_name": ..., "text": ...}}') from None
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} of {len(rows)} images: run the same command again to finish it")
    check_pictures(folder)
    images = None
    for i, name in enumerate(names):
        try:
            picture = torch.from_numpy(np.array(decode(folder / name).image)).permute(2, 0, 1)
        except Unreadable as error:
            raise UserError(f"{folder / name} is not a readable image ({error})") from None
        if images is None:
            images = pixel_array(len(names), *picture.shape[1:])
        if picture.shape != images.shape[1:]:
            raise UserError(f"{folder} holds images of different sizes")
        images[i] = picture
    if images is None:
        raise UserError(f"{folder} holds no images")
    return ImageSet(images, captions, names)


def generate_sp_set(
    model: DiffusionModel, name: str, config: SPSetConfig, folder: Path, progress: Progress = silent
) -> ImageSet:
    """The SP set of the person called `name` (Shake-to-Leak, step 1), in `folder`."""
    seeds = range(config.seed, config.seed + config.set_size)
    check_disk(folder, seeds, model.resolution)  # before 100,000 prompts are drawn
    prompts = [prompt_of(config.prompts, name, config.suffix, seed) for seed in seeds]
    return generate_images(model, prompts, seeds, config.sampler, folder, "sp_set", progress)
