"""Figures in README and docs are generated from committed result files, never typed.

A document contains blocks `<!-- figures: NAME -->` ... `<!-- end -->`. `python -m s2l docs` rewrites the text between
the marks, and a test fails if a document differs from the results.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from s2l.attacks import ATTACKS, evaluations_together
from s2l.bench.table import demo_markdown, markdown, scale_markdown, study_markdown
from s2l.config import AuditConfig
from s2l.errors import unknown
from s2l.store import read_json
from s2l.tables import brought, defences_view, gate_view, lab_facts, mitigations_view, reference
from s2l.tables import view as table_view
from s2l.tables.sheet import Sheet, change, interval
from s2l.tables.sheet import markdown as markdown_of

DOCUMENTS = (
    "README.md",
    "docs/lab.md",
    "docs/search.md",
    "docs/threat-model.md",
    "docs/methods.md",
    "docs/teaching.md",
    "s2l/assets/labs/fresh/README.md",
    "s2l/assets/labs/buried/README.md",
    "docs/defences.md",
    "docs/performance.md",
    "docs/scale.md",
    "docs/result-schema.md",
    "docs/inputs.md",
    "docs/gate.md",
)
BENCH_COMMAND = "python -m s2l bench --demo --growth --quality 3"
BLIND_COMMAND = "python -m s2l blind"
LOAD_COMMAND = "python -m tests.browser.load URL --browser --out results/load.json"
BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w-]+) -->\n)(?P<text>.*?)(<!-- end -->)", re.DOTALL)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return markdown_of(Sheet("", tuple(head), tuple(map(tuple, rows))))


def lab_card(results: Path) -> str:
    """The baseline of the lab `fresh`, over all people."""
    lab = read_json(results / "lab.json")
    secmi, loss, blind = lab["auc"]["secmi"], lab["auc"]["loss"], lab["blind"]
    counters = lab["model"]["counters"]
    n, held = lab["protocol"]["people"], lab["protocol"]["n_nonmembers"]
    rows = [
        ("SecMI AUC (t=140, k=10), mean over people", f"{secmi['mean']:.3f} {interval(secmi)}", "at least .58"),
        ("Loss AUC, mean over people", f"{loss['mean']:.3f} {interval(loss)}", "at most .85"),
        (
            "Blind control (never sees the model), mean AUC",
            f"{blind['mean']:.3f} ± {blind['standard_error']:.3f}",
            ".5",
        ),
        ("VAE reconstruction l2 on held-out photos", f"{lab['vae_floor']:.4f}", "below .03"),
    ]
    if (posterior := lab.get("posterior")) is not None:
        rows.append(("VAE posterior, mean standard deviation of the scaled latents", f"{posterior['std']:.3f}", ""))
    lines = _table(("measured on the shipped float16 weights", "value [95 % interval]", "target"), rows)
    lines.append("")
    lines.append(
        f"{n} people, all 40 members against {held} held-out photos each; training: {counters['step']:,} steps of 32 "
        f"photos, {counters['private_seen']:,} views of private photos among them, "
        f"{counters['seconds'] / 60:.0f} minutes for the UNet. "
        f"Command: `{lab['protocol']['command']}` ({lab['seconds'] / 60:.0f} minutes)."
    )
    return "\n".join(lines)


def lab_card_buried(results: Path) -> str:
    """The baseline of the buried lab, over all people."""
    path = results / "lab-buried.json"
    if not path.exists():
        return "Not measured yet: `python -m s2l lab measure --model lab:buried --out results/lab-buried.json`."
    lab = read_json(path)
    secmi, loss, blind, counters = lab["auc"]["secmi"], lab["auc"]["loss"], lab["blind"], lab["model"]["counters"]
    rows = [
        ("SecMI AUC (t=140, k=10), mean over people", f"{secmi['mean']:.3f} {interval(secmi)}"),
        ("Loss AUC, mean over people", f"{loss['mean']:.3f} {interval(loss)}"),
        ("Blind control (never sees the model), mean AUC", f"{blind['mean']:.3f} ± {blind['standard_error']:.3f}"),
        ("VAE reconstruction l2 on held-out photos", f"{lab['vae_floor']:.4f}"),
    ]
    lines = _table(("measured on the shipped float16 weights", "value [95 % interval]"), rows)
    return "\n".join(
        [
            *lines,
            "",
            f"{lab['protocol']['people']} people, all 40 members against {lab['protocol']['n_nonmembers']} held-out "
            f"photos each; training: {counters['step']:,} steps, {counters['private_seen']:,} views of private photos, "
            f"{counters['seconds'] / 60:.1f} minutes on a data-centre GPU. Command: `{lab['protocol']['command']}`.",
        ]
    )


def secmi_timesteps(results: Path) -> str:
    """SecMI's AUC on the calibration people at each t, from which the t of the tables was chosen."""
    aucs = read_json(results / "lab.json")["secmi_timesteps"]
    means = ["SecMI AUC, mean over calibration people", *(f"{x:.3f}" for x in aucs.values())]
    return "\n".join(_table(["t (k=10)", *aucs], [means]))


def lab_repeats(results: Path) -> str:
    """How exposed a photo is, by how often it was repeated."""
    lab = read_json(results / "lab.json")
    repeats = list(lab["auc"]["secmi"]["by_repeats"])
    rows = []
    for attack, title in (("secmi", "SecMI AUC"), ("loss", "Loss AUC")):
        by = lab["auc"][attack]["by_repeats"]
        rows.append([title, *(f"{by[r]:.2f}" for r in repeats)])
    return "\n".join(_table(["repeated in pre-training", *(f"{r} x" for r in repeats)], rows))


def first(results: Path) -> str:
    """LoRA before and after on calibration people."""
    table = read_json(results / "first.json")
    row = table["rows"]["LoRA"]
    head = ("attack", "AUC before", "AUC after", "paired difference [95 %]", "both models together: change from before")
    rows = []
    for name, outcome in row["attacks"].items():
        aucs = [f"{outcome[when]['mean']:.3f}" for when in ("before", "after")]
        rows.append([name, *aucs, change(outcome["difference"]), change(outcome["reference"]["difference"])])
    lines = _table(head, rows)
    extraction = row["extraction"]
    lines += [
        "",
        f"Distinct members extracted at delta = .1 (of 40, in 256 generations): before "
        f"{extraction['before']['distinct']}, after {extraction['after']['distinct']}; held-out photos, scaled to 40: "
        f"before {extraction['before']['mean_nonmembers_scaled']:.1f}, "
        f"after {extraction['after']['mean_nonmembers_scaled']:.1f}. "
        f"{table['n_people']} {table['role']} people ({', '.join(row['people'])}); command: `{table['command']}`.",
    ]
    return "\n".join(lines)


def search(results: Path) -> str:
    """The search on calibration people: how every setting that was tried changes the AUC."""
    record = read_json(results / "search.json")
    columns = {
        "secmi": "SecMI", "loss": "Loss", "pia": "PIA", "sima": "SimA",
        "loss_reference": "Loss, both models together", "secmi_reference": "SecMI, both models together",
    }  # fmt: skip
    rows = []
    for row in record["rows"]:
        differences = [row["differences"][name] for name in columns]
        means = [f"{sum(values) / len(values):+.3f}" for values in differences]
        rows.append([row["shake"], str(len(row["people"])), *means])
    lines = _table(["SP set; fine-tuning", "people", *columns.values()], rows)
    lines += [
        "",
        f"Change of the AUC from the same attack on the base model, mean over the people of the row. Each row has "
        f"{record['sp_images']} SP pictures unless it says otherwise, {record['n_members']} members and "
        f"{record['n_nonmembers']} held-out photos per person; SecMI at t = {record['secmi']['t']}; weight of the "
        f"reference {record['reference_weight']}. Command: `{record['command']}`.",
    ]
    return "\n".join(lines)


def search_2(results: Path) -> str:
    """The search on the buried lab: the change of every attack's AUC, and the photos near a generation."""
    path = results / "search-2.json"
    if not path.exists():
        return "Not measured yet: `python -m s2l search search-2`."
    record = read_json(path)
    columns = {"secmi": "SecMI", "loss": "Loss", "pia": "PIA", "sima": "SimA"}
    rows = []
    for row in record["rows"]:
        means = [f"{sum(row['differences'][name]) / len(row['people']):+.3f}" for name in columns]
        near = []
        for part in ("members", "nonmembers"):
            counts = [row["copies"][f"{part} within 0.12, {when}"] for when in ("before", "after")]
            near.append(" to ".join(f"{sum(values) / len(values):.1f}" for values in counts))
        rows.append([row["shake"], str(len(row["people"])), *means, *near])
    head = ["SP set; attacked model", "people", *columns.values(), "members within .12", "held-out within .12"]
    lines = [*_table(head, rows), ""]
    return "\n".join(
        [
            *lines,
            f"Change of the AUC, mean over people; {record['n_members']} members and {record['n_nonmembers']} held-out "
            f"photos each, {record['sp_images']} SP pictures per person, eight people shaken together. "
            f"Command: `{record['command']}`.",
        ]
    )


def extraction(results: Path) -> str:
    """Extracted photos per 1,000 UNet evaluations, for each way of spending the same number of evaluations."""
    if not (results / "extraction.json").exists():
        return "Not measured yet: `python -m s2l table extraction`."
    table = read_json(results / "extraction.json")
    head = (
        "after fine-tuning",
        "evaluations",
        "distinct, mean",
        "held-out, scaled",
        "per 1,000: before",
        "per 1,000: after",
        "per 1,000: after minus plain, paired",
        "blind flags: right / all",
    )
    rows = []
    for label, row in table["rows"].items():
        before, after, gain = row["extraction"]["before"], row["extraction"]["after"], row["per_1000_gain"]
        cells = [
            label,
            f"{after['unet_evaluations']:,}",
            f"{after['mean_distinct']:.2f}",
            f"{after['mean_nonmembers_scaled']:.2f}",
            *(f"{x['mean']:.3f} {interval(x)}" for x in (before["per_1000"], after["per_1000"])),
            change(gain),
            f"{after['flags'][1]} / {after['flags'][0]}",
        ]
        rows.append(cells)
    lines = _table(head, rows) + [
        "",
        f"Extracted: distinct training photos at delta = .1. The rates are photos per 1,000 UNet evaluations. "
        f"95 % intervals over {table['n_people']} {table['role']} people (Student's t). The cost of "
        f"choosing seeds is included before and after. "
        f"Command: `{table['command']}`.",
    ]
    return "\n".join(lines)


def methods(results: Path) -> str:
    """What each method trains, how long it took, and what one demo run with it showed."""
    if not (results / "methods.json").exists():
        return "Not measured yet: `python -m s2l table methods`."
    table = read_json(results / "methods.json")
    head = (
        "method",
        "trained parameters",
        "seconds of fine-tuning",
        "SecMI AUC, difference",
        "Loss AUC, difference",
        "Loss, both models together",
        "distinct members, before to after",
    )
    rows = []
    for label, row in table["rows"].items():
        outcomes, extraction = row["attacks"], row["extraction"]
        cells = [
            f"`{label}`",
            f"{row['trained_parameters']:,}",
            "cached" if row["finetune_seconds"][0] is None else f"{row['finetune_seconds'][0]:.0f}",
            change(outcomes["secmi"]["difference"]),
            change(outcomes["loss"]["difference"]),
            change(outcomes["loss"]["reference"]["difference"]),
            f"{extraction['before']['distinct'][0]} to {extraction['after']['distinct'][0]}",
        ]
        rows.append(cells)
    lines = _table(head, rows) + [
        "",
        f"Measured on {', '.join(table['rows'][label]['people'])}; the intervals cover one person's photos only. "
        "Seconds are on one core of a busy CPU, in bfloat16 (`mixed`), with the samples generated during training but "
        "without DreamBooth's class pictures. "
        f"Command: `{table['command']}`.",
    ]
    return "\n".join(lines)


def attacks(results: Path) -> str:
    """Every attack with its paper, formula and cost, and what it measures on the lab's calibration people."""
    path = results / "attacks.json"
    table = read_json(path) if path.exists() else None
    measured = table["rows"]["LoRA"]["attacks"] if table else {}
    head = (
        "attack",
        "score, higher = member",
        "UNet evaluations per photo",
        "AUC before",
        "AUC after",
        "paired difference",
        "AUC of the change alone",
        "source",
    )
    rows = []
    for name, attack in sorted(ATTACKS.items()):
        figures = ["", "", "", ""]
        if name in measured:
            outcome = measured[name]
            aucs = [f"{outcome[when]['mean']:.3f} {interval(outcome[when])}" for when in ("before", "after")]
            figures = [*aucs, change(outcome["difference"]), f"{outcome['shake_auc']:.3f}"]
        cells = [f"`{name}`", attack.formula, str(attack.evaluations(attack.settings())), *figures, attack.source]
        rows.append(cells)
    together = evaluations_together(sorted(ATTACKS), AuditConfig())
    how = (
        f"AUC: mean over {table['n_people']} {table['role']} people, all members against the held-out photos of the "
        f"`{table['preset']}` preset, with hierarchical-bootstrap 95 % intervals, before and after LoRA; CLiD's weight "
        f"is fitted on the other calibration people. Command: `{table['command']}`."
        if table
        else "AUC: not measured yet (`python -m s2l table attacks`)."
    )
    return "\n".join([*_table(head, rows), "", f"All attacks together cost {together} evaluations per photo. {how}"])


def bench(results: Path) -> str:
    """What `python -m s2l bench` measured; before that, the command that measures it."""
    path = results / "bench.json"
    if not path.exists():
        return f"Not measured yet: `{BENCH_COMMAND}`."
    record = read_json(path)
    plot = "\n\n![How time and memory grow with size](../results/growth.png)" if "growth" in record else ""
    return f"{markdown(record)}{plot}\n\nCommand: `{record['command']}`."


def load(results: Path) -> str:
    """The app under simulated visitors; before it is measured, the command that measures it."""
    path = results / "load.json"
    if not path.exists():
        return f"Not measured yet: `{LOAD_COMMAND}`."
    record = read_json(path)
    clicks = record["all_interactions"]
    rows = (
        ("first picture on screen, in Chromium on an idle app", f"{record['first_picture_ms']} ms", "1,000 ms"),
        (f"median interaction of {record['visitors']} visitors", f"{clicks['median_ms']:.0f} ms", "300 ms"),
        ("95th percentile", f"{clicks['p95_ms']:.0f} ms", ""),
        ("errors", str(len(record["errors"])), "0"),
    )
    lines = _table(("the app", "measured", "at most"), rows)
    return "\n".join([*lines, "", f"{clicks['n']:,} interactions. Command: `{record['command']}`."])


def _of_people(name: str, picture: bool = True) -> Callable[[Path], str]:
    """A block with a table's main results, or the command that makes it; results/NAME.md has all of them."""

    def block(results: Path) -> str:
        path = results / f"{name}.json"
        if not path.exists():
            return f"Not measured yet: `python -m s2l table {name}`."
        table = read_json(path)
        plot = [f"![{table['title']}: changes with 95 % intervals](../results/{name}.png)", ""] if picture else []
        lines = [*plot, *markdown_of(table_view.short(name, table)), ""]
        return "\n".join([*lines, f"{table_view.how(table)} Command: `{table['command']}`."])

    return block


def blind(results: Path) -> str:
    """What the blind controls catch, beside what the attacks then claim."""
    path = results / "blind.json"
    if not path.exists():
        return f"Not measured yet: `{BLIND_COMMAND}`."
    table = read_json(path)
    lines = markdown_of(table_view.short("blind", table))
    return "\n".join([*lines, "", f"{table_view.how(table)} Command: `{table['command']}`."])


PEOPLE_TABLES = ("main", "labs", "split", "rank", "tokens", "noise", "sp-size")

BLOCKS: dict[str, Callable[[Path], str]] = {
    "environment": reference.environment,
    "tree": reference.tree,
    "schema": reference.schema,
    "inputs": brought.matrix,
    "bench": bench,
    "demo-stages": demo_markdown,
    "scale": scale_markdown,
    "study": study_markdown,
    "blind": blind,
    "defences": defences_view.block,
    "dp-speed": defences_view.dp_speed,
    "sampler": mitigations_view.block,
    "load": load,
    "lab-card": lab_card,
    "lab-card-buried": lab_card_buried,
    "lab-repeats": lab_repeats,
    "photos-apart": lab_facts.photos_apart,
    "word-l2": lab_facts.word_l2,
    "posterior": lab_facts.posterior,
    "batch-size": lab_facts.batch_size,
    "secmi-timesteps": secmi_timesteps,
    "search": search,
    "search-2": search_2,
    "first": first,
    "methods": methods,
    "extraction": extraction,
    "attacks": attacks,
    "main-short": _of_people("main", picture=False),
    "gate": gate_view.block,
    **{f"table-{name}": _of_people(name) for name in PEOPLE_TABLES},
}


def rendered(text: str, results: Path) -> str:
    """A document's text with every block made from `results`. Raises UserError for an unknown block."""

    def fill(match: re.Match) -> str:
        if match["name"] not in BLOCKS:
            raise unknown("figures block", match["name"], BLOCKS)
        return f"{match[1]}{BLOCKS[match['name']](results)}\n{match[4]}"

    return BLOCK.sub(fill, text)


def update(root: Path = Path(".")) -> list[str]:
    """Rewrite the blocks of all documents and every results/NAME.md; returns the names of the files that changed."""
    changed, results = [], root / "results"
    for path in sorted(results.glob("*.md")):
        table = read_json(path.with_suffix(".json"))
        if table_view.document(path.stem, table) != path.read_text(encoding="utf-8"):
            table_view.write(path.stem, table, results)
            changed.append(f"results/{path.name}")
    for name in DOCUMENTS:
        path = root / name
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        new = rendered(text, results)
        if new != text:
            path.write_text(new, encoding="utf-8")
            changed.append(name)
    return changed
