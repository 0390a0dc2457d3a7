"""A picture file to upright sRGB pixels: the one decoder of folders, lists, uploads, SP sets and generations.

What a viewer shows is what is scored: rotated as the camera recorded, transparency over white, 16 bits scaled to 8,
other colour spaces converted to sRGB, the first frame of an animation. A plain RGB file keeps its pixels bit for bit.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from s2l.data.files import Traits, traits

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
)  # fmt: skip
# Pictures that are not read, and why. The reader of JPEG XL unpacks a file of any size before it can be refused. The
# first picture of a camera's raw file, which is a TIFF, is often a thumbnail.
RAW = (".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".srw", ".pef", ".orf", ".rw2", ".raf")
NOT_READ = {".jxl": "JPEG XL is not read: save it as PNG or JPEG"} | dict.fromkeys(
    RAW, "a camera's raw file is not read: save it as TIFF, PNG or JPEG"
)
# Recognized by their first bytes, whatever the name. No format that starts another program (EPS) or follows references.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "ICO")
HEAD = 32  # bytes that identify a format
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
BITS, PHOTOMETRIC, YCBCR = 258, 262, 6  # of TIFF: bits per value, the kind of colours
SIXTEEN = (";16", ";16B", ";16L", ";16N")  # ends of Pillow's names for 16 bits, of which it keeps the upper 8
DARK = 16  # of 256: the upper bytes of 12 bits that are stored in 16
AVIF, HEIC = (b"avif", b"avis"), (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class Unreadable(ValueError):
    """A file that cannot be read as a picture; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Decoded:
    """An RGB picture, how its file was saved, and what had to be assumed to read it ("" if nothing)."""

    image: Image.Image
    traits: Traits
    note: str = ""


@lru_cache(maxsize=1)
def has_heif() -> bool:
    """Whether HEIC can be read: it needs the optional package pillow-heif, which this registers."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def suffix_of(path: str | Path) -> str:
    """ ".png" of a/B.PNG."""
    return os.path.splitext(path)[1].lower()


def _formats(path: str | Path, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Which formats a file may have. A TGA has no first bytes of its own, so that only its name tells it."""
    return readable(("TGA",) if suffix_of(path) == ".tga" and allowed == FORMATS else allowed)


@lru_cache(maxsize=8)
def readable(formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats that this Pillow can read; it has to load its readers first."""
    has_heif()
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


def looks_like_picture(head: bytes) -> bool:
    """Whether a file that begins with `head` is a picture."""
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return head[8:12] in AVIF + HEIC
    return head.startswith(MAGIC)


def open_regular(path: str | Path) -> BinaryIO:
    """A regular file, opened for reading. Raises Unreadable for anything else, without opening it."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise Unreadable("a folder, not a picture" if stat.S_ISDIR(mode) else "not a regular file")
        return open(path, "rb")
    except FileNotFoundError:
        raise Unreadable("there is no such file") from None
    except OSError as error:
        raise Unreadable(f"cannot be opened ({error.strerror})") from None


def decode(path: str | Path, formats: tuple[str, ...] = FORMATS, max_pixels: int | None = None) -> Decoded:
    """The picture of a file. Raises Unreadable with the reason, and nothing else, whatever the file holds."""
    try:
        if (reason := NOT_READ.get(suffix_of(path))) is not None:
            raise Unreadable(reason)
        with open_regular(path) as file, Image.open(file, formats=_formats(path, formats)) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise Unreadable(f"more than {max_pixels / 1e6:g} million pixels")
            return _upright(image)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        with open_regular(path) as file:
            heic = file.read(HEAD)[4:8] == b"ftyp" and not has_heif()
        raise Unreadable("HEIC needs `pip install pillow-heif`" if heic else "no picture of a known format") from None
    except Image.DecompressionBombError:
        raise Unreadable("too many pixels") from None
    except Exception as error:  # on a damaged file the decoders can raise nearly anything
        raise Unreadable(f"damaged: {error or type(error).__name__}") from None


def header(path: str | Path) -> Traits:
    """How a file was saved, by its header alone: the size is the one before any rotation. Raises Unreadable."""
    try:
        with open_regular(path) as file, Image.open(file, formats=_formats(path, FORMATS)) as image:
            return traits(image, image.size, getattr(image, "quantization", None) or {})
    except Exception as error:
        raise Unreadable(f"damaged: {error or type(error).__name__}") from None


def _upright(image: Image.Image) -> Decoded:
    profile = image.info.get("icc_profile")
    tables = getattr(image, "quantization", None) or {}
    coding, raw_mode = _coding(image)
    if image.format == "TIFF" and coding == "raw" and image.tag_v2.get(PHOTOMETRIC) == YCBCR:  # type: ignore[attr-defined]
        raise Unreadable("a TIFF of YCbCr colours without compression is not read: save it as RGB")
    image.load()
    if raw_mode.endswith(SIXTEEN) and _brightest(image) < DARK:
        raise Unreadable("its 16-bit colours are all below 4096, as those of 8 or 12 bits are: save it with 8 bits")
    upright = _turned(image)
    if image.format == "TGA" and image.mode == "RGBA" and image.getchannel("A").getbbox() is None:
        upright = upright.convert("RGB")  # the fourth byte of its pixels is often not used
    rgb, note = _rgb(upright, profile)
    return Decoded(rgb, traits(image, rgb.size, tables), note)


def _brightest(image: Image.Image) -> int:
    """The highest value of any colour."""
    return int(np.asarray(image)[..., :3].max())


def _coding(image: Image.Image) -> tuple[str, str]:
    """How the pixels of an opened file are stored: the coding, and the layout in Pillow's words if it is of colours."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return "", ""
    coding, _, _, layout = tiles[0]
    layout = layout if isinstance(layout, str) else next((x for x in layout or () if isinstance(x, str)), "")
    return coding, layout if layout.startswith("RGB") else ""


def _turned(image: Image.Image) -> Image.Image:
    if image.format != "TIFF" and not any("exif" in str(key) or "xmp" in str(key).lower() for key in image.info):
        return image  # reading EXIF costs more than decoding a small picture
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # with unreadable EXIF, nothing is rotated
        return image
    # A file without orientation is not copied.
    return image if orientation in (0, 1, None) else ImageOps.exif_transpose(image)


def _rgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    if image.mode.startswith("I") or image.mode == "F":
        gray, guess = _eight_bits(image)
        rgb, note = _to_srgb(gray, profile)
        return rgb, "; ".join(filter(None, (guess, note)))
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        over, note = _to_srgb(colours.convert("RGB"), profile)
        over.putalpha(colours.getchannel("A"))
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB"), note
    if image.mode in ("1", "P", "PA", "LA", "La", "RGBX"):
        image = image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")
    return _to_srgb(image, profile)


def _eight_bits(image: Image.Image) -> tuple[Image.Image, str]:
    """An (H, W) picture of integers, or of floats in [0, 1], as 8 bits, and what had to be assumed of its white.

    Data of 8 or 12 bits is often stored in 16 or 32 bits as it is. Raises Unreadable for other ranges.
    """
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # NaN is refused too
            raise Unreadable("decimal values outside of 0 to 1")
        return Image.fromarray((values * 255).round().astype(np.uint8)), ""
    if low < 0 or high > 65535:
        raise Unreadable("32-bit values, whose white level is not known")
    (stored,) = bits if len(bits := getattr(image, "tag_v2", {}).get(BITS, (16,))) == 1 else (16,)
    used = 12 if stored == 12 else next(n for n in (8, 12, 16) if high < 2**n) if high else 16
    white = 2**used - 1
    pixels = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    return Image.fromarray(pixels), "" if used == stored or not high else (
        f"{stored}-bit values up to {high}, read as {used} bits"
    )


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None when it is sRGB. Raises ImageCms.PyCMSError when it is none for this mode."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if "srgb" in ImageCms.getProfileDescription(source).lower():
        return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    if image.mode == "YCbCr":
        image = image.convert("RGB")
    if profile:
        try:
            transform = _transform(profile, image.mode)
            if transform is not None:
                return transform.apply(image), ""
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            return image.convert("RGB"), "its colour profile does not fit and was taken as sRGB"
    return (image if image.mode == "RGB" else image.convert("RGB")), ""
