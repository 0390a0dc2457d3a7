"""The page. The only place that imports gradio. It computes nothing itself: it asks `s2l.jobs`.

server.py, layout.py    serves the page and runs its worker; puts the page together from its tabs
tab.py, tabs/           what a tab is and what tabs share; one file per tab, and the list of them
backend.py, form.py     what the page asks for; fields of the page <-> RunConfig
session.py, own.py      what survives a refresh and what an address opens; a visitor's own model
html.py, runs.py        pictures, sliders, tables; a finished run in words and pictures
live.py, quiz.py        the live panel; predict, then reveal
first.py, heavy.py      the first picture, shown before torch is imported; the import of torch in the background
guard.py, arguments.py  what is served, what may be uploaded, and what a call may name and send
pages.py                what the server keeps of an open page
events.py, api.py       how events are sent; the public API
theme.py, style.css, page.js    colours, fonts and the address bar
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # gradio's own record of events, which nobody reads here

from s2l.ui.backend import Backend
from s2l.ui.layout import build, launch

__all__ = ["Backend", "build", "launch"]
