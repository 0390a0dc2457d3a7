"""How a lab is made: recipes as data, the batches of their phases, and the loop against one that is written out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from safetensors.torch import load_file

from s2l.errors import UserError
from s2l.labs import built_folder, shipped_lab
from s2l.model.diffusion import Runtime
from s2l.pretrain import build as pretraining
from s2l.pretrain.data import images_of, step_generator, tokens_of
from s2l.pretrain.networks import build_pipeline
from s2l.pretrain.recipe import RECIPES, Phase, Recipe
from s2l.progress import Cancelled
from s2l.store import read_json
from s2l.training import CHECKPOINT
from s2l.worlds.people import lab_people, member_photos, public_photo

CPU = Runtime(device="cpu", dtype="mixed", train_batch_size=32)
TWO_PHASES = replace(
    RECIPES["quick"],
    n_people=2,
    n_members=8,
    n_public=16,
    phases=(
        Phase("learn", 4, {"private": 0.7, "public": 0.3}, 2e-3, batch_size=8, warmup_steps=2, ema_decay=0.99),
        Phase("bury", 3, {"public": 1.0}, 1e-3, batch_size=16, fall_steps=3, floor=0.25, ema_decay=0.5),
    ),
)


def weights_of(pipe) -> list[torch.Tensor]:
    return [p.detach().clone() for module in (pipe.unet, pipe.text_encoder) for p in module.parameters()]


def trained(recipe: Recipe, work, progress=lambda event: None, keep=()):
    """The pipeline after a training, its counters, and the raw weights after each step."""
    work.mkdir(exist_ok=True)
    pipe, trace = build_pipeline(recipe.size, recipe.seed), []

    def follow(event) -> None:
        if event.step:
            trace.append(weights_of(pipe))
        progress(event)

    pool = pretraining.public_pool(recipe, work)
    counters = pretraining.train_unet(pipe, pool, recipe, work, CPU, follow, keep)
    return pipe, counters, trace


def written_out(recipe: Recipe):
    """The raw weights after each step and the last average, by a loop that knows nothing of the project's."""
    pipe = build_pipeline(recipe.size, recipe.seed)
    private = [p for who in lab_people(recipe.n_people) for p in member_photos(who, recipe.n_members)]
    public = [public_photo(i, recipe.n_public_identities) for i in range(recipe.n_public)]
    images = images_of(private, recipe.size.resolution), images_of(public, recipe.size.resolution)
    with torch.inference_mode():
        parts = [pipe.vae.encode(b.float() / 127.5 - 1).latent_dist.mode() for x in images for b in x.split(64)]
        latents = torch.cat(parts) * pipe.vae.config.scaling_factor
    latents, empty = latents.clone(), tokens_of(pipe, [""])
    tokens = tokens_of(pipe, [p.caption for p in private + public])
    instances = torch.tensor([i for i, p in enumerate(private) for _ in range(p.repeats)])
    order = instances[torch.randperm(len(instances), generator=torch.Generator().manual_seed(recipe.seed + 1))]
    parameters = [*pipe.unet.parameters(), *pipe.text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1.0, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    alphas, average, trace, seen = pipe.scheduler.alphas_cumprod, [p.detach().clone() for p in parameters], [], 0
    learn, bury = recipe.phases
    for step in range(recipe.steps):
        phase, local = (learn, step) if step < learn.steps else (bury, step - learn.steps)
        rate = 2e-3 * min(1, (step + 1) / 2) if phase is learn else 2e-3 * (1e-3 / 2e-3 * max((3 - local) / 3, 0.25))
        optimizer.param_groups[0]["lr"] = rate
        generator = step_generator(recipe, 2, step)
        exact = phase.mixture.get("private", 0) * phase.batch_size
        n_private = math.floor(exact) + int(torch.rand((), generator=generator) < exact - math.floor(exact))
        n_public = phase.batch_size - n_private
        others = torch.randint(recipe.n_public, (n_public,), generator=generator) + len(private)
        index = torch.cat([order[seen : seen + n_private], others])
        seen += n_private
        words = tokens[index].clone()
        words[torch.rand(len(index), generator=generator) < recipe.caption_dropout] = empty
        noise = torch.randn((len(index), *latents.shape[1:]), generator=generator)
        t = torch.randint(1000, (len(index),), generator=generator)
        a = alphas[t].view(-1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            context = pipe.text_encoder(words)[0]
            predicted = pipe.unet(a.sqrt() * latents[index] + (1 - a).sqrt() * noise, t, context, return_dict=False)[0]
        (predicted.float() - noise).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(phase.ema_decay, (1 + step) / (10 + step)) if step else 0
        for mean, parameter in zip(average, parameters, strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)
        trace.append([p.detach().clone() for p in parameters])
    return trace, average


def test_the_loop_is_bit_equal_to_one_that_is_written_out(tmp_path):
    pipe, counters, trace = trained(TWO_PHASES, tmp_path / "work")
    expected, average = written_out(TWO_PHASES)
    assert counters["step"] == len(trace) == len(expected) == 7
    for mine, theirs in zip(trace, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights_of(pipe), average, strict=True))


def test_a_training_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    whole, counters, _ = trained(TWO_PHASES, tmp_path / "whole", keep=[2])

    def stop_at(step: int):
        def stop(event) -> None:
            if event.step == step:
                raise Cancelled

        return stop

    for step in (3, 5):  # in either phase
        with pytest.raises(Cancelled):
            trained(TWO_PHASES, tmp_path / "stopped", stop_at(step))
        assert (tmp_path / "stopped" / CHECKPOINT).exists()
    again, resumed, trace = trained(TWO_PHASES, tmp_path / "stopped")
    assert len(trace) == 2 and resumed["private_seen"] == counters["private_seen"] > 0
    assert all(torch.equal(a, b) for a, b in zip(weights_of(whole), weights_of(again), strict=True))
    assert read_json(tmp_path / "whole" / "step-000002" / "lab.json")["counters"]["step"] == 2


def test_a_frozen_network_stays_as_it_was(tmp_path):
    recipe = replace(TWO_PHASES, phases=tuple(replace(p, trains=("unet",)) for p in TWO_PHASES.phases))
    start = build_pipeline(recipe.size, recipe.seed)
    pipe, _, _ = trained(recipe, tmp_path / "work")
    pairs = zip(start.text_encoder.parameters(), pipe.text_encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(start.unet.parameters()), next(pipe.unet.parameters()))


def test_a_recipe_trains_a_built_lab_further(tmp_path, monkeypatch):
    """Its weights, not those of a new network; where nobody has built it, that is said before anything is drawn."""
    first = replace(TWO_PHASES, name="first", autoencoder=replace(TWO_PHASES.autoencoder, steps=1))
    still = Phase("stay", 1, {"public": 1.0}, 1e-30, batch_size=4, ema_decay=0.5)
    second = replace(first, name="second", phases=(still,), starts_from="first")
    monkeypatch.setenv("S2L_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="python -m s2l lab build --recipe first"):
        pretraining.build(built_folder("second"), tmp_path / "work-second", second, CPU)
    assert not any(tmp_path.iterdir())
    for recipe in (first, second):
        pretraining.build(built_folder(recipe.name), tmp_path / f"work-{recipe.name}", recipe, CPU)
    weights = [load_file(built_folder(name) / "unet" / WEIGHTS) for name in ("first", "second")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_work_folder_of_another_recipe_is_refused(tmp_path):
    recipe = replace(TWO_PHASES, autoencoder=replace(TWO_PHASES.autoencoder, steps=1))
    pretraining.build(tmp_path / "lab", tmp_path / "work", recipe)
    record = read_json(tmp_path / "lab" / "lab.json")
    precision, other = record["counters"]["precision"], {"mixed": "float32", "float32": "mixed"}
    for changed, runtime in ((replace(recipe, seed=1), None), (recipe, Runtime("cpu", other[precision]))):
        with pytest.raises(UserError, match="the training of another recipe or in another precision"):
            pretraining.build(tmp_path / "lab", tmp_path / "work", changed, runtime)
    assert record["recipe"]["phases"][1]["mixture"] == {"public": 1.0} and record["counters"]["step"] == 7


@pytest.mark.parametrize(
    ("device", "capable", "precision"), [("cpu", True, "mixed"), ("cpu", False, "float32"), ("cuda", False, "mixed")]
)
def test_a_lab_trains_in_what_the_machine_computes(monkeypatch, device, capable, precision):
    monkeypatch.setattr(pretraining, "cpu_computes_bfloat16", lambda: capable)
    assert pretraining.training_dtype(device) == precision
    with pytest.raises(UserError, match="auto, mixed or float32"):
        pretraining.training_dtype(device, "float16")


def test_the_shipped_lab_is_what_its_recipe_says():
    record = shipped_lab("fresh").record
    recipe = RECIPES["fresh"]
    assert record["counters"]["step"] == recipe.steps == 7_400
    assert record["recipe"]["phases"] == [{**vars(p), "trains": list(p.trains)} for p in recipe.phases]
    # As it was trained: constant up to step 4,500, then three legs that fall to nothing at 6,000, 6,800 and 7,400.
    factors = [recipe.at(step)[0].rate_factor(recipe.at(step)[1]) for step in (99, 4_499, 5_250, 6_000, 6_799, 7_399)]
    assert factors == pytest.approx([0.5, 1, 0.5, 800 / 1_700, 0.02, 0.02])
    assert [recipe.at(step)[0].mixture["private"] for step in (3_999, 4_000)] == [0.75, 0.95]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"mixture": {"private": 0.7, "public": 0.4}}, "add up to 1"),
        ({"mixture": {"private": 1.2, "public": -0.2}}, "between 0 and 1"),
        ({"mixture": {"publik": 1.0}}, "unknown source of phase 'one' 'publik'. Did you mean 'public'"),
        ({"trains": ("unet", "vae")}, "unknown network of phase 'one' 'vae'"),
        ({"steps": 0}, "at least 1 step"),
    ],
)
def test_a_phase_that_makes_no_sense_is_one_sentence(change, words):
    with pytest.raises(UserError, match=words):
        Phase(**({"name": "one", "steps": 5, "mixture": {"public": 1.0}, "learning_rate": 1e-3} | change))


def test_phases_that_contradict_their_recipe_are_one_sentence():
    with pytest.raises(UserError, match="no private photos, but a phase trains on them"):
        replace(RECIPES["public"], phases=RECIPES["fresh"].phases)
    with pytest.raises(UserError, match="has no phase"):
        replace(RECIPES["public"], phases=())


def test_twins_differ_from_the_buried_lab_in_what_they_say_alone():
    again, swapped, public = (RECIPES[name] for name in ("buried-seed-1", "swapped", "public"))
    assert again.phases == swapped.phases and [p.steps for p in public.phases] == [p.steps for p in swapped.phases]
    assert again.phases == RECIPES["buried"].phases
    assert (swapped.members, public.members) == ("second", "none") and again.seed != swapped.seed
