"""Every kind of picture people bring, read as a viewer shows it; what cannot be read is named and stops nothing."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from s2l.cli import folders
from s2l.data import decode as decoding
from s2l.data import sp_set
from s2l.data.decode import Unreadable, decode
from s2l.data.listing import list_photos
from s2l.data.photos import read_photos, square
from s2l.errors import UserError
from s2l.jobs import uploads

SIDE = 48


def smooth(seed: int = 0, side: int = SIDE) -> np.ndarray:
    """(side, side, 3) uint8 of soft colours, different for each seed and not symmetric."""
    y, x = np.mgrid[:side, :side] / side
    r = np.random.default_rng(seed).random(3)
    return (np.stack([x * r[0] + y * (1 - r[0]), y * r[1], x * y * r[2]], 2) * 255).round().astype(np.uint8)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(decode(path).image)


# --- read as before ----------------------------------------------------------------------------


PLAIN = ("png RGB", "jpg RGB", "bmp RGB", "webp RGB", "png L", "jpg L", "jpg CMYK", "png P", "png 1")


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_files_are_read_bit_for_bit_as_before(tmp_path, kind):
    suffix, mode = kind.split()
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(smooth()).convert(mode).save(path)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(pixels(path), expected)


@pytest.mark.brings("Pictures", "16-bit colour", "the upper bytes are read")
def test_a_16_bit_colour_file_keeps_its_upper_bytes(tmp_path):
    rows = smooth().astype(">u2") * 257
    write_png(tmp_path / "a.png", rows.tobytes(), depth=16, kind=2)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), smooth())


def test_a_profile_that_is_srgb_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(smooth()).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), smooth())


# --- read as a viewer shows it -----------------------------------------------------------------


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    length = len(data) if length is None else length
    return struct.pack(">I", length) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path: Path, rows: bytes, depth: int = 8, kind: int = 2, extra: bytes = b"", side: int = SIDE) -> None:
    """A PNG made by hand, of raw rows, with `extra` chunks behind its header."""
    width = len(rows) // side
    lines = b"".join(b"\0" + rows[i * width : (i + 1) * width] for i in range(side))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, kind, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + extra + end)


@pytest.mark.brings("Pictures", "A phone's photo that EXIF turns", "read upright")
@pytest.mark.parametrize("orientation, turn", [(3, 2), (6, 3), (8, 1)])
def test_a_phones_photo_is_turned_upright(tmp_path, orientation, turn):
    picture = Image.fromarray(np.rot90(smooth(), -turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), smooth())


@pytest.mark.brings("Pictures", "16-bit gray", "scaled to 8 bits")
def test_16_bit_gray_is_scaled_not_clipped(tmp_path):
    gray = smooth()[..., 0]
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "a.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "b.tif")
    for name in ("a.png", "b.tif"):
        np.testing.assert_array_equal(pixels(tmp_path / name), np.repeat(gray[..., None], 3, 2))


@pytest.mark.brings(
    "Pictures", "8 or 12 bits stored in 16 or 32, gray", "scaled by the fewest bits that hold them; a note says so"
)
@pytest.mark.parametrize(
    ("name", "kind", "factor", "note"),
    [
        ("a.tif", np.int32, 1, "32-bit values up to {high}, read as 8 bits"),
        ("a.tif", np.int32, 16, "32-bit values up to {high}, read as 12 bits"),
        ("a.tif", np.int32, 257, "32-bit values up to {high}, read as 16 bits"),
        ("a.png", np.uint16, 1, "16-bit values up to {high}, read as 8 bits"),
        ("a.png", np.uint16, 16, "16-bit values up to {high}, read as 12 bits"),
        ("a.tif", np.uint16, 16, "16-bit values up to {high}, read as 12 bits"),
        ("a.png", np.uint16, 257, ""),
    ],
)
def test_few_bits_in_many_are_not_black(tmp_path, name, kind, factor, note):
    gray = smooth()[..., 0]
    Image.fromarray(gray.astype(kind) * factor).save(tmp_path / name)
    picture = decode(tmp_path / name)
    found = np.asarray(picture.image)[..., 0].astype(int)
    assert np.abs(found - gray).max() <= 1 and picture.note == note.format(high=int(gray.max()) * factor)


def test_a_black_picture_of_16_bits_stays_black(tmp_path):
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(tmp_path / "a.png")
    assert not pixels(tmp_path / "a.png").any() and decode(tmp_path / "a.png").note == ""


@pytest.mark.brings("Pictures", "8 or 12 bits stored in 16, in colour", "left out; a note says why")
@pytest.mark.parametrize(("factor", "kind"), [(1, 2), (16, 2), (16, 6)])
def test_few_bits_in_16_of_colour_are_left_out(tmp_path, factor, kind):
    """Pillow keeps the upper bytes alone."""
    rows = (smooth().astype(int) * factor).astype(">u2")
    if kind == 6:
        rows = np.dstack([rows, np.full(rows.shape[:2], 65535)]).astype(">u2")
    write_png(tmp_path / "a.png", rows.tobytes(), depth=16, kind=kind)
    with pytest.raises(Unreadable, match="16-bit colours are all below 4096"):
        decode(tmp_path / "a.png")


@pytest.mark.brings("Pictures", "A TIFF of YCbCr colours", "read if compressed as JPEG; else left out, with the reason")
def test_a_tiff_of_other_colours_is_not_called_damaged(tmp_path):
    image = Image.fromarray(smooth()).convert("YCbCr")
    image.save(tmp_path / "a.tif")
    with pytest.raises(Unreadable, match="^a TIFF of YCbCr colours without compression is not read: save it as RGB"):
        decode(tmp_path / "a.tif")
    image.convert("RGB").save(tmp_path / "b.tif", compression="jpeg", quality=95)
    assert np.abs(pixels(tmp_path / "b.tif").astype(int) - smooth()).mean() < 3


@pytest.mark.brings("Pictures", "A cut-out with hidden colours under alpha", "drawn over white")
def test_hidden_colours_under_alpha_are_white(tmp_path):
    rgba = np.dstack([smooth(), np.full((SIDE, SIDE), 255, np.uint8)])
    rgba[:10, :, 3], rgba[10:20, :, 3] = 0, 128
    Image.fromarray(rgba).save(tmp_path / "a.png")
    found = pixels(tmp_path / "a.png")
    assert (found[:10] == 255).all()
    half = smooth()[10:20] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(found[10:20] - half).max() <= 1
    np.testing.assert_array_equal(found[20:], smooth()[20:])


@pytest.mark.brings("Pictures", "A palette with a transparent colour", "drawn over white")
def test_a_palette_with_a_transparent_colour_is_over_white(tmp_path):
    picture = Image.fromarray(smooth()).quantize(8)
    picture.save(tmp_path / "a.gif", transparency=picture.getpixel((0, 0)))
    assert (pixels(tmp_path / "a.gif")[0, 0] == 255).all()


def linear_profile() -> bytes:
    """A colour profile like sRGB's but linear: sRGB's own with its curves replaced by straight lines."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    text = profile.replace("sRGB built-in".encode("utf-16-be"), "line built-in".encode("utf-16-be"))
    at, size = next(
        struct.unpack(">II", text[i + 4 : i + 12]) for i in range(132, 400, 12) if text[i : i + 4] == b"rTRC"
    )
    text[at : at + size] = (b"curv" + bytes(4) + struct.pack(">I", 0)).ljust(size, b"\0")
    return bytes(text)


@pytest.mark.brings("Pictures", "A colour profile other than sRGB", "converted to sRGB")
def test_another_colour_profile_is_converted_to_srgb(tmp_path):
    gray = np.full((SIDE, SIDE, 3), 55, np.uint8)  # linear light .2157 is sRGB 128
    Image.fromarray(gray).save(tmp_path / "a.png", icc_profile=linear_profile())
    assert np.abs(pixels(tmp_path / "a.png").astype(int) - 128).max() <= 1


@pytest.mark.brings("Pictures", "A damaged colour profile", "a note; the picture is used")
def test_a_profile_that_is_none_is_said_and_the_picture_used(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.png", icc_profile=b"no profile at all" * 20)
    photos = read_photos(tmp_path, SIDE, "")
    assert len(photos.names) == 1 and "colour profile" in photos.notes[0]


@pytest.mark.brings("Pictures", "An animated file", "its first frame")
def test_an_animation_gives_its_first_frame(tmp_path):
    first, second = (Image.fromarray(smooth(i)).convert("L") for i in (0, 1))
    for name in ("a.gif", "a.webp", "a.png"):
        options = {"lossless": True} if name.endswith("webp") else {}
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)
        np.testing.assert_array_equal(pixels(tmp_path / name)[..., 0], np.asarray(first))


@pytest.mark.brings("Pictures", "AVIF, TIFF and other formats that Pillow reads", "read")
@pytest.mark.parametrize("name", ["a.avif", "a.tif", "a.TIFF", "a.gif", "a.JPG", "a.PNG"])
def test_formats_that_were_passed_over_are_used(tmp_path, name):
    Image.fromarray(smooth()).save(tmp_path / name)
    assert read_photos(tmp_path, SIDE, "").names == (name,)


@pytest.mark.parametrize("name", ["a.dat", "photo", "a.txt.bak"])
def test_a_picture_is_known_by_its_content(tmp_path, name):
    Image.fromarray(smooth()).save(tmp_path / name, format="JPEG")
    (tmp_path / "notes").write_text("no picture")
    Image.fromarray(smooth(1)).save(tmp_path / "b.jpg", format="PNG")  # the suffix is wrong
    assert sorted(read_photos(tmp_path, SIDE, "").names) == sorted([name, "b.jpg"])


@pytest.mark.brings("Pictures", "HEIC without pillow-heif", "left out; a note says what to install")
def test_heic_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "has_heif", lambda: False)
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    (tmp_path / "b.HEIC").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(40))
    photos = read_photos(tmp_path, SIDE, "")
    assert photos.names == ("a.png",) and "b.HEIC" in photos.notes[0] and "pip install pillow-heif" in photos.notes[0]


@pytest.mark.brings("Pictures", "BMP, PPM, TGA and icons (ICO)", "read; of an icon, its largest picture")
@pytest.mark.parametrize("name", ["a.bmp", "a.ppm", "a.pnm", "a.tga", "a.ico"])
def test_older_formats_are_read_bit_for_bit(tmp_path, name):
    options = {"sizes": [(16, 16), (SIDE, SIDE)]} if name == "a.ico" else {}
    Image.fromarray(smooth()).save(tmp_path / name, **options)
    photos = read_photos(tmp_path, SIDE, "")
    np.testing.assert_array_equal(photos.images[0].permute(1, 2, 0), smooth())
    assert decoding.header(tmp_path / name).format == name.split(".")[1].replace("pnm", "ppm").upper()


@pytest.mark.parametrize("suffix", ["tif", "tga", "ico", "ppm", "avif", "gif", "webp", "jp2", "heic"])
def test_a_file_without_metadata_has_none(tmp_path, suffix):
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    Image.fromarray(smooth()).save(tmp_path / f"a.{suffix}")
    assert decode(tmp_path / f"a.{suffix}").traits.metadata in ((), ("comment",))  # JPEG 2000's writer leaves its name


def test_a_targa_is_told_by_its_name_alone_and_its_unused_alpha_is_passed_over(tmp_path):
    hidden = np.concatenate([smooth(), np.zeros((SIDE, SIDE, 1), np.uint8)], axis=2)
    Image.fromarray(hidden).save(tmp_path / "a.tga")
    np.testing.assert_array_equal(pixels(tmp_path / "a.tga"), smooth())
    (tmp_path / "b.png").write_bytes((tmp_path / "a.tga").read_bytes())
    with pytest.raises(Unreadable, match="no picture of a known format"):
        decode(tmp_path / "b.png")
    Image.fromarray(smooth()).save(tmp_path / "c.tga", format="PNG")
    with pytest.raises(Unreadable):
        decode(tmp_path / "c.tga")


@pytest.mark.brings("Pictures", "JPEG XL, and raw files of cameras", "left out; a note says what to do")
@pytest.mark.parametrize("name", ["b.jxl", "b.DNG", "b.nef"])
def test_what_is_not_read_is_counted_with_the_reason(tmp_path, name):
    """A raw file is a TIFF whose first picture is often a thumbnail."""
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    Image.fromarray(smooth(1)).save(tmp_path / name, format="TIFF")
    photos = read_photos(tmp_path, SIDE, "")
    (reason,) = photos.account.left_out
    assert photos.names == ("a.png",) and "is not read: save it as" in photos.notes[0] and "is not read" in reason
    with pytest.raises(UserError, match=r"no usable image .*is not read.*; allowed: (?!.*\.jxl)"):
        read_photos(_list_of(tmp_path, name), SIDE, "")


def _list_of(folder: Path, name: str) -> Path:
    (folder / "list.csv").write_text(f"path,caption\n{name},a photo\n")
    return folder / "list.csv"


@pytest.mark.brings("Pictures", "HEIC with pillow-heif", "read")
def test_heic_is_read_with_its_reader(tmp_path):
    pytest.importorskip("pillow_heif")
    assert decoding.has_heif()
    Image.fromarray(smooth()).save(tmp_path / "a.heic", quality=90)
    assert np.abs(pixels(tmp_path / "a.heic").astype(int) - smooth()).mean() < 4
    # As a phone held upright saves it: EXIF says how to rotate it, and so does the container, which alone counts.
    turned, upright = Image.Exif(), smooth()
    turned[0x0112] = 6
    phone = Image.fromarray(np.rot90(upright).copy())
    phone.info["exif"] = turned.tobytes()
    phone.save(tmp_path / "b.HEIC", quality=90)
    photos = read_photos(tmp_path, SIDE, "")
    assert photos.names == ("a.heic", "b.HEIC") and photos.account.traits[1].format == "HEIF"
    assert np.abs(photos.images[1].permute(1, 2, 0).numpy().astype(int) - upright).mean() < 4
    assert "EXIF" in photos.account.traits[1].metadata
    (tmp_path / "c.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:300])
    assert any("c.heic: unreadable" in note for note in read_photos(tmp_path, SIDE, "").notes)


# --- subfolders --------------------------------------------------------------------------------


@pytest.mark.brings("Folders", "Photos in subfolders", "read; their id is the path in the folder")
def test_subfolders_are_read_sorted_with_relative_ids(tmp_path):
    for i, name in enumerate(("b.png", "x.png/a.png", "a/c.png", "a/B/d.png", ".hidden/e.png", "__MACOSX/f.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth(i)).save(tmp_path / name)
    assert read_photos(tmp_path, SIDE, "").names == ("a/B/d.png", "a/c.png", "b.png", "x.png/a.png")


# --- one bad file stops nothing ----------------------------------------------------------------


def truncated(path: Path) -> None:
    Image.fromarray(smooth()).save(path)
    path.write_bytes(path.read_bytes()[:-400])


def bad_length(path: Path) -> None:
    write_png(path, smooth().tobytes(), extra=chunk(b"tEXt", b"key\0value", length=3))


def text_bomb(path: Path) -> None:
    bomb = b"workflow\0\0" + zlib.compress(bytes(2 * PngImagePlugin.MAX_TEXT_CHUNK))
    write_png(path, smooth().tobytes(), extra=chunk(b"zTXt", bomb))


def profile_bomb(path: Path) -> None:
    bomb = b"icc\0\0" + zlib.compress(bytes(2 * PngImagePlugin.MAX_TEXT_CHUNK))
    write_png(path, smooth().tobytes(), extra=chunk(b"iCCP", bomb))


def fifo(path: Path) -> None:
    os.mkfifo(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere.png")


def pixel_bomb(path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""))


def odd_floats(path: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE), np.nan, np.float32)).save(path, format="TIFF")


BAD = (truncated, bad_length, text_bomb, profile_bomb, fifo, empty, dangling, pixel_bomb, odd_floats)


@pytest.mark.brings("Folders", "One bad file among good ones", "left out and named; the folder is used")
@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_one_bad_file_is_left_out_and_named(tmp_path, make):
    Image.fromarray(smooth(1)).save(tmp_path / "good.png")
    make(tmp_path / "bad.png")
    photos = read_photos(tmp_path, SIDE, "")
    assert photos.names == ("good.png",)
    (note,) = photos.notes
    assert note.startswith("bad.png: unreadable (") and "\n" not in note


def test_a_list_that_names_a_folder_says_so(tmp_path):
    Image.fromarray(smooth(1)).save(tmp_path / "good.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "list.jsonl").write_text('{"path": "folder.png"}\n{"path": "good.png"}\n{"path": "missing.png"}\n')
    photos = read_photos(tmp_path / "list.jsonl", SIDE, "")
    assert photos.names == ("good.png",)
    assert "a folder, not a picture" in photos.notes[0] and "no such file" in photos.notes[1]


@pytest.mark.brings("Pictures", "A cut file", "left out; its reason is named")
@pytest.mark.parametrize("cut", range(0, 1800, 60))
def test_a_damaged_file_raises_its_reason_and_nothing_else(tmp_path, cut):
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "JPEG" if cut % 120 else "TIFF")
    data = bytearray(buffer.getvalue())
    data[cut % len(data) : cut % len(data) + 8] = b"\xff" * 8
    (tmp_path / "a").write_bytes(bytes(data))
    try:
        assert decode(tmp_path / "a").image.mode == "RGB"
    except Unreadable as error:
        assert str(error)


# --- the same decoder everywhere ---------------------------------------------------------------


@pytest.fixture
def odd(tmp_path) -> Path:
    """A folder of three files that need the decoder: turned, cut out and 16 bits."""
    folder = tmp_path / "odd"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth(0)).save(folder / "a.png", exif=exif)
    Image.fromarray(np.dstack([smooth(1), smooth(2)[..., 0]])).save(folder / "b.png")
    Image.fromarray(smooth(3)[..., 0].astype(np.uint16) * 257).save(folder / "c.png")
    return folder


def test_every_way_in_gives_the_same_pixels(odd, tmp_path):
    from s2l.store import Store

    names = ("a.png", "b.png", "c.png")
    squares = np.stack([square(decode(odd / name).image, SIDE) for name in names])
    expected = torch.from_numpy(squares).permute(0, 3, 1, 2)
    assert torch.equal(read_photos(odd, SIDE, "").images, expected)
    images, _ = folders.read_generations(odd, folders.generations_resolution(odd, "lab"))
    assert torch.equal(images.images, expected)
    tuning, _ = folders.training_images(odd, SIDE, "a photo")
    assert torch.equal(tuning.images, expected)
    copies = [tmp_path / name for name in names]
    for copy in copies:
        copy.write_bytes((odd / copy.name).read_bytes())
    kept = uploads.keep(Store(tmp_path / "cache"), {"members": copies})
    assert torch.equal(read_photos(kept["members"], SIDE, "").images, expected)
    (odd / "metadata.jsonl").write_text("".join(f'{{"file_name": "{name}", "text": "x"}}\n' for name in names))
    assert torch.equal(sp_set.load_images(odd).images, expected)


@pytest.mark.brings("Pictures", "Generations of any format and size given to `extract`", "compared at their own size")
@pytest.mark.parametrize("suffix", ["jpg", "webp", "PNG"])
def test_generations_are_compared_at_their_own_size(tmp_path, suffix):
    Image.fromarray(smooth(side=96)).save(tmp_path / f"a.{suffix}")
    assert folders.generations_resolution(tmp_path, "lab") == 96


@pytest.mark.brings("Pictures", "Generations of two sizes given to `extract`", "refused with one sentence")
def test_generations_of_two_sizes_are_refused(tmp_path):
    Image.fromarray(smooth(side=96)).save(tmp_path / "a.jpg")
    Image.fromarray(smooth(side=64)).save(tmp_path / "b.webp")
    with pytest.raises(UserError, match="different sizes"):
        folders.generations_resolution(tmp_path, "lab")


def test_a_listing_reads_no_side_files(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    Image.fromarray(smooth()).save(tmp_path / "a.txt", format="PNG")
    assert [photo.name for photo in list_photos(tmp_path).photos] == ["a.png"]
