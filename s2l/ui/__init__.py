"""The page. The only place that imports gradio; it never computes, it asks `s2l.jobs`.

theme.py    colours, fonts, CSS          html.py     pictures and figures as HTML
backend.py  what the page asks for       form.py     fields of the page <-> RunConfig
target.py, sp_set.py, finetune.py, results.py: one builder a tab; live.py: the live panel
layout.py   the page put together, and its events
"""

import os

from s2l.store import cache_root

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# Everything that gradio serves by itself lies in the one public folder of the cache.
os.environ.setdefault("GRADIO_TEMP_DIR", str(cache_root() / "public"))

from s2l.ui.backend import Backend
from s2l.ui.layout import build, launch

__all__ = ["Backend", "build", "launch"]
