"""Labs of one recipe with several seeds, one after the other or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from s2l.model.diffusion import Runtime
from s2l.pretrain import build as pretraining
from s2l.pretrain.recipe import Recipe
from s2l.progress import Progress
from s2l.store import Store
from s2l.tables.cluster import Pool, Task, pack, unpack


def build_seeds(
    recipe: Recipe, seeds: list[int], out: Path, where: tuple[str, str], pool: Pool | None, progress: Progress
) -> Iterator[Path]:
    """The folder OUT-seed-N of each lab as it is done; one that is there stays. `where` is (device, dtype).

    On a cluster, a worker keeps what is needed to resume in its cache and sends the finished lab.
    """
    folders = [out.with_name(f"{out.name}-seed-{seed}") for seed in seeds]
    missing = [(seed, folder) for seed, folder in zip(seeds, folders, strict=True) if not folder.exists()]
    yield from (folder for folder in folders if folder.exists())
    tasks = [Task(f"seed {seed}", _build, (replace(recipe, seed=seed), *where)) for seed, _ in missing]
    each = ((i, task.function(*task.arguments, Store(), progress)) for i, task in enumerate(tasks))
    for i, files in each if pool is None else pool.map(tasks, progress):
        unpack(files, missing[i][1])
        yield missing[i][1]


def _build(recipe: Recipe, device: str, dtype: str, store: Store, progress: Progress) -> dict[str, bytes]:
    """The files of a lab, which is built in the cache."""
    out = store.root / "labs" / f"{recipe.name}-{recipe.steps}-seed-{recipe.seed}"
    runtime = Runtime(device, pretraining.training_dtype(device, dtype), None)
    pretraining.build(out, out.with_name(out.name + "-work"), recipe, runtime, progress, [])
    return pack(out)
