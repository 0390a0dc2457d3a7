"""Domains of thousands of photos: lists of paths, samples, and memory that does not grow with their number."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s2l.config import PRESETS, DomainConfig
from s2l.data import photos
from s2l.data.domain import PAPER_DOMAINS, ImageSet, MembershipSplit, folder_domain, load_folder
from s2l.data.listing import list_photos
from s2l.data.photos import gather, join, pixel_array, read_photos
from s2l.errors import UserError
from s2l.measure import distances
from s2l.measure.control import blind_control

SIDE = 32
ROOT = Path(__file__).resolve().parents[1]


def write_photo(path: Path, seed: int, side: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side + 4, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Nine photos in two folders below, with lists of them."""
    rows = []
    for i in range(9):
        name = f"{'ab'[i % 2]}/{i}.png"
        write_photo(tmp_path / name, i)
        rows.append({"path": name, "caption": f"photo number {i}", "width": 40})
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


# --- lists -----------------------------------------------------------------------------------


def test_a_jsonl_list_gives_paths_below_it_and_captions(folder):
    found = read_photos(folder / "list.jsonl", SIDE, "none")
    assert found.names == tuple(f"{'ab'[i % 2]}/{i}.png" for i in range(9))
    assert found.captions[3] == "photo number 3" and found.images.shape == (9, 3, SIDE, SIDE)
    alone, _ = load_folder(folder / "b", SIDE, "a photo")
    assert torch.equal(found.images[1::2], alone.images) and set(alone.captions) == {"a photo"}


def test_a_list_may_hold_absolute_paths_and_no_captions(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere") / "list.jsonl"
    path.write_text(json.dumps({"file_name": str(folder / "a" / "0.png")}) + "\n\n")
    (listed,) = list_photos(path).photos
    assert listed.path == folder / "a" / "0.png" and listed.caption is None


def test_a_parquet_list(folder):
    import pyarrow
    from pyarrow import parquet

    rows = [json.loads(line) for line in (folder / "list.jsonl").read_text().splitlines()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "list.parquet")
    assert list_photos(folder / "list.parquet") == list_photos(folder / "list.jsonl")


def test_a_parquet_list_that_is_none(folder):
    import pyarrow
    from pyarrow import parquet

    (folder / "list.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a readable parquet file"):
        list_photos(folder / "list.parquet")
    parquet.write_table(pyarrow.table({"width": [40, 40]}), folder / "list.parquet")
    with pytest.raises(UserError, match=r"row 1: each needs \{\"path\""):
        list_photos(folder / "list.parquet")


def test_without_pyarrow_the_message_says_what_to_install(folder, monkeypatch):
    (folder / "list.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        list_photos(folder / "list.parquet")


@pytest.mark.parametrize("text, reason", [("{", "line 1"), ("[1]", "line 1"), ('{"caption": "x"}', "row 1")])
def test_a_wrong_line_is_named(tmp_path, text, reason):
    (tmp_path / "list.jsonl").write_text(text)
    with pytest.raises(UserError, match=reason):
        list_photos(tmp_path / "list.jsonl")


def test_what_is_neither_folder_nor_list(tmp_path):
    (tmp_path / "list.tsv").write_text("path\n")
    for source in (tmp_path / "nowhere", tmp_path / "list.tsv"):
        with pytest.raises(UserError, match=r"not a folder of images, nor a list"):
            list_photos(source)


# --- samples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [-1, photos.LARGE], ids=["on all cores", "on one"])
def test_a_sample_is_random_seeded_in_order_and_decodes_no_more(folder, monkeypatch, large):
    whole = read_photos(folder / "list.jsonl", SIDE, "")
    monkeypatch.setattr(photos, "LARGE", large)
    decoded = []
    monkeypatch.setattr(
        photos, "square", lambda image, side, real=photos.square: decoded.append(1) or real(image, side)
    )
    one, again, other = (read_photos(folder / "list.jsonl", SIDE, "", 4, seed) for seed in (0, 0, 1))
    assert len(decoded) == 12 and one.names == again.names != other.names
    positions = [whole.names.index(name) for name in one.names]
    assert positions == sorted(positions)
    assert torch.equal(one.images, whole.images[positions])
    assert [one.hashes[i] for i in range(4)] == [whole.hashes[p] for p in positions]
    assert one.captions == tuple(whole.captions[p] for p in positions)


@pytest.mark.parametrize("large", [-1, photos.LARGE], ids=["on all cores", "on one"])
def test_unusable_photos_are_replaced_by_others_of_the_sample(folder, monkeypatch, large):
    monkeypatch.setattr(photos, "LARGE", large)
    (folder / "a" / "0.png").write_bytes(b"nothing")
    write_photo(folder / "a" / "2.png", 1)  # the same picture as b/1.png
    write_photo(folder / "a" / "4.png", 4, side=20)
    found = read_photos(folder / "list.jsonl", SIDE, "", limit=6)
    assert len(found.images) == 6 and len(set(found.hashes)) == 6
    every = read_photos(folder / "list.jsonl", SIDE, "")
    assert len(every.images) == 6 and len(every.notes) == 3
    assert [sum(word in note for note in every.notes) for word in ("unreadable", "too small", "same picture")] == [
        1
    ] * 3


def test_non_members_that_are_members_are_left_out(folder):
    config = DomainConfig(name="me", members=str(folder / "a"), nonmembers=str(folder / "list.jsonl"), n_nonmembers=3)
    domain = folder_domain(config, SIDE)
    members, nonmembers = domain.split.members, domain.split.nonmembers
    assert len(members) == 5 and len(nonmembers) == 3 and all(name.startswith("b/") for name in nonmembers.ids)
    assert folder_domain(config, SIDE).key == domain.key
    assert folder_domain(config.model_copy(update={"seed": 5}), SIDE).key != domain.key


def test_no_usable_photo_says_why(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"no usable image in .*a\.png: unreadable"):
        read_photos(tmp_path, SIDE, "")


# --- memory ----------------------------------------------------------------------------------


@pytest.fixture
def in_files(monkeypatch):
    """Every pixel array lies in a file."""
    monkeypatch.setattr(photos, "IN_MEMORY", 0)


def test_arrays_in_files_hold_the_same_pixels(folder, in_files, monkeypatch):
    mapped = read_photos(folder / "list.jsonl", SIDE, "", limit=7)
    monkeypatch.setattr(photos, "IN_MEMORY", 2**28)
    assert torch.equal(mapped.images, read_photos(folder / "list.jsonl", SIDE, "", limit=7).images)


def test_gather_and_join_equal_plain_indexing(in_files):
    a = torch.randint(0, 256, (130, 3, 4, 4), dtype=torch.uint8)
    rows = torch.randperm(130)[:100].tolist()
    assert torch.equal(gather(a, rows), a[rows])
    assert torch.equal(join(a, a[rows]), torch.cat([a, a[rows]]))
    with pytest.raises(ValueError, match="cannot be one set"):
        join(a, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_an_array_that_the_disk_cannot_hold_is_refused(in_files):
    with pytest.raises(UserError, match="GB of disk"):
        pixel_array(10**9, 512, 512)


def test_the_blind_control_does_not_depend_on_how_the_photos_are_cut():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (600, 3, 16, 16), dtype=torch.uint8, generator=generator)
    images[:300] //= 2  # darker members: the control must see it
    sets = [ImageSet(part, ("a photo",) * 300, tuple(map(str, range(300)))) for part in images.split(300)]
    assert blind_control(MembershipSplit(*sets)).auc > 0.99


BIG = """
from s2l.data import photos
from s2l.data.domain import ImageSet, MembershipSplit
photos.IN_MEMORY = 2**24
n, side = 400, 512  # 315 MB of pixels
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1])
before = peak()
images = photos.pixel_array(n, side, side)
for i in range(n):
    images[i] = i % 251
half = [ImageSet(p, ("",) * (n // 2), ("",) * (n // 2)) for p in images.split(n // 2)]
split = MembershipSplit(*half)
both = split.all().subset(range(0, n, 2))
assert int(both.images[-1, 0, 0, 0]) == (n - 2) % 251
print((peak() - before) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory counters")
def test_large_sets_do_not_live_in_memory(tmp_path):
    """315 MB of pixels, joined and sampled: a small part of that stays as memory of the process."""
    done = subprocess.run(
        [sys.executable, "-c", BIG],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"S2L_CACHE": str(tmp_path), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 40
    assert not list((tmp_path / "pixels").iterdir())  # the files are gone


# --- the paper -------------------------------------------------------------------------------


def test_the_papers_domains_and_prompts():
    assert len(PAPER_DOMAINS) == 40 and len(set(PAPER_DOMAINS)) == 39
    templates = [part["template"] for part in PRESETS["paper"]["sp_set"]["prompts"]]
    assert templates == ["photo of {name}", "face of {name}"]


# --- distances of large images ---------------------------------------------------------------


def smooth(n: int, seed: int, side: int = 128) -> np.ndarray:
    """Pictures that look like pictures to the block means: large soft shapes, a little noise, and some near twins."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((n, 3, 8, 8), dtype=np.float32))
    x = torch.nn.functional.interpolate(coarse, side, mode="bilinear").numpy()
    x[1::5] = x[0 : len(x[1::5]) * 5 : 5]
    return (np.clip(x + rng.normal(0, 0.03, x.shape), 0, 1) * 255).round().astype(np.uint8)


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_bounds_from_block_means_change_no_result(noise, k, monkeypatch):
    a, b = smooth(30, 0), smooth(40, 1)
    b[:6] = np.clip(a[3:9].astype(int) + 3, 0, 255)
    if noise:  # blocks of noise are all alike: every pair has to be looked at
        a, b = (np.random.default_rng(i).integers(0, 256, (12 + i, 3, 128, 128), dtype=np.uint8) for i in (0, 1))
    assert distances._block_means(a, b) is not None
    found = (*distances.nearest(a, b, k), *distances.hit_pairs(a, b, 0.1))
    monkeypatch.setattr(distances, "BOUND_SIDE", 10**6)
    expected = (*distances.nearest(a, b, k), *distances.hit_pairs(a, b, 0.1))
    for mine, plain in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, plain)
    assert noise or len(expected[2]) >= 6


def test_few_pairs_of_large_images_are_looked_at(monkeypatch):
    a, b = smooth(30, 0), smooth(200, 1)
    looked_at, exact = [], distances.exact_l2
    monkeypatch.setattr(distances, "exact_l2", lambda *args: looked_at.append(len(args[2])) or exact(*args))
    distances.nearest(a, b)
    distances.hit_pairs(a, b)
    assert sum(looked_at) < 0.1 * 30 * 200
