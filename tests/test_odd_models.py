"""Base models and fine-tuned checkpoints in odd forms: what is assumed is said and stored, the rest is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from s2l.errors import UserError
from s2l.model.checkpoints import check_name, locate
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.pipeline.experiment import model_record
from tests import sd_layout

CPU = Runtime(device="cpu", dtype="float32", batch_size=4)
SCHEDULER = "scheduler/scheduler_config.json"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return sd_layout.write_folder(tmp_path_factory.mktemp("odd") / "sd1")


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
