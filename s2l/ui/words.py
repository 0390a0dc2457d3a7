"""Words on the spot: a term of the glossary as a button that opens its explanation on hover, focus and tap.

The explanations are those of the glossary in docs/teaching.md, so the page and the lesson say the same. Only our own
elements are used; page.js keeps an explanation inside the screen and closes it with Escape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import count

from markupsafe import Markup

from s2l.ui import html
from s2l.ui.backend import ASSETS

GUIDE = ASSETS.parents[1] / "docs" / "teaching.md"
_ids = count(1)  # each explanation has an id of its own, also where a word stands on several tabs

# What the attacks look at, as pictures. Left: a photo that the model was trained on; right: one that it never saw.
_LOSS = Markup(
    '<svg viewBox="0 0 300 112" aria-hidden="true"><g fill="none" stroke="currentColor" stroke-width="2">'
    '<rect x="8" y="12" width="34" height="34" class="m"/><circle cx="171" cy="29" r="17" class="h"/>'
    '<path d="M48,29h26m-6,-5l6,5l-6,5M196,29h26m-6,-5l6,5l-6,5"/>'
    '<rect x="80" y="12" width="34" height="34" stroke-dasharray="2 3"/>'
    '<circle cx="245" cy="29" r="17" stroke-dasharray="2 3"/></g>'
    '<text x="8" y="66">add noise, guess it</text><text x="160" y="66">the same</text>'
    '<rect x="8" y="76" width="24" height="10" class="mf"/><text x="8" y="104">small error: seen</text>'
    '<rect x="160" y="76" width="88" height="10" class="hf"/><text x="160" y="104">large error: new</text></svg>'
)
_SECMI = Markup(
    '<svg viewBox="0 0 300 112" aria-hidden="true"><g fill="none" stroke="currentColor" stroke-width="2">'
    '<rect x="10" y="50" width="13" height="13" class="m"/><circle cx="166" cy="56" r="7" class="h"/>'
    '<path d="M28,52q40,-42 82,-24m-8,-7l8,7l-9,4M110,36q-40,14 -76,22m9,-8l-9,8l11,2" class="m"/>'
    '<path d="M180,52q40,-42 82,-24m-8,-7l8,7l-9,4M262,36q-30,22 -62,52m3,-11l-3,11l11,-3" class="h"/></g>'
    '<text x="46" y="14">a step of noise</text><text x="10" y="88">comes back</text>'
    '<text x="10" y="104">close: seen</text>'
    '<text x="222" y="88">comes back</text><text x="222" y="104">far off: new</text></svg>'
)
PICTURES = {"loss": _LOSS, "secmi": _SECMI}


@lru_cache(maxsize=1)
def glossary() -> dict[str, str]:
    """{term in lower case: explanation as Markdown} of docs/teaching.md; empty if the file is not shipped."""
    if not GUIDE.exists():
        return {}
    text = re.sub(r"<!--.*?-->", "", GUIDE.read_text(encoding="utf-8"))  # marks of generated figures
    section = re.search(r"^## Glossary\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    found: dict[str, str] = {}
    for entry in re.split(r"^- ", section[1] if section else "", flags=re.MULTILINE)[1:]:
        said = " ".join(entry.split())
        for word, short in re.findall(r"\*\*([^*]+)\*\*(?: \(([^)]+)\))?", said):  # also **True positive rate** (TPR)
            for name in filter(None, (word, short)):
                found.setdefault(name.casefold(), said)
    return found


def marked(text: str) -> Markup:
    """A line of our Markdown, **bold** and *emphasis*, as HTML."""
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)  # a link leads out of an explanation: only its words
    parts = re.split(r"(\*\*[^*]+\*\*|\*[^*]+\*)", text)
    shown = []
    for part in parts:
        if part.startswith("**"):
            shown.append(Markup("<b>{}</b>").format(part[2:-2]))
        elif part.startswith("*") and len(part) > 1:
            shown.append(Markup("<em>{}</em>").format(part[1:-1]))
        else:
            shown.append(Markup("{}").format(part))
    return Markup("").join(shown)


def term(word: str, shown: str = "") -> Markup:
    """A word that opens its explanation; plain text if the glossary does not have it."""
    said = glossary().get(word.casefold())
    if said is None:
        return Markup("{}").format(shown or word)
    return Markup(
        '<span class="term"><button type="button" aria-describedby="{id}">{shown}</button>'
        '<span class="tip" role="tooltip" id="{id}">{picture}<span>{said}</span></span></span>'
    ).format(id=f"word-{next(_ids)}", shown=shown or word, said=marked(said), picture=_picture(word))


def explained(text: str, words: Iterable[str]) -> Markup:
    """A plain text in which the first of each of these words opens its explanation."""
    found = re.split(f"({'|'.join(map(re.escape, words))})", text)
    seen: set[str] = set()
    shown = Markup()
    for i, part in enumerate(found):
        shown += term(part) if i % 2 and part not in seen else part
        seen.add(part)
    return shown


def _picture(word: str) -> Markup:
    return PICTURES.get(word.casefold(), Markup())


def lead(text: str, more: Iterable[str] = ()) -> Markup:
    """The first paragraph of a tab: **bold**, *emphasis*, [[term]] or [[term|as shown]]; `more` are listed below it."""
    parts = re.split(r"(\[\[[^\]]+\]\])", " ".join(text.split()))
    said = marked(parts[0])  # bold and emphasis are marked around the terms, never inside them
    for word, after in zip(parts[1::2], parts[2::2], strict=True):
        end = after[: len(after) - len(after.lstrip(".,;:)"))]  # a full stop never begins a line
        said += Markup("<span class=stay>{}{}</span>").format(term(*word[2:-2].split("|")), end)
        said += marked(after[len(end) :])
    return html.block(Markup('<p class="lead">{}</p>{}').format(said, line(more)))


def line(words: Iterable[str]) -> Markup:
    """Words that stand further down on a tab, in one line."""
    known = [term(word) for word in words if word.casefold() in glossary()]
    if not known:
        return Markup()
    return Markup('<p class="words"><span>Words on this page:</span> {}</p>').format(Markup(" ").join(known))
