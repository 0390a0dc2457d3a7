"""A measurement as rows of text, for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s2l.bench.growth import scale_rows
from s2l.bench.whole import DEMO_TARGET_S
from s2l.store import read_json

HEADER = ("stage", "rate", "share of matmul peak", "peak memory", "times faster than")


def rows(record: dict) -> list[tuple[str, ...]]:
    """HEADER, then one row per stage."""
    out: list[tuple[str, ...]] = [HEADER]
    for stage in record["stages"].values():
        share, ratio = stage["share_of_peak"], stage["ratio"]
        faster = ""
        if ratio is not None:
            faster = f"{ratio['ratio']:.1f} ({ratio['low']:.1f} to {ratio['high']:.1f}): {stage['baseline']}"
        out.append(
            (
                stage["title"],
                f"{stage['per_second']:,.3g} {stage['unit']}s/s".replace("e+", "e"),
                "" if share is None else f"{share:.0%} ({stage['dtype']})",
                f"{stage['peak_memory_bytes'] / 2**30:.2f} GiB",
                faster,
            )
        )
    return out


def target_rows(record: dict) -> list[tuple[str, ...]]:
    """What is measured, its target, the measured value, and whether the target was met."""
    out: list[tuple[str, ...]] = [("", "target", "measured", "")]
    for target in record["targets"]:
        verdict = "met" if target["kept"] else "missed"
        out.append((target["what"], f"{target['wanted']:.3g}", f"{target['measured']:.3g}", verdict))
    if (demo := record.get("demo")) is not None:
        verdict = "met" if demo["seconds"] <= DEMO_TARGET_S else "missed"
        out.append((f"`{demo['preset']}` preset, seconds", f"{DEMO_TARGET_S:.0f}", f"{demo['seconds']:.0f}", verdict))
    if (comparisons := record.get("quality")) is not None:
        agree = sum(row["agree"] for row in comparisons)
        verdict = "met" if agree == len(comparisons) else "missed"
        out.append(("people for whom fast and 50-step runs agree", str(len(comparisons)), str(agree), verdict))
    return out


def machine(record: dict) -> str:
    """The machine and the precision of the measurement, in one sentence."""
    facts, peaks = record["machine"], record["matmul_flops_per_s"]
    rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s {dtype}" for dtype, rate in sorted(peaks.items()))
    return (
        f"{facts['processor']}, {facts['threads']} threads of {facts['cores']} cores, torch {facts['torch']}; "
        f"precision {record['runtime']['dtype']}, batches of {record['runtime']['batch_size']}; matmul peak {rates}."
    )


def markdown(record: dict) -> str:
    """Both tables and the machine, as docs/performance.md shows them."""
    return f"{machine(record)}\n\n{_table(rows(record))}\n\n{_table(target_rows(record))}"


def demo_markdown(results: Path) -> str:
    """Where the seconds of the run that `bench --demo` timed went, stage by stage, the longest first."""
    record = read_json(results / "bench.json")
    stages = sorted(record["demo"]["stages"].items(), key=lambda stage: -stage[1])
    whole = record["demo"]["seconds"]
    rows = [(name, f"{seconds:.1f}", f"{seconds / whole:.0%}") for name, seconds in stages if seconds >= 0.5]
    return f"{_table([('stage of `demo`', 'seconds', 'share'), *rows])}\n\nTogether {whole:.0f} s."


def study_markdown(results: Path) -> str:
    """results/study.json as docs/scale.md shows it: card-hours by stage on the assumed card, and in all on others."""
    record = read_json(results / "study.json")
    whole, cards = record["study"], record["card_hours_by_published_rate"]
    rates = whole["rates"]
    stages = [
        ("stage", "card-hours, calculated"),
        *((name, f"{hours:,.0f}") for name, hours in whole["stages"].items()),
    ]
    totals = [("card", "card-hours, calculated"), *((name, f"{hours:,.0f}") for name, hours in cards.items())]
    assumed = (
        f"One evaluation of the UNet takes {whole['unet_flops'] / 1e12:.2f} TFLOP (counted). Assumed: "
        f"{rates['matmul_flops_per_s'] / 1e12:.0f} TFLOP/s in matrix products, of which sampling and scoring reach "
        f"{rates['sampling_share']:.0%} and training {rates['training_share']:.0%}."
    )
    others = "The same study at the rates on NVIDIA's data sheets, with the same shares:"
    total = f"Together {whole['card_hours']:,.0f} card-hours. Command: `{record['command']}`."
    return f"{assumed}\n\n{_table(stages)}\n\n{total} {others}\n\n{_table(totals)}"


def scale_markdown(results: Path) -> str:
    """results/scale.json as docs/scale.md shows it; before that, the command that measures it."""
    if not (results / "scale.json").exists():
        return "Not measured yet: `python -m s2l bench --scale --out results/scale.json`."
    record = read_json(results / "scale.json")
    facts = record["machine"]
    where = f"{facts['processor']}, {facts['threads']} thread, precision {record['runtime']['dtype']}"
    plot = "![How scoring, extraction and the cache grow](../results/scale.png)"
    return f"{_table(scale_rows(record))}\n\n{plot}\n\n{where}. Command: `{record['command']}`."


def _table(cells: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])
