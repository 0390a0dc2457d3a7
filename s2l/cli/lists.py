"""The lists: `domains`, `labs`, `methods`, `attacks`, one entry per line."""

from __future__ import annotations

from typing import Annotated

import typer

from s2l.cli.base import Lab, app, example, need_lab
from s2l.cli.console import columns, say
from s2l.config import LAB
from s2l.plugins import Catalogue


@app.command(epilog=example("domains", "domains --paper"))
def domains(
    paper: Annotated[bool, typer.Option("--paper", help="The people of the paper, for Stable Diffusion.")] = False,
    model: Lab = LAB,
) -> None:
    """List a lab's people.

    Shows name, role (settings are chosen on calibration people only) and number of training photos.
    """
    if paper:
        from s2l.data.domain import PAPER_DOMAINS

        print("\n".join(dict.fromkeys(PAPER_DOMAINS)))  # the published list names one person twice
        return
    rows = []
    for person in need_lab(model).people:
        photos = f"{len(person.repeats)} photos" if person.trained else "no photo"
        rows.append((person.name, person.role, photos))
    print(columns(rows))


@app.command(epilog=example("labs", "run --model lab:fresh --domain 'Mira Solwyn' --out out"))
def labs() -> None:
    """List the labs that come with the program.

    Shows name, recipe and purpose. Use one with `--model lab:NAME`. Plain `lab` means the one that S2L_LAB names, by
    default `fresh`.
    """
    from s2l.labs import shipped_labs

    print(columns([(lab.name, lab.recipe, lab.purpose) for lab in shipped_labs()]))


@app.command(epilog=example("methods"))
def methods() -> None:
    """List the fine-tuning methods and combinations.

    Shows name, title and what is trained. The original authors' spellings, such as lora_db, work too.
    """
    from s2l.finetune import FINETUNERS, legal_combinations

    rows = []
    for names in legal_combinations():
        parts = [FINETUNERS[name] for name in names]
        text = parts[0].trains if len(parts) == 1 else "both together" if len(parts) == 2 else "all together"
        rows.append(("+".join(names), " + ".join(part.title for part in parts), text))
    print(columns(rows))
    _say_problems(FINETUNERS)


@app.command(epilog=example("attacks"))
def attacks() -> None:
    """List the membership inference attacks.

    Shows name, title, cost per photo and source.
    """
    from s2l.attacks import ATTACKS

    rows = []
    for name, attack in sorted(ATTACKS.items()):
        cost = attack.evaluations(attack.settings())
        rows.append((name, attack.title, f"{cost} UNet evaluations", attack.source))
    print(columns(rows))
    _say_problems(ATTACKS)


def _say_problems(catalogue: Catalogue) -> None:
    """Report the attacks or methods of installed packages that cannot be used."""
    for problem in catalogue.problems.values():
        say(f"Note: {problem}")
