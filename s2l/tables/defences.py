"""What the table `defences` measures of each lab beside its attacks: promise, price, and a bound that attacks prove.

privacy   what `lab.json` says of differentially private training; None for other labs
bound     a lower bound of epsilon from the best attack on the base model (s2l/measure/privacy_bound.py): attack and
          threshold are chosen on the calibration people, the rates are those of the people under test
change    of every attack's AUC on the base model, from the lab without a defence: the same photos, paired
sets      for every attack on the base model, each person's p-value that the members as a set were trained on
price     what the defence costs: the loss on held-out photos of the people and of the public, and how often a stranger
          who knows the people by other photos recognises whom a picture shows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from s2l.config import DomainConfig, RunConfig
from s2l.data import sp_set
from s2l.data.domain import ImageSet
from s2l.data.lab_domain import lab_domain, photos_as_images
from s2l.keys import key_of
from s2l.labs import Lab, find_lab
from s2l.measure.distances import nearest
from s2l.measure.intervals import binomial_interval, mean_interval
from s2l.measure.metrics import set_evidence
from s2l.measure.over_people import hierarchical_difference
from s2l.measure.privacy_bound import best_threshold, epsilon_bound
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.pipeline.experiment import calibration_people
from s2l.pipeline.membership import Pair, calibration_pair
from s2l.pipeline.stages import Stage, Stages
from s2l.pipeline.subject import Subject
from s2l.store import read_json, write_json
from s2l.worlds.people import public_photo

PRICE = Stage("price", "price", "Price of the defence", "pictures")
VERSION = 1  # of what the price measures
DELTA = 1e-4  # where the lab states none
KNOWN = 40  # photos by which the stranger knows each person: held out, so that no copy helps
PICTURES = 8  # per person
PUBLIC = 200  # photos of the public crowd that no lab was trained on
UNSEEN = 500_000  # the number of the first of them


def lab_of(cell: dict) -> Lab:
    """The lab of a cell."""
    lab = find_lab(cell["config"]["model"])
    assert lab is not None  # a table of labs
    return lab


def _scores(cell: dict, attack: str) -> Pair:
    scores = cell["attacks"][attack]["scores"]["before"]
    return np.array(scores["members"]), np.array(scores["nonmembers"])


def bound_of(cells: Sequence[dict], calibration: dict[str, Pair], delta: float) -> dict:
    """The bound that the people of `cells` prove together, with what the calibration people chose.

    calibration  {attack: (members' scores (N,), held-out photos' scores (M,))} of the calibration people
    """
    chosen = {attack: best_threshold(*pair, delta) for attack, pair in calibration.items()}
    attack = max(chosen, key=lambda name: chosen[name][1])
    members, nonmembers = zip(*(_scores(cell, attack) for cell in cells), strict=True)
    bound = epsilon_bound(np.concatenate(members), np.concatenate(nonmembers), chosen[attack][0], delta)
    return asdict(bound) | {"attack": attack}


def calibration_scores(cell: dict, model: DiffusionModel, stages: Stages) -> dict[str, Pair]:
    """{attack: (members' scores, held-out photos' scores)} of the calibration people on the base model."""
    config, base = RunConfig.model_validate(cell["config"]), Subject.of(model)
    people = calibration_people(config.domain, config.model)
    scores = {}
    for name in config.audit.attacks:
        pairs = [calibration_pair(name, base, person, config.audit, stages) for person in people]
        members, nonmembers = (np.concatenate([pair[part][:, 0] for pair in pairs]) for part in (0, 1))
        scores[name] = members, nonmembers
    return scores


def recognised(pictures: np.ndarray, shown: Sequence[int], known: np.ndarray, whose: Sequence[int]) -> int:
    """How many pictures (N, 3, H, W) uint8 are nearest, in l2, to a photo (M, 3, H, W) of the person whom they show."""
    place, _ = nearest(pictures, known)
    return int(np.sum(np.array(whose)[place[:, 0]] == np.array(shown)))


def price_of(cells: Sequence[dict], model: DiffusionModel, stages: Stages) -> dict:
    """What the defence costs; kept in the cache, as it generates pictures."""
    people = [cell["person"] for cell in cells]
    losses = [-float(np.mean(_scores(cell, "loss")[1])) for cell in cells]
    interval = mean_interval(losses) if len(losses) > 1 else None

    def work(folder: Path) -> None:
        write_json(
            folder / "price.json", pictured(cells[0], people, model) | {"public_loss": _public_loss(cells[0], model)}
        )

    key = key_of("price", VERSION, model.key, people, KNOWN, PICTURES, PUBLIC, cells[0]["config"]["extraction"])
    measured = read_json(stages(PRICE, key, work) / "price.json")
    ends = {"low": interval.low, "high": interval.high} if interval else {"low": None, "high": None}
    return measured | {"held_out_loss": {"mean": float(np.mean(losses)), **ends}}


def pictured(cell: dict, people: Sequence[str], model: DiffusionModel) -> dict:
    """How many pictures of the people a stranger recognises, of how many."""
    lab, config = lab_of(cell), RunConfig.model_validate(cell["config"]).extraction
    held_out = [lab_domain(lab, DomainConfig(name=name, n_nonmembers=KNOWN)).membership.nonmembers for name in people]
    seeds = range(len(people) * PICTURES)
    shown = [i for i in range(len(people)) for _ in range(PICTURES)]
    prompts = [sp_set.prompt_of(config.prompts, people[i], "", seed) for i, seed in zip(shown, seeds, strict=True)]
    pictures = (model.generate(prompts, seeds, config.sampler) * 255).round().byte().numpy()
    known = np.concatenate([photos.images.numpy() for photos in held_out])
    right = recognised(pictures, shown, known, [i for i in range(len(people)) for _ in range(KNOWN)])
    interval = binomial_interval(right, len(pictures))
    return {"recognised": {"right": right, "of": len(pictures), "low": interval.low, "high": interval.high}}


def _public_loss(cell: dict, model: DiffusionModel) -> float:
    """The Loss attack's error, averaged over public photos that no lab was trained on."""
    from s2l import attacks

    lab, config = lab_of(cell), RunConfig.model_validate(cell["config"])
    identities = lab.record["recipe"]["n_public_identities"]
    photos: ImageSet = photos_as_images([public_photo(UNSEEN + i, identities) for i in range(PUBLIC)], lab.resolution)
    query = attacks.make_query(model, photos, config.audit.seed)
    return -float(attacks.run_attack("loss", model, query, config.audit).mean())


def facts(cells: Sequence[dict], none: Sequence[dict] | None, runtime: Runtime, stages: Stages) -> dict:
    """What is measured of the lab of one row's cells, beside the attacks. `none`: the cells without a defence."""
    cell = cells[0]
    model = DiffusionModel.load(cell["config"]["model"], runtime)
    privacy = lab_of(cell).record.get("privacy")
    delta = privacy["delta"] if privacy else DELTA
    changes = None
    if none is not None:
        pairs = {a: ([_scores(c, a) for c in none], [_scores(c, a) for c in cells]) for a in cell["attacks"]}
        changes = {attack: asdict(hierarchical_difference(*both)) for attack, both in pairs.items()}
    return {
        "lab": cell["config"]["model"],
        "privacy": privacy,
        "bound": bound_of(cells, calibration_scores(cell, model, stages), delta),
        "change": changes,
        "sets": {a: [set_evidence(*_scores(c, a)).p_value for c in cells] for a in cell["attacks"]},
        "price": price_of(cells, model, stages),
    }
