"""`card` at tiny size on the CPU: what it writes, in which order, and what it says of a card. And a study on paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2l import cli
from s2l.bench import QUICK, card
from s2l.bench.study import ASSUMED, SIZES, published_rate, study
from s2l.model.diffusion import Runtime
from s2l.progress import Cancelled
from s2l.store import read_json

RESULTS = Path(__file__).parents[1] / "results"


def measured(name: str = "NVIDIA H100 80GB HBM3", rate: float = 7e14, share: float = 0.55) -> dict:
    unet = {"dtype": "float16", "share_of_peak": share}
    return {
        "stages": {"unet": unet}, "runtime": {"device": "cuda:0"}, "machine": {"processor": name},
        "matmul_flops_per_s": {"float16": rate},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (measured(), "71% of its data sheet: as fast as it should be. The UNet of SD 1.x reaches 55% of that rate, as"),
        (measured(rate=3e14), "30% of its data sheet: slower than it should be (another program may use it"),
        (measured(share=0.3), "reaches 30% of that rate, this program aims for 50%."),
        (measured("Some Card 9000"), "Some Card 9000: 700 TFLOP/s in float16 products. The UNet"),
    ],
)
def test_what_is_said_of_a_card(rows, said):
    assert said in card.verdict(rows)


def test_names_of_cards():
    assert published_rate("NVIDIA A10G") is None and published_rate("NVIDIA A100-SXM4-80GB") == 312e12
    assert published_rate("NVIDIA H100 PCIe") < published_rate("NVIDIA H100 80GB HBM3")
    assert published_rate("NVIDIA GeForce RTX 4090 Laptop GPU") is None


def test_rows_are_written_in_order_of_worth_and_continued(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(card.whole, "demo", lambda *arguments: {"preset": "quick", "seconds": 1.0, "stages": {}})
    out, said, saved = tmp_path / "card.json", [], []
    arguments = (out, str(tiny_checkpoint), "lab", Runtime("cpu", "float32", 2), 20.0, QUICK, "quick")

    def stop(event) -> None:
        saved.append(list(read_json(out)["sd"]["stages"]) if out.exists() else [])
        if len(saved) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        card.measure_card(*arguments, stop, said.append)
    assert saved[:3] == [[], ["unet"], ["unet", "finetune"]]
    assert len(said) == 1 and "The UNet of SD 1.x reaches" in said[0]
    first = read_json(out)["sd"]["stages"]["unet"]

    record = card.measure_card(*arguments, say=said.append)
    assert json.loads(json.dumps(record)) == read_json(out)
    assert record["sd"]["stages"]["unet"] == first and len(said) == 1, "the row of the first try is kept"
    assert set(record) == {"schema_version", "sd", "verdict", "study", "demo"}
    assert set(record["sd"]["stages"]) == set(card.ORDER)
    assert record["demo"]["seconds"] > 0 and record["study"]["measured"]
    for row in record["sd"]["stages"].values():
        assert row["per_second"] > 0


def test_what_a_study_costs():
    """By hand: 40 x 5,000 SP pictures of 100 evaluations; ten sets of generations; 20 evaluations a photo."""
    flops, rates = 1e12, {"matmul_flops_per_s": 1e14, "sampling_share": 0.5, "training_share": 0.25}
    hours = study(rates, True, flops)["stages"]
    assert hours["SP sets"] == pytest.approx(40 * 5000 * 100 / 50 / 3600)
    assert hours["generations"] == pytest.approx(10 * hours["SP sets"])
    assert hours["scores"] == pytest.approx(40 * 10 * 2000 * 20 / 50 / 3600)
    assert hours["fine-tuning"] == pytest.approx(40 * 12 * 125_000 * 4 * 3 / 25 / 3600)
    one = study(rates, True, flops, SIZES | {"people": 1})
    assert one["card_hours"] == pytest.approx(sum(hours.values()) / 40)


def test_the_calculated_study_is_the_committed_one(capsys, tmp_path):
    assert cli.main(["card", "--study", "--out", str(tmp_path / "study.json")]) == 0
    new = read_json(tmp_path / "study.json")
    assert new == read_json(RESULTS / "study.json")
    assert not new["study"]["measured"] and new["study"]["rates"] == ASSUMED
    assert 0.75e12 < new["study"]["unet_flops"] < 0.85e12


@pytest.mark.parametrize("words", [["--budget", "0"], ["--out", "card.txt"], ["--device", "tpu"], ["--out", "results"]])
def test_bad_input(words, capsys):
    assert cli.main(["card", *words]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
