"""Defences at sampling time: each against its formula written out, picture by picture, and what they cost."""

from __future__ import annotations

import pytest
import torch

from s2l import cli
from s2l.config import ExtractionConfig, SamplerConfig, checked
from s2l.errors import UserError
from s2l.model import mitigation
from s2l.model.diffusion import DiffusionModel
from s2l.model.extrapolated import Extrapolated
from s2l.pipeline.guidance import generation_cost
from s2l.store import read_json
from s2l.tables import declared, defences, mitigations, mitigations_view, view
from s2l.tables.declared import Row, Table

from .test_guidance import counted

PROMPTS, SEEDS = ["a photo of Mira Solwyn", "a face of Taro Quillan", "a photo of Oona Brask"], [4, 5, 6]
LATE = SamplerConfig(num_inference_steps=8, guidance_scale=3.0, mitigation="late_guidance", scheduler="ddim")
FLAT = SamplerConfig(num_inference_steps=2, guidance_scale=3.0, mitigation="flat_start", scheduler="ddim")


def first_minimum(norms: list[float]) -> int:
    """The step after the first one that is lower than both its neighbours; len(norms) if there is none."""
    for i in range(1, len(norms) - 1):
        if norms[i - 1] > norms[i] < norms[i + 1]:
            return i + 1
    return len(norms)


def test_guidance_starts_after_the_first_minimum_of_each_picture():
    """||e_c - e_u|| of three pictures: one with a minimum, one with a later one, one that only falls."""
    norms = [[3, 1, 2, 1, 0.5], [4, 3, 2, 1, 1.5], [5, 4, 3, 2, 1]]
    guide, base = mitigation.Guidance(LATE), torch.full((3, 4, 2, 2), 7.0)
    assert [first_minimum(row) for row in norms] == [2, 4, 5]
    for step in range(5):
        change = torch.stack([torch.full((4, 2, 2), row[step] / 4) for row in norms])
        guided = guide(base, base + change)
        for i, row in enumerate(norms):
            scale = 3.0 if step >= first_minimum(row) else 1.0
            torch.testing.assert_close(guided[i], base[i] + scale * change[i])


def test_without_a_mitigation_guidance_is_as_it_was():
    guide = mitigation.Guidance(SamplerConfig(guidance_scale=2.5))
    e_u, e_c = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(guide(e_u, e_c), e_u + 2.5 * (e_c - e_u))


@pytest.mark.parametrize("sampler", [LATE, FLAT], ids=lambda s: s.mitigation)
def test_a_picture_depends_on_its_own_prompt_and_seed_only(tiny_model: DiffusionModel, sampler):
    together = tiny_model.generate(PROMPTS, SEEDS, sampler)
    alone = torch.cat([tiny_model.generate([p], [s], sampler) for p, s in zip(PROMPTS, SEEDS, strict=True)])
    torch.testing.assert_close(together, alone, atol=2e-3, rtol=0)
    plain = tiny_model.generate(PROMPTS, SEEDS, sampler.model_copy(update={"mitigation": None}))
    if sampler is FLAT:
        assert (together - plain).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_late_guidance_is_the_loop_written_out(tiny_model: DiffusionModel):
    model, n = tiny_model, len(SEEDS)
    scheduler, z = model._scheduler(LATE), model.noise(SEEDS)
    c, u = model.encode_prompts(PROMPTS), model.encode_prompts([""] * n)
    norms: list[list[float]] = [[] for _ in range(n)]
    for t in scheduler.timesteps:
        e_c, e_u = model.eps(z, t, c), model.eps(z, t, u)
        for i in range(n):
            norms[i].append(float((e_c - e_u)[i].norm()))
        scale = torch.tensor([3.0 if first_minimum(row) < len(row) else 1.0 for row in norms]).view(n, 1, 1, 1)
        z = scheduler.step(e_u + scale * (e_c - e_u), t, z).prev_sample
    torch.testing.assert_close(model.generate(PROMPTS, SEEDS, LATE), model.decode_latents(z), atol=2e-3, rtol=0)


def test_a_flat_start_is_what_adam_finds(tiny_model: DiffusionModel):
    """Ten steps of Adam on the objective, for one picture; the objective has fallen."""
    model, z = tiny_model, tiny_model.noise([9])
    t, both = model.first_timestep(FLAT), model.encode_prompts(["", PROMPTS[0]]).clone()

    def objective(z):
        def change(z):
            e = model.predict_noise(model.unet, torch.cat([z, z]), t, both)
            return e[1:] - e[:1]

        d = change(z)
        return change(z + d / d.norm()).norm() + 0.05 * z.norm()

    mine = z.clone().requires_grad_(True)
    adam = torch.optim.Adam([mine], lr=0.05)
    for _ in range(10):
        adam.zero_grad()
        objective(mine).backward()
        adam.step()
    for p in model.unet.parameters():
        p.grad = None
    with torch.inference_mode():  # as `generate` calls it
        found = mitigation.flat_start(model, torch.tensor(t), both, z)
    torch.testing.assert_close(found, mine.detach(), atol=1e-3, rtol=1e-3)
    assert objective(found) < objective(z)


def test_two_models_as_one_can_start_flat(tiny_model: DiffusionModel):
    """At w = 0 the mixed model is the base model."""
    mixed = Extrapolated(tiny_model, tiny_model, 0.0).generate(PROMPTS[:1], SEEDS[:1], FLAT)
    torch.testing.assert_close(mixed, tiny_model.generate(PROMPTS[:1], SEEDS[:1], FLAT), atol=2e-3, rtol=0)


def test_a_flat_start_costs_what_it_says(tiny_model: DiffusionModel):
    """40 evaluations forward; the ten backward passes through two pairs count twice as much."""
    config = ExtractionConfig(n_generations=3, sampler=FLAT)
    with counted(tiny_model) as count:
        tiny_model.generate(PROMPTS, SEEDS, FLAT)
    assert count.evaluations == 3 * (40 + 2 * 2)
    assert generation_cost(config, "before").denoising == count.evaluations + 3 * 80
    late = ExtractionConfig(n_generations=3, sampler=LATE)
    assert generation_cost(late, "before").denoising == 3 * 8 * 2


def test_the_table_compares_each_defence_with_none(tiny_lab, tmp_path, monkeypatch, capsys):
    small = {"sp_set": {"set_size": 2}, "finetune": {"max_train_steps": 1}, "audit": {"attacks": ("loss",)}}
    rows = tuple(
        Row(label, small | {"extraction": {"n_generations": 2, "sampler": {"mitigation": which}}})
        for label, which in (("no mitigation", None), ("late guidance", "late_guidance"))
    )
    table = Table("Sampler", rows, role="calibration", people=2, preset="quick", also="sampler")
    monkeypatch.setitem(declared.TABLES, "some", table)
    monkeypatch.setattr(mitigations, "PICTURES", 1)
    monkeypatch.setattr(defences, "PICTURES", 1)
    results = tmp_path / "results"
    words = ["table", "some", "--results", str(results), "--device", "cpu", "--dtype", "float32"]
    assert cli.main(words) == 0, capsys.readouterr().err
    measured = read_json(results / "some.json")
    none, late = measured["rows"].values()
    assert (measured["kind"], none["mitigation"], late["mitigation"]) == ("sampler", None, "late_guidance")
    assert none["change"]["before"]["per_person"] == [0, 0] and late["price"]["recognised"]["of"] == 2
    counts = [row["extraction"]["after"]["distinct"] for row in (late, none)]
    assert late["change"]["after"]["per_person"] == [a - b for a, b in zip(*counts, strict=True)]
    (sheet,) = mitigations_view.sheets(measured)
    assert [row[0] for row in sheet.rows] == ["no mitigation", "late guidance"] and sheet.rows[0][3] == ""
    assert all(len(row) == len(sheet.head) for row in sheet.rows)
    assert view.document("some", measured) == (results / "some.md").read_text()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mitigation": "late_guidance", "guidance_scale": 1.0}, "changes nothing at guidance 1"),
        ({"mitigation": "late"}, "late_guidance' or 'flat_start"),
    ],
)
def test_a_mitigation_that_does_nothing_is_refused(values, says):
    with pytest.raises(UserError, match=says):
        checked(SamplerConfig, values)
