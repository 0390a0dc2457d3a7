"""Shared fixtures: small models made on the spot. No test needs the network or the shipped weights."""

from __future__ import annotations

import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from dataclasses import replace

import pytest
import torch

from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.pretrain import build as lab_train
from s2l.pretrain.networks import build_pipeline
from s2l.pretrain.recipe import RECIPES
from s2l.store import Store

QUICK = RECIPES["quick"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test writes into the working directory's cache."""
    monkeypatch.setenv("S2L_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A lab folder with random weights at the quick size: right shapes, no knowledge. Milliseconds."""
    folder = tmp_path_factory.mktemp("tiny") / "lab"
    lab_train.save_checkpoint(build_pipeline(QUICK.size, seed=1), QUICK, folder, {"step": 0})
    return folder


@pytest.fixture(scope="session")
def foreign_checkpoint(tiny_checkpoint, tmp_path_factory):
    """The same weights in a folder that does not say whom they were trained on: a model of one's own."""
    folder = tmp_path_factory.mktemp("foreign") / "model"
    return shutil.copytree(tiny_checkpoint, folder, ignore=shutil.ignore_patterns("lab.json"))


@pytest.fixture(scope="session")
def quick_lab(tmp_path_factory):
    """A lab trained for about two minutes on four people (`lab build --recipe quick`). `S2L_TEST_LAB` reuses one."""
    if (ready := os.environ.get("S2L_TEST_LAB")) is not None:
        return ready
    folder = tmp_path_factory.mktemp("quick")
    lab_train.build(folder / "lab", folder / "work", QUICK)
    return folder / "lab"


@pytest.fixture
def tiny_lab(tiny_checkpoint, monkeypatch):
    """The random-weight lab as *the* lab: `DiffusionModel.load("lab")` and the lab's people use it."""
    monkeypatch.setenv("S2L_LAB", str(tiny_checkpoint))
    return tiny_checkpoint


@pytest.fixture
def tiny_model(tiny_checkpoint):
    """A DiffusionModel of random weights, float32 on the CPU, batches of 4."""
    torch.manual_seed(0)
    return DiffusionModel.load(str(tiny_checkpoint), Runtime(device="cpu", dtype="float32", batch_size=4))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def with_batch_size(model: DiffusionModel, batch_size: int) -> DiffusionModel:
    """The same model at another batch size."""
    model.runtime = replace(model.runtime, batch_size=batch_size)
    return model
