"""Real checkpoints: SD-layout folders and single files of random weights at a small size, and the hub's path."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from huggingface_hub import errors as hub
from safetensors.torch import save_file

from s2l import attacks
from s2l import finetune as ft
from s2l.config import AuditConfig, FineTuneConfig, SamplerConfig
from s2l.data.domain import ImageSet
from s2l.errors import UserError
from s2l.finetune.trainer import train
from s2l.jobs.store import model_key as job_model_key
from s2l.model.checkpoints import SD1, check_name, locate, weights_key
from s2l.model.configuration import DEFAULT_HUB_MODEL
from s2l.model.diffusion import DiffusionModel, Runtime, model_key
from tests import sd_layout

CPU = Runtime(device="cpu", dtype="float32", batch_size=4)
NAME = "Mira Solwyn"
FAST = SamplerConfig(num_inference_steps=3, guidance_scale=2.0)
VARIANTS = {
    "sd1": {},
    "sd1-safety-checker": {"safety_checker": True},
    "sd2-v": {"version": 2, "prediction_type": "v_prediction"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: sd_layout.write_folder(root / name, **options) for name, options in VARIANTS.items()}


@pytest.fixture(scope="module")
def models(folders):
    return {name: DiffusionModel.load(str(folder), CPU) for name, folder in folders.items()}


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of the plain checkpoint, to be damaged."""
    return shutil.copytree(folders["sd1"], tmp_path / "copy")


def pictures(model, n=3) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, model.resolution, model.resolution), dtype=torch.uint8, generator=generator)
    return ImageSet(images, (f"a photo of {NAME}",) * n, tuple(map(str, range(n))))


# --- one adapter for all ---------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_attack_and_the_sampler_work(models, variant):
    model = models[variant]
    assert model.pipe.safety_checker is None
    for scheduler in ("ddim", "dpmsolver"):
        drawn = model.generate([NAME, "a face"], [1, 2], FAST.model_copy(update={"scheduler": scheduler}))
        assert drawn.shape == (2, 3, 16, 16) and drawn.std() > 0
    query = attacks.make_query(model, pictures(model, 2))
    settings = {"secmi": {"t": 20, "k": 10}, "pfami": {"crops": [0.9], "t": [100]}}
    known = {name: values for name, values in settings.items() if set(values) <= set(_fields(name))}
    scores = attacks.run_suite(tuple(attacks.ATTACKS), model, query, AuditConfig(settings=known))
    assert set(scores) == set(attacks.ATTACKS)
    assert all(torch.isfinite(score).all() and score.std() > 0 for score in scores.values())


def _fields(attack: str) -> dict:
    return attacks.get_attack(attack).settings.model_fields


SMALL = {
    "dreambooth": {"num_class_images": 2, "class_sampler": FAST.model_dump()},
    "textual_inversion": {"num_vectors": 1},
}


@pytest.mark.parametrize("methods", [(name,) for name in ft.FINETUNERS])
def test_every_method_trains_a_v_predicting_model(models, methods, tmp_path):
    model = models["sd2-v"]
    config = FineTuneConfig(
        methods=methods, max_train_steps=1, train_batch_size=2, settings={m: SMALL[m] for m in methods if m in SMALL}
    )
    ft.finetune(model, pictures(model), config, tmp_path, NAME)
    tuned = ft.load_finetuned(model, tmp_path)
    prompt = ft.map_caption(f"a photo of {NAME}", NAME, config)
    z, c = model.noise([1]), tuned.encode_prompts([prompt])
    assert torch.isfinite(tuned.eps(z, 300, c)).all()


def test_eps_of_a_v_predicting_model_is_the_noise(models, monkeypatch):
    """A UNet that predicts v = sqrt(a) n - sqrt(1-a) z0 perfectly has eps = n, at any timestep."""
    model = models["sd2-v"]
    z0, n, t = model.noise([1, 2]), model.noise([3, 4]), torch.tensor([7, 900])
    a = model.pipe.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    v = a.sqrt() * n - (1 - a).sqrt() * z0
    monkeypatch.setattr(model.unet, "forward", lambda *arguments, **named: (v,))
    eps = model.eps(model.add_noise(z0, n, t), t, model.encode_prompts(["", ""]))
    torch.testing.assert_close(eps, n, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.training_target(z0, n, t), v)


def test_a_v_predicting_model_draws_what_its_epsilon_twin_draws(folder, models, monkeypatch):
    """The same network read as epsilon, and wrapped so that it gives the same prediction as v."""
    sd_layout.change_json(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    plain, twin = models["sd1"], DiffusionModel.load(str(folder), CPU)
    forward = twin.unet.forward

    def as_v(zt, t, c, **named):
        a = twin.alpha(t, len(zt))
        return ((forward(zt, t, c, **named)[0] - (1 - a).sqrt() * zt) / a.sqrt(),)

    monkeypatch.setattr(twin.unet, "forward", as_v)
    expected = plain.generate(["a face"], [5], FAST)
    torch.testing.assert_close(twin.generate(["a face"], [5], FAST), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("variant", ["sd1", "sd2-v"])
def test_training_regresses_on_what_the_checkpoint_predicts(models, variant, tmp_path):
    """The first logged loss, recomputed with diffusers' own formula for v."""
    base = models[variant]
    model, config = base.copy(), FineTuneConfig(max_train_steps=1, train_batch_size=3)
    images = pictures(base)
    z0 = base.encode_images(images.images)
    groups = [{"params": ft.weights_of("lora").prepare(model, config), "lr": 1e-4}]
    examples = ft.Examples(z0, images.captions, torch.ones(3), torch.zeros(3, dtype=torch.long))
    train(model, groups, examples, config, tmp_path)
    logged = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["loss"]

    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + 500_000_009)
    noise = torch.randn((3, *base.latent_shape), generator=generator)
    t = torch.randint(1000, (3,), generator=generator)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(0))
    z0, scheduler = z0[order], base.pipe.scheduler
    target = noise if variant == "sd1" else scheduler.get_velocity(z0, noise, t)
    with torch.no_grad():
        out = base.unet(scheduler.add_noise(z0, noise, t), t, base.encode_prompts(images.captions)).sample
    assert logged == pytest.approx((out - target).square().mean().item(), rel=1e-4)


# --- single files ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single_file(folders, tmp_path_factory):
    """A single file with the configuration of its small networks in the folder beside it."""
    root = tmp_path_factory.mktemp("single")
    path = sd_layout.write_single_file(root / "small.safetensors", sd_layout.build())
    shutil.copytree(folders["sd1"], root / "small", ignore=shutil.ignore_patterns("*.safetensors"))
    return path


def test_a_single_file_is_the_same_model_as_its_folder(single_file, models):
    model = DiffusionModel.load(str(single_file), CPU)
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(models["sd1"], part).state_dict()
        found = getattr(model, part).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(model.generate(["a face"], [1], FAST), models["sd1"].generate(["a face"], [1], FAST))


def test_a_single_file_of_a_v_predicting_model(single_file, tmp_path):
    path = shutil.copy(single_file, tmp_path / "small.safetensors")
    beside = shutil.copytree(single_file.with_suffix(""), tmp_path / "small")
    sd_layout.change_json(beside / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    model = DiffusionModel.load(str(path), CPU)
    assert model.prediction_type == "v_prediction"
    assert model.key != DiffusionModel.load(str(single_file), CPU).key


def test_without_a_folder_beside_it_a_single_file_is_stable_diffusion_1(single_file, tmp_path):
    path = shutil.copy(single_file, tmp_path / "alone.safetensors")
    assert locate(str(path)).config == SD1
    with pytest.raises(UserError, match="cannot be loaded"):  # these weights are smaller than that
        DiffusionModel.load(str(path), CPU)


def test_the_shipped_configuration_is_stable_diffusion_1():
    """The parameter counts of SD v1, and CLIP's own token numbers."""
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    with init_empty_weights():
        parts = [kind.from_config(kind.load_config(SD1 / part)) for kind, part in
                 ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))]  # fmt: skip
        parts.append(CLIPTextModel(CLIPTextConfig.from_pretrained(SD1 / "text_encoder")))
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [859_520_964, 83_653_863, 123_060_480]
    tokenizer = CLIPTokenizer.from_pretrained(SD1 / "tokenizer")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_stable_diffusion_2_files_need_their_configuration(tmp_path):
    names = ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.model.ln_final.weight")
    save_file(dict(zip(names, (torch.zeros(8, 4, 3, 3), torch.zeros(8)), strict=True)), tmp_path / "v2.safetensors")
    with pytest.raises(UserError, match="does not say whether it predicts epsilon or v"):
        locate(str(tmp_path / "v2.safetensors"))


@pytest.mark.parametrize(
    "name, tensors",
    [
        ("lora.safetensors", {"lora_unet_up.weight": torch.zeros(2)}),
        ("inpainting.safetensors", {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}),
        ("broken.safetensors", None),
        ("model.ckpt", None),
    ],
)
def test_other_files_are_refused(tmp_path, name, tensors):
    path = tmp_path / name
    path.write_bytes(b"not a checkpoint")
    if tensors is not None:
        save_file(tensors, path)
    with pytest.raises(UserError, match="safetensors"):
        check_name(str(path))


# --- folders that are not supported ----------------------------------------------------------


@pytest.mark.parametrize(
    "file, changes, reason",
    [
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "StableDiffusionXLPipeline"),
        ("model_index.json", {"text_encoder": ["transformers", "T5EncoderModel"]}, "T5EncoderModel"),
        ("unet/config.json", {"in_channels": 9}, "9 input channels"),
        ("unet/config.json", {"class_embed_type": "projection"}, "unCLIP"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "predicts 'sample'"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "zero terminal"),
    ],
)
def test_unsupported_folders_are_refused_with_what_is_supported(folder, file, changes, reason):
    sd_layout.change_json(folder / file, **changes)
    with pytest.raises(UserError, match=reason) as error:
        DiffusionModel.load(str(folder), CPU)
    assert DEFAULT_HUB_MODEL in str(error.value) and "v-prediction" in str(error.value)


def test_pickled_weights_are_never_opened(folder):
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"pickled weights \(.bin\)"):
        DiffusionModel.load(str(folder), CPU)


@pytest.mark.parametrize("model", ["nowhere", "a/b/c/d", "", "https://example.org/model", "owner/../secret"])
def test_what_is_no_model_at_all(model):
    with pytest.raises(UserError, match="supported|no model_index"):
        check_name(model)


# --- keys ------------------------------------------------------------------------------------


def test_precision_is_part_of_the_key(folders):
    path = str(folders["sd1"])
    full, half = (DiffusionModel.load(path, Runtime("cpu", dtype)) for dtype in ("float32", "bfloat16"))
    assert full.weights == half.weights and full.key != half.key
    assert full.copy().key == full.key and half.copy().weights == half.weights


@pytest.mark.parametrize(
    "file, change",
    [
        ("scheduler/scheduler_config.json", {"beta_end": 0.02}),
        ("unet/config.json", {"norm_eps": 1e-4}),
        ("vae/config.json", {"scaling_factor": 0.5}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 20}),
        ("model_index.json", {"_note": "x"}),
    ],
)
def test_the_configuration_is_part_of_the_key(folder, file, change):
    """All of these change what the same weights compute; a lab is called by its weights alone."""
    before, weights = model_key(locate(str(folder)), CPU), weights_key(locate(str(folder)))
    assert model_key(locate(str(folder)), CPU) == before != weights
    sd_layout.change_json(folder / file, **change)
    assert model_key(locate(str(folder)), CPU) != before and weights_key(locate(str(folder))) == weights


def test_a_lab_is_called_by_its_weights(tiny_checkpoint):
    checkpoint = locate(str(tiny_checkpoint))
    assert model_key(checkpoint, CPU) == weights_key(checkpoint)


def test_the_job_store_names_a_checkpoint_as_the_model_does(folders):
    for folder in folders.values():
        assert job_model_key(str(folder)) == DiffusionModel.load(str(folder), Runtime()).key


def test_other_variants_of_the_weights_do_not_count(folder):
    before = locate(str(folder)).weights()
    shutil.copy(before[0], before[0].with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert locate(str(folder)).weights() == before


# --- the hub ---------------------------------------------------------------------------------

COMMIT = sd_layout.COMMIT


@pytest.fixture
def hub_calls(folders, tmp_path, monkeypatch):
    """`snapshot_download` as on a machine with a network; keeps its arguments."""
    snapshot = shutil.copytree(folders["sd1"], tmp_path / "snapshots" / COMMIT)
    calls = []

    def download(**options):
        calls.append(options)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return calls


def test_a_hub_id_is_downloaded_and_its_revision_pinned(hub_calls):
    model = DiffusionModel.load("CompVis/stable-diffusion-v1-1@main", CPU)
    assert model.revision == model.copy().revision == COMMIT
    (call,) = hub_calls
    assert (call["repo_id"], call["revision"]) == ("CompVis/stable-diffusion-v1-1", "main")
    assert "unet/*.safetensors" in call["allow_patterns"]
    assert not any(pattern.endswith((".bin", ".ckpt")) for pattern in call["allow_patterns"])
    assert call["token"] is False and not call["local_files_only"]


def test_the_token_comes_from_the_environment_and_is_never_shown(hub_calls, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    locate("owner/name")
    assert hub_calls[0]["token"] == "hf_secret"

    def refuse(**options):
        response = type("Response", (), {"status_code": 403, "headers": {}, "request": None})()
        raise hub.HfHubHTTPError(f"https://hub/?token={options['token']}", response=response)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(UserError, match="status 403") as error:
        locate("owner/name")
    assert "hf_secret" not in str(error.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "error, download, sentence",
    [
        (hub.LocalEntryNotFoundError("x"), True, "out of reach"),
        (hub.LocalEntryNotFoundError("x"), False, "not downloaded yet"),
        (hub.OfflineModeIsEnabled("x"), True, "out of reach"),
    ],
)
def test_without_a_network_the_message_says_what_to_do(error, download, sentence, monkeypatch):
    def fail(**options):
        assert options["local_files_only"] is not download
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match=sentence):
        locate("owner/name", download=download)


@pytest.mark.brings(
    "Models", "A hub repository with the weights of a variant only (`*.fp16.safetensors`)", "downloaded and used; said"
)
@pytest.mark.parametrize("only", [("unet",), ("unet", "vae", "text_encoder")])
def test_a_variant_is_downloaded_for_parts_that_have_no_other_weights(folder, tmp_path, monkeypatch, only):
    plain = DiffusionModel.load(str(folder), CPU)
    for part in ("unet", "vae", "text_encoder"):
        for file in (folder / part).glob("*.safetensors"):
            for variant in ("fp16", "non_ema"):
                shutil.copy(file, file.with_name(f"{file.stem}.{variant}.safetensors"))
            if part in only:
                file.unlink()
    hub = sd_layout.hub_of(folder, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    checkpoint = locate("owner/name")
    assert {path.parent.name for path in checkpoint.weights() if ".fp16." in path.name} == set(only)
    assert not list(checkpoint.path.rglob("*non_ema*")) and hub.calls[1]["revision"] == COMMIT
    model = DiffusionModel.load("owner/name", CPU)
    assert model.revision == COMMIT
    assert all(torch.equal(x, model.unet.state_dict()[name]) for name, x in plain.unet.state_dict().items())
    monkeypatch.setattr("huggingface_hub.snapshot_download", sd_layout.hub_of(tmp_path / "away", tmp_path / "cache"))
    assert locate("owner/name", download=False).weights() == checkpoint.weights()


def test_nothing_is_downloaded_before_the_name_is_checked(hub_calls):
    check_name("owner/name")
    assert hub_calls == []


def test_mixed_precision_scores_in_float32_and_samples_and_trains_in_bfloat16(folders, models, tmp_path):
    plain = models["sd1"]
    mixed = DiffusionModel.load(str(folders["sd1"]), Runtime("cpu", "mixed", batch_size=4))
    assert mixed.key != plain.key and mixed.weights == plain.weights
    z, c = plain.noise([1, 2]), plain.encode_prompts(["a", "b"])
    assert torch.equal(mixed.eps(z, 100, c), plain.eps(z, 100, c))
    drawn, expected = (model.generate(["a face"], [1], FAST) for model in (mixed, plain))
    assert 0 < (drawn - expected).abs().max() < 0.1
    config = FineTuneConfig(max_train_steps=2, train_batch_size=2)
    ft.finetune(mixed, pictures(mixed), config, tmp_path / "mixed", NAME)
    ft.finetune(plain, pictures(plain), config, tmp_path / "plain", NAME)
    first, second = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("mixed", "plain")
    )
    assert first != second and first == pytest.approx(second, rel=0.02)


def test_auto_is_mixed_where_the_cpu_computes_bfloat16(monkeypatch):
    capable = Runtime(device="cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert (capable.torch_dtype(), capable.fast_dtype()) == (torch.float32, torch.bfloat16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    assert (capable.torch_dtype(), capable.fast_dtype()) == (torch.float32, torch.float32)
