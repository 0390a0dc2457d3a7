"""Every attack: the contract, a naive reference with an analytic eps, the cost, and the sign."""

from __future__ import annotations

import math
import weakref
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import RobustScaler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from s2l import attacks
from s2l.attacks import ATTACKS, Combination, RobustScale, shake_calibrated
from s2l.attacks.calibration import ALPHAS
from s2l.attacks.clid import reductions
from s2l.attacks.query import MEMO_LIMIT, Memo, Query
from s2l.attacks.registry import SCRATCH
from s2l.config import AuditConfig
from s2l.data.domain import ImageSet
from s2l.data.lab_domain import photos_as_images
from s2l.errors import UserError
from s2l.model.batches import Batched
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.worlds import people
from tests.conftest import with_batch_size

NAMES = sorted(ATTACKS)
CONFIG = AuditConfig()
# Other settings than the defaults, so that no test passes by a constant that happens to agree.
OTHER = AuditConfig(
    settings={
        "loss": {"timesteps": [3, 700]},
        "secmi": {"t": 60, "k": 20},
        "pia": {"t": 430},
        "pian": {"t": 90},
        "sima": {"t": 150},
        "sima_mc": {"timesteps": [20, 400], "draws": 3, "average": "predictions"},
        "pfami": {"crops": [0.9, 0.6, 0.5], "timesteps": [0, 330]},
        "clid": {"timesteps": [100, 999], "parts": 2},
    }
)
CAPTIONS = ("a photo of Mira Solwyn smiling on a red background", "a face of Mira", "portrait", "")


def photos(n: int, resolution: int, seed: int = 0) -> ImageSet:
    """n smooth random pictures with captions of different lengths."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    images = torch.nn.functional.interpolate(coarse, size=(resolution, resolution), mode="bicubic").clamp(0, 1)
    captions = tuple(CAPTIONS[i % len(CAPTIONS)] for i in range(n))
    return ImageSet((images * 255).round().to(torch.uint8), captions, tuple(str(i) for i in range(n)))


# --- an analytic model and, for each attack, its formula in plain loops ------------------------

SIDE, LATENT = 16, (4, 4, 4)  # pixels and (C, h, w)
ABAR = [float(a) for a in torch.linspace(0.9995, 0.01, 1000)]
MIX = [[0.9, -0.4, 0.3], [-0.2, 1.1, 0.5], [0.7, 0.6, -0.8], [-1.0, 0.2, 0.4]]  # latent channel from pixel channels


class AnalyticModel(Batched):
    """The interface of DiffusionModel with a known smooth eps(z, t, c); counts the images it evaluates.

    Latents are float64: PFAMI and CLiD are small differences of large errors, and rounding is not under test here.
    """

    alpha, add_noise, noise = DiffusionModel.alpha, DiffusionModel.add_noise, DiffusionModel.noise

    def __init__(self, batch_size: int = 3):
        self.device, self.dtype, self.latent_shape = torch.device("cpu"), torch.float32, LATENT
        self.alphas_cumprod = torch.tensor(ABAR, dtype=torch.float64)
        self.runtime = Runtime("cpu", "float32", batch_size)
        self.evaluated = 0

    def encode_images(self, x):
        whole = 255 if x.dtype == torch.uint8 else 1
        pooled = torch.nn.functional.avg_pool2d(x.double() / whole, SIDE // 4)
        return torch.einsum("kc,nchw->nkhw", torch.tensor(MIX, dtype=torch.float64), pooled) * 1.5

    def encode_prompts(self, prompts):
        return torch.tensor([[[meaning(p), -1.0], [1.0, 2 * meaning(p)]] for p in prompts]).double()

    def eps(self, zt, t, c):
        self.evaluated += len(zt)
        t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1, 1, 1)
        g = (c[:, 0, 0] + c[:, 1, 1]).view(-1, 1, 1, 1) / 3
        near = zt.mean(dim=(1, 2, 3), keepdim=True)
        return torch.tanh(1.3 * zt + t / 400) * (0.7 + 0.2 * torch.sin(3 * g)) + 0.2 * torch.cos(zt * g) + 0.3 * near


def meaning(prompt: str) -> float:
    return zlib.crc32(prompt.encode()) % 1000 / 1000


def naive_eps(z: list, t: int, caption: str) -> list:
    g, near = meaning(caption), sum(z) / len(z)
    return [
        math.tanh(1.3 * v + t / 400) * (0.7 + 0.2 * math.sin(3 * g)) + 0.2 * math.cos(v * g) + 0.3 * near for v in z
    ]


def naive_encode(image: np.ndarray) -> list:
    """(3, 16, 16) in [0, 1] -> the latent's 64 entries."""
    cell, z = SIDE // 4, []
    for row in MIX:
        for i in range(4):
            for j in range(4):
                means = [image[c, i * cell : (i + 1) * cell, j * cell : (j + 1) * cell].mean() for c in range(3)]
                z.append(1.5 * sum(w * m for w, m in zip(row, means, strict=True)))
    return z


def naive_crop(image: np.ndarray, share: float) -> np.ndarray:
    """Centre crop and bilinear enlargement, pixel by pixel; pixel centres at half integers."""
    kept = math.floor(SIDE * share)
    first, out = (SIDE - kept) // 2, np.zeros_like(image)
    for i in range(SIDE):
        for j in range(SIDE):
            y, x = (min(max((k + 0.5) * kept / SIDE - 0.5, 0), kept - 1) for k in (i, j))
            y0, x0 = int(y), int(x)
            for yy, wy in ((y0, 1 - (y - y0)), (min(y0 + 1, kept - 1), y - y0)):
                for xx, wx in ((x0, 1 - (x - x0)), (min(x0 + 1, kept - 1), x - x0)):
                    out[:, i, j] += wy * wx * image[:, first + yy, first + xx]
    return out


def mix(z: list, n: list, t: int) -> list:
    return [math.sqrt(ABAR[t]) * a + math.sqrt(1 - ABAR[t]) * b for a, b in zip(z, n, strict=True)]


def naive_error(z: list, n: list, t: int, caption: str) -> float:
    predicted = naive_eps(mix(z, n, t), t, caption)
    return sum((a - b) ** 2 for a, b in zip(n, predicted, strict=True)) / len(n)


def fourth(values) -> float:
    return sum(v**4 for v in values)


# Each takes one image: pixels, latent z0, caption, noise (draw -> 64 numbers) and the settings.


def naive_loss(x, z0, caption, noise, s):
    return -sum(naive_error(z0, noise(i), t, caption) for i, t in enumerate(s.timesteps)) / len(s.timesteps)


def naive_secmi(x, z0, caption, noise, s):
    def step(z, eps, a, b):
        clean = [(v - math.sqrt(1 - ABAR[a]) * e) / math.sqrt(ABAR[a]) for v, e in zip(z, eps, strict=True)]
        return mix(clean, eps, b)

    z, t = z0, 0
    while t < s.t:
        z, t = step(z, naive_eps(z, t, caption), t, t + s.k), t + s.k
    on = step(z, naive_eps(z, t, caption), t, t + s.k)
    back = step(on, naive_eps(on, t + s.k, caption), t + s.k, t)
    return -sum((a - b) ** 2 for a, b in zip(back, z, strict=True))


def naive_pia(x, z0, caption, noise, s, normalised=False):
    e0 = naive_eps(z0, 0, caption)
    if normalised:
        size = sum(abs(e) for e in e0) / len(e0)
        e0 = [e / size * math.sqrt(2 / math.pi) for e in e0]
    et = naive_eps(mix(z0, e0, s.t), s.t, caption)
    return -fourth(a - b for a, b in zip(e0, et, strict=True))


def naive_pian(x, z0, caption, noise, s):
    return naive_pia(x, z0, caption, noise, s, normalised=True)


def naive_sima(x, z0, caption, noise, s):
    return -fourth(naive_eps(z0, s.t, caption))


def naive_sima_mc(x, z0, caption, noise, s):
    total = 0.0
    for i, t in enumerate(s.timesteps):
        seen = [naive_eps(mix(z0, noise(i + len(s.timesteps) * j), t), t, caption) for j in range(s.draws)]
        if s.average == "norms":
            total += sum(fourth(e) for e in seen) / s.draws
        else:
            total += fourth(sum(entries) / s.draws for entries in zip(*seen, strict=True))
    return -total / len(s.timesteps)


def naive_pfami(x, z0, caption, noise, s):
    total = 0.0
    for share in s.crops:
        cropped = naive_encode(naive_crop(x, share))
        for i, t in enumerate(s.timesteps):
            total += naive_error(z0, noise(i), t, caption) - naive_error(cropped, noise(i), t, caption)
    return -total / (len(s.crops) * len(s.timesteps))


def naive_clid(x, z0, caption, noise, s):
    words, n = caption.split(), s.parts
    reduced = [" ".join(words[round(len(words) * i / n) : round(len(words) * (i + 1) / n)]) for i in range(n)]
    total = 0.0
    for c in [*reduced, ""]:
        for i, t in enumerate(s.timesteps):
            total += naive_error(z0, noise(i), t, c) - naive_error(z0, noise(i), t, caption)
    return total / ((n + 1) * len(s.timesteps)), naive_loss(x, z0, caption, noise, s)


REFERENCES = {name: globals()[f"naive_{name}"] for name in NAMES}  # a new attack needs one too


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", [CONFIG, OTHER], ids=["defaults", "other"])
def test_attack_is_its_formula(name, config):
    model, images = AnalyticModel(), photos(7, SIDE)
    query = attacks.make_query(model, images, seed=5)
    scores = attacks.run_components([name], model, query, config)[name]
    settings, rows = attacks.attack_settings(name, config), []
    for i in range(len(images)):
        x = images.images[i].double().numpy() / 255

        def noise(draw, alone=query.part([i])):
            return alone.noise(model, draw).double().ravel().tolist()

        rows.append(REFERENCES[name](x, naive_encode(x), images.captions[i], noise, settings))
    np.testing.assert_allclose(scores.numpy(), np.array(rows).reshape(len(images), -1), rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", [CONFIG, OTHER], ids=["defaults", "other"])
def test_an_attack_costs_what_it_says(name, config):
    model = AnalyticModel()
    query = attacks.make_query(model, photos(7, SIDE))
    attack, settings = attacks.get_attack(name), attacks.attack_settings(name, config)
    attack.score(model, query, settings)  # without a memo
    assert model.evaluated == 7 * attack.evaluations(settings)
    attacks.run_attack(name, model, query, config)  # with one
    assert model.evaluated == 2 * 7 * attack.evaluations(settings)


def test_declared_costs_are_those_of_the_field():
    cost = {n: ATTACKS[n].evaluations(attacks.attack_settings(n, CONFIG)) for n in NAMES}
    expected = {"loss": 4, "secmi": 16, "pia": 2, "pian": 2, "sima": 1, "sima_mc": 4, "pfami": 20, "clid": 15}
    assert cost == expected


def test_the_suite_shares_evaluations_and_changes_no_number():
    alone, together = AnalyticModel(), AnalyticModel()
    query = attacks.make_query(alone, photos(7, SIDE))
    one_by_one = {name: attacks.run_attack(name, alone, query, CONFIG) for name in NAMES}
    assert alone.evaluated == 7 * 64
    suite = attacks.run_suite(NAMES, together, query, CONFIG)
    assert all(torch.equal(suite[name], one_by_one[name]) for name in NAMES)
    # eps(z0, 0, c) serves PIA, PIAN and SecMI; four predictions on noised latents serve Loss, PFAMI and SimA-MC.
    assert together.evaluated == 7 * (64 - 2 - 2 * 4) == 7 * attacks.evaluations_together(NAMES, CONFIG)
    few = AnalyticModel()
    attacks.run_suite(["sima", "pia", "pian"], few, query, AuditConfig(settings={"sima": {"t": 0}}))
    assert few.evaluated == 7 * (1 + 1 + 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", [CONFIG, OTHER], ids=["defaults", "other"])
def test_an_attack_declares_what_it_can_share(name, config):
    model = AnalyticModel()
    query = attacks.make_query(model, photos(2, SIDE)).remembering(model)
    settings = attacks.attack_settings(name, config)
    ATTACKS[name].score(model, query, settings)
    assert {key for key in query.memo.kept if key[0] != "noise"} == ATTACKS[name].asks(settings)


def test_only_attacks_that_share_are_grouped():
    assert attacks.sharing_groups(["secmi", "loss"], CONFIG) == [["secmi"], ["loss"]]
    groups = attacks.sharing_groups(["sima", "pfami", "secmi", "clid", "loss", "pia", "pfami"], CONFIG)
    assert groups == [["sima"], ["pfami", "loss"], ["secmi", "pia"], ["clid"]]
    both = AuditConfig(settings={"sima": {"t": 0}})
    assert attacks.sharing_groups(["sima", "loss", "pia"], both) == [["sima", "pia"], ["loss"]]
    assert attacks.evaluations_together(["sima", "pia"], both) == 2
    assert attacks.evaluations_together(["sima", "pia"], CONFIG) == 3


def test_the_memo_is_bounded_and_belongs_to_one_model_and_one_batch():
    model, other = AnalyticModel(), AnalyticModel()
    query = attacks.make_query(model, photos(4, SIDE)).remembering(model)
    first = query.clean_eps(model, 0)
    assert query.clean_eps(model, 0) is first and model.evaluated == 4
    query.clean_eps(other, 0)  # another model's prediction is neither taken from the memo nor kept
    assert other.evaluated == 4 and len(query.memo.kept) == 1
    assert query.part([1]).memo is None and query.altered(latents=query.latents).memo is None
    for t in range(2 * MEMO_LIMIT):
        query.noised_eps(model, t)
    assert len(query.memo.kept) == MEMO_LIMIT
    again = model.evaluated
    query.noised_eps(model, 2 * MEMO_LIMIT - 1)  # did not fit: computed again
    assert model.evaluated == again + 4
    assert isinstance(query.memo, Memo)


# --- the contract, on a real network with random weights ---------------------------------------


@pytest.fixture(scope="module")
def random_model(tiny_checkpoint):
    return DiffusionModel.load(str(tiny_checkpoint), Runtime("cpu", "float32", 7))


@pytest.fixture(scope="module")
def contract(random_model):
    """(query of 7 images, {batch size: components of every attack})."""
    query = attacks.make_query(random_model, photos(7, random_model.resolution), seed=3)
    runs = {
        size: attacks.run_components(NAMES, with_batch_size(random_model, size), query, CONFIG) for size in (1, 3, 7)
    }
    return query, runs


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to 3e-4 of the column's largest score: PFAMI and CLiD are small differences of large errors."""
    return bool(((a - b).abs() <= 3e-4 * b.abs().amax(dim=0)).all())


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_float32_one_per_image(name, random_model, contract):
    query, runs = contract
    scores = attacks.run_attack(name, random_model, query.part(slice(0, 5)), CONFIG)
    assert scores.shape == (5,) and scores.dtype == torch.float32 and scores.isfinite().all()
    columns = runs[7][name]
    assert columns.shape == (7, max(1, len(ATTACKS[name].components))) and columns.dtype == torch.float32
    assert len(columns[:, 0].unique()) > 1


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_leaves_the_weights_and_the_global_chance_as_they_were(name, random_model, contract):
    query, _ = contract

    def state() -> list[torch.Tensor]:
        modules = (random_model.unet, random_model.vae, random_model.text_encoder)
        return [tensor.clone() for module in modules for tensor in module.state_dict().values()] + [
            torch.get_rng_state()
        ]

    before = state()
    attacks.run_attack(name, random_model, query.part(slice(0, 2)), CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_the_batch_size(name, contract):
    _, runs = contract
    assert same(runs[1][name], runs[7][name]) and same(runs[3][name], runs[7][name])


@pytest.mark.parametrize("name", NAMES)
def test_scores_depend_neither_on_the_other_images_nor_on_the_call(name, random_model, contract):
    query, runs = contract
    model, chosen = with_batch_size(random_model, 3), [6, 1, 4]
    part = attacks.run_components([name], model, query.part(chosen), CONFIG)[name]
    assert same(part, runs[3][name][chosen])
    assert torch.equal(part, attacks.run_components([name], model, query.part(chosen), CONFIG)[name])


def test_a_query_of_some_images_says_where_they_stand(random_model):
    images = photos(6, random_model.resolution)
    whole = attacks.make_query(random_model, images)
    some = attacks.make_query(random_model, images.subset([4, 2]), indices=[4, 2])
    assert torch.equal(some.noise(random_model, 1), whole.noise(random_model, 1)[[4, 2]])
    drawn = torch.cat([whole.noise(random_model, draw) for draw in (0, 1, 256, 2**16)])
    assert len(drawn.flatten(1).unique(dim=0)) == len(drawn)  # no two images and no two draws share their noise
    with pytest.raises(ValueError, match="2 images need 2 indices, not 3"):
        attacks.make_query(random_model, images.subset([4, 2]), indices=[4, 2, 1])
    with pytest.raises(ValueError, match="no image"):
        attacks.run_attack("loss", random_model, whole.part([]), CONFIG)


BY_CONTENT = AuditConfig(noise="content")


@pytest.mark.brings("Numbers", "One photo more or less in a folder", "changes no other photo's score")
@pytest.mark.parametrize("latents", ["mode", "sample"])
def test_leaving_out_a_photo_changes_no_other_score(random_model, latents):
    images, names = photos(5, random_model.resolution), ("loss", "sima_mc", "clid", "pfami", "secmi")
    config = BY_CONTENT.model_copy(update={"latents": latents, "settings": {"secmi": {"t": 20}}})

    def scores(kept: list[int]) -> dict[str, torch.Tensor]:
        part = images.subset(kept)
        query = attacks.query_of(random_model, part, config, part.captions)
        return attacks.run_components(names, random_model, query, config)

    whole, part = scores([0, 1, 2, 3, 4]), scores([0, 2, 3, 4])
    for name in names:
        assert same(part[name], whole[name][[0, 2, 3, 4]]), name
    by_place = attacks.make_query(random_model, images.subset([0, 2]))
    moved = attacks.run_attack("loss", random_model, by_place, CONFIG)
    still = attacks.run_attack("loss", random_model, attacks.make_query(random_model, images), CONFIG)
    assert same(moved[:1], still[:1]) and not same(moved[1:], still[2:3])  # as the committed cells have it


def test_copies_of_a_photo_share_their_noise(random_model):
    images = photos(3, random_model.resolution)
    images = ImageSet(images.images[[0, 1, 0, 2]], ("a", "b", "a", "c"), ("0", "1", "copy of 0", "2"))
    query = attacks.query_of(random_model, images, BY_CONTENT, images.captions)
    noise = query.noise(random_model, 1)
    assert torch.equal(noise[0], noise[2]) and len(noise.flatten(1).unique(dim=0)) == 3
    scores = attacks.run_attack("loss", random_model, query, BY_CONTENT)
    assert len(scores) == 4 and same(scores[:1], scores[2:3])


def test_a_sampled_posterior_is_its_mean_with_noise_of_the_photo(random_model):
    images = photos(4, random_model.resolution)
    mode = attacks.query_of(random_model, images, AuditConfig(), images.captions)
    sample = attacks.query_of(random_model, images, AuditConfig(latents="sample"), images.captions)
    assert mode.posterior == () and mode.indices == sample.indices == (0, 1, 2, 3)
    pixels = images.floats() * 2 - 1
    with torch.inference_mode():
        posterior = random_model.vae.encode(pixels).latent_dist
    drawn = (sample.latents / random_model.vae.config.scaling_factor - posterior.mean) / posterior.std
    assert torch.allclose(mode.latents, posterior.mean * random_model.vae.config.scaling_factor, atol=1e-5)
    assert abs(float(drawn.mean())) < 0.1 and abs(float(drawn.std()) - 1) < 0.1
    assert torch.equal(sample.part([2, 1]).latents, sample.latents[[2, 1]])
    assert sample.part([2, 1]).posterior == (sample.posterior[2], sample.posterior[1])
    again = attacks.query_of(random_model, images, AuditConfig(latents="sample", seed=1), images.captions)
    assert not torch.equal(again.latents, sample.latents)
    crop = sample.encoded(random_model, images.floats())  # a changed picture gets its photo's noise
    assert torch.allclose(crop, sample.latents, atol=1e-5)


def test_progress_counts_images_and_a_listener_can_stop_the_suite():
    model = AnalyticModel()
    query, events = attacks.make_query(model, photos(7, SIDE)), []
    attacks.run_suite(["pia", "sima"], model, query, CONFIG, events.append)
    assert [e.step for e in events] == [2, 4, 6, 8, 11, 14] and {e.total for e in events} == {14}
    events.clear()
    attacks.run_attack("pia", model, query, CONFIG, events.append)
    assert [(e.stage, e.step, e.total) for e in events] == [("attack pia", i, 7) for i in (2, 4, 7)]


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("pia", {"t": 1000}, ["t:", "less than or equal to 999", "1000"]),
        ("pian", {"t": -1}, ["t:", "greater than or equal to 0"]),
        ("sima", {"time": 3}, ["time", "not permitted"]),
        ("sima_mc", {"average": "mean"}, ["average", "'norms' or 'predictions'", "mean"]),
        ("sima_mc", {"timesteps": []}, ["timesteps", "at least 1"]),
        ("pfami", {"crops": [95]}, ["crops", "from 0.1", "write 0.95, not 95"]),
        ("clid", {"parts": -1}, ["parts", "greater than or equal to 0"]),
        ("secmi", {"t": 95}, ["t must be a multiple of k", "t=95"]),
        ("loss", {"timesteps": [1000]}, ["timesteps.0", "999"]),
    ],
)
def test_wrong_settings_say_what_is_allowed(name, settings, words):
    with pytest.raises(UserError) as error:
        attacks.attack_settings(name, AuditConfig(settings={name: settings}))
    assert all(word in str(error.value) for word in words), error.value


def test_a_misspelt_attack_is_never_ignored():
    with pytest.raises(UserError, match="Did you mean 'secmi'"):
        attacks.get_attack("secmy")
    with pytest.raises(UserError, match="Did you mean 'pfami'"):
        attacks.attack_settings("loss", AuditConfig(settings={"pfam": {}}))


def test_captions_are_reduced_between_words():
    assert reductions("a photo of Mira Solwyn smiling", 3) == ("a photo", "of Mira", "Solwyn smiling", "")
    assert reductions("Mira", 3) == ("", "Mira", "", "") or sorted(reductions("Mira", 3)) == ["", "", "", "Mira"]
    assert reductions("", 3) == ("", "", "", "") and reductions("a photo", 0) == ("",)


# --- calibrations --------------------------------------------------------------------------------


def test_robust_scale_is_sklearns_and_survives_json():
    rng = np.random.default_rng(0)
    fit, new = rng.standard_t(2, 101).astype(np.float32), torch.from_numpy(rng.normal(size=7))
    scale = RobustScale.fit(fit)
    expected = RobustScaler().fit(fit.astype(float)[:, None]).transform(new.numpy()[:, None])[:, 0]
    np.testing.assert_allclose(scale(new), expected, rtol=1e-12)
    assert RobustScale.model_validate_json(scale.model_dump_json()) == scale
    assert RobustScale.fit([2.0, 2.0]).iqr == 1
    with pytest.raises(UserError, match="no calibration scores"):
        RobustScale.fit([])
    with pytest.raises(ValueError, match="1 scores are not finite"):
        RobustScale.fit([1.0, math.nan])


def calibration_person(seed: int, informative: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Components of n members and n non-members; only column `informative` knows; column 1 is 1000 times as loud."""
    rng = np.random.default_rng(seed)
    members, nonmembers = rng.normal(size=(2, n, 2))
    members[:, informative] += 2
    return members * [1, 1000], nonmembers * [1, 1000]


def test_the_combination_finds_its_weight_on_calibration_people():
    for informative in (0, 1):
        fitted = Combination.fit([calibration_person(s, informative) for s in (1, 2, 3)])
        assert fitted.fitted_on == 3 and (fitted.alpha > 0.8 if informative == 0 else fitted.alpha < 0.2)
        members, nonmembers = calibration_person(9, informative)
        labels = np.r_[np.ones(200), np.zeros(200)]
        assert roc_auc_score(labels, np.r_[fitted(members), fitted(nonmembers)]) > 0.88
        assert Combination.model_validate_json(fitted.model_dump_json()) == fitted
    # Both components know: the sum beats either, and the formula is equation 16.
    rng = np.random.default_rng(0)
    both = [(rng.normal(1, 1, (300, 2)) * [1, 50], rng.normal(0, 1, (300, 2)) * [1, 50]) for _ in range(3)]
    fitted = Combination.fit(both)
    assert 0.2 < fitted.alpha < 0.8 and fitted.auc > 0.8
    a, b = both[0][0][:, 0], both[0][0][:, 1]
    pooled = np.concatenate([rows for pair in both for rows in pair])
    q1, q2, q3 = np.percentile(pooled, [25, 50, 75], axis=0)
    expected = fitted.alpha * (a - q2[0]) / (q3 - q1)[0] + (1 - fitted.alpha) * (b - q2[1]) / (q3 - q1)[1]
    np.testing.assert_allclose(fitted(both[0][0]), expected, rtol=1e-10)


def test_the_combination_is_not_moved_by_the_images_under_test():
    fitted = Combination.fit([calibration_person(1, 0)])
    one = np.array([[0.3, -20.0]])
    crowd = np.concatenate([one, np.full((50, 2), 1e6)])
    assert fitted(one)[0] == fitted(crowd)[0]


def test_without_calibration_the_combination_is_the_attacks_own_score():
    model = AnalyticModel()
    query = attacks.make_query(model, photos(7, SIDE))
    components = attacks.run_components(["clid"], model, query, CONFIG)["clid"]
    own = attacks.run_attack("clid", model, query, CONFIG)
    np.testing.assert_array_equal(Combination.uncalibrated()(components), own.double().numpy())
    with pytest.raises(UserError, match=r"no calibration person.*uncalibrated"):
        Combination.fit([])
    with pytest.raises(ValueError, match=r"must be \(N, 2\)"):
        Combination.uncalibrated()(own)
    assert ALPHAS[0] == 0 and ALPHAS[-1] == 1


def test_shake_calibrated_is_the_change_and_higher_for_what_came_closer():
    before, after = torch.tensor([-4.0, -4.0, -100.0]), torch.tensor([-2.0, -5.0, -50.0])
    np.testing.assert_allclose(shake_calibrated(before, after), [2, -1, 50])
    ratio = shake_calibrated(before.numpy(), after.numpy(), "log_ratio")
    np.testing.assert_allclose(ratio, [math.log(2), math.log(0.8), math.log(2)], rtol=1e-12)
    np.testing.assert_allclose(ratio, shake_calibrated(before * 7, after * 7, "log_ratio"), rtol=1e-6)  # no unit
    for arguments, words in (
        ((before, after[:2]), "of the same images"),
        ((before, after, "ratio"), "Allowed: difference, log_ratio"),
        ((before, -after, "log_ratio"), "use variant 'difference'"),
    ):
        with pytest.raises(UserError, match=words):
            shake_calibrated(*arguments)


def test_a_change_that_stretches_all_distances_alike_is_the_base_score_in_disguise():
    before = -np.random.default_rng(0).uniform(1, 9, 50)
    np.testing.assert_array_equal(np.argsort(shake_calibrated(before, 1.07 * before)), np.argsort(before))
    np.testing.assert_allclose(shake_calibrated(before, 1.07 * before, "log_ratio"), -math.log(1.07), rtol=1e-12)


# --- memory --------------------------------------------------------------------------------------


class PeakBytes(TorchDispatchMode):
    """Bytes of the tensors made inside the block that are alive at once, at their worst moment."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.alive = 0, 0, {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if (key := storage._cdata) not in self.alive:
                    self.alive[key] = storage.nbytes()
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self.freed, key)
        self.peak = max(self.peak, self.live)
        return out

    def freed(self, key):
        self.live -= self.alive.pop(key, 0)


def test_the_memory_estimate_is_an_upper_bound_and_no_fantasy(random_model, monkeypatch):
    model, few = with_batch_size(random_model, 4), AuditConfig(settings={"secmi": {"t": 10}, "pfami": {"crops": [0.8]}})
    monkeypatch.setattr(model, "one_core_per_batch", False)  # one batch at a time is what is estimated, and watched
    query = attacks.make_query(model, photos(8, model.resolution))
    estimate = attacks.memory_estimate(model, 4)
    for part in (query.part(slice(0, 4)), query):  # twice the images take no more
        with PeakBytes() as measured:
            attacks.run_suite(NAMES, model, part, few)
        assert measured.peak <= estimate - SCRATCH <= 4 * measured.peak
    assert estimate - SCRATCH == 4 * (attacks.memory_estimate(model, 1) - SCRATCH)


def test_the_memory_estimate_knows_stable_diffusion():
    def config(**values):
        return SimpleNamespace(config=SimpleNamespace(**values))

    sd = SimpleNamespace(
        dtype=torch.float32,
        latent_shape=(4, 64, 64),
        resolution=512,
        unet=config(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768),
        vae=config(block_out_channels=(128, 256, 512, 512)),
        tokenizer=SimpleNamespace(model_max_length=77),
    )
    # Traced with tensors of no storage ("meta"): 0.674 GB an image in the VAE's encoder, 0.137 GB in the UNet.
    assert 0.674e9 < attacks.memory_estimate(sd, 1) - SCRATCH < 1.0e9


# --- the sign ------------------------------------------------------------------------------------

MEMBERS, HELD_OUT = 4, 24


def auc(scores: torch.Tensor, members: int) -> float:
    return float(roc_auc_score(np.r_[np.ones(members), np.zeros(len(scores) - members)], scores))


def lab_query(model: DiffusionModel, members: int, held_out: int) -> Query:
    """Photos of one of the lab's people, latents scaled to unit variance as in a trained lab."""
    person = people.lab_people(1)[0]
    images = photos_as_images(people.member_photos(person, members) + people.held_out_photos(person, held_out), 32)
    spread = model.encode_images(images.floats()).std().item()
    model.vae.register_to_config(scaling_factor=model.vae.config.scaling_factor / spread)
    return attacks.make_query(model, images)


@pytest.fixture(scope="module")
def overfitted(tiny_checkpoint):
    """(model, query): a UNet of random weights, trained until it knows four photos by heart. About ten seconds.

    Only t < 200 is trained, which is what SecMI and PIA look at; timesteps are stratified over the batch.
    """
    model = DiffusionModel.load(str(tiny_checkpoint), Runtime("cpu", "float32", 28))
    query = lab_query(model, MEMBERS, HELD_OUT)
    rows, steps, rate = torch.arange(MEMBERS).repeat(3), 300, 4e-3
    z0, c = query.latents.clone()[rows], query.embeddings.clone()[rows]
    model.unet.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.unet.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0, fused=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        place = torch.randperm(len(rows), generator=generator) + torch.rand(len(rows), generator=generator)
        t = (place / len(rows) * 200).long()
        noise = torch.randn(z0.shape, generator=generator)
        predicted = model.predict_noise(model.unet, model.add_noise(z0, noise, t), t, c)
        (predicted - noise).square().mean().backward()
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 20, (1 - step / steps) / 0.4)
        optimizer.step()
        optimizer.zero_grad()
    model.unet.requires_grad_(False).eval()
    return model, query


@pytest.mark.parametrize("name", ["loss", "secmi", "pia", "pian", "sima", "sima_mc"])
def test_members_of_an_overfitted_model_score_higher(name, overfitted):
    model, query = overfitted
    assert auc(attacks.run_attack(name, model, query, CONFIG), MEMBERS) > 0.95


def test_an_untrained_model_tells_no_members(tiny_checkpoint):
    model = DiffusionModel.load(str(tiny_checkpoint), Runtime("cpu", "float32", 30))
    n = 30
    columns = attacks.run_components(NAMES, model, lab_query(model, n, n), CONFIG)
    error = math.sqrt((2 * n + 1) / (12 * n * n))  # of an AUC of .5 without ties
    found = {name: auc(scores[:, 0], n) for name, scores in columns.items()}
    assert all(abs(value - 0.5) < 4 * error for value in found.values()), found
