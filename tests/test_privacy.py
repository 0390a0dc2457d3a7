"""Differentially private pre-training: what is sampled, clipped, added and counted, each against an independent way."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from s2l import privacy
from s2l.budget import Budget
from s2l.errors import UserError
from s2l.labs import shipped_lab
from s2l.pretrain import build as pretraining
from s2l.pretrain.data import Mixture, public_pool, shown, training_set
from s2l.pretrain.networks import build_pipeline
from s2l.pretrain.private_batches import PoissonMixture, owners
from s2l.pretrain.recipe import RECIPES, Phase, PrivatePhase
from s2l.progress import Cancelled
from s2l.store import read_json
from s2l.training import CHECKPOINT, TrainingSet
from tests.test_pretrain import TWO_PHASES, trained, weights_of

PUBLIC, PRIVATE = {"public": 1.0}, {"private": 1.0}
BUDGET = Budget(6.0, delta=1e-2, clip=0.02)


def private(mixture=PRIVATE, steps=4, units=6, budget=BUDGET, trains=("unet",)) -> PrivatePhase:
    return PrivatePhase("privately", steps, mixture, 1e-3, batch_size=units, trains=trains, budget=budget)


def recipe_of(*phases: Phase, **more):
    return replace(TWO_PHASES, phases=phases, **more)


def batches_of(recipe) -> PoissonMixture:
    """The batches of a recipe, of photos without content."""
    n = recipe.n_people * recipe.n_members + recipe.n_public
    examples = TrainingSet(
        torch.zeros(n, 4, 8, 8), torch.zeros(2, 3), torch.zeros(n, dtype=torch.long), torch.ones(n)
    )  # fmt: skip
    plain = Mixture(recipe, examples, [1] * (recipe.n_people * recipe.n_members), 1000)
    return PoissonMixture(recipe, plain, owners(examples, shown(recipe), recipe.private_phase.budget))


# --- accounting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_epsilon_is_what_opacus_says_for_the_same_numbers(accountant):
    from opacus.accountants import PRVAccountant, RDPAccountant

    budget = replace(BUDGET, accountant=accountant)
    batches = batches_of(recipe_of(private(steps=40, budget=budget)))
    for step in range(40):
        batches(step)
    theirs = {"prv": PRVAccountant, "rdp": RDPAccountant}[accountant]()
    for _ in range(40):
        theirs.step(noise_multiplier=batches.sigma, sample_rate=6 / 16)
    spent = batches.account.epsilon()
    assert spent == theirs.get_epsilon(delta=1e-2) and batches.account.steps == 40
    assert 6 - 0.06 <= spent <= 6
    assert batches.sigma > privacy.noise_multiplier(replace(budget, epsilon=12.0), 6 / 16, 40) > 0


def test_without_noise_nothing_is_promised():
    batches = batches_of(recipe_of(private(budget=replace(BUDGET, epsilon=None))))
    batches(0)
    assert batches.sigma == 0 and batches.account.epsilon() is None and batches.account.steps == 1


# --- sampling ------------------------------------------------------------------------------------


def test_photos_are_sampled_by_poisson_each_at_most_once():
    batches = batches_of(recipe_of(private({"private": 0.25, "public": 0.75}, steps=400, units=4)))
    assert batches.rates == {"private": 1 / 16, "public": 3 / 16} and batches.rate == 3 / 16
    drawn = [batches(step) for step in range(400)]
    counts = torch.zeros(32)
    for batch in drawn:
        assert len(batch.index.unique()) == len(batch.index) == len(batch.t) == len(batch.noise)
        assert batch.expected == 4
        counts[batch.index] += 1
    sizes = {len(batch.index) for batch in drawn}
    assert 0 in sizes and max(sizes) > 8
    assert counts[:16].mean() / 400 == pytest.approx(1 / 16, rel=0.15)
    assert counts[16:].mean() / 400 == pytest.approx(3 / 16, rel=0.15)


def test_a_person_is_sampled_with_all_photos_and_a_plain_phase_is_as_it_was():
    phases = Phase("learn", 3, PUBLIC, 1e-3, batch_size=8), private(units=1, budget=replace(BUDGET, unit="person"))
    recipe = recipe_of(*phases)
    batches = batches_of(recipe)
    assert torch.equal(batches(1).index, Mixture(recipe, batches.plain.examples, [1] * 16, 1000)(1).index)
    assert batches.account.steps == 0
    for step in range(3, 7):
        index = batches(step).index
        assert index.tolist() in ([], [*range(8)], [*range(8, 16)], [*range(16)])
        assert batches.drawn.tolist() == [batches.owner[i] for i in index]
    assert batches.photos_per_unit == 8 and batches.rate == 0.5 and batches.account.steps == 4


# --- clipping ------------------------------------------------------------------------------------


class Together(torch.nn.Module):
    """A denoiser as the loop makes one: the loss of each example by a UNet that trains."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, z0, noise, t, text):
        return (self.unet(z0 + noise, t, text, return_dict=False)[0] - noise).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("unit", ["photo", "person"])
def test_the_gradient_is_the_sum_of_clipped_gradients_of_units(unit):
    recipe = recipe_of(private(budget=replace(BUDGET, unit=unit), units=1 if unit == "person" else 6))
    pipe, batches = build_pipeline(recipe.size), batches_of(recipe)
    denoiser, generator = Together(pipe.unet.requires_grad_(True)), torch.Generator().manual_seed(3)
    index = torch.tensor([0, 3, 7, 9, 12])
    batches.drawn = batches.owner[index]
    latent = (5, 4, recipe.size.latent, recipe.size.latent)
    scale = torch.tensor([0.1, 1, 3, 0.2, 5]).view(-1, 1, 1, 1)  # some units are clipped, others are not
    inputs = (torch.randn(latent, generator=generator) * scale, torch.randn(latent, generator=generator),
              torch.arange(0, 1000, 200), torch.randn(5, 4, recipe.size.text_width, generator=generator))  # fmt: skip
    parameters = list(pipe.unet.parameters())
    share = 1 if unit == "photo" else 8
    gradients = [torch.autograd.grad(loss / share, parameters, retain_graph=True) for loss in denoiser(*inputs)]
    groups = [[i] for i in range(5)] if unit == "photo" else [[0, 1, 2], [3, 4]]
    of_units = [[sum(gradients[i][k] for i in group) for k in range(len(parameters))] for group in groups]
    norms = torch.stack([torch.cat([g.flatten() for g in unit_]).norm() for unit_ in of_units])
    batches.budget = replace(batches.budget, clip=float(norms.median()))
    factors = (batches.budget.clip / norms).clamp(max=1)
    assert float(factors.min()) < 1 == float(factors.max())

    clipped = privacy.Clipped(denoiser, batches, ghost=unit == "photo")
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)  # what is there stays, and is added to
    losses = clipped(*inputs)
    losses.sum().backward()
    assert torch.allclose(clipped.norms, norms, rtol=1e-3)
    assert torch.allclose(losses, denoiser(*inputs) / share, rtol=1e-4)
    for k, parameter in enumerate(parameters):
        expected = sum(f * unit_[k] for f, unit_ in zip(factors, of_units, strict=True)) + 1
        assert torch.allclose(parameter.grad, expected, atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="must come at once"):
        clipped(*(x[:2] for x in inputs))


# --- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [True, False])
def test_noise_has_the_scale_of_sigma_times_clip_over_the_batch(empty):
    weights = torch.nn.Parameter(torch.zeros(40_000))
    batches = SimpleNamespace(sigma=3.0, budget=replace(BUDGET, clip=0.5), expected=5, noise=None)
    optimizer = privacy.noisy(torch.optim.SGD([weights], lr=1.0), batches)
    batches.noise.manual_seed(1)
    weights.grad = None if empty else torch.full_like(weights, 2.0)
    optimizer.step()
    mean, std = (0.0, 3 * 0.5 / 5) if empty else (-2.0, 3 * 0.5 / 5)
    assert float(weights.mean()) == pytest.approx(mean, abs=0.01)
    assert float(weights.detach().std()) == pytest.approx(std, rel=0.02)


def test_every_step_has_its_own_noise():
    recipe = recipe_of(private())
    batches, seeds = batches_of(recipe), []
    for step in range(3):
        batches(step)
        seeds.append(batches.noise.initial_seed())
    assert len(set(seeds)) == 3


# --- the whole training --------------------------------------------------------------------------


def test_a_private_training_that_is_killed_goes_on_with_its_account(tmp_path):
    recipe = recipe_of(Phase("learn", 2, PUBLIC, 1e-3, batch_size=4), private(), seed=5)
    whole, counters, _ = trained(recipe, tmp_path / "whole")

    def stop(event) -> None:
        if event.step == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        trained(recipe, tmp_path / "stopped", stop)
    state = torch.load(tmp_path / "stopped" / CHECKPOINT, weights_only=True)
    assert state["batches"]["account"][0][2] == 2  # steps of the private phase that are spent
    again, resumed, _ = trained(recipe, tmp_path / "stopped")
    assert resumed["privacy"] == counters["privacy"] and counters["privacy"]["steps"] == 4
    assert all(torch.equal(a, b) for a, b in zip(weights_of(whole), weights_of(again), strict=True))
    assert not hasattr(again.unet, "autograd_grad_sample_hooks")  # Opacus' hooks are gone


def test_only_the_cross_attention_trains_where_a_phase_says_so(tmp_path):
    recipe = recipe_of(private(trains=("cross_attention",)))
    start = build_pipeline(recipe.size, recipe.seed)
    pipe, _, _ = trained(recipe, tmp_path / "work")
    changed = {
        name
        for (name, a), b in zip(start.unet.named_parameters(), pipe.unet.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert changed == {name for name, _ in start.unet.named_parameters() if ".attn2." in name}


def test_the_record_states_the_whole_guarantee(tmp_path):
    recipe = recipe_of(private(), autoencoder=replace(TWO_PHASES.autoencoder, steps=1))
    pretraining.build(tmp_path / "lab", tmp_path / "work", recipe)
    record = read_json(tmp_path / "lab" / "lab.json")
    stated = record["privacy"]
    assert stated["n_units"] == {"private": 16} and stated["sampling_rate"] == 6 / 16 and stated["steps"] == 4
    assert (stated["unit"], stated["sampling"], stated["accountant"]) == ("photo", "Poisson", "prv")
    assert (stated["clip"], stated["delta"]) == (0.02, 0.01)
    assert 0 < stated["epsilon"] <= 6 and stated["noise_multiplier"] > 0
    assert "privacy" not in record["counters"] and record["recipe"]["phases"][0]["budget"]["epsilon"] == 6


def test_without_opacus_a_private_lab_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(UserError, match=r"needs Opacus, which is not installed: `pip install 's2l\[privacy\]'`"):
        trained(recipe_of(private()), tmp_path / "work")


# --- recipes -------------------------------------------------------------------------------------


@pytest.mark.brings("Numbers", "epsilon of 0 or less, or a delta of 1 / number of units or more", "refused")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epsilon": 0}, "should be a number above 0"),
        ({"epsilon": -1.0}, "should be a number above 0"),
        ({"epsilon": float("nan")}, "should be a number above 0"),
        ({"delta": 0}, "between 0 and 1"),
        ({"delta": 1 / 16}, "below 1 / 16, the number of units"),
        ({"clip": 0}, "clipping norm"),
        ({"unit": "foto"}, "Did you mean 'photo'"),
        ({"accountant": "gdp"}, "unknown accountant 'gdp'"),
    ],
)
def test_a_budget_that_promises_nothing_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        recipe_of(private(budget=replace(BUDGET, **change)))


def test_a_private_phase_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="cannot train the text encoder"):
        private(trains=("unet", "text_encoder"))
    with pytest.raises(UserError, match="their budgets would add up"):
        recipe_of(private(), private())
    with pytest.raises(UserError, match="more units in a batch than there are"):
        recipe_of(private(units=17))
    with pytest.raises(UserError, match="'quick' has none"):
        RECIPES["quick"].with_budget(1.0, None)
    assert recipe_of(private()).with_budget(1.0, 1e-3).private_phase.budget == replace(BUDGET, epsilon=1.0, delta=1e-3)


def test_without_copies_the_training_set_has_each_photo_once(tmp_path):
    recipe = recipe_of(*TWO_PHASES.phases, repeated=False)
    pipe = build_pipeline(recipe.size)
    _, repeats = training_set(pipe, public_pool(recipe, tmp_path), recipe, tmp_path)
    assert repeats == [1] * 16
    batches = Mixture(recipe, SimpleNamespace(tokens=torch.zeros(2, 3)), repeats, 1000)
    assert sorted(batches.private_indices(0, 16).tolist()) == [*range(16)]
    rows = pretraining._manifest(2, 8, 32, "first", False)["people"]
    assert all(row["repeats"] == [1] * 8 for row in rows)
    assert pretraining._manifest(2, 8, 32, "first", True)["people"][0]["repeats"][0] == 20


def test_labs_that_ship_have_the_records_of_their_recipes():
    """Fields that came later are not in them."""
    for name in ("buried", "swapped"):
        recorded = shipped_lab(name).record["recipe"]
        assert json.loads(json.dumps(RECIPES[name].settings())) == recorded


def test_twins_differ_in_their_defence_alone():
    twins = {name: recipe for name, recipe in RECIPES.items() if name.startswith("twin")}
    assert len(twins) == 8
    for recipe in twins.values():
        assert (recipe.n_people, recipe.n_members, recipe.n_public, recipe.seed) == (16, 40, 6_000, 0)
    once, base = twins["twin-dedup"], twins["twin"]
    seen = [r.phases[0].mixture["private"] / sum(recipe_repeats) for r, recipe_repeats in
            ((once, [1] * 640), (base, [100] * 16))]  # fmt: skip
    assert seen[0] == pytest.approx(seen[1])  # a photo that is there once is seen as often in both
