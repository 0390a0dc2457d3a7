"""The benchmark's own correctness: what is counted, what is compared, and that a run of it says so."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import torch

from s2l import attacks, cli
from s2l import bench as benchmark
from s2l.attacks.secmi import SecMISettings
from s2l.bench import QUICK, Bench, baselines, growth, measure, table, targets, whole
from s2l.bench.random_sd import random_sd
from s2l.config import AuditConfig
from s2l.measure.distances import pairwise_l2
from s2l.model.diffusion import Runtime
from tests import sd_layout

CPU = torch.device("cpu")


# --- measuring ---------------------------------------------------------------------------------


def test_flops_are_counted_forward_and_backward():
    a, b = torch.randn(8, 16, requires_grad=True), torch.randn(16, 4)
    assert measure.count_flops(lambda: a @ b) == 2 * 8 * 16 * 4
    assert measure.count_flops(lambda: (a @ b).sum().backward()) == 2 * 2 * 8 * 16 * 4


def test_attention_is_counted():
    q = torch.randn(1, 2, 8, 4)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert measure.count_flops(lambda: attention(q, q, q)) == 2 * (2 * 2 * 8 * 8 * 4)


def test_rounds_alternate_and_the_ratio_is_per_unit(monkeypatch):
    calls, clock = [], iter(range(10**6))
    monkeypatch.setattr(measure, "seconds", lambda work, device: work() or float(next(clock) * 0 + len(calls[-1])))
    found = measure.alternate(lambda: calls.append("a"), 2, lambda: calls.append("bbbbbb"), 1, CPU, rounds=3)
    assert calls == ["a"] + ["a", "bbbbbb"] * 3  # the first one warms up
    assert found.ours == (0.5,) * 3 and found.baseline == (6.0,) * 3
    assert found.ratio == found.low == found.high == 12


def test_the_matmul_peak_is_a_rate_that_this_machine_reaches():
    n = 256
    a = torch.randn(n, n)
    peak = measure.matmul_peak(CPU, torch.float32, budget_s=0.2)
    slowest = max(measure.seconds(lambda: a @ a, CPU) for _ in range(3))
    assert peak > 1e8 and 2 * n**3 / slowest < 20 * peak


def test_peak_memory_sees_what_is_freed_again():
    with measure.peak_memory(CPU) as memory:
        before, late = memory["bytes"], time.monotonic() + 60  # what earlier tests left may be freed until here
        block = np.ones(40_000_000)  # 320 MB
        while memory["bytes"] < before + 250e6 and time.monotonic() < late:
            time.sleep(0.01)  # until the watcher had a turn, however busy the machine is
        del block
    assert memory["bytes"] - before > 250e6


# --- the baselines do the same work --------------------------------------------------------------


def test_the_published_schedule_gives_the_same_secmi_scores(tiny_model, monkeypatch):
    """To 1e-3 relative, as promised; and it spends 38 evaluations a picture where ours spends 16."""
    pictures, settings = benchmark._pictures(tiny_model, 3), SecMISettings()
    ours = attacks.run_attack("secmi", tiny_model, attacks.make_query(tiny_model, pictures), AuditConfig())
    calls, eps = [], tiny_model.eps
    monkeypatch.setattr(tiny_model, "eps", lambda *arguments: calls.append(1) or eps(*arguments))
    torch.testing.assert_close(baselines.secmi(tiny_model, pictures, settings), ours, rtol=1e-3, atol=0)
    assert len(calls) == 3 * 38


def test_the_naive_distances_are_the_distances():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    np.testing.assert_allclose(baselines.distances(images, images), pairwise_l2(images, images), atol=1e-6)


def test_counted_operations_of_training_are_those_of_its_steps(tiny_lab):
    bench = Bench("lab", Runtime("cpu", "float32"))
    one, two, three = (measure.count_flops(bench._train(steps, 4)) for steps in (1, 2, 3))
    assert two - one == three - two  # what a step costs; the first also encodes its captions
    assert (two - one) / 4 > 1.5 * bench.forward_flops  # forward, and backward through the frozen weights


# --- the command -----------------------------------------------------------------------------------


def test_bench_quick_on_the_tiny_lab(tiny_lab, tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert cli.main(["bench", "--quick", "--dtype", "mixed", "--demo", "--device", "cpu", "--out", str(out)]) == 0
    found, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert list(found["stages"]) == ["unet", "decode", "sp_set", "finetune", "secmi", "distances", "search"]
    for stage in found["stages"].values():
        assert stage["title"] in printed and stage["per_second"] > 0 and stage["peak_memory_bytes"] > 1e8
        assert (stage["ratio"] is None) == (stage["baseline"] is None)
        if stage["ratio"]:
            assert len(stage["ratio"]["ours"]) == QUICK.rounds and stage["ratio"]["low"] <= stage["ratio"]["high"]
    assert found["stages"]["sp_set"]["dtype"] == "bfloat16" and found["stages"]["secmi"]["dtype"] == "float32"
    assert found["secmi_largest_relative_difference"] < 1e-3
    assert found["demo"]["seconds"] >= max(found["demo"]["stages"].values())
    assert found["quick"] and "target" not in printed
    assert "| SecMI |" in table.markdown(found) and "times faster" in table.markdown(found)


def test_a_killed_measurement_keeps_its_rows_and_goes_on(tiny_lab, tmp_path, monkeypatch):
    out = tmp_path / "bench.json"
    out.write_text('{"old": 1}')
    command = ["bench", "--quick", "--device", "cpu", "--only", "unet,decode,distances", "--out", str(out)]
    measured, real = [], benchmark._row

    def row(stage, *more):
        if stage.name == "decode" and "decode" not in measured:
            measured.append("decode")
            raise KeyboardInterrupt
        measured.append(stage.name)
        return real(stage, *more)

    monkeypatch.setattr(benchmark, "_row", row)
    assert cli.main(command) != 0
    partial = tmp_path / "bench.partial.json"
    assert list(json.loads(partial.read_text())["stages"]) == ["unet"] and out.read_text() == '{"old": 1}'
    assert cli.main(command) == 0
    found = json.loads(out.read_text())
    assert list(found["stages"]) == ["unet", "decode", "distances"] and measured.count("unet") == 1
    assert not partial.exists() and "--only unet,decode,distances" in found["command"]
    assert {target["what"].split(":")[0] for target in found["targets"]} == {"extraction distances", "UNet forward"}
    partial.write_text(json.dumps(found | {"machine": "another one"}))
    assert cli.main(command) == 0 and measured.count("unet") == 2


def test_a_budget_makes_the_work_fit(tiny_lab, monkeypatch):
    bench = Bench("lab", Runtime("cpu", "float32", batch_size=4))
    monkeypatch.setattr(benchmark, "seconds", lambda work, device: 0.1)  # for whatever amount of work is tried
    size = benchmark.Size(images=64, rounds=3)
    assert benchmark.fitting(bench, "unet", size, 100.0) == size
    tight = benchmark.fitting(bench, "unet", size, 1.0)
    assert 4 <= tight.images < 64 and tight.rounds < 3
    least = benchmark.fitting(bench, "distances", size, 0.001)
    assert (least.pairs, least.baseline_pairs, least.rounds) == (200, 10, 1)


def test_random_weights_of_any_size_can_be_measured(tmp_path):
    """The command makes Stable Diffusion's size, 2 GB; the same with the configurations of a tiny model."""
    sd_layout.build().save_pretrained(tmp_path / "tiny", safe_serialization=True)
    for weights in (tmp_path / "tiny").rglob("*.safetensors"):
        weights.unlink()
    made = random_sd(tmp_path / "random", configs=tmp_path / "tiny")
    stamp = (made / "unet" / "config.json").stat().st_mtime_ns
    assert random_sd(made, configs=tmp_path / "tiny") == made  # the second time it is there
    assert (made / "unet" / "config.json").stat().st_mtime_ns == stamp
    record = benchmark.run_bench(str(made), Runtime("cpu", "float32"), QUICK, only=["unet", "sp_set"])
    assert list(record["stages"]) == ["unet", "sp_set"] and record["stages"]["unet"]["per_second"] > 0


def test_targets_are_met_or_missed():
    row = {"title": "x", "share_of_peak": 0.45, "ratio": {"ratio": 7.0}}
    rows = {name: row | {"title": name} for name in ("unet", "sp_set", "finetune", "secmi", "distances")}
    kept = {target["what"].split(":")[0] for target in targets("cpu", rows, 1e-4) if target["kept"]}
    assert kept == {"sp_set", "finetune", "SecMI"}  # 7 is at least 6 and 2, and the scores agree
    assert not targets("cpu", rows, 1e-2)[-1]["kept"]
    assert {target["wanted"] for target in targets("cuda", rows, 0.0)} == {0.5, 0.35, 4.0, 8.0, 1e-3}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--quality", "-1"], ["--demo", "--model", "CompVis/stable-diffusion-v1-1"], ["--only", "unet,vae"],
        ["--budget", "-3"], ["--budget", "nan"], ["--random-sd", "--demo"],
    ],
)  # fmt: skip
def test_wrong_options(arguments, tmp_path, capsys):
    assert cli.main(["bench", "--out", str(tmp_path / "b.json"), *arguments]) == 2
    assert "Error: --" in capsys.readouterr().err


# --- quality and growth ------------------------------------------------------------------------------


def found(difference, low, high, extracted=(4, 1, 9)) -> dict:
    count = dict(zip(("count", "low", "high"), extracted, strict=True))
    secmi = {"difference": difference, "low": low, "high": high}
    return {"secmi_difference": secmi, "extracted_before": count, "extracted_after": count}


def test_two_runs_agree_when_each_lies_in_the_others_interval():
    a = found(0.02, -0.01, 0.05)
    assert whole._agree(a, found(0.04, 0.01, 0.07))
    assert not whole._agree(a, found(0.04, 0.03, 0.05))  # the first is outside the second's interval
    assert not whole._agree(a, found(0.02, -0.01, 0.05, extracted=(12, 6, 20)))


def test_growth_is_measured_fitted_and_drawn(monkeypatch, tmp_path):
    asked = []

    def run(what, n, processes, arguments):
        asked.append((what, n, processes))
        return {"n": n, "seconds": 10 + 0.5 * n / processes, "bytes": 1e9 * processes}

    monkeypatch.setattr(growth, "_run", run)
    curves = growth.growth("lab", "cpu", "float32", sizes=(2, 4, 8))
    assert asked == [(w, n, k) for w, k in (("sp_set", 1), ("sp_set", 2), ("secmi", 1)) for n in (2, 4, 8)]
    two = curves["SP set, 2 processes"]
    assert two["seconds"] == pytest.approx({"fixed": 10, "each": 0.25})
    assert two["bytes"]["each"] == pytest.approx(0, abs=1) and two["bytes"]["fixed"] == pytest.approx(2e9)
    growth.figure(curves, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_scale_is_measured_saved_and_drawn(monkeypatch, tmp_path):
    """Time of extraction grows with the square of n; each curve is saved as it is ready."""
    costs = {"secmi": lambda n: 2 * n, "extraction": lambda n: 3 + 1e-4 * n**2, "cache": lambda n: 0.001 * n}

    def run(what, n, processes, arguments):
        return {"n": n, "seconds": costs[what](n), "core_seconds": 2 * costs[what](n), "bytes": 1e9 + n}

    monkeypatch.setattr(growth, "_run", run)
    saved = []
    curves = growth.scale("lab", "cpu", "float32", save=lambda part: saved.append(list(part)))
    assert [len(part) for part in saved] == [1, 2, 3] and saved[-1] == list(curves)
    title = next(name for name in curves if name.startswith("extraction"))
    assert curves[title]["seconds"] == pytest.approx({"fixed": 3, "each": 1e-4})
    assert growth.predicted(curves[title], "core_seconds", 100_000) == pytest.approx(6 + 2e6)
    assert growth.predicted(curves[title], "bytes", 100_000) == pytest.approx(1e9 + 1e5)
    rows = growth.scale_rows({"growth": curves, "runtime": {"device": "cpu"}})
    assert len(rows) == 4 and rows[2][4] == "33,333"
    growth.figure(curves, tmp_path / "scale.png", 100_000, "core_seconds")
    assert (tmp_path / "scale.png").stat().st_size > 10_000


def test_scale_goes_alone(capsys):
    assert cli.main(["bench", "--scale", "--demo"]) == 2
    assert "--scale goes without" in capsys.readouterr().err


@pytest.mark.slow
def test_one_growth_measurement_in_a_process_of_its_own(tiny_checkpoint):
    measured = growth._run("sp_set", 2, 1, [str(tiny_checkpoint), "cpu", "float32"])
    assert measured["n"] == 2 and measured["seconds"] > 0 and math.log10(measured["bytes"]) > 8
