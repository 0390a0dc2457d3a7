"""The first picture, sent with the page so that it shows while gradio's scripts load."""

from __future__ import annotations

import json

from markupsafe import Markup

from s2l.ui.theme import SCRIPT

# The styles that the picture needs before the style sheet is there; the page then replaces it without a visible jump.
STYLE = """
#s2l-first { max-width: 1180px; margin: 0 auto; padding: 1rem; font-family: system-ui, sans-serif;
  color-scheme: light dark; }
#s2l-first .row { display: grid; grid-template-columns: repeat(6, 1fr); gap: .5rem; max-width: 860px; }
#s2l-first figure { position: relative; margin: 0; }
#s2l-first img { width: 100%; aspect-ratio: 1; border-radius: 6px; display: block; }
#s2l-first .over { position: absolute; inset: 0; clip-path: inset(0 0 0 50%); }
#s2l-first .copies { max-width: 24rem; }
#s2l-first .pair { display: grid; grid-template-columns: 1fr 5.2rem 1fr; align-items: center; text-align: center; }
#s2l-first label, #s2l-first .quiet { display: none; }
"""
PLACE = """
(() => {
  const first = document.createElement("div");
  first.id = "s2l-first";
  first.innerHTML = %s;
  const place = () => (document.body ? document.body.prepend(first) : requestAnimationFrame(place));
  place();
  const mounted = new MutationObserver(() => {
    if (!document.querySelector("#tabs")) return;
    first.remove();
    mounted.disconnect();
  });
  mounted.observe(document.documentElement, { childList: true, subtree: true });
})();
"""


def head(picture: Markup) -> str:
    """What goes into the page's <head>: the script of the address bar and, if there is one, the first picture."""
    text = SCRIPT.read_text(encoding="utf-8")
    if not picture:
        return f"<script>{text}</script>"
    literal = json.dumps(Markup("<h1>Shake-to-Leak Lab</h1>{}").format(picture))
    literal = literal.replace("</", "<\\/")  # no end of the script inside the script
    return f"<style>{STYLE}</style><script>{text}{PLACE % literal}</script>"
