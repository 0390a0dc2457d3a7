"""The page. The only place that imports gradio; it never computes, it asks `s2l.jobs`.

theme.py, style.css, page.js   colours, fonts and the address bar
backend.py                     what the page asks for; form.py: fields of the page <-> RunConfig
session.py                     what survives a refresh, and what an address opens
html.py, runs.py               pictures, sliders, tables; a finished run in words and pictures
story.py, target.py, sp_set.py, finetune.py, membership.py, extraction.py, compare.py, report.py: one builder a tab
live.py, quiz.py               the live panel; predict, then reveal
first.py, heavy.py             the first picture, drawn before torch is imported, and what imports torch
running.py, results.py         from a click on Run to a finished job; what the result tabs show (events.py: how)
layout.py, api.py              the page put together, and the public API
"""

import os

from s2l.store import cache_root

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# Everything that gradio serves by itself lies in the one public folder of the cache.
os.environ.setdefault("GRADIO_TEMP_DIR", str(cache_root() / "public"))

from s2l.ui.backend import Backend
from s2l.ui.layout import build, launch

__all__ = ["Backend", "build", "launch"]
