"""A measurement as rows of text, for the terminal and for docs/performance.md."""

from __future__ import annotations

from s2l.bench.whole import DEMO_TARGET_S

HEADER = ("stage", "rate", "of matmul peak", "peak memory", "times faster than")


def rows(found: dict) -> list[tuple[str, ...]]:
    """HEADER, then one row a stage."""
    out: list[tuple[str, ...]] = [HEADER]
    for stage in found["stages"].values():
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


def target_rows(found: dict) -> list[tuple[str, ...]]:
    """What was promised, what was measured."""
    out: list[tuple[str, ...]] = [("target", "wanted", "measured", "")]
    for target in found["targets"]:
        kept = "kept" if target["kept"] else "missed"
        out.append((target["what"], f"{target['wanted']:.3g}", f"{target['measured']:.3g}", kept))
    if (whole := found.get("demo")) is not None:
        kept = "kept" if whole["seconds"] <= DEMO_TARGET_S else "missed"
        out.append((f"`{whole['preset']}` preset, seconds", f"{DEMO_TARGET_S:.0f}", f"{whole['seconds']:.0f}", kept))
    if (compared := found.get("quality")) is not None:
        agree = sum(row["agree"] for row in compared)
        kept = "kept" if agree == len(compared) else "missed"
        out.append(("people on whom fast and 50-step runs agree", str(len(compared)), str(agree), kept))
    return out


def machine(found: dict) -> str:
    """One sentence about where it was measured."""
    where, peaks = found["machine"], found["matmul_flops_per_s"]
    rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s {dtype}" for dtype, rate in sorted(peaks.items()))
    return (
        f"{where['processor']}, {where['threads']} threads of {where['cores']} cores, torch {where['torch']}; "
        f"precision {found['runtime']['dtype']}, batches of {found['runtime']['batch_size']}; matmul peak {rates}."
    )


def markdown(found: dict) -> str:
    """Both tables and the machine, as docs/performance.md shows them."""

    def table(cells: list[tuple[str, ...]]) -> str:
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])

    return f"{machine(found)}\n\n{table(rows(found))}\n\n{table(target_rows(found))}"
