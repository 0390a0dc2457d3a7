"""Gates: higher = more suspicious, thresholds from honest people, and the command."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from s2l import gates
from s2l.cli import main
from s2l.config import Settings
from s2l.data.domain import ImageSet
from s2l.errors import UserError
from s2l.gates.evasions import EVASIONS
from s2l.gates.own_output_jpeg import compressed, quality_of
from s2l.gates.verdict import threshold
from s2l.labs import find_lab


def pictures(n, seed=0, size=32) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (n, 3, size, size), np.uint8))
    return ImageSet(images, ("",) * n, tuple(map(str, range(n))))


def own(model, n) -> ImageSet:
    """What the model itself decodes."""
    z = torch.randn(n, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    images = (model.decode_latents(z) * 255).round().to(torch.uint8)
    return ImageSet(images, ("",) * n, tuple(map(str, range(n))))


@pytest.mark.parametrize("name", list(gates.GATES))
def test_a_gate_scores_every_picture_whatever_the_batch(tiny_model, name):
    upload = gates.Upload(pictures(7), private=pictures(5, seed=1))
    gate, settings = gates.get_gate(name), gates.gate_settings(name)
    scores = gate.score(tiny_model, upload, settings)
    assert scores.shape == (7,) and scores.dtype == torch.float32 and torch.isfinite(scores).all()
    alone = [
        gate.score(tiny_model, gates.Upload(upload.pictures.subset([i]), upload.private), settings) for i in (0, 6)
    ]
    torch.testing.assert_close(torch.cat(alone), scores[[0, 6]], atol=1e-6, rtol=1e-5)


def test_own_output_compares_a_picture_with_the_decoder_s_own_output(tiny_model):
    x = pictures(3).images.float() / 255

    def again(p):
        return tiny_model.decode_latents(tiny_model.encode_images(p))

    def size(residue):
        return avg_pool2d(residue, 2).square().mean(dim=(1, 2, 3)).sqrt()

    expected = -(size(x - again(x)) / size(again(x) - again(again(x)))).log()
    scores = gates.get_gate("own_output").score(
        tiny_model, gates.Upload(pictures(3)), gates.gate_settings("own_output")
    )
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_a_compressed_picture_is_compared_at_its_own_quality(tiny_model):
    photo = find_lab("lab:fresh").people[0].held_out(2)
    images = torch.stack([torch.from_numpy(p.pixels(64)).permute(2, 0, 1) for p in photo])
    for quality in (75, 50):
        saved = compressed(images, quality)
        assert quality_of(saved, (75, 50)).tolist() == [quality] * 2
    assert quality_of(images, (75, 50)).tolist() == [75, 75]  # what was not compressed loses least at the best


def test_every_evasion_keeps_the_form_of_pictures_and_changes_them():
    images = pictures(3).images
    for name, change in EVASIONS.items():
        changed = change(images)
        assert changed.shape == images.shape and changed.dtype == torch.uint8
        assert torch.equal(changed, images) == (name == "untouched"), name
        torch.testing.assert_close(change(images), changed)  # the same every time


def test_near_members_is_the_distance_to_the_nearest_private_photo(tiny_model):
    private = pictures(4, seed=1)
    mixed = ImageSet(torch.cat([private.images[2:3], pictures(1).images]), ("", ""), ("a", "b"))
    scores = gates.get_gate("near_members").score(
        tiny_model, gates.Upload(mixed, private), gates.gate_settings("near_members")
    )
    far = min(((mixed.images[1].float() - p.float()) / 255).square().mean().sqrt().item() for p in private.images)
    np.testing.assert_allclose(scores, [0, -far], atol=1e-6)


def test_a_threshold_stops_the_share_it_may_and_new_people_show_its_false_alarms():
    rng = np.random.default_rng(0)
    groups = [rng.normal(0, 1, 400) for _ in range(12)]
    limit = threshold(groups, size=10, alpha=0.05)
    assert limit.value == pytest.approx(1.645 / np.sqrt(10), abs=0.08)
    assert limit.interval.low <= limit.false_alarm <= limit.interval.high and limit.false_alarm < 0.12
    apart = [*groups[:-1], groups[-1] + 5]  # a person unlike the others is stopped by their threshold
    assert threshold(apart, 10).false_alarm >= 1 / 12
    with pytest.raises(UserError, match="at least 3 people, not 2"):
        threshold(groups[:2], 10)


def test_own_pictures_are_refused_and_noise_is_not(tiny_model):
    honest = [pictures(20, seed=s) for s in range(4)]
    assert gates.judge("own_output", tiny_model, gates.Upload(own(tiny_model, 8)), honest).refused
    verdict = gates.judge("own_output", tiny_model, gates.Upload(pictures(8, seed=77)), honest, alpha=0.01)
    assert not verdict.refused and verdict.statistic == pytest.approx(np.mean(verdict.scores))


def test_wrong_names_and_missing_photos_are_one_sentence(tiny_model):
    upload, honest = gates.Upload(pictures(2)), [pictures(3)] * 3
    with pytest.raises(UserError, match="unknown gate 'own_outptu'. Did you mean 'own_output'"):
        gates.judge("own_outptu", tiny_model, upload, honest)
    with pytest.raises(UserError, match="compares with private photos"):
        gates.judge("near_members", tiny_model, upload, honest)
    with pytest.raises(UserError, match="sharpness"):
        gates.judge("own_output", tiny_model, upload, honest, settings={"sharpness": 1})
    with pytest.raises(ValueError, match="registered twice"):
        gates.register_gate("own_output")(lambda model, upload, settings: None)


def test_one_more_gate_is_one_file(tiny_model, monkeypatch):
    """A gate that registers itself is known everywhere: no list but its own names it."""
    monkeypatch.setattr(gates.registry, "GATES", dict(gates.GATES))

    @gates.register_gate(
        "bright", title="Bright", question="Is it bright?", formula="mean(x)", source="none", settings=Settings
    )
    def score(model, upload, settings):
        return upload.pictures.images.float().mean(dim=(1, 2, 3))

    white = ImageSet(torch.full((2, 3, 32, 32), 255, dtype=torch.uint8), ("", ""), ("a", "b"))
    assert gates.judge("bright", tiny_model, gates.Upload(white), [pictures(9, s) for s in range(3)]).refused


def photos(n, person) -> ImageSet:
    found = find_lab("lab:fresh").people[person].held_out(n)
    images = torch.stack([torch.from_numpy(p.pixels(64)).permute(2, 0, 1) for p in found])
    return ImageSet(images, ("",) * n, tuple(map(str, range(n))))


def save(images: ImageSet, folder):
    folder.mkdir(parents=True)
    for i, image in enumerate(images.images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return folder


def test_the_command(tiny_lab, tiny_model, tmp_path, capsys):
    sp, noise = save(own(tiny_model, 6), tmp_path / "sp"), save(pictures(6), tmp_path / "noise")
    photos = find_lab("lab").people[0].held_out(6)
    held = ImageSet(
        torch.stack([torch.from_numpy(p.pixels(32)).permute(2, 0, 1) for p in photos]), ("",) * 6, ("",) * 6
    )
    honest = save(held, tmp_path / "honest")
    common = ["--device", "cpu", "--batch-size", "8"]
    assert main(["gate", "--upload", str(sp), "--gates", "own_output", "--out", str(tmp_path / "a"), *common]) == 3
    record = json.loads((tmp_path / "a" / "gate.json").read_text())
    assert record["refused"] and len(record["verdicts"][0]["scores"]) == len(record["pictures"]) == 6
    assert "refuse" in capsys.readouterr().out
    members = save(ImageSet(held.images[:3].flip(3), ("",) * 3, ("",) * 3), tmp_path / "private")
    options = ["--private", str(members), "--gates", "near_members", "--alpha", "0.1", *common]
    assert main(["gate", "--upload", str(noise), "--out", str(tmp_path / "b"), *options]) == 0
    assert main(["gate", "--upload", str(members), "--out", str(tmp_path / "c"), *options]) == 3
    for wrong, words in (
        (["--honest", str(honest)], "at least 3 folders"),
        (["--alpha", "0.7"], "--alpha"),
        (["--gates", "none"], "unknown gate"),
    ):
        assert main(["gate", "--upload", str(noise), "--out", str(tmp_path / "d"), *wrong, *common]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


@pytest.mark.brings("Pictures", "An upload of another size than the model's, for `gate`", "resized, and a note says so")
def test_pictures_of_another_size_are_noted(tiny_lab, tmp_path):
    upload = save(pictures(3, size=48), tmp_path / "large")
    common = ["--gates", "own_output", "--device", "cpu", "--alpha", "0.1"]
    main(["gate", "--upload", str(upload), "--out", str(tmp_path / "a"), *common])
    (note,) = json.loads((tmp_path / "a" / "gate.json").read_text())["notes"]
    assert "3 of 3 pictures" in note and "32 x 32" in note
    fitting = save(pictures(3), tmp_path / "fitting")
    main(["gate", "--upload", str(fitting), "--out", str(tmp_path / "b"), *common])
    assert json.loads((tmp_path / "b" / "gate.json").read_text())["notes"] == []


@pytest.mark.brings("Folders", "An empty upload, for `gate`", "refused, with what is allowed")
def test_an_empty_upload_is_one_sentence(tiny_lab, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    words = ["gate", "--upload", str(tmp_path / "empty"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 2 and not (tmp_path / "out").exists()
    assert "no usable image" in capsys.readouterr().err


@pytest.mark.brings(
    "Folders",
    "Honest uploads, for `gate`, that share pictures with the private photos, the upload or each other",
    "refused; the first pair is named",
)
def test_honest_uploads_that_share_pictures_are_refused(tiny_lab, tmp_path, capsys):
    """An honest folder of private photos puts the threshold at their distance to themselves: nothing is refused."""
    people = [photos(6, i) for i in range(5)]
    upload, private, a, b, c = (
        save(p, tmp_path / n) for p, n in zip(people, ("up", "mine", "a", "b", "c"), strict=True)
    )
    first = Image.open(private / "0.png")
    first.save(save(people[2], tmp_path / "leak") / "again.jpg", quality=90)
    out = ["--gates", "near_members", "--alpha", "0.1", "--device", "cpu", "--out", str(tmp_path / "out")]
    for honest, words in (
        ((tmp_path / "leak", b, c), "leak shares pictures with the private photos, such as again.jpg and 0.png"),
        ((private, b, c), "mine shares pictures with the private photos"),
        ((a, a, c), "a share pictures, such as 0.png and 0.png: each honest upload is of another person"),
        ((a, upload, c), "up shares pictures with the upload"),
    ):
        folders = [word for folder in honest for word in ("--honest", str(folder))]
        assert main(["gate", "--upload", str(upload), "--private", str(private), *folders, *out]) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "out").exists()
    apart = [word for folder in (a, b, c) for word in ("--honest", str(folder))]
    assert main(["gate", "--upload", str(private), "--private", str(private), *apart, *out]) == 3


def test_honest_uploads_are_scored_once(tiny_model, monkeypatch):
    """They are the same for every upload; another group is another threshold."""
    gate = gates.get_gate("own_output")
    seen = []

    def counted(model, upload, settings):
        seen.append(len(upload))
        return gate.score(model, upload, settings)

    monkeypatch.setitem(gates.GATES, "own_output", dataclasses.replace(gate, score=counted))
    honest = [pictures(5, seed=s) for s in range(3)]
    first = gates.judge("own_output", tiny_model, gates.Upload(pictures(4)), honest)
    again = gates.judge("own_output", tiny_model, gates.Upload(pictures(4)), honest)
    assert sorted(seen) == [4, 4, 5, 5, 5] and first == again
    gates.judge("own_output", tiny_model, gates.Upload(pictures(4)), [*honest[1:], pictures(5, seed=9)])
    assert len(seen) == 9
