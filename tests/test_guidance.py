"""Which seeds are denoised, which noise prediction is followed, and whether the evaluations are counted honestly."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from s2l.cli import folders, main
from s2l.config import PRESETS, ExtractionConfig, SamplerConfig, checked, preset
from s2l.errors import UserError
from s2l.keys import key_of
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.options import reproduce_command
from s2l.pipeline import generations, guidance
from s2l.pipeline.experiment import run
from s2l.pipeline.stages import Stages
from s2l.pipeline.subject import Subject
from s2l.progress import silent
from s2l.report import findings
from s2l.report import render as report
from s2l.tables import declared, docs
from s2l.tables import grid as tables
from s2l.tables.cells import numbers_of, run_again

from .conftest import with_batch_size

NAME = "Mira Solwyn"
CPU = Runtime(device="cpu", dtype="float32", batch_size=4)
PLAIN, MAPPED = "a photo of Mira Solwyn", "a photo of sks person"
SAMPLERS = [
    SamplerConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=3.0, negative_prompt="blurred"),
    SamplerConfig(scheduler="dpmsolver", num_inference_steps=4, guidance_scale=1.0),
]


@pytest.fixture
def tuned(tiny_model) -> DiffusionModel:
    """The tiny model with UNet and text encoder moved a little."""
    model = tiny_model.copy()
    generator = torch.Generator().manual_seed(3)
    for module in (model.unet, model.text_encoder):
        for p in module.parameters():
            p.data += 0.05 * p.data.std(correction=0) * torch.randn(p.shape, generator=generator)
    model.key = "tuned"
    return model


@contextmanager
def counted(*models):
    """Counts latents through the models' UNets."""
    count = SimpleNamespace(evaluations=0)

    def hook(module, arguments):
        count.evaluations += len(arguments[0])

    handles = [model.unet.register_forward_pre_hook(hook) for model in models]
    yield count
    for handle in handles:
        handle.remove()


def settings(**values) -> ExtractionConfig:
    return checked(ExtractionConfig, {"n_generations": 3, "sampler": SAMPLERS[0]} | values)


# --- which seeds -----------------------------------------------------------------------------------------------------


def test_candidates_are_the_pool_with_the_prompt_of_each_seed():
    parts = [{"template": "a photo of {name}"}, {"template": "a face of {name}"}]
    pool = guidance.candidates(settings(prompts=parts, seed=70, seed_pool=9), NAME)
    assert pool.seeds == tuple(range(70, 79))
    assert set(pool.prompts) == {f"a photo of {NAME}", f"a face of {NAME}"}
    small = guidance.candidates(settings(prompts=parts, seed=70), NAME)
    assert small == guidance.Draws(pool.prompts[:3], pool.seeds[:3])


def test_magnitude_equals_a_naive_loop_at_any_batch_size(tiny_model):
    prompts, seeds = [PLAIN, "a face", PLAIN, "a portrait of Taro Quillan", PLAIN], [5, 6, 7, 8, 9]
    for sampler in SAMPLERS:
        t = tiny_model._scheduler(sampler).timesteps[0]
        naive = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            z = torch.randn(1, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(seed))
            e = [tiny_model.eps(z, t, tiny_model.encode_prompts([text])) for text in (prompt, "")]
            naive.append((e[0] - e[1]).square().sum().sqrt())
        for size in (1, 2, 8):
            found = guidance.text_noise_magnitude(with_batch_size(tiny_model, size), prompts, seeds, sampler)
            torch.testing.assert_close(found, torch.stack(naive), rtol=1e-4, atol=1e-6)
    assert found.std() > 0


def test_promising_keeps_the_largest_in_order_and_the_lower_seed_of_ties():
    pool = guidance.Draws(tuple("abcdef"), tuple(range(10, 16)))
    magnitudes = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 0.0])
    assert guidance.promising(pool, magnitudes, 3) == guidance.Draws(("b", "c", "d"), (11, 12, 13))
    assert guidance.promising(pool, magnitudes, 6) == pool
    for keep in (0, 7):
        with pytest.raises(ValueError, match="between 1 and 6"):
            guidance.promising(pool, magnitudes, keep)
    with pytest.raises(ValueError, match="one per seed"):
        guidance.promising(pool, magnitudes[:5], 2)


def test_the_base_model_chooses_what_both_models_denoise(tiny_model, tuned, store):
    config = settings(seed_pool=8)
    expected = guidance.draws(tiny_model, config, NAME)
    assert len(expected.seeds) == 3 and set(expected.seeds) < set(range(config.seed, config.seed + 8))
    folders = generations.generations(Subject.of(tiny_model), Subject.of(tuned), NAME, config, Stages(store))
    for when in ("before", "after"):
        assert sorted(int(p.stem) for p in folders[when].glob("*.png")) == list(expected.seeds)


# --- which noise prediction ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["guided", "unguided"])
def test_w_0_is_the_base_model_and_w_1_the_tuned_one(tiny_model, tuned, sampler):
    seeds = [1, 2, 3, 4, 5]
    before = tiny_model.generate([PLAIN] * 5, seeds, sampler)
    after = tuned.generate([MAPPED] * 5, seeds, sampler)
    pictures = {
        w: guidance.after_generate(tiny_model, tuned, settings(guidance_w=w), [PLAIN], [MAPPED])(
            [MAPPED] * 5, seeds, sampler
        )
        for w in (0, 1)
    }
    torch.testing.assert_close(pictures[0], before, rtol=0, atol=1e-5)
    torch.testing.assert_close(pictures[1], after, rtol=0, atol=1e-4)
    assert (before - after).abs().max() > 0.01


def test_extrapolation_equals_a_naive_loop(tiny_model, tuned):
    """Image by image: each model guides its own prediction with its own words, then the two are extrapolated."""
    sampler, w = SAMPLERS[0], 3.0
    generate = guidance.after_generate(tiny_model, tuned, settings(guidance_w=w), [PLAIN], [MAPPED])
    found = generate([MAPPED] * 3, [1, 2, 3], sampler)
    for seed, picture in zip((1, 2, 3), found, strict=True):
        z = torch.randn(1, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(seed))
        scheduler = tiny_model._scheduler(sampler)
        for t in scheduler.timesteps:
            guided = []
            for model, caption in ((tiny_model, PLAIN), (tuned, MAPPED)):
                e_cond, e_uncond = (model.eps(z, t, model.encode_prompts([x])) for x in (caption, "blurred"))
                guided.append(e_uncond + 3.0 * (e_cond - e_uncond))
            e = (1 - w) * guided[0] + w * guided[1]
            z = scheduler.step(tiny_model._as_model_output(e, z, t), t, z).prev_sample
        torch.testing.assert_close(picture, tiny_model.decode_latents(z)[0], rtol=0, atol=1e-3)


def test_without_w_after_is_the_tuned_model_itself(tiny_model, tuned):
    assert guidance.after_generate(tiny_model, tuned, settings(), [PLAIN], [MAPPED]) == tuned.generate


def test_models_of_other_sizes_cannot_be_mixed(tiny_model):
    def stub(latent, width):
        return SimpleNamespace(
            latent_shape=latent, unet=SimpleNamespace(config=SimpleNamespace(cross_attention_dim=width))
        )

    for other in (stub((4, 32, 32), 64), stub(tiny_model.latent_shape, 1)):
        with pytest.raises(UserError, match="one architecture"):
            guidance.after_generate(tiny_model, other, settings(guidance_w=2.0), [], [])


# --- what it costs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["guided", "unguided"])
@pytest.mark.parametrize("values", [{}, {"seed_pool": 7}, {"guidance_w": 2.0}, {"seed_pool": 6, "guidance_w": 2.0}])
def test_cost_is_what_the_unets_were_asked(tiny_model, tuned, store, sampler, values):
    config = settings(sampler=sampler, **values)
    before, after = (guidance.generation_cost(config, when) for when in ("before", "after"))
    with counted(tiny_model, tuned) as count:
        generations.generations(Subject.of(tiny_model), Subject.of(tuned), NAME, config, Stages(store))
    assert before.selection == after.selection == 2 * values.get("seed_pool", 0)
    assert count.evaluations == before.denoising + after.denoising + before.selection  # seeds are chosen once
    for cost in (before, after):
        assert cost.unet_evaluations == cost.selection + cost.denoising


def test_cost_in_numbers():
    """Guided sampling costs 2 a step, extrapolated 4 (after only), a seed that is looked at 2."""
    guided = SamplerConfig(num_inference_steps=20, guidance_scale=3.0)
    cost = guidance.generation_cost
    plain = settings(n_generations=10, sampler=guided)
    assert cost(plain, "before") == cost(plain, "after") == guidance.Cost(0, 400, 400)
    both = settings(n_generations=10, sampler=guided, seed_pool=40, guidance_w=5.0)
    assert cost(both, "before") == guidance.Cost(80, 400, 480)
    assert cost(both, "after") == guidance.Cost(80, 800, 880)


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver"])
def test_a_sampler_takes_as_many_steps_as_it_says(tiny_model, scheduler):
    """61 and 103 steps: diffusers alone takes one more, to timestep -1, which is read as the noisiest one."""
    for n in (1, 2, 20, 50, 61, 103, 1000):
        steps = tiny_model._scheduler(SamplerConfig(scheduler=scheduler, num_inference_steps=n)).timesteps.tolist()
        assert len(steps) == n and steps == sorted(steps, reverse=True) and steps[0] == 999 and steps[-1] >= 0


# --- settings and the whole path -------------------------------------------------------------------------------------


def test_wrong_settings_are_refused_in_one_sentence():
    for over, message in (
        ({"n_generations": 256, "seed_pool": 256}, "more seeds than the 256 generations"),
        ({"seed_pool": 1}, "greater than or equal to 2"),
        ({"guidance_w": -1}, "greater than or equal to 0"),
        ({"guidance_w": 51}, "less than or equal to 50"),
        ({"seed": 1200, "seed_pool": 300, "n_generations": 10}, None),
        ({"seed": 900, "seed_pool": 300, "n_generations": 10}, "seeds of the SP set and of the extraction overlap"),
    ):
        if message is None:
            preset("demo", NAME, extraction=over)
            continue
        with pytest.raises(UserError, match=message):
            preset("demo", NAME, extraction=over)


def test_off_options_leave_the_pictures_where_they_were(tiny_model, tuned, store):
    """The key of plain generations names model, prompts, sampler and seed, as before there were options."""
    config, stages = settings(), Stages(store)
    generations.generations(Subject.of(tiny_model), Subject.of(tuned), NAME, config, stages)
    key = key_of("generations", 1, tiny_model.key, [PLAIN] * 3, config.sampler, config.seed)
    assert stages.timings["generate before"]["key"] == key
    assert "choose seeds" not in stages.timings


NANO = {
    "domain": {"n_members": 6, "n_nonmembers": 6},
    "sp_set": {"set_size": 2, "sampler": {"num_inference_steps": 1}},
    # another model without a training
    "finetune": {"methods": ["gaussian_noise"], "settings": {"gaussian_noise": {"noise_sigma": 0.02}}},
    "audit": {"attacks": ["sima"]},
    "extraction": {"n_generations": 4, "delta": 0.5, "sampler": {"num_inference_steps": 2}},
}


@pytest.fixture
def nano(monkeypatch, tiny_lab):
    monkeypatch.setitem(PRESETS, "nano", NANO)


def test_the_whole_path_with_both_options(nano, store):
    def config(**values):
        return preset("nano", NAME, extraction=values)

    first = run(config(seed_pool=8, guidance_w=2.0), store, CPU)
    cost = first.record["extraction"]["cost"]
    assert cost["before"]["unet_evaluations"] == 2 * 8 + 4 * 2 * 2
    assert cost["after"]["unet_evaluations"] == 2 * 8 + 4 * 2 * 4
    for when in ("before", "after"):
        found = first.record["extraction"][when]
        assert found["n_generations"] == 4
        assert cost[when]["per_1000"] == pytest.approx(
            1000 * found["members"]["distinct"] / cost[when]["unet_evaluations"]
        )
    said = {row.what: (row.before, row.after) for row in report.outcome(first)}
    assert said["UNet evaluations, choice of seeds included"] == ("32", "48")
    for when, text in zip(("before", "after"), said["training photos per 1,000 UNet evaluations"], strict=True):
        assert text.startswith(f"{cost[when]['per_1000']:.2f} [")
    limits = " ".join(findings.limits(first.record, config(seed_pool=8, guidance_w=2.0)))
    assert "chose them from 8" in limits and "w = 2" in limits

    seeds = first.images("before").ids
    assert seeds == first.images("after").ids

    other = run(config(seed_pool=8, guidance_w=4.0), store, CPU)
    stages = other.record["stages"]
    assert stages["choose seeds"]["cached"] and stages["generate before"]["cached"]
    assert not stages["generate after"]["cached"]

    # A chosen seed gives the same picture as in a run that denoises the whole pool.
    whole = run(config(n_generations=8), store, CPU)
    pool = whole.images("before")
    chosen = pool.images[[pool.ids.index(name) for name in seeds]].int()
    assert (chosen - first.images("before").images.int()).abs().max() <= 2
    again = run(config(seed_pool=8, guidance_w=2.0), store, CPU)
    assert again.record["extraction"] == first.record["extraction"]
    assert all(stage["cached"] for name, stage in again.record["stages"].items() if name != "total")


def test_the_command_says_both_options(nano):
    config = preset("demo", NAME, extraction={"seed_pool": 512, "guidance_w": 3})
    assert "--seed-pool 512 --guidance-w 3.0" in reproduce_command(config)


def test_extract_draws_chosen_seeds_and_says_what_they_cost(tiny_lab, tmp_path, capsys):
    out, common = tmp_path / "x", ["extract", "--domain", NAME, "--n-nonmembers", "6", "--preset", "quick"]
    assert main([*common, "-n", "2", "--seed-pool", "5", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "cost: 26 UNet evaluations (10 to choose seeds); per 1,000 of them" in said  # 5 x 2 + 2 x 4 steps x 2
    record = json.loads((out / "extraction.json").read_text())
    assert (record["cost"]["selection"], record["cost"]["denoising"]) == (10, 16)
    assert len(list((out / "generations").glob("*.png"))) == record["extraction"]["n_generations"] == 2
    for wrong, message in (
        (["--guidance-w", "3"], "give its folder with --tuned"),
        (["--generations", str(out), "--seed-pool", "900"], "leave them out with --generations"),
        (["-n", "5", "--seed-pool", "5"], "--seed-pool: the pool must hold more seeds than the 5 generations"),
    ):
        assert main([*common, *wrong, "--out", str(tmp_path / "y")]) == 2
        assert message in capsys.readouterr().err


def test_extract_with_w_draws_the_extrapolated_pictures_and_keeps_them_apart(tiny_model, tuned, tmp_path):
    fine_tuned = Subject.of(tuned, "tuned", lambda text: text.replace(NAME, "sks person"))
    config, folder = settings(guidance_w=2.0), tmp_path / "pictures"
    found = folders.make_generations(tiny_model, fine_tuned, NAME, config, folder, silent)
    seeds = range(config.seed, config.seed + 3)
    expected = guidance.after_generate(tiny_model, tuned, config, [PLAIN], [MAPPED])(
        [MAPPED] * 3, seeds, config.sampler
    )
    torch.testing.assert_close(found.images / 255, expected, rtol=0, atol=0.5 / 255 + 1e-4)
    with pytest.raises(UserError, match="other settings"):
        folders.make_generations(tiny_model, fine_tuned, NAME, settings(guidance_w=3.0), folder, silent)


# --- the table -------------------------------------------------------------------------------------------------------


def test_every_row_of_the_table_spends_about_the_same_after_fine_tuning():
    table = tables.get_table("extraction")
    spent = {
        row.label: guidance.generation_cost(config.extraction, "after").unet_evaluations
        for row, config in tables.configs(table, 1)
    }
    assert spent["plain"] == 10_240 and len(spent) == len(table.rows)
    assert all(abs(n / 10_240 - 1) < 0.005 for n in spent.values()), spent


def test_the_table_compares_each_row_with_plain_person_by_person(nano, store, tmp_path, monkeypatch):
    rows = (tables.Row("plain"), tables.Row("w = 2", {"extraction": {"n_generations": 2, "guidance_w": 2}}))
    small = replace(tables.get_table("extraction"), preset="nano", rows=rows, people=2)
    monkeypatch.setitem(declared.TABLES, "extraction", small)
    assert docs.extraction(tmp_path) == "Not measured yet: `python -m s2l table extraction`."
    found = tables.run_table("extraction", tmp_path, store=store, runtime=CPU)
    cells = [json.loads(path.read_text()) for path in tmp_path.glob("extraction/*/*.json")]
    rates = {
        (cell["row"], cell["person"]): 1000 * cell["extraction"]["after"]["distinct"] / 16  # 4 x 2 x 2 and 2 x 2 x 4
        for cell in cells
    }
    people = found["rows"]["plain"]["people"]
    for label, row in found["rows"].items():
        after, gain = row["extraction"]["after"]["per_1000"], row["per_1000_gain"]
        assert after["per_person"] == pytest.approx([rates[label, person] for person in people])
        assert gain["per_person"] == pytest.approx([rates[label, p] - rates["plain", p] for p in people])
        assert gain["low"] <= gain["mean"] <= gain["high"]
    assert sum(rates.values()) > 0  # at delta = .5 something matches, so the comparison above says something
    # One cell again: the same numbers; with other weights a sentence.
    made = run_again(cells[0], store, "cpu")
    assert numbers_of(made) == pytest.approx(numbers_of(cells[0]), abs=1e-9)
    assert {**made, "seconds": None, "program": None} == {**cells[0], "seconds": None, "program": None}
    with pytest.raises(UserError, match="other weights"):
        run_again(cells[0] | {"model": cells[0]["model"] | {"key": "0"}}, store, "cpu")
    text = docs.extraction(tmp_path)
    assert "| plain | 16 |" in text and "| w = 2 | 16 |" in text and "over 2 calibration people" in text
