"""Un-shake: base + w (base - fine-tuned) as the model after, in weights and in scores, for every method."""

from __future__ import annotations

import json
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from s2l import attacks
from s2l import finetune as ft
from s2l.cli import folders, main
from s2l.config import (
    PRESETS,
    AuditConfig,
    AuditRunConfig,
    ExtractionConfig,
    FineTuneConfig,
    RunConfig,
    SamplerConfig,
    UnshakeConfig,
    checked,
    preset,
)
from s2l.data.domain import Domain, ImageSet, MembershipSplit
from s2l.errors import UserError
from s2l.finetune import catalogue
from s2l.measure import intervals
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.model.extrapolated import Extrapolated, step_away
from s2l.options import reproduce_command
from s2l.pipeline import guidance, identity, unshake
from s2l.pipeline.experiment import run, run_audit
from s2l.pipeline.plan import plan
from s2l.pipeline.stages import LOSS_PARTS, Stages
from s2l.pipeline.subject import Subject
from s2l.pipeline.tuned import fine_tuned
from s2l.record import load_result
from s2l.report import findings, render
from s2l.store import Store

NAME = "Mira Solwyn"
CPU = Runtime(device="cpu", dtype="float32", batch_size=8)
FAST = SamplerConfig(num_inference_steps=2, guidance_scale=2.0)
METHODS = [*((name,) for name in catalogue.FINETUNERS.own), ("lora", "textual_inversion", "dreambooth")]
WORDS = f"a photo of {NAME}"
STRONG = {
    "lora": {"lora_alpha": 64}, "gaussian_noise": {"noise_sigma": 0.02},
    "dreambooth": {"num_class_images": 2, "class_sampler": {"num_inference_steps": 1, "guidance_scale": 1.0}},
}  # fmt: skip


def pixels(n: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def base(tiny_checkpoint) -> DiffusionModel:
    return DiffusionModel.load(str(tiny_checkpoint), CPU)


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """methods -> a FineTuned of two steps at a rate that moves the model visibly; each trained once."""
    images, done = ImageSet(pixels(4, base.resolution), (WORDS,) * 4, tuple("abcd")), {}

    def result(methods):
        if methods not in done:
            folder, own = tmp_path_factory.mktemp("tuned"), {m: STRONG[m] for m in methods if m in STRONG}
            config = FineTuneConfig(
                methods=methods, settings=own, max_train_steps=2, train_batch_size=2, learning_rate=3e-3,
                train_text_encoder=methods in (("lora",), ("end_to_end",)),
            )  # fmt: skip
            ft.finetune(base, images, config, folder, NAME)
            done[methods] = fine_tuned(base, folder, f"tuned {methods}", NAME, config)
        return done[methods]

    return result


@pytest.fixture(scope="module")
def domain(base) -> Domain:
    sets = [ImageSet(pixels(3, base.resolution, seed), (WORDS,) * 3, tuple("abc")) for seed in (1, 2)]
    return Domain(NAME, MembershipSplit(*sets), key="photos")


def weights(model: DiffusionModel) -> dict[str, torch.Tensor]:
    parts = {"unet": model.unet, "text": model.text_encoder}
    return {f"{p}.{n}": x.detach().clone() for p, module in parts.items() for n, x in module.named_parameters()}


def scores(subject: Subject, domain: Domain, names=("loss", "secmi", "sima")) -> dict[str, torch.Tensor]:
    images = domain.membership.all()
    config = AuditConfig(attacks=names, settings={"secmi": {"t": 100, "k": 50}} if "secmi" in names else {})
    query = attacks.make_query(subject.load(), images, 0, [subject.caption(c) for c in images.captions])
    return attacks.run_suite(names, subject.load(), query, config)


def pictures(subject: Subject) -> torch.Tensor:
    return subject.load().generate([subject.caption(WORDS)], [7], FAST)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], rtol: float = 2e-3) -> None:
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=rtol, atol=1e-4 * other[name].abs().max().item())


# --- the fine-tuned model and the base model are two points of the line --------------------------


@pytest.mark.parametrize("space", ["weights", "scores"])
@pytest.mark.parametrize("methods", METHODS, ids="+".join)
def test_w_minus_1_is_the_fine_tuned_model(methods, space, base, trained, domain):
    tuned = trained(methods)
    back = unshake.unshaken(Subject.of(base), tuned, UnshakeConfig(w=-1, space=space))
    if space == "weights":
        mine, theirs = weights(back.load()), weights(tuned.subject.load())
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)
        assert back.caption(WORDS) == tuned.subject.caption(WORDS)
    else:
        assert back.caption(WORDS) == WORDS
    same(scores(back, domain), scores(tuned.subject, domain))
    torch.testing.assert_close(pictures(back), pictures(tuned.subject), rtol=0, atol=2e-3)


@pytest.mark.parametrize("space", ["weights", "scores"])
@pytest.mark.parametrize("methods", METHODS, ids="+".join)
def test_w_0_is_the_base_model_and_the_change_is_no_illusion(methods, space, base, trained, domain):
    """With Textual Inversion, weights at w = 0 are the base model that reads the initializer word for the name."""
    tuned, plain = trained(methods), Subject.of(base)
    origin = unshake.unshaken(plain, tuned, UnshakeConfig(w=0, space=space))
    if space == "weights" and "textual_inversion" in methods:
        assert origin.caption(WORDS) == "a photo of <s2l>"
        expected = base.encode_prompts(["a photo of" + " person" * 12])
        torch.testing.assert_close(origin.load().encode_prompts([origin.caption(WORDS)]), expected)
        return
    assert origin.caption(WORDS) == WORDS
    same(scores(origin, domain), scores(plain, domain))
    torch.testing.assert_close(pictures(origin), pictures(plain), rtol=0, atol=1e-4)
    away = unshake.unshaken(plain, tuned, UnshakeConfig(w=2, space=space))
    assert (pictures(away) - pictures(plain)).abs().max() > 1e-3


@pytest.mark.parametrize("methods", METHODS, ids="+".join)
def test_the_change_is_linear_in_its_scale(methods, base, trained):
    """Twice the scale is twice the step from where the method starts, in every weight, and -1 is its opposite."""
    start, tuned, double, opposite = (weights(trained(methods).scaled(scale)) for scale in (0, 1, 2, -1))
    step = {name: tuned[name] - start[name] for name in start}
    moved = [name for name in step if step[name].abs().max() > 0]
    assert moved
    for name in start:
        if ".processor." in name and ".down." not in name:
            assert torch.equal(tuned[name], double[name])  # a hypernetwork's first layers are not scaled, but the last
            continue
        tolerance = {"rtol": 1e-3, "atol": 1e-6 + 1e-6 * float(tuned[name].abs().max())}
        torch.testing.assert_close(double[name] - start[name], 2 * step[name], **tolerance)
        torch.testing.assert_close(opposite[name] - start[name], -step[name], **tolerance)


def test_captions_away_from_the_change(trained):
    """The person's name returns, but the tokens of Textual Inversion are the change itself."""
    assert trained(("dreambooth",)).away(WORDS) == WORDS
    assert trained(("dreambooth",)).subject.caption(WORDS) == "a photo of sks person"
    assert trained(("textual_inversion",)).away(WORDS) == "a photo of <s2l>"
    both = trained(("lora", "textual_inversion", "dreambooth"))
    assert (both.subject.caption(WORDS), both.away(WORDS)) == ("a photo of <s2l> person", "a photo of <s2l>")


# --- weights -------------------------------------------------------------------------------------


def test_step_away_computes_in_float32_and_keeps_the_dtype():
    base, tuned = torch.nn.Linear(3, 2).half(), torch.nn.Linear(3, 2).half()
    a, b = base.weight.detach().clone(), tuned.weight.detach().clone()
    step_away(base, tuned, 1.0)
    assert torch.equal(tuned.weight, b)
    step_away(base, tuned, -1.5)
    assert torch.equal(tuned.weight, (a.float() - 1.5 * (b.float() - a.float())).half())
    assert torch.equal(base.weight, a) and tuned.weight.dtype == torch.float16
    for other in (torch.nn.Linear(4, 2), torch.nn.Linear(3, 2, bias=False)):
        with pytest.raises(UserError, match="one architecture"):
            step_away(base, other, 2.0)


def test_a_small_change_survives_half_precision(base, tmp_path, tiny_checkpoint):
    """A step too small for bfloat16 weights is scaled before it is rounded, not after."""
    half = DiffusionModel.load(str(tiny_checkpoint), Runtime(device="cpu", dtype="bfloat16"))
    moved = half.copy()
    moved.pipe.unet = moved.unet.float()
    weight = half.unet.conv_in.weight.detach().float()
    moved.unet.conv_in.weight.data = weight * (1 + 2**-12)
    config = FineTuneConfig(methods=("end_to_end",))
    ft.weights_of("end_to_end").save(moved, tmp_path, config)
    loaded = half.copy()
    ft.weights_of("end_to_end").load(loaded, tmp_path, config, 64.0)
    assert loaded.unet.dtype == torch.bfloat16
    torch.testing.assert_close(loaded.unet.conv_in.weight.float(), weight * (1 + 2**-6), rtol=2**-8, atol=0)


def test_a_method_that_cannot_scale_is_refused_before_the_training(base, trained, monkeypatch, tiny_lab, store):
    file = SimpleNamespace(load=lambda model, folder, config: None, prepare=None, save=None)
    monkeypatch.setattr(catalogue.Finetuner, "load_module", lambda self: file)
    ft.check_scalable(("lora",), 1.0)
    for w, space in ((1, "scores"), (-1, "weights")):
        ft.check_scalable(("lora",), -w if space == "weights" else 1.0)
    with pytest.raises(UserError, match="'lora' cannot be un-shaken in weights, because its `load` takes no scale"):
        run(preset("quick", NAME, unshake={"w": 1}), store, CPU)
    assert not (store.root / "sp_set").exists()


# --- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_scores_are_the_formula_written_out_with_two_models(prediction, base, trained, domain, monkeypatch):
    tuned = trained(("dreambooth",))
    for model in (base, tuned.subject.load()):
        monkeypatch.setattr(model, "prediction_type", prediction)
    w, images = 1.5, domain.membership.all()
    mixed = Extrapolated(base, tuned.subject.load(), w, tuned_caption=tuned.subject.caption)
    query = attacks.make_query(mixed, images)
    found = attacks.run_suite(("loss", "sima"), mixed, query, AuditConfig(attacks=("loss", "sima")))
    z0 = base.encode_images(images.images)
    contexts = [
        (base, base.encode_prompts(images.captions)),
        (tuned.subject.load(), tuned.subject.load().encode_prompts(["a photo of sks person"] * len(images))),
    ]

    def eps(zt, t):
        e_base, e_tuned = (model.eps(zt, t, c) for model, c in contexts)
        return e_base + w * (e_base - e_tuned)

    loss = torch.zeros(len(images))
    for draw, t in enumerate((50, 100, 200, 300)):
        n = query.noise(base, draw)
        loss -= (n - eps(base.add_noise(z0, n, t), t)).square().mean(dim=(1, 2, 3)) / 4
    torch.testing.assert_close(found["loss"], loss, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["sima"], -eps(z0, 100).pow(4).sum(dim=(1, 2, 3)), rtol=1e-4, atol=1e-4)


def test_every_attack_runs_on_two_models_as_one(base, trained, domain):
    away = unshake.unshaken(Subject.of(base), trained(("dreambooth",)), UnshakeConfig(w=1, space="scores"))
    for name, found in scores(away, domain, tuple(attacks.ATTACKS.own)).items():
        assert found.shape == (6,) and torch.isfinite(found).all(), name


@pytest.mark.parametrize("sampler", [FAST, SamplerConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=1.0)])
def test_guidance_w_is_one_case_of_it_bit_by_bit(base, trained, sampler, monkeypatch):
    """The formula of before, written out: e_base + w (e_tuned - e_base), each model in its own words."""
    tuned, w, captions = trained(("dreambooth",)).subject.load(), 3.0, {"a photo of sks person": WORDS}

    encode_tuned = tuned.encode_prompts

    def encode(prompts):
        of_base = base.encode_prompts([captions.get(prompt, prompt) for prompt in prompts])
        return torch.cat([of_base, encode_tuned(prompts)], dim=-1)

    def predict(z, t, c):
        c_base, c_tuned = c.chunk(2, dim=-1)
        e_base = base.eps(z, t, c_base)
        return e_base + w * (tuned.predict_noise(tuned.unet, z, t, c_tuned) - e_base)

    prompts, seeds = list(captions) * 3, [1, 2, 3]
    with monkeypatch.context() as patched:
        patched.setattr(tuned, "predict", predict)
        patched.setattr(tuned, "encode_prompts", encode)
        old = tuned.generate(prompts, seeds, sampler)
    config = ExtractionConfig(guidance_w=w)
    new = guidance.after_generate(base, tuned, config, [WORDS], list(captions))(prompts, seeds, sampler)
    assert torch.equal(old, new)


# --- the Loss attack for every w -----------------------------------------------------------------


@pytest.mark.parametrize("methods", [("end_to_end",), ("dreambooth",), ("textual_inversion",)], ids="+".join)
def test_the_curve_is_the_loss_attack_on_the_model_un_shaken_by_w(methods, base, trained, domain, store):
    tuned, config = trained(methods), AuditConfig(attacks=("loss",), settings={"loss": {"timesteps": [80, 250]}})
    stages = Stages(store)
    parts = unshake.loss_parts(Subject.of(base), tuned.subject, domain, config, stages)
    assert parts.shape == (6, 3) and (parts > 0).all()
    curve = {point["w"]: point for point in unshake.loss_curve(parts, 3, 0.9)}
    assert list(curve) == [i / 4 for i in range(-8, 17)]
    for w in (-2, -1, 0, 0.75, 3):
        away = unshake.unshaken(Subject.of(base), tuned, UnshakeConfig(w=w, space="scores"))
        query = attacks.make_query(away.load(), domain.membership.all())
        direct = attacks.run_attack("loss", away.load(), query, config).double().numpy()
        assert unshake.loss_at(parts, w) == pytest.approx(direct, rel=1e-4)
        assert curve[w]["auc"] == pytest.approx(intervals.auc(direct[:3], direct[3:]))
        assert curve[w]["low"] <= curve[w]["auc"] <= curve[w]["high"]
    again = unshake.loss_parts(Subject.of(base), tuned.subject, domain, config, stages)
    assert stages.timings[LOSS_PARTS.id]["cached"] and (again == parts).all()


def test_the_curve_is_measured_once_for_every_w_and_space():
    def key(config):
        return identity.unshaken("tuned", "base", config, NAME)

    keys = {key(UnshakeConfig(w=w, space=space)) for w in (1, 2) for space in ("weights", "scores")}
    assert len(keys) == 4 and key(UnshakeConfig()) == key(UnshakeConfig(w=1.0, space="weights"))


# --- settings, keys and commands -----------------------------------------------------------------


@pytest.mark.parametrize(
    "values, message",
    [
        ({"w": math.nan}, "finite number"), ({"w": 10.5}, "less than or equal to 10"), ({"w": -11}, "equal to -10"),
        ({"space": "pixels"}, "'weights' or 'scores'"), ({"w": 1, "strength": 2}, "xtra inputs"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        preset("quick", NAME, unshake=values)


def test_guidance_w_with_un_shake_is_refused():
    with pytest.raises(UserError, match="both say how far to go from the base model"):
        preset("quick", NAME, unshake={"w": 1}, extraction={"guidance_w": 2})
    values = {"domain": {"name": NAME}, "tuned": "x", "extraction": {"guidance_w": 2}, "unshake": {}}
    with pytest.raises(UserError, match="both say how far to go from the base model"):
        checked(AuditRunConfig, values)


def test_off_it_changes_no_key_and_on_each_w_and_space_has_its_own():
    off = preset("quick", NAME)
    keys = {identity.cell("model", off), identity.run(off, "model")}
    without = RunConfig.model_validate(off.model_dump(exclude={"unshake"}))
    assert {identity.cell("model", without), identity.run(without, "model")} == keys
    on = [preset("quick", NAME, unshake={"w": w, "space": s}) for w in (1, 2) for s in ("weights", "scores")]
    keys |= {identity.cell("model", config) for config in on} | {identity.run(config, "model") for config in on}
    assert len(keys) == 2 + 2 * 4


def test_the_command_says_it(tmp_path):
    config = preset("quick", NAME, unshake={"w": 1})
    assert "--unshake 1.0" in reproduce_command(config) and "--unshake-space" not in reproduce_command(config)
    config = preset("quick", NAME, unshake={"w": -0.5, "space": "scores"})
    assert "--unshake -0.5 --unshake-space scores" in reproduce_command(config)
    shared = config.model_dump(include={"model", "preset", "domain", "audit", "extraction", "unshake"})
    audit = AuditRunConfig.model_validate(shared | {"tuned": "somewhere"})
    assert "--tuned somewhere" in reproduce_command(audit) and "--unshake -0.5" in reproduce_command(audit)


ALONE = "--unshake-space says where the step of --unshake is made: give --unshake W with it"
STAGE = ["--domain", NAME, "--n-nonmembers", "6", "--preset", "quick"]


@pytest.mark.brings(
    "Tuned models",
    "Options of un-shake that lack or contradict another (`--unshake-space` without `--unshake`)",
    "refused: which option to give or to leave out",
)
@pytest.mark.parametrize(
    "words, message",
    [
        (["run", "--domain", NAME, "--unshake", "nan"], "--unshake: should be a finite number"),
        (["run", "--domain", NAME, "--unshake", "11"], "--unshake: should be less than or equal to 10"),
        (["run", "--domain", NAME, "--unshake", "1", "--guidance-w", "2"], "both say how far to go"),
        (["run", "--domain", NAME, "--unshake-space", "pixels"], "--unshake-space: should be 'weights' or 'scores'"),
        (["run", "--domain", NAME, "--unshake-space", "scores"], ALONE),
        (["audit", "--tuned", ".", "--domain", NAME, "--unshake-space", "weights"], ALONE),
        (["attack", *STAGE, "--tuned", "x", "--unshake-space", "scores"], ALONE),
        (["extract", *STAGE, "--tuned", "x", "--unshake-space", "scores"], ALONE),
        (["attack", *STAGE, "--unshake", "1"], "--unshake steps away from a fine-tuned model: give its folder"),
        (["extract", *STAGE, "--unshake", "1"], "--unshake steps away from a fine-tuned model: give its folder"),
        (["extract", *STAGE, "--unshake", "1", "--generations", "x"], "leave them out with --generations"),
        (["extract", *STAGE, "--tuned", "x", "--unshake", "1", "--guidance-w", "2"], "both say how far to go"),
        (["audit", "--tuned", ".", "--domain", NAME, "--unshake", "-11"], "--unshake: should be greater than or equal"),
    ],
)
def test_wrong_options_are_one_sentence(words, message, tiny_lab, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path / "out.json")]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and len(said.strip().splitlines()) == 1


# --- the whole path ------------------------------------------------------------------------------

NANO = {
    "domain": {"n_members": 6, "n_nonmembers": 6},
    "sp_set": {"set_size": 2, "sampler": {"num_inference_steps": 1}},
    "finetune": {"methods": ["gaussian_noise"], "settings": {"gaussian_noise": {"noise_sigma": 0.02}}},
    "audit": {"attacks": ["loss", "sima"]},
    "extraction": {"n_generations": 4, "delta": 0.5, "sampler": {"num_inference_steps": 2}},
}


@pytest.fixture
def nano(monkeypatch, tiny_lab):
    monkeypatch.setitem(PRESETS, "nano", NANO)
    return partial(preset, "nano", NAME)


def test_a_run_un_shakes_and_tells_it_everywhere(nano, store, tmp_path):
    plain = run(nano(), store, CPU)
    results = {space: run(nano(unshake={"w": 1.5, "space": space}), store, CPU) for space in ("weights", "scores")}
    assert "unshake" not in plain.record and findings.after_note(plain.record) == ""
    curves = []
    for space, result in results.items():
        record = result.record
        stages = record["stages"]
        assert all(stages[name]["cached"] for name in ("sp_set", "finetune", "attack loss before", "generate before"))
        assert not stages["attack loss after"]["cached"] and not stages["generate after"]["cached"]
        assert (record["unshake"]["w"], record["unshake"]["space"]) == (1.5, space)
        curves.append(record["unshake"]["loss_curve"])
        page = next(path for path in render.write_report(result, tmp_path / space) if path.suffix == ".html")
        said = [findings.after_note(record), render.headline(result)[0]]
        assert said[0] == said[1] and "not the fine-tuned model but the un-shaken one" in said[0]
        html = page.read_text()
        assert "the un-shaken one, base + w (base - fine-tuned) with w = 1.5" in html
        assert ("--unshake-space scores" in html) == (space == "scores") and "--unshake-space weights" not in html
        assert record["attacks"]["loss"]["shake_reference"] is None and "both models together" not in html
        assert "Un-shaken in scores, the Loss attack has an AUC of" in html
        written = json.loads((tmp_path / space / "result.json").read_text())
        assert "--unshake 1.5" in written["command"]
        again = run(nano(unshake={"w": 1.5, "space": space}), store, CPU)
        assert all(stage["cached"] for name, stage in again.record["stages"].items() if name != "total")
    assert curves[0] == curves[1] and results["scores"].record["stages"][LOSS_PARTS.id]["cached"]
    at = {point["w"]: point["auc"] for point in curves[0]}
    loss = plain.record["attacks"]["loss"]
    assert at[0] == pytest.approx(loss["before"]["auc"]) and at[-1] == pytest.approx(loss["after"]["auc"])
    assert at[1.5] == pytest.approx(results["scores"].record["attacks"]["loss"]["after"]["auc"])
    cost = {space: result.record["extraction"]["cost"]["after"] for space, result in results.items()}
    assert cost["weights"] == plain.record["extraction"]["cost"]["after"] | {
        field: cost["weights"][field] for field in ("per_1000", "low", "high", "nonmembers_per_1000")
    }
    assert cost["scores"]["unet_evaluations"] == 2 * cost["weights"]["unet_evaluations"]
    assert load_result(results["weights"].key, store).record["unshake"]["w"] == 1.5


def test_an_audit_of_a_folder_and_of_a_whole_checkpoint(nano, store, tmp_path, base, monkeypatch):
    """The same fine-tuning as a folder and as a checkpoint: un-shaken alike."""
    monkeypatch.setitem(PRESETS["nano"], "finetune", {"methods": ["end_to_end"], "max_train_steps": 1})
    first = run(nano(extraction={"n_generations": 1}), store, CPU)
    folder = store.root / first.record["folders"]["finetune"]
    whole = tmp_path / "whole"
    ft.load_finetuned(base, folder).pipe.save_pretrained(whole)
    shared = {name: first.record["config"][name] for name in ("domain", "audit", "extraction")} | {"preset": "quick"}
    for space in ("weights", "scores"):
        both = [
            run_audit(
                AuditRunConfig.model_validate(shared | {"tuned": str(tuned), "unshake": {"w": 2, "space": space}}),
                Store(tmp_path / f"{space}{tuned.name}"), CPU,
            ).record
            for tuned in (folder, whole)
        ]  # fmt: skip
        assert both[0]["attacks"]["sima"]["after"]["auc"] == both[1]["attacks"]["sima"]["after"]["auc"]
        for record in both:
            scores_after = record["attacks"]["loss"]["scores"]["after"]["members"]
            assert scores_after == pytest.approx(both[0]["attacks"]["loss"]["scores"]["after"]["members"], rel=1e-4)
            assert record["unshake"]["loss_curve"] == both[0]["unshake"]["loss_curve"]


def test_a_checkpoint_with_another_autoencoder_is_refused(nano, store, tmp_path, base):
    other = base.copy()
    other.unet.conv_in.weight.data += 1
    other.pipe.save_pretrained(tmp_path / "other")
    from safetensors.torch import load_file, save_file

    file = next((tmp_path / "other" / "vae").glob("*.safetensors"))
    save_file({name: tensor * 1.01 for name, tensor in load_file(file).items()}, file)
    values = {"domain": {"name": NAME, "n_nonmembers": 4}, "tuned": str(tmp_path / "other"), "unshake": {"w": 1}}
    with pytest.raises(UserError, match="another autoencoder"):
        run_audit(AuditRunConfig.model_validate(values), store, CPU)


def test_the_stage_commands_un_shake(nano, store, tmp_path, capsys):
    first = run(nano(), store, CPU)
    tuned = str(store.root / first.record["folders"]["finetune"])
    outs = {}
    for space in ("weights", "scores"):
        common = [*STAGE, "--tuned", tuned, "--unshake", "1", "--unshake-space", space, "--device", "cpu"]
        out = tmp_path / f"{space}.json"
        assert main(["attack", *common, "--dtype", "float32", "--attacks", "loss", "--out", str(out)]) == 0
        outs[space] = json.loads(out.read_text())
        assert outs[space]["unshake"]["space"] == space and len(outs[space]["unshake"]["loss_curve"]) == 25
        folder = tmp_path / space
        assert main(["extract", *common, "--dtype", "float32", "-n", "2", "--out", str(folder)]) == 0
        record = json.loads((folder / "extraction.json").read_text())
        assert record["model"]["tuned"] == outs[space]["tuned"]
        assert record["cost"]["denoising"] == 2 * 4 * 2 * (2 if space == "scores" else 1)
    assert outs["weights"]["tuned"] != outs["scores"]["tuned"]
    assert outs["weights"]["unshake"]["loss_curve"] == outs["scores"]["unshake"]["loss_curve"]
    capsys.readouterr()


# --- what it costs -------------------------------------------------------------------------------


def evaluations(subject: Subject, base: DiffusionModel, tuned: DiffusionModel, work) -> int:
    """Latents through the UNets of all models during `work`."""
    count, models = [0], {id(m.unet): m for m in (base, tuned, subject.load())}

    def hook(module, arguments):
        count[0] += len(arguments[0])

    handles = [model.unet.register_forward_pre_hook(hook) for model in models.values()]
    work()
    for handle in handles:
        handle.remove()
    return count[0]


@pytest.mark.parametrize("methods", [("lora",), ("hypernetwork",), ("end_to_end",)], ids="+".join)
def test_in_weights_it_costs_no_more_than_the_shaken_model_and_in_scores_twice(methods, base, trained, domain):
    tuned, plain = trained(methods), Subject.of(base)
    shaken = tuned.subject
    spent = {}
    for name, subject in {
        "shaken": shaken,
        "weights": unshake.unshaken(plain, tuned, UnshakeConfig(w=1)),
        "scores": unshake.unshaken(plain, tuned, UnshakeConfig(w=1, space="scores")),
    }.items():

        def work(subject=subject):
            scores(subject, domain)
            pictures(subject)

        spent[name] = evaluations(subject, base, shaken.load(), work)
    assert spent["weights"] == spent["shaken"] > 0 and spent["scores"] == 2 * spent["shaken"]


def test_the_plan_counts_two_models_and_the_curve():
    def total(**more):
        return {stage.id: work for stage, work in plan(preset("demo", NAME, **more)).items()}

    plain, weights_, scores_ = total(), total(unshake={"w": 1}), total(unshake={"w": 1, "space": "scores"})
    for name in ("attack loss after", "attack secmi after", "generate after"):
        assert plain[name] == weights_[name] and scores_[name] == 2 * plain[name]
        before = name.replace("after", "before")
        assert plain[before] == weights_[before] == scores_[before]
    assert LOSS_PARTS.id not in plain and weights_[LOSS_PARTS.id] == 2 * plain["attack loss before"]
    assert LOSS_PARTS.id not in total(unshake={"w": 1}, audit={"attacks": ["sima"]})


def test_extract_keeps_pictures_of_another_w_apart(base, trained, tmp_path):
    tuned, config = trained(("gaussian_noise",)), ExtractionConfig(n_generations=2, sampler=FAST)
    subjects = [unshake.unshaken(Subject.of(base), tuned, UnshakeConfig(w=w)) for w in (1, 2)]
    folders.make_generations(base, subjects[0], NAME, config, tmp_path / "x", lambda event: None)
    with pytest.raises(UserError, match="other settings"):
        folders.make_generations(base, subjects[1], NAME, config, tmp_path / "x", lambda event: None)
