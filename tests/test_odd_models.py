"""Base models and fine-tuned checkpoints in odd forms: what is assumed is said and stored, the rest is refused."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from s2l.errors import UserError
from s2l.model.checkpoints import check_name, locate
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.pipeline.experiment import model_record
from s2l.pipeline.tuned import read_tuned
from tests import sd_layout

CPU = Runtime(device="cpu", dtype="float32", batch_size=4)
SCHEDULER = "scheduler/scheduler_config.json"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return sd_layout.write_folder(tmp_path_factory.mktemp("odd") / "sd1")


@pytest.fixture(scope="module")
def base(original):
    return DiffusionModel.load(str(original), CPU)


@pytest.fixture
def folder(original, tmp_path):
    """A copy of the checkpoint, to be changed."""
    return shutil.copytree(original, tmp_path / "copy")


def refused(path) -> str:
    with pytest.raises(UserError) as error:
        check_name(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def without(path, *fields) -> None:
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in fields}))


# --- configurations ------------------------------------------------------------------------------


@pytest.mark.brings(
    "Models", "A scheduler configuration of flow matching, whatever `model_index.json` names", "refused by name"
)
@pytest.mark.parametrize(
    "config, reason",
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}, "FlowMatchEuler.*allowed"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "flow matching is not supported"),
    ],
)
def test_flow_matching_is_refused_wherever_it_is_named(folder, config, reason):
    (folder / SCHEDULER).write_text(json.dumps(config | {"shift": 3.0}))
    with pytest.raises(UserError, match=reason):
        check_name(str(folder))


@pytest.mark.brings(
    "Models",
    "A configuration without betas, prediction type or scaling factor, or with the scheduler of a distilled model",
    "the libraries' defaults count; each is said and stored in the result",
)
@pytest.mark.parametrize(
    "file, lacks, has, note",
    [
        (SCHEDULER, ["beta_start", "beta_schedule"], {}, "no beta_start and no beta_schedule: the defaults of PNDM"),
        (SCHEDULER, ["prediction_type"], {}, "does not say what it predicts: epsilon is assumed"),
        ("vae/config.json", ["scaling_factor"], {}, "no scaling_factor: 0.18215 counts"),
        (SCHEDULER, [], {"_class_name": "LCMScheduler"}, "LCMScheduler, that of models distilled for a few steps"),
    ],
)
def test_what_a_configuration_leaves_open_is_said_and_stored(folder, capfd, file, lacks, has, note):
    assert locate(str(folder)).notes == ()
    without(folder / file, *lacks)
    sd_layout.change_json(folder / file, **has)
    model = DiffusionModel.load(str(folder), CPU)
    assert note in " ".join(model.notes) and note in capfd.readouterr().err
    assert note in " ".join(model_record(str(folder), model)["notes"])


@pytest.mark.brings("Models", "The configuration of a part with a byte order mark, or in UTF-16", "read")
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_configuration_with_a_byte_order_mark_is_read(folder, original, encoding):
    for name in ("unet/config.json", "vae/config.json", "text_encoder/config.json", SCHEDULER):
        (folder / name).write_text((folder / name).read_text(), encoding=encoding)
    model = DiffusionModel.load(str(folder), CPU)
    theirs = DiffusionModel.load(str(original), CPU)
    assert all(torch.equal(a, b) for a, b in zip(model.unet.parameters(), theirs.unet.parameters(), strict=True))


@pytest.mark.brings(
    "Models", "A configuration with NaN or infinity, cut, or no object", "refused: which file, and what is wrong in it"
)
@pytest.mark.parametrize(
    "text, reason",
    [
        ('{"scaling_factor": NaN}', "vae/config.json cannot be read as JSON: NaN is not a number"),
        ('{"scaling_factor": 1e999}', "vae/config.json cannot be read as JSON: 1e999 is not a number"),
        ('{"scaling_factor":', "vae/config.json cannot be read as JSON: .*line 1"),
        ("[1]", "vae/config.json is no JSON object"),
        (None, "vae/config.json is missing"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_said_to_be_so(folder, text, reason):
    path = folder / "vae/config.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=reason):
        check_name(str(folder))


# --- weights that are there twice ------------------------------------------------------------------


def shards(folder, infix="") -> None:
    """Write the UNet's weights in two shards with their index."""
    weights = load_file(folder / UNET)
    names = sorted(weights)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    where = {}
    for i, half in enumerate(halves, 1):
        file = f"diffusion_pytorch_model{infix}-0000{i}-of-00002.safetensors"
        save_file({name: weights[name] for name in half}, folder / "unet" / file)
        where |= dict.fromkeys(half, file)
    (folder / f"{UNET}.index.json").write_text(json.dumps({"weight_map": where}))


def scaled(folder, name: str, factor=1.5) -> None:
    weights = {name: tensor * factor for name, tensor in load_file(folder / UNET).items()}
    save_file(weights, folder / "unet" / name)


@pytest.mark.brings(
    "Models",
    "Weights that are there twice (shards and a whole file, variants), moving averages and files beside the parts",
    "which are used is fixed, and said with those that are not",
)
@pytest.mark.parametrize(
    "make, note",
    [
        (
            shards,
            "in diffusion_pytorch_model-00001-of-00002.safetensors; not used: diffusion_pytorch_model.safetensors",
        ),
        (lambda f: scaled(f, "diffusion_pytorch_model.fp16.safetensors"), "not used: .*fp16.safetensors"),
        (lambda f: scaled(f, "diffusion_pytorch_model.non_ema.safetensors"), "not used: .*non_ema.safetensors"),
        (lambda f: shutil.copytree(f / "unet", f / "unet_ema"), "beside its parts, and not used: unet_ema"),
        (lambda f: shutil.copy(f / UNET, f / "lora.safetensors"), "beside its parts, and not used: lora.safetensors"),
    ],
)
def test_weights_that_are_there_twice_are_said(folder, original, make, note):
    make(folder)
    model = DiffusionModel.load(str(folder), CPU)
    assert re.search(note, " ".join(model.notes))
    theirs = load_file(original / UNET)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.unet.state_dict().items())


def test_of_two_variants_the_one_that_is_not_used_is_said(folder):
    for variant in ("fp16", "non_ema"):
        scaled(folder, f"diffusion_pytorch_model.{variant}.safetensors")
    (folder / UNET).unlink()
    notes = " ".join(DiffusionModel.load(str(folder), CPU).notes)
    assert "variant 'fp16': they are used" in notes and "not used: diffusion_pytorch_model.non_ema.safetensors" in notes


@pytest.mark.brings(
    "Models",
    "Shards without their index; a repository of the hub's cache instead of a commit in it",
    "refused: what to give",
)
def test_folders_that_hold_the_model_but_not_as_one_are_a_sentence(base, folder, tmp_path):
    shards(folder)
    (folder / UNET).unlink()
    (folder / f"{UNET}.index.json").unlink()
    assert "but not diffusion_pytorch_model.safetensors.index.json" in refused(folder)
    cache = tmp_path / "models--owner--name"
    (cache / "blobs").mkdir(parents=True)
    commit = cache / "snapshots" / sd_layout.COMMIT
    shutil.copytree(folder, commit)
    assert f"give the folder of a commit in it, {commit}" in refused(cache)
    with pytest.raises(UserError, match="give the folder of a commit in it"):
        read_tuned(base, cache)


# --- fine-tuned checkpoints ------------------------------------------------------------------------


@pytest.fixture
def tuned(folder):
    """A whole checkpoint whose UNet was trained on."""
    weights = load_file(folder / UNET)
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, folder / UNET)
    return folder


def lora(path):
    layer = "unet.mid_block.attentions.0.proj_in"
    save_file(
        {f"{layer}.lora_A.weight": torch.ones(2, 64, 1, 1), f"{layer}.lora_B.weight": torch.ones(64, 2, 1, 1)}, path
    )


def word(path):
    save_file({"<mira>": torch.ones(1, 32)}, path)


ADAPTERS = {"pytorch_lora_weights.safetensors": lora, "learned_embeds.safetensors": word, "unet/lora.safetensors": lora}


@pytest.mark.brings(
    "Tuned models",
    "A LoRA or a Textual Inversion in the folder of a whole checkpoint",
    "used if the checkpoint has the base model's weights, which is said; else refused: name the one that is meant",
)
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_beside_a_checkpoint_is_not_dropped(base, folder, original, name):
    ADAPTERS[name](folder / name)
    found = read_tuned(base, folder, "Mira")
    alone = read_tuned(base, folder / name, "Mira")
    assert found.subject.key == alone.subject.key
    assert (
        f"{name.split('/')[-1]} is used: the checkpoint that it lies in has the weights of the base" in found.notes[-1]
    )
    weights = load_file(folder / UNET)
    save_file({key: tensor + 0.01 for key, tensor in weights.items()}, folder / UNET)
    with pytest.raises(UserError, match=f"beside it {name}: which is meant is not clear"):
        read_tuned(base, folder, "Mira")


def test_the_same_weights_in_another_layout_are_the_same(base, folder):
    shards(folder)
    (folder / UNET).unlink()
    with pytest.raises(UserError, match="the weights of the base model itself"):
        read_tuned(base, folder)


def change_vae(folder):
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    save_file({name: tensor * 1.05 for name, tensor in load_file(path).items()}, path)


@pytest.mark.brings(
    "Tuned models",
    "A checkpoint with another autoencoder, prediction type, noise schedule or tokenizer than the base model",
    "loaded; said and stored: it changes scores too",
)
@pytest.mark.parametrize(
    "change, note",
    [
        (change_vae, "its autoencoder is not the base model's"),
        (lambda f: sd_layout.change_json(f / "vae/config.json", scaling_factor=0.2), "its autoencoder is not"),
        (
            lambda f: sd_layout.change_json(f / SCHEDULER, prediction_type="v_prediction"),
            "it predicts v_prediction and",
        ),
        (lambda f: sd_layout.change_json(f / SCHEDULER, beta_end=0.02), "its noise schedule is not"),
        (
            lambda f: sd_layout.change_json(f / "tokenizer/tokenizer_config.json", model_max_length=8),
            "its tokenizer reads 8 tokens of a caption",
        ),
    ],
)
def test_what_else_differs_in_a_tuned_checkpoint_is_said(base, tuned, change, note, capfd):
    assert read_tuned(base, tuned).notes == ("a whole checkpoint",)
    change(tuned)
    kind, *notes = read_tuned(base, tuned).notes
    assert kind == "a whole checkpoint" and [note in said and "which changes scores too" in said for said in notes] == [
        True
    ]
    assert capfd.readouterr().err.count(note) == 1


@pytest.mark.brings(
    "Tuned models",
    "A folder whose adapters lie deeper (`checkpoint-500/`), and one whose training has not got anywhere",
    "refused: what to name, or to run again",
)
def test_folders_with_adapters_deeper_in_them_are_a_sentence(base, tmp_path):
    (tmp_path / "run" / "checkpoint-500").mkdir(parents=True)
    lora(tmp_path / "run" / "checkpoint-500" / "pytorch_lora_weights.safetensors")
    with pytest.raises(UserError, match="lie deeper in it, such as .*checkpoint-500/pytorch_lora_weights.safetensors"):
        read_tuned(base, tmp_path / "run")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "training.json").write_text("{}")
    with pytest.raises(UserError, match="its training is not finished, so run it again"):
        read_tuned(base, tmp_path / "half")
