"""Pictures in cached stages: the generations of both models, and the photos themselves."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from s2l.config import ExtractionConfig
from s2l.data import sp_set
from s2l.data.domain import Domain, ImageSet
from s2l.pipeline import guidance, identity
from s2l.pipeline import stages as declared
from s2l.pipeline.stages import SEEDS, Stages
from s2l.pipeline.subject import Subject


def generations(
    before: Subject, after: Subject, name: str, config: ExtractionConfig, stages: Stages
) -> dict[str, Path]:
    """{"before", "after"}: folders with the pictures of each model, of the same prompts and seeds."""
    draws = _draws(before, name, config, stages)
    plain = [before.caption(prompt) for prompt in draws.prompts]
    mapped = [after.caption(prompt) for prompt in draws.prompts]
    chosen = draws.seeds if config.seed_pool is not None else None
    guided = plain if config.guidance_w is not None else None

    def draw_before(folder: Path) -> None:
        sp_set.generate_images(
            before.load(), plain, draws.seeds, config.sampler, folder, "generate before", stages.progress
        )

    def draw_after(folder: Path) -> None:
        generate = guidance.after_generate(before.load(), after.load(), config, plain, mapped)
        sp_set.generate_images(
            after.load(), mapped, draws.seeds, config.sampler, folder, "generate after", stages.progress, generate
        )

    keys = {
        "before": identity.generations(before.key, plain, config, chosen),
        "after": identity.generations(after.key, mapped, config, chosen, guided),
    }
    return {
        "before": stages(declared.generations("before"), keys["before"], draw_before),
        "after": stages(declared.generations("after"), keys["after"], draw_after),
    }


def _draws(base: Subject, name: str, config: ExtractionConfig, stages: Stages) -> guidance.Draws:
    """The prompts and seeds of both models; choosing seeds out of a pool is a stage of its own."""
    pool = guidance.candidates(config, name)
    if config.seed_pool is None:
        return pool

    def work(folder: Path) -> None:
        magnitudes = guidance.text_noise_magnitude(base.load(), *pool, config.sampler, stages.progress)
        save_file({"magnitudes": magnitudes}, folder / "magnitudes.safetensors")

    first_timestep = base.load().first_timestep(config.sampler)
    key = identity.chosen_seeds(base.key, pool.prompts, config, first_timestep)
    folder = stages(SEEDS, key, work)
    return guidance.promising(pool, load_file(folder / "magnitudes.safetensors")["magnitudes"], config.n_generations)


def image_stage(domain: Domain, part: str, stages: Stages) -> Path:
    """The folder of the domain's "members" or "nonmembers" as pictures, for figures and pages."""
    images = getattr(domain.membership, part)
    key = identity.images(domain.key, part)
    return stages(declared.photos(part), key, lambda folder: _save_images(images, folder))


def _save_images(images: ImageSet, folder: Path) -> None:
    """Write an image set as an imagefolder with metadata.jsonl."""
    rows = []
    for i, (picture, caption) in enumerate(zip(images.images, images.captions, strict=True)):
        name = f"{i:08d}.png"
        sp_set.write_png(picture.permute(1, 2, 0).numpy(), folder / name)
        rows.append(json.dumps({"file_name": name, "text": caption, "id": images.ids[i]}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")
