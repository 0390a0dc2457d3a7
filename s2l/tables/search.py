"""The search for settings on calibration people: every configuration that was tried is a row of a committed file.

`python -m s2l search NAME` runs what `results/NAME.json` lacks, person by person, and writes each result at once. A
search uses calibration people only: its outcome is frozen in docs/protocol.md before any reporting person is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from s2l.attacks import attack_settings
from s2l.config import LAB, RunConfig, merged, preset
from s2l.errors import UserError, unknown
from s2l.labs import Lab, find_lab
from s2l.model.diffusion import Runtime
from s2l.pipeline.experiment import run
from s2l.progress import Event, Progress, silent
from s2l.record import BOTH, Part, Result
from s2l.store import Store, read_json, write_json
from s2l.tables.declared import OF_TABLES

SCHEMA_VERSION = 1
PARTS: tuple[Part, Part] = ("members", "nonmembers")
REFERENCES = ("loss", "secmi")  # attacks that are also judged with both models together


@dataclass(frozen=True)
class Trial:
    """One configuration: what it changes in the search's settings, and how many people, or which, it is tried on."""

    label: str
    overrides: dict = field(default_factory=dict)
    people: int | tuple[str, ...] = 1
    together: bool = False  # all calibration people share one shake


@dataclass(frozen=True)
class Search:
    """Trials on one lab. `common` is what all of them change in the preset `demo`."""

    title: str
    trials: tuple[Trial, ...]
    common: dict = field(default_factory=dict)
    model: str = LAB


def _shake(guidance: float, methods: str, steps: int, rate: float, **sp_set: object) -> dict:
    return {
        "sp_set": {"sampler": {"guidance_scale": guidance}} | sp_set,
        "finetune": {"methods": [methods], "max_train_steps": steps, "learning_rate": rate},
    }


def _noise(sigma: float) -> dict:
    return {"finetune": {"methods": ["gaussian_noise"], "settings": {"gaussian_noise": {"noise_sigma": sigma}}}}


def _first_trials() -> Iterator[Trial]:
    for text in ("1e-3", "3e-3", "6e-3", "1e-2"):
        yield Trial(f"Gaussian noise, sigma {text}", _noise(float(text)), 2)
    strangers = _shake(2.0, "end_to_end", 150, 1e-4, prompts=[{"template": "a photo of a person"}])
    yield Trial("out of domain, guidance 2; end-to-end, rate 1e-4, 150 steps", strangers, 2)
    titles = {"lora": "LoRA", "end_to_end": "end-to-end", "hypernetwork": "hypernetwork"}
    for guidance, method, rate, steps, people in (
        (3, "lora", "1e-4", 100, 1), (3, "lora", "1e-4", 300, 1), (3, "lora", "1e-3", 100, 2),
        (3, "lora", "1e-3", 300, 1), (3, "end_to_end", "1e-5", 100, 1), (3, "end_to_end", "1e-5", 300, 1),
        (3, "end_to_end", "1e-4", 50, 3), (3, "end_to_end", "1e-4", 150, 2), (3, "end_to_end", "1e-4", 300, 1),
        (1, "end_to_end", "1e-4", 50, 3), (1, "end_to_end", "1e-4", 150, 2), (1, "end_to_end", "1e-4", 300, 2),
    ):  # fmt: skip
        yield Trial(
            f"guidance {guidance}; {titles[method]}, rate {rate}, {steps} steps",
            _shake(guidance, method, steps, float(rate)), people,
        )  # fmt: skip
    for steps in (50, 150, 300):
        yield Trial(
            f"guidance 1, 512 images; end-to-end, rate 1e-4, {steps} steps",
            _shake(1.0, "end_to_end", steps, 1e-4, set_size=512),
            ("Taro Quillan",),
        )
    for method, rate, steps, people in (
        ("hypernetwork", "3e-4", 300, 1), ("hypernetwork", "1e-3", 300, 1),
        ("lora", "1e-3", 100, 8), ("lora", "1e-3", 300, 8),
    ):  # fmt: skip
        yield Trial(
            f"guidance 1; {titles[method]}, rate {rate}, {steps} steps", _shake(1, method, steps, float(rate)), people
        )


def _second_trials() -> Iterator[Trial]:
    for guidance in (2, 4, 8):
        sp_set = {"set_size": 512, "sampler": {"guidance_scale": float(guidance)}}
        yield Trial(f"guidance {guidance}, shaken", {"sp_set": sp_set}, 8, together=True)
    sp_set = {"set_size": 512, "sampler": {"guidance_scale": 1.0}}
    yield Trial("guidance 1, shaken", {"sp_set": sp_set}, 8, together=True)
    for w in (0.5, 1.0, 2.0):
        yield Trial(f"guidance 1, un-shaken w = {w:g}", {"sp_set": sp_set, "unshake": {"w": w}}, 8, together=True)


SEARCHES = {
    "search": Search(
        "The shipped lab, before the settings of the tables were frozen",
        tuple(_first_trials()),
        {
            "domain": {"n_nonmembers": 80},
            "sp_set": {"sampler": {"num_inference_steps": 15}},
            "audit": {
                "attacks": ["secmi", "loss", "pia", "sima"],
                "settings": {"loss": {"timesteps": [50, 100, 200]}},
            },
            "extraction": {"n_generations": 16},  # the search measured attacks, which need none
        },
        model="lab:fresh",
    ),
    "search-2": Search(
        "The buried lab: eight people shaken at once, guided, and the step away from an unguided shake",
        tuple(_second_trials()),
        {
            "domain": {"n_nonmembers": 80},
            "finetune": {
                "methods": ["end_to_end"], "learning_rate": 1e-4, "max_train_steps": 300, "train_batch_size": 64,
                "ema_decay": 0.99,
            },
            "audit": {
                "attacks": ["secmi", "loss", "pia", "sima"],
                "settings": {"loss": {"timesteps": [50, 100, 200]}},
            },
            "extraction": {"sampler": {"guidance_scale": 1.0}},
        },
        model="lab:buried",
    ),
}  # fmt: skip


def get_search(name: str) -> Search:
    """The search of that name. Raises UserError with the nearest match."""
    if name not in SEARCHES:
        raise unknown("search", name, SEARCHES)
    return SEARCHES[name]


def _lab(search: Search) -> Lab:
    lab = find_lab(search.model)
    if lab is None:
        raise UserError(f"a search needs a lab, and {search.model!r} is not one")
    return lab


def configs(search: Search, only: str = "", people: int | None = None) -> Iterator[tuple[Trial, RunConfig]]:
    """(trial, run) for every trial whose label contains `only`, on the trial's own people or on the first `people`.

    Raises UserError if no label contains it, and for too many people.
    """
    names, trials = _lab(search).names("calibration"), [trial for trial in search.trials if only in trial.label]
    if not trials:
        raise UserError(f"no trial of this search contains {only!r}", field="only")
    if people is not None and not 1 <= people <= len(names):
        raise UserError(f"between 1 and {len(names)} calibration people are needed (given: {people})", field="people")
    for trial in trials:
        choice = people if people is not None else trial.people
        for name in names[:choice] if isinstance(choice, int) else choice:
            settings = merged(OF_TABLES, merged(search.common, trial.overrides))
            domain = settings.pop("domain", {}) | {"name": name}
            if trial.together:
                others = {"sp_set": {"together": [other for other in names if other != name]}}
                settings = merged(settings, others)
            yield trial, preset("demo", domain, model=search.model, **settings)


def values_of(result: Result) -> dict[str, dict[str, float]]:
    """What a search stores of a run: AUCs before, their changes, and the photos within .1 and .12 of a generation."""
    attacks, before, differences = result.record["attacks"], {}, {}
    for name, attack in attacks.items():
        before[name] = attack["before"]["auc"]
        differences[name] = attack["difference"]["difference"]
        if name in REFERENCES and (reference := attack["shake_reference"]) is not None:
            differences[f"{name}_reference"] = reference["difference"]["difference"]
    copies: dict[str, float] = {
        f"{part} within {limit:g}, {when}": sum(d <= limit for d in result.extraction[when][part]["distances"])
        for part in PARTS
        for limit in (0.1, 0.12)
        for when in BOTH
    }
    return {"before": before, "differences": differences, "copies": copies}


def run_search(
    name: str,
    results: Path = Path("results"),
    only: str = "",
    people: int | None = None,
    store: Store | None = None,
    runtime: Runtime = Runtime(),
    progress: Progress = silent,
) -> dict:
    """Run what a search lacks and return the content of `results/NAME.json`.

    Runs that the file already has are not repeated, so an interrupted search continues. Raises UserError as `configs`.
    """
    search, path = get_search(name), results / f"{name}.json"
    work = list(configs(search, only, people))
    table = read_json(path) if path.exists() else _header(name, search, work[0][1]) | {"rows": []}
    results.mkdir(parents=True, exist_ok=True)
    rows = {row["shake"]: row for row in table["rows"]}
    for i, (trial, config) in enumerate(work):
        row = rows.setdefault(trial.label, {"shake": trial.label, "people": []})
        if config.domain.name not in row["people"]:
            _add(row, config.domain.name, values_of(run(config, store, runtime, progress)))
            order = [each.label for each in search.trials if each.label in rows]
            table["rows"] = [rows[label] for label in order]
            write_json(path, table)
        progress(Event(f"search {name}", i + 1, len(work), {"trial": trial.label, "person": config.domain.name}))
    return table


def _header(name: str, search: Search, config: RunConfig) -> dict:
    """What all trials of a search share."""
    lab, loss = _lab(search), attack_settings("loss", config.audit).model_dump(mode="json")
    return {
        "schema_version": SCHEMA_VERSION,
        "title": search.title,
        "command": f"python -m s2l search {name}",
        "role": "calibration",
        "model": search.model,
        "n_members": lab.n_members,
        "n_nonmembers": config.domain.n_nonmembers,
        "sp_images": config.sp_set.set_size,
        "sampler_steps": config.sp_set.sampler.num_inference_steps,
        "secmi": attack_settings("secmi", config.audit).model_dump(mode="json"),
        "loss_timesteps": loss["timesteps"],
        "reference_weight": config.audit.shake_weight,
    }


def _add(row: dict, person: str, values: dict[str, dict[str, float]]) -> None:
    """Append one person's values to a row's lists."""
    row["people"].append(person)
    for kind, numbers in values.items():
        lists = row.setdefault(kind, {})
        for name, value in numbers.items():
            lists.setdefault(name, []).append(round(value, 4))
