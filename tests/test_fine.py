"""The blind control sees what pooled pixels hide, seldom sees what is not there, and warns in every sentence."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.stats import binomtest

from s2l.data.domain import ImageSet, MembershipSplit
from s2l.labs import shipped_lab
from s2l.measure.control import blind_control
from s2l.measure.fine import GROUPS, LEVEL, fine_control

N = 40


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Held-out photos of one person of the lab: nothing but chance tells two halves of them apart."""
    return [photo.pixels(64) for photo in shipped_lab("fresh").person("Mira Solwyn").held_out(240)]


def jpeg(quality: int):
    def saved(pixels: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file).convert("RGB"))

    return saved


def split(mine: list[np.ndarray], theirs: list[np.ndarray]) -> MembershipSplit:
    def images(pixels: list[np.ndarray]) -> ImageSet:
        stack = torch.from_numpy(np.stack(pixels).copy()).permute(0, 3, 1, 2)
        return ImageSet(stack, ("a photo",) * len(pixels), tuple(map(str, range(len(pixels)))))

    return MembershipSplit(images(mine), images(theirs))


def noisy(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(int(pixels.sum())).normal(0, 3, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def blurred(pixels: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(pixels, (0.5, 0.5, 0))


@pytest.mark.brings(
    "Folders",
    "Members and non-members saved in another JPEG quality, with another sharpness or noise",
    "a warning that names the difference stands before every number; no sentence calls it a leak",
)
@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (jpeg(75), {"compression or noise"}),
        (jpeg(95), {"compression or noise"}),
        (noisy, {"compression or noise"}),
        (blurred, {"sharpness", "compression or noise"}),
    ],
    ids=["quality 75", "quality 95", "noise of sd 3", "blur of sigma .5"],
)
def test_a_split_that_gives_itself_away_is_seen(photos, change, reasons):
    found = fine_control(split(photos[:N], [change(photo) for photo in photos[N : 2 * N]]))
    assert found.differ and found.auc > 0.9 and found.reason in reasons
    assert set(found.by_group) == set(GROUPS)


def test_pooled_pixels_do_not_see_it(photos):
    """Why the second control exists."""
    assert not blind_control(split(photos[:N], [jpeg(75)(photo) for photo in photos[N : 2 * N]])).confounded


def test_a_random_split_is_seldom_called_different(photos):
    """At most LEVEL of random splits: 60 of them give no evidence against it."""
    rng, alarms, trials = np.random.default_rng(3), 0, 60
    for _ in range(trials):
        order = rng.permutation(len(photos))
        alarms += fine_control(split(*([photos[i] for i in part] for part in (order[:20], order[20:40])))).differ
    assert binomtest(alarms, trials, LEVEL, "greater").pvalue > 0.01


def test_sides_of_different_size_and_very_small_pictures(photos):
    found = fine_control(split(photos[:10], photos[10:100]))
    assert 0 <= found.auc <= 1 and 0 < found.p_value <= 1
    tiny = [photo[:4, :4] for photo in photos[:8]]
    assert np.isfinite(fine_control(split(tiny[:4], tiny[4:])).auc)
    with pytest.raises(ValueError, match="at least two"):
        fine_control(split(photos[:1], photos[1:5]))
