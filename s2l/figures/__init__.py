"""Figures of a finished run, for the report, the app and a projector.

Every function takes an `experiment.Result` (or plain rows) and returns a matplotlib `Figure` that
has no owner: no pyplot, no global state, safe in threads. `dark=True` draws for a dark page.
Colour is never the only signal: before is dashed and after solid, members are filled and held-out
photos outlined, an extracted photo has a thick frame and the word.

What loads torch or scipy is imported where it is used: the app's first picture must not wait for it.
"""

from s2l.figures.curves import axes_frame, extraction_curve_figure, loss_figure, roc_all, roc_band, roc_both, roc_figure
from s2l.figures.dose import Dose, dose_figure
from s2l.figures.effects import Effect, changes_figure, effects_figure
from s2l.figures.galleries import (
    Cell,
    blind_figure,
    extraction_figure,
    match_figure,
    most_exposed_figure,
    pictures,
    sp_set_figure,
)
from s2l.figures.histograms import distance_histogram_figure, histograms_all, score_histogram_figure
from s2l.figures.style import DARK, LIGHT, Palette, png

__all__ = [
    "DARK",
    "LIGHT",
    "Cell",
    "Dose",
    "Effect",
    "Palette",
    "axes_frame",
    "blind_figure",
    "changes_figure",
    "distance_histogram_figure",
    "dose_figure",
    "effects_figure",
    "extraction_curve_figure",
    "extraction_figure",
    "histograms_all",
    "loss_figure",
    "match_figure",
    "most_exposed_figure",
    "pictures",
    "png",
    "roc_all",
    "roc_band",
    "roc_both",
    "roc_figure",
    "score_histogram_figure",
    "sp_set_figure",
]
