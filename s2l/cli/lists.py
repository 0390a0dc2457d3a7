"""What there is: `domains`, `methods`, `attacks`, one a line."""

from __future__ import annotations

from typing import Annotated

import typer

from s2l.cli.base import app, example
from s2l.cli.console import columns


@app.command(epilog=example("domains", "domains --paper"))
def domains(
    paper: Annotated[bool, typer.Option("--paper", help="The people of the paper, for Stable Diffusion.")] = False,
) -> None:
    """List the lab's people.

    Name, role (hyper-parameters are chosen on calibration people only), photos the model was trained on.
    """
    if paper:
        from s2l.data.domain import PAPER_DOMAINS

        print("\n".join(dict.fromkeys(PAPER_DOMAINS)))  # one name stands twice in the published list
        return
    from s2l.data.domain import lab_people_records

    print(columns([(p["name"], p["role"], f"{len(p['repeats'])} photos") for p in lab_people_records()]))


@app.command(epilog=example("methods"))
def methods() -> None:
    """List the fine-tuning methods and combinations.

    Name, title, what trains. The original authors' spellings, such as lora_db, are understood too.
    """
    from s2l.finetune import FINETUNERS, legal_combinations

    rows = []
    for names in legal_combinations():
        parts = [FINETUNERS[name] for name in names]
        text = parts[0].trains if len(parts) == 1 else "both together" if len(parts) == 2 else "all together"
        rows.append(("+".join(names), " + ".join(part.title for part in parts), text))
    print(columns(rows))


@app.command(epilog=example("attacks"))
def attacks() -> None:
    """List the membership inference attacks.

    Name, title, cost of judging one photo, source.
    """
    from s2l.attacks import ATTACKS

    rows = []
    for name, attack in sorted(ATTACKS.items()):
        cost = attack.evaluations(attack.settings())
        rows.append((name, attack.title, f"{cost} UNet evaluations", attack.source))
    print(columns(rows))
