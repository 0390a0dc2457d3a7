"""What a checkpoint's settings may decide, and what is refused: samplers, predictions, sizes, NaN, unchanged scores."""

from __future__ import annotations

import copy
import inspect
import json
import re
import shutil

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from safetensors.torch import load_file, save_file

from s2l import cli
from s2l.cli import base
from s2l.config import AuditConfig, SamplerConfig
from s2l.data.domain import Domain, ImageSet, MembershipSplit
from s2l.errors import UserError
from s2l.model import samplers, schedule
from s2l.model.checkpoints import check_name, locate
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.pipeline.membership import scorer
from s2l.pipeline.stages import Stages
from s2l.pipeline.subject import Subject
from s2l.record import Result
from s2l.report.findings import outcome
from s2l.report.verdicts import findings, unchanged_note
from s2l.store import Store
from s2l.ui import runs
from s2l.ui.tabs.story import headlines_html
from tests import sd_layout

CPU = Runtime(device="cpu", dtype="float32", batch_size=4)
BOTH = [SamplerConfig(scheduler=name, num_inference_steps=3, guidance_scale=2.0) for name in ("ddim", "dpmsolver")]
NAMES = ["ddim", "dpmsolver"]
NAME = "Mira Solwyn"
FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return sd_layout.write_folder(tmp_path_factory.mktemp("settings") / "sd1")


@pytest.fixture(scope="module")
def model(original):
    return DiffusionModel.load(str(original), CPU)


@pytest.fixture
def folder(original, tmp_path):
    """A copy of the checkpoint, to be changed."""
    return shutil.copytree(original, tmp_path / "copy")


def refused(path) -> str:
    """The sentence that refuses a checkpoint before any weight is read."""
    with pytest.raises(UserError) as error:
        check_name(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


# --- samplers --------------------------------------------------------------------------------

LEFTOVERS = {
    "timestep_spacing": "linspace", "steps_offset": 7, "clip_sample": True, "clip_sample_range": 0.1,
    "set_alpha_to_one": True, "thresholding": True, "sample_max_value": 0.2, "dynamic_thresholding_ratio": 0.5,
    "algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun", "lower_order_final": False,
    "euler_at_final": True, "use_karras_sigmas": True, "use_lu_lambdas": False, "final_sigmas_type": "sigma_min",
    "lambda_min_clipped": -1.0, "variance_type": "learned", "skip_prk_steps": False,
    "_use_default_values": ["timestep_spacing", "clip_sample", "set_alpha_to_one", "beta_schedule", "beta_end"],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["PNDMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_checkpoints_own_sampling_changes_no_picture(folder, model, kind):
    sd_layout.change_json(folder / SCHEDULER, _class_name=kind, **LEFTOVERS)
    sd_layout.change_json(folder / "model_index.json", scheduler=["diffusers", kind])
    changed = DiffusionModel.load(str(folder), CPU)
    assert torch.equal(changed.alphas_cumprod, model.alphas_cumprod)
    for sampler in BOTH:
        assert changed.first_timestep(sampler) == 999
        assert torch.equal(changed.generate(["a face"], [5], sampler), model.generate(["a face"], [5], sampler))


@pytest.mark.brings(
    "Models",
    "A scheduler configuration of 2022 (no `timestep_spacing`, no `clip_sample`)",
    "sampled as documented here; nothing of the file overrides it",
)
def test_a_file_of_2022_is_sampled_from_the_noisiest_timestep_and_not_clipped(folder, model):
    """Without `timestep_spacing` and `clip_sample`, which diffusers then calls defaults and keeps."""
    old = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    (folder / SCHEDULER).write_text(json.dumps(old))
    sd_layout.change_json(folder / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    changed = DiffusionModel.load(str(folder), CPU)
    for sampler in BOTH:
        made = changed._scheduler(sampler)
        assert int(made.timesteps[0]) == 999 and not getattr(made.config, "clip_sample", False)
        assert torch.equal(changed.generate(["a face"], [5], sampler), model.generate(["a face"], [5], sampler))


@pytest.mark.parametrize("sampler", BOTH, ids=NAMES)
def test_a_labs_pictures_are_those_of_its_own_scheduler(tiny_checkpoint, monkeypatch, sampler):
    """Bit by bit what diffusers draws with the lab's configuration and the settings that the lab was measured with."""
    lab = DiffusionModel.load(str(tiny_checkpoint), CPU)
    config = DDIMScheduler.load_config(tiny_checkpoint / "scheduler")
    config |= {"timestep_spacing": "trailing", "clip_sample": False}

    def theirs(_):
        made = (
            DDIMScheduler.from_config(config)
            if sampler.scheduler == "ddim"
            else DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")
        )
        made.set_timesteps(sampler.num_inference_steps)
        return made

    ours = lab.generate(["a face"], [5], sampler)
    monkeypatch.setattr(lab, "_scheduler", theirs)
    assert torch.equal(lab.alphas_cumprod, DDIMScheduler.from_config(config).alphas_cumprod)
    assert torch.equal(ours, lab.generate(["a face"], [5], sampler))


@pytest.mark.parametrize(
    "kind, ours", [(DDIMScheduler, samplers.DDIM), (DPMSolverMultistepScheduler, samplers.DPM_SOLVER)]
)
def test_no_setting_of_a_sampler_is_left_to_the_library(kind, ours):
    every = set(inspect.signature(kind.__init__).parameters) - {"self", "prediction_type", *schedule.FIELDS}
    flow = {"flow_shift", "use_dynamic_shifting", "time_shift_type"}  # of flow matching, which is off
    assert every - flow == set(ours) - flow


@pytest.mark.parametrize("kind", sorted(schedule.DEFAULTS.keys() - {"DPMSolverSDEScheduler"}))  # needs torchsde
def test_missing_betas_are_the_defaults_of_the_scheduler_that_is_named(kind):
    given = schedule.read_schedule({}, kind)
    theirs = getattr(diffusers, kind)()
    assert torch.equal(samplers.ddim(given, "epsilon").betas, theirs.betas)


@pytest.mark.brings("Models", "A scheduler with `trained_betas`", "used as the noise schedule")
def test_trained_betas_are_the_schedule(folder):
    betas = torch.linspace(0.001, 0.01, 1000).tolist()
    sd_layout.change_json(folder / SCHEDULER, trained_betas=betas)
    changed = DiffusionModel.load(str(folder), CPU)
    torch.testing.assert_close(changed.alphas_cumprod, (1 - torch.tensor(betas)).cumprod(0))
    for sampler in BOTH:
        assert torch.equal(changed._scheduler(sampler).betas, torch.tensor(betas))


# --- what a single file predicts -------------------------------------------------------------


@pytest.fixture
def single(folder, tmp_path):
    """A single file with the configuration of its small networks beside it, which does not say what it predicts."""
    for weights in folder.glob("*/*.safetensors"):
        weights.unlink()
    config = json.loads((folder / SCHEDULER).read_text())
    del config["prediction_type"]
    (folder / SCHEDULER).write_text(json.dumps(config))
    shutil.move(folder, tmp_path / "small")
    return sd_layout.write_single_file(tmp_path / "small.safetensors", sd_layout.build())


def rewrite(path, metadata=None, **keys):
    save_file(load_file(path) | keys, path, metadata)


V_SOURCES = {
    "its key v_pred": lambda path: rewrite(path, v_pred=torch.tensor([])),
    "modelspec.prediction_type in its metadata": lambda path: rewrite(path, {"modelspec.prediction_type": "v"}),
    "modelspec.architecture": lambda path: rewrite(path, {"modelspec.architecture": "stable-diffusion-v2-768-v"}),
    "parameterization in small.yaml": lambda path: path.with_suffix(".yaml").write_text(
        'model:\n  target: x\n  params:\n    # parameterization: "eps"\n    parameterization: "v"  # as in 768-v\n'
    ),
    "v_parameterization in small.json": lambda path: path.with_suffix(".json").write_text(
        '{"v2": true, "v_parameterization": true}'
    ),
    "parameterization in small.json": lambda path: path.with_suffix(".json").write_text(
        '{"model": {"params": {"parameterization": "v"}}}'
    ),
}


@pytest.mark.brings(
    "Models",
    "A single file of a v-prediction model (keys, metadata or side file)",
    "recognised; a note says from what",
)
@pytest.mark.parametrize("source", V_SOURCES)
def test_a_single_file_that_predicts_v_is_recognised_and_said(single, source, capfd):
    before = locate(str(single))
    assert before.predicts == "epsilon" and "epsilon is assumed" in before.notes[0]
    V_SOURCES[source](single)
    model = DiffusionModel.load(str(single), CPU)
    assert model.prediction_type == model.pipe.scheduler.config.prediction_type == "v_prediction"
    assert source in model.notes[0] and source in capfd.readouterr().err


@pytest.mark.brings(
    "Models",
    "A file whose sources contradict each other about the prediction type",
    "refused; the sentence names both",
)
@pytest.mark.parametrize("source", V_SOURCES)
def test_sources_that_contradict_each_other_are_refused(single, source):
    V_SOURCES[source](single)
    sd_layout.change_json(single.with_suffix("") / SCHEDULER, prediction_type="epsilon")
    message = refused(single)
    assert source in message and "scheduler configuration in small/" in message and "not clear" in message


@pytest.mark.brings(
    "Models",
    "Stable Diffusion 2 without a statement of its prediction type",
    "decided by its size; a note says so",
)
@pytest.mark.parametrize("levels, pixels, predicts", [([16, 32], 384, "epsilon"), ([16, 32, 32], 768, "v_prediction")])
def test_stable_diffusion_2_predicts_v_from_768_pixels_on_if_nobody_says_it(folder, tmp_path, levels, pixels, predicts):
    names = ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.model.ln_final.weight")
    path = tmp_path / "sd2.safetensors"
    save_file(dict(zip(names, (torch.zeros(8, 4, 3, 3), torch.zeros(8)), strict=True)), path)
    with pytest.raises(UserError, match="does not say whether it predicts epsilon or v.*configuration"):
        locate(str(path))
    silent = json.loads((folder / SCHEDULER).read_text())
    del silent["prediction_type"]
    (folder / SCHEDULER).write_text(json.dumps(silent))
    sd_layout.change_json(folder / "unet/config.json", sample_size=192)
    sd_layout.change_json(folder / "vae/config.json", block_out_channels=levels)
    shutil.move(folder, path.with_suffix(""))
    found = locate(str(path))
    assert found.predicts == predicts
    assert f"{predicts} is assumed, as in Stable Diffusion 2.x for {pixels} pixels" in found.notes[0]
    rewrite(path, {"modelspec.prediction_type": "v"})
    assert locate(str(path)).predicts == "v_prediction" and "assumed" not in locate(str(path)).notes[0]


def test_a_single_file_of_stable_diffusion_2_is_the_same_model_as_its_folder(tmp_path):
    pipe = sd_layout.build("v_prediction", version=2)
    pipe.save_pretrained(tmp_path / "folder")
    path = sd_layout.write_single_file(tmp_path / "sd2.safetensors", pipe, version=2)
    shutil.copytree(tmp_path / "folder", tmp_path / "sd2", ignore=shutil.ignore_patterns("*.safetensors"))
    file, whole = (DiffusionModel.load(str(x), CPU) for x in (path, tmp_path / "folder"))
    for part in FILES:
        expected, found = (getattr(model, part).state_dict() for model in (whole, file))
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert file.prediction_type == "v_prediction" and file.notes == ()


def test_sources_that_agree_are_one_statement(single):
    rewrite(single, {"modelspec.prediction_type": "epsilon"})
    single.with_suffix(".yaml").write_text("parameterization: eps\n")
    assert locate(str(single)).predicts == "epsilon" and "assumed" not in locate(str(single)).notes[0]
    sd_layout.change_json(single.with_suffix("") / SCHEDULER, prediction_type="epsilon")
    assert locate(str(single)).notes == ()


def test_what_a_file_predicts_is_part_of_its_key(single):
    plain = DiffusionModel.load(str(single), CPU)
    V_SOURCES["parameterization in small.yaml"](single)  # the weights are the same
    v = DiffusionModel.load(str(single), CPU)
    assert plain.weights == v.weights and plain.key != v.key


@pytest.mark.brings(
    "Models",
    "Flow matching, `sample` prediction, an unreadable side file",
    "refused with one sentence",
)
@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda path: rewrite(path, v_pred=torch.tensor([]), ztsnr=torch.tensor([])), "zero terminal .*its key ztsnr"),
        (lambda path: rewrite(path, {"modelspec.prediction_type": "x0"}), "predicts 'x0'"),
        (lambda path: path.with_suffix(".json").write_text("{"), "cannot be read"),
        (lambda path: path.with_suffix(".yaml").write_bytes(b"\xff\xfe\xff"), "cannot be read"),
        (lambda path: path.with_suffix(".json").write_text('{"zero_terminal_snr": true}'), "zero terminal"),
    ],
)
def test_other_predictions_and_unreadable_side_files_are_refused(single, change, reason):
    change(single)
    assert re.search(reason, refused(single))


# --- sizes that do not fit together ----------------------------------------------------------


@pytest.mark.brings("Models", "A configuration that fits no model (sizes, lists, scheduler)", "refused before any work")
@pytest.mark.parametrize(
    "file, changes, reason",
    [
        ("unet/config.json", {"in_channels": 8}, "8 input channels"),
        ("unet/config.json", {"out_channels": 8}, "8 output channels"),
        ("unet/config.json", {"encoder_hid_dim_type": "text_proj"}, "further conditions"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "further conditions"),
        ("unet/config.json", {"cross_attention_dim": 64}, "must be the text encoder's hidden_size, 32"),
        ("unet/config.json", {"cross_attention_dim": [32, 64]}, "must be the text encoder's hidden_size, 32"),
        ("unet/config.json", {"sample_size": None}, "sample_size None: a whole number from 1 to 256"),
        ("unet/config.json", {"sample_size": [8, 8]}, "sample_size .*a whole number from 1 to 256"),
        ("unet/config.json", {"sample_size": 0}, "sample_size 0"),
        ("unet/config.json", {"sample_size": True}, "sample_size True"),
        ("unet/config.json", {"sample_size": 10**9}, "a whole number from 1 to 256"),
        ("vae/config.json", {"latent_channels": 16}, "latent_channels 16: the UNet works on 4"),
        ("vae/config.json", {"out_channels": 1}, "pictures have 3"),
        ("vae/config.json", {"scaling_factor": None}, "scaling_factor None: a number above 0"),
        ("vae/config.json", {"shift_factor": 0.1}, "scaled by scaling_factor alone"),
        ("vae/config.json", {"block_out_channels": None}, "block_out_channels None: 1 to 6 whole numbers"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 300}, "a whole number up to .* is needed"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": None}, "model_max_length None: a whole number up to"),
        (SCHEDULER, {"num_train_timesteps": 500}, "num_train_timesteps 500; only 1000"),
        (SCHEDULER, {"num_train_timesteps": "many"}, "num_train_timesteps 'many'; only 1000"),
        (SCHEDULER, {"trained_betas": [0.1, 0.2]}, "trained_betas that are not 1000 numbers between 0 and 1"),
        (SCHEDULER, {"trained_betas": [0.5] * 999 + [1.0]}, "trained_betas that are not 1000 numbers"),
        (SCHEDULER, {"beta_schedule": "cosine"}, "'cosine'; allowed are linear, scaled_linear"),
        (SCHEDULER, {"beta_start": 0.5, "beta_end": 0.1}, "must lie between 0 and 1, start before end"),
        (SCHEDULER, {"beta_end": "0.012"}, "must lie between 0 and 1"),
        ("model_index.json", {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "allowed are DDIM"),
    ],
)  # fmt: skip
def test_configurations_that_fit_no_model_are_a_sentence_before_any_work(folder, file, changes, reason):
    sd_layout.change_json(folder / file, **changes)
    for weights in folder.glob("*/*.safetensors"):
        weights.write_bytes(b"never read")
    assert re.search(reason, refused(folder))


@pytest.mark.brings(
    "Models",
    "A tokenizer with more tokens than the text encoder has embeddings",
    "refused with one sentence",
)
def test_a_tokenizer_with_more_tokens_than_the_text_encoder_knows_is_a_sentence(folder):
    pipe = sd_layout.build()
    pipe.tokenizer.add_tokens(["<one>", "<two>"])
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    with pytest.raises(UserError, match="tokens: the text encoder knows"):
        DiffusionModel.load(str(folder), CPU)


# --- NaN and infinity ------------------------------------------------------------------------

HUGE = 60_000.0  # float16 holds it, but no sum of two


def overflowing(folder, part, name) -> None:
    """Let the `part` of a checkpoint overflow in float16, and only there."""
    path = folder / FILES[part]
    weights = load_file(path)
    save_file(weights | {name: torch.full_like(weights[name], HUGE)}, path)


def use(model, stage):
    if stage == "encode":
        return model.encode_images(torch.full((2, 3, 16, 16), 255, dtype=torch.uint8))
    if stage == "decode":
        return model.decode_latents(torch.ones(2, *model.latent_shape))
    if stage == "caption":
        return model.encode_prompts(["a face"])
    return model.generate(["a face"], [1], BOTH[0])


@pytest.mark.brings(
    "Models",
    "A model that overflows in half precision",
    "the first NaN names its stage and what to try",
)
@pytest.mark.parametrize(
    "stage, part, weight, sentence",
    [
        ("encode", "vae", "encoder.conv_in.weight", "encoding pictures into latents"),
        ("decode", "vae", "decoder.conv_in.weight", "decoding latents into pictures"),
        ("generate", "vae", "decoder.conv_in.weight", "decoding latents into pictures"),
        ("generate", "unet", "conv_in.weight", "sampling"),
        ("caption", "text_encoder", "encoder.layers.0.mlp.fc2.weight", "encoding captions"),
    ],
)
def test_the_first_overflow_names_its_stage_and_what_to_try(folder, stage, part, weight, sentence):
    prefix = "text_model." if any(k.startswith("text_model.") for k in load_file(folder / FILES[part])) else ""
    name = prefix + weight if part == "text_encoder" else weight
    overflowing(folder, part, name)
    for dtype in ("float32", "bfloat16"):
        assert use(DiffusionModel.load(str(folder), Runtime("cpu", dtype)), stage).isfinite().all()
    with pytest.raises(UserError, match=f"{sentence}.* NaN or infinity in float16: try float32 or bfloat16") as error:
        use(DiffusionModel.load(str(folder), Runtime("cpu", "float16")), stage)
    assert "\n" not in str(error.value)


def test_infinite_pixels_are_not_taken_for_white(original, monkeypatch):
    model = DiffusionModel.load(str(original), CPU)
    white = type("Decoded", (), {"sample": torch.full((1, 3, 16, 16), float("inf"))})
    monkeypatch.setattr(model.vae, "decode", lambda z: white)
    with pytest.raises(UserError, match="decoding .* in float32$"):
        model.decode_latents(torch.zeros(1, *model.latent_shape))


@pytest.mark.brings("Numbers", "A score that is NaN", "one sentence names the attack; nothing is cached")
def test_a_score_that_is_no_number_names_its_attack_and_is_not_cached(tiny_model, store, monkeypatch):
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    photos = ImageSet(images[:, :, : tiny_model.resolution, : tiny_model.resolution], ("a face",) * 3, tuple("abc"))
    domain = Domain("x", MembershipSplit(photos, photos), key="photos")
    config, healthy = AuditConfig(attacks=("loss",)), tiny_model.eps

    def scores(subject):
        return scorer(subject, domain, config, Stages(store), "before")("loss")

    monkeypatch.setattr(tiny_model, "eps", lambda zt, t, c: healthy(zt, t, c) * float("nan"))
    with pytest.raises(UserError, match="the Loss attack gave NaN or infinity in float32"):
        scores(Subject.of(tiny_model))
    monkeypatch.setattr(tiny_model, "eps", healthy)
    assert np.isfinite(scores(Subject.of(tiny_model))).all()  # computed anew

    (kept,) = (store.root / "stages" / "scores").glob("*/scores.safetensors")
    save_file({"components": torch.full((6, 1), float("nan"))}, kept)
    with pytest.raises(UserError, match="delete it"):
        scores(Subject.of(tiny_model))


def test_black_pictures_are_a_sentence_of_the_command_line_and_not_cached(
    tiny_checkpoint, tmp_path, capsys, monkeypatch
):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "lab")
    overflowing(folder, "vae", "decoder.conv_in.weight")
    words = ["run", "--model", folder, "--domain", NAME, "--preset", "quick", "--dtype", "float16", "--device", "cpu"]
    assert cli.main([*map(str, words), "--out", str(tmp_path / "out")]) == 2
    assert "decoding latents into pictures gave NaN or infinity in float16" in capsys.readouterr().err
    assert not list((tmp_path / "cache").glob("stages/sp_set/*/*.png"))


# --- two models that are one -----------------------------------------------------------------


@pytest.mark.brings(
    "Tuned models",
    "A tuned model whose scores equal the base model's",
    "a warning, and no interval of zero width",
)
def test_identical_scores_are_a_warning_and_no_interval(tiny_lab, foreign_checkpoint, tmp_path, monkeypatch, capsys):
    """A fine-tuned model that learned a token which no caption uses."""
    monkeypatch.setenv(base.PERMISSION, "1")
    learned = shutil.copytree(foreign_checkpoint, tmp_path / "learned")
    weights = load_file(learned / FILES["text_encoder"])
    next(tensor for name, tensor in weights.items() if name.endswith("token_embedding.weight"))[0] += 1  # "!"
    save_file(weights, learned / FILES["text_encoder"])
    tuned = ["--model", "lab", "--domain", NAME, "--tuned", str(learned), "--attacks", "loss,pia"]
    small = ["--preset", "quick", "--n-generations", "3", "--dtype", "float32", "--out", str(tmp_path / "out")]
    assert cli.main(["audit", *tuned, *small]) == 0
    shown = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    page = " ".join((tmp_path / "out" / "report.html").read_text().split())
    both = "exactly the same score before and after fine-tuning in the Loss and PIA attacks"
    assert f"Warning: Every photo has {both}" in shown and both in page
    assert "identical scores" in shown and "identical scores" in page
    assert "[+0.000, +0.000]" not in shown and "[+0.000, +0.000]" not in page
    assert "+0.000 to +0.000" not in shown + page

    record["config"]["finetune"] = {"methods": ["textual_inversion"]}  # the page shows runs
    result = Result(record, Store(tmp_path / "cache"))
    assert both in runs.headline_html(result)
    questions = {finding.question for finding in findings(result)}
    assert "attack" in questions and "together" not in questions
    assert [row.difference for row in outcome(result) if row.what == "AUC"] == ["identical scores"] * 2
    assert "+0.000" not in headlines_html(result)

    changed = copy.deepcopy(record)
    changed["attacks"]["loss"]["scores"]["after"]["members"][0] += 1e-9
    assert "in the PIA attack:" in unchanged_note(changed["attacks"])
    changed["attacks"]["pia"]["scores"]["after"]["members"][0] += 1e-9
    assert unchanged_note(changed["attacks"]) == ""
