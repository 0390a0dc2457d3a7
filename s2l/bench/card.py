"""How fast is this card, and is it as fast as it should be? Everything worth measuring, the most useful first.

    UNet forward -> LoRA step -> SP set -> SecMI -> extraction search -> decoding      on SD 1.x's size, random weights
    demo                                                                               a whole run on the lab

Each row is written as it is measured. A killed measurement keeps its rows, and the same command continues it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from s2l.bench import FULL, SHARES, Size, run_bench, whole
from s2l.bench.study import published_rate, study
from s2l.model.diffusion import Runtime
from s2l.progress import Progress, silent
from s2l.store import read_json, write_json

ORDER = ("unet", "finetune", "sp_set", "secmi", "search", "decode")  # in order of worth
MATMUL_SHARE = 0.5  # of the rate on the data sheet, which no product reaches
SLOW = (
    "another program may use it, heat or a power limit may slow it down, or this torch may have no kernels made for it"
)


def verdict(rows: dict) -> str:
    """Whether the card is as fast as it should be, in two sentences, from a `run_bench` record with the row "unet"."""
    unet, device = rows["stages"]["unet"], rows["runtime"]["device"].partition(":")[0]
    rate, name = rows["matmul_flops_per_s"][unet["dtype"]], rows["machine"]["processor"]
    speed = f"{name}: {rate / 1e12:.3g} TFLOP/s in {unet['dtype']} products"
    published = published_rate(name) if unet["dtype"] in ("float16", "bfloat16") else None
    if published is not None:
        slow = rate < MATMUL_SHARE * published
        speed += f", {rate / published:.0%} of its data sheet: "
        speed += f"slower than it should be ({SLOW})" if slow else "as fast as it should be"
    wanted, share = SHARES[device]["unet"], unet["share_of_peak"]
    aim = "as this program aims for" if share >= wanted else f"this program aims for {wanted:.0%}"
    return f"{speed}. The UNet of SD 1.x reaches {share:.0%} of that rate, {aim}."


def measure_card(
    out: Path,
    sd: str,
    lab: str,
    runtime: Runtime,
    budget_s: float,
    size: Size = FULL,
    preset_name: str = "demo",
    progress: Progress = silent,
    say: Callable[[str], object] = print,
) -> dict:
    """The content of `out`: {"sd": rows, "verdict", "demo", "study"}, written after every row.

    Args:
        sd: the model whose stages are measured, of SD 1.x's size
        budget_s: seconds for its stages together
        say: called with the verdict as soon as the first row is measured
    """
    record: dict = {}
    with suppress(OSError, ValueError):
        record = read_json(out)
    if "demo" in record:  # it was whole: this is a new measurement
        record = {}

    def save(rows: dict) -> None:
        record["sd"] = rows
        if "unet" in rows["stages"] and record.get("verdict") != (sentence := verdict(rows)):
            record["verdict"] = sentence
            say(sentence)
        write_json(out, record)

    rows = run_bench(sd, runtime, size, progress, ORDER, budget_s, record.get("sd"), save)
    rows["model"]["name"] = "Stable Diffusion 1.x, random weights"
    shares = {"sampling_share": rows["stages"]["sp_set"], "training_share": rows["stages"]["finetune"]}
    rates = {"matmul_flops_per_s": rows["matmul_flops_per_s"][shares["sampling_share"]["dtype"]]}
    rates |= {name: row["share_of_peak"] for name, row in shares.items()}
    record |= {"schema_version": 1, "sd": rows, "study": study(rates, True, rows["unet_flops"])}
    write_json(out, record)
    record["demo"] = whole.demo(lab, runtime, preset_name, progress)
    write_json(out, record)
    return record
