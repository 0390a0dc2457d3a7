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
from s2l.measure import fine
from s2l.measure.control import blind_control, pixel_features
from s2l.measure.exchange import LEVEL, exchange_test
from s2l.measure.fine import GROUPS, fine_control

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
    """At most LEVEL of random splits: 40 of them give no evidence against it."""
    rng, alarms, trials = np.random.default_rng(3), 0, 40
    for _ in range(trials):
        order = rng.permutation(len(photos))
        alarms += fine_control(split(*([photos[i] for i in part] for part in (order[:20], order[20:40])))).differ
    assert binomtest(alarms, trials, LEVEL, "greater").pvalue > 0.01


def test_the_test_behind_both_controls_is_exact():
    """Whatever the features and however few photos: at most LEVEL of random splits have so small a p-value."""
    rng, trials = np.random.default_rng(0), 300
    low = sum(exchange_test(rng.standard_cauchy((24, 6)), 8)[1] <= LEVEL for _ in range(trials))
    assert low > 0 and binomtest(low, trials, LEVEL, "greater").pvalue > 0.01
    auc, p_value = exchange_test(np.r_[np.zeros((20, 1)), np.ones((20, 1))], 20)
    assert auc == 1 and p_value < 0.01


@pytest.mark.parametrize("seed", [5, 17, 26])
def test_the_coarse_control_is_judged_by_that_test_and_not_by_its_interval(photos, seed):
    """Random splits whose interval lies above .5, which it does far too often: its folds are not independent."""
    order = np.random.default_rng(seed).permutation(len(photos))
    control = blind_control(split([photos[i] for i in order[:20]], [photos[i] for i in order[20:40]]))
    assert control.low > 0.5 and not control.confounded and control.p_value > 0.1


def test_the_fast_features_are_the_plain_ones(photos):
    for y in (np.stack(photos[:3]).astype(float) @ (0.299, 0.587, 0.114)).tolist():
        np.testing.assert_array_equal(fine._median(np.array(y)), ndimage.median_filter(np.array(y), 3))
    images = split(photos[:20], photos[:2]).members.images
    x = images.float() / 255
    small = torch.nn.functional.adaptive_avg_pool2d(x, 16).flatten(1)
    plain = torch.cat([small, x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)
    np.testing.assert_allclose(pixel_features(images), plain.numpy(), atol=2e-6)


def test_captions_without_a_word_leave_the_pixels(photos):
    both = split(photos[:10], photos[10:20])
    bare = MembershipSplit(*(ImageSet(side.images, ("",) * 10, side.ids) for side in (both.members, both.nonmembers)))
    assert blind_control(bare).p_value == blind_control(both).p_value


def test_a_large_photo_is_looked_at_in_its_middle_where_blocks_stay_in_place(photos):
    """Compression is seen in the same way, in the time of a small photo."""
    large = [np.tile(photo, (5, 5, 1)) for photo in photos[:40]]
    found = fine_control(split(large[:20], [jpeg(75)(photo) for photo in large[20:]]))
    assert found.differ and found.reason == "compression or noise"


def test_sides_of_different_size_and_very_small_pictures(photos):
    found = fine_control(split(photos[:10], photos[10:100]))
    assert 0 <= found.auc <= 1 and 0 < found.p_value <= 1
    tiny = [photo[:4, :4] for photo in photos[:8]]
    assert np.isfinite(fine_control(split(tiny[:4], tiny[4:])).auc)
    with pytest.raises(ValueError, match="at least two"):
        fine_control(split(photos[:1], photos[1:5]))
