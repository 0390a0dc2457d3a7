"""A photo of a fictional person as pixels: a few dozen ellipses and polygons on a canvas."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from s2l.worlds.portraits import COLOURS, EYES, HAIR_COLOURS, RESOLUTION, SKIN, Identity, Photo

SUPERSAMPLING = 4  # drawn at 256 px, then reduced: smooth edges at 64 px


def _shade(colour, factor: float):
    return tuple(int(max(0, min(255, c * factor))) for c in colour)


def _mix(a, b, weight: float):
    return tuple(round(x * (1 - weight) + y * weight) for x, y in zip(a, b, strict=True))


class _Canvas:
    """Draws in head coordinates (fractions of the side, origin between the eyes and the mouth)."""

    def __init__(self, who: Identity, shot: Photo, size: int):
        self.size = size
        self.image = Image.new("RGB", (size, size), COLOURS[shot.background_colour])
        self.draw = ImageDraw.Draw(self.image)
        self.cx, self.cy = 0.5 + shot.dx, 0.47 + shot.dy
        self.scale = shot.scale
        self.cos, self.sin = math.cos(math.radians(shot.tilt)), math.sin(math.radians(shot.tilt))

    def at(self, x: float, y: float) -> tuple[float, float]:
        x, y = x * self.scale, y * self.scale
        px = self.cx + x * self.cos - y * self.sin
        py = self.cy + x * self.sin + y * self.cos
        return px * self.size, py * self.size

    def polygon(self, points, fill):
        self.draw.polygon([self.at(x, y) for x, y in points], fill=fill)

    def ellipse(self, x, y, rx, ry, fill, start=0.0, stop=2 * math.pi, steps=36):
        angles = [start + (stop - start) * i / steps for i in range(steps + 1)]
        self.polygon([(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles], fill)

    def line(self, points, fill, width: float):
        pixels = max(1, int(width * self.scale * self.size))
        self.draw.line([self.at(x, y) for x, y in points], fill=fill, width=pixels, joint="curve")

    def ring(self, x, y, rx, ry, fill, width, corners=40):
        points = []
        for i in range(corners + 1):
            angle = 2 * math.pi * i / corners
            points.append((x + rx * math.cos(angle), y + ry * math.sin(angle)))
        self.line(points, fill, width)


def _background(canvas: _Canvas, shot: Photo) -> None:
    size, draw = canvas.size, canvas.draw
    first, second = COLOURS[shot.background_colour], COLOURS[shot.second_colour]
    if shot.background == "gradient":
        for y in range(size):
            draw.line([(0, y), (size, y)], fill=_mix(first, second, 0.8 * y / size))
    elif shot.background == "horizon":
        draw.rectangle([0, int(size * (0.35 + 0.35 * shot.phase)), size, size], fill=second)
    elif shot.background == "stripes":
        width = size // 5
        for start in range(int(-width * 2 + shot.phase * 2 * width), size, 2 * width):
            draw.rectangle([start, 0, start + width, size], fill=_mix(first, second, 0.7))
    elif shot.background == "spot":
        cx, cy, r = size * (0.15 + 0.7 * shot.phase), size * 0.25, size * 0.22
        draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=second)
    elif shot.background == "window":
        left, w = size * (0.02 + 0.55 * shot.phase), size * 0.36
        draw.rectangle([left, size * 0.08, left + w, size * 0.55], fill=second)
        bar = [(left + w / 2, size * 0.08), (left + w / 2, size * 0.55)]
        draw.line(bar, fill=_shade(first, 0.8), width=size // 40)
        draw.line([(left, size * 0.3), (left + w, size * 0.3)], fill=_shade(first, 0.8), width=size // 40)


def _body(canvas: _Canvas, who: Identity, shot: Photo) -> None:
    skin, cloth, trim = SKIN[who.skin], COLOURS[shot.clothes_colour], COLOURS[shot.trim_colour]
    # Shoulders stay level while the head tilts: draw them in picture coordinates.
    size, draw = canvas.size, canvas.draw
    cx, top = (0.5 + 0.7 * shot.dx) * size, (0.47 + shot.dy + 0.285 * shot.scale) * size
    half = 0.40 * shot.scale * size
    draw.polygon(
        [(cx - half * 0.42, top), (cx + half * 0.42, top), (cx + half * 0.9, top + size * 0.09),
         (cx + half * 1.06, size), (cx - half * 1.06, size), (cx - half * 0.9, top + size * 0.09)],
        fill=cloth,
    )  # fmt: skip
    if shot.clothes == "striped":
        step = size * 0.085
        y = top + step * 0.6
        while y < size:
            draw.rectangle([cx - half * 0.86, y, cx + half * 0.86, y + step * 0.45], fill=trim)
            y += step
    neck = 0.085 * shot.scale * size
    draw.polygon(
        [(cx - neck, top - size * 0.12), (cx + neck, top - size * 0.12),
         (cx + neck, top + size * 0.02), (cx, top + size * 0.075), (cx - neck, top + size * 0.02)],
        fill=_shade(skin, 0.86),
    )  # fmt: skip
    if shot.clothes == "jacket":
        for side in (-1, 1):
            draw.polygon(
                [(cx + side * neck, top), (cx + side * neck * 2.3, top + size * 0.02), (cx, top + size * 0.26)],
                fill=trim,
            )
    elif shot.clothes == "sweater":
        draw.line(
            [(cx - neck * 1.25, top), (cx, top + size * 0.095), (cx + neck * 1.25, top)],
            fill=trim, width=int(size * 0.035), joint="curve",
        )  # fmt: skip


def _hair_behind(canvas: _Canvas, who: Identity) -> None:
    w, h, colour = who.face_width, who.face_height, HAIR_COLOURS[who.hair_colour]
    dark = _shade(colour, 0.82)
    if who.hair_style == "long":
        canvas.ellipse(0, -0.05, w * 1.28, h * 1.08, dark)
        canvas.polygon([(-w * 1.28, -0.05), (w * 1.28, -0.05), (w * 1.36, h * 1.45), (-w * 1.36, h * 1.45)], dark)
    elif who.hair_style == "bob":
        canvas.ellipse(0, -0.03, w * 1.34, h * 1.08, dark)
        canvas.polygon([(-w * 1.34, 0), (w * 1.34, 0), (w * 1.22, h * 0.72), (-w * 1.22, h * 0.72)], dark)
    elif who.hair_style == "afro":
        canvas.ellipse(0, -0.10, w * 1.62, h * 1.10, colour)
    elif who.hair_style == "bun":
        canvas.ellipse(0, -h * 1.16, w * 0.48, w * 0.46, colour)
    elif who.hair_style == "curly":
        for i in range(9):
            angle = math.pi * (0.95 + 1.1 * i / 8)
            canvas.ellipse(1.1 * w * math.cos(angle), -0.03 + h * 0.98 * math.sin(angle), w * 0.36, w * 0.36, colour)


def _face(canvas: _Canvas, who: Identity, shot: Photo) -> None:
    skin, w, h = SKIN[who.skin], who.face_width, who.face_height
    for side in (-1, 1):  # ears
        canvas.ellipse(side * w * 0.99 - shot.yaw * 0.012, 0.015, 0.03, 0.05, _shade(skin, 0.88))
        if who.earrings != "none":
            metal = (238, 196, 60) if who.earrings == "gold" else (208, 214, 224)
            canvas.ellipse(side * w * 1.03 - shot.yaw * 0.012, 0.082, 0.021, 0.021, metal)
    # A superellipse: exponent 2 is a round jaw, larger ones are squarer.
    outline = []
    for i in range(64):
        a = 2 * math.pi * i / 64
        power = 2 / (2 + (1.6 * who.jaw if math.sin(a) > 0 else 0.2))
        x = w * math.copysign(abs(math.cos(a)) ** power, math.cos(a))
        y = h * math.copysign(abs(math.sin(a)) ** power, math.sin(a))
        outline.append((x * (1 - 0.12 * (1 - who.jaw) * max(0.0, y / h)), y))
    canvas.polygon(outline, skin)
    # One soft-edged shadow on the side away from the light.
    away = -math.copysign(1, shot.light)
    shaded = [(x, y) for x, y in outline if x * away > 0]
    inner = [(x * (1 - 0.45 * abs(shot.light)), y) for x, y in reversed(shaded)]
    canvas.polygon(sorted(shaded, key=lambda p: p[1]) + sorted(inner, key=lambda p: -p[1]), _shade(skin, 0.90))


def _features(canvas: _Canvas, who: Identity, shot: Photo) -> None:
    skin, w, h = SKIN[who.skin], who.face_width, who.face_height
    hair = HAIR_COLOURS[who.hair_colour]
    shift = shot.yaw * 0.035
    # Beard before mouth, so that lips stay visible.
    beard = _shade(hair, 0.9)
    if who.beard == "full":
        canvas.ellipse(shift * 0.5, h * 0.30, w * 0.96, h * 0.70, beard, 0.0, math.pi)
        canvas.polygon([(-w * 0.96 + shift * 0.5, h * 0.31), (-w * 0.62 + shift, h * 0.34), (0 + shift, h * 0.30),
                        (w * 0.62 + shift, h * 0.34), (w * 0.96 + shift * 0.5, h * 0.31)], beard)  # fmt: skip
    elif who.beard == "goatee":
        canvas.ellipse(shift, h * 0.74, w * 0.34, h * 0.22, beard)
    # Eyes and brows
    for side in (-1, 1):
        x, y = side * who.eye_gap + shift, -0.035
        if shot.blink:
            canvas.line([(x - who.eye_size, y), (x, y + 0.012), (x + who.eye_size, y)], _shade(skin, 0.45), 0.012)
        else:
            canvas.ellipse(x, y, who.eye_size * 1.25, who.eye_size * 0.85, (250, 250, 248))
            canvas.ellipse(x + shot.gaze * 0.010, y, who.eye_size * 0.68, who.eye_size * 0.72, EYES[who.eye_colour])
            canvas.ellipse(x + shot.gaze * 0.010, y, who.eye_size * 0.32, who.eye_size * 0.34, (12, 12, 14))
        lift = -0.012 if shot.expression == "laughing" else (0.010 if shot.expression == "serious" else 0.0)
        inner_y, outer_y = y - 0.052 + lift + who.brow_tilt, y - 0.052 + lift * 0.5 - who.brow_tilt
        canvas.line([(x - side * 0.036, inner_y), (x + side * 0.042, outer_y)], _shade(hair, 0.62), who.brow)
    # Nose
    nx, ny = shift * 1.5, -0.005
    canvas.line([(nx - shot.yaw * 0.008, ny), (nx + who.nose_width * 0.55, ny + who.nose_length),
                 (nx - who.nose_width * 0.6, ny + who.nose_length)], _shade(skin, 0.72), 0.012)  # fmt: skip
    if who.freckles:
        for side in (-1, 1):
            for i in range(3):
                canvas.ellipse(
                    side * (0.075 + 0.025 * i) + shift, 0.055 + 0.012 * (i % 2), 0.007, 0.007, _shade(skin, 0.72)
                )
    if who.beard == "moustache" or who.beard == "full":
        x, reach = shift * 1.2, who.mouth_width * 1.05
        points = [(x - reach, h * 0.44), (x, h * 0.32), (x + reach, h * 0.44), (x, h * 0.42)]
        canvas.polygon(points, _shade(beard, 0.85))
    # Mouth
    mx, my, mw = shift * 1.2, h * 0.52, who.mouth_width
    lip = _mix(skin, (176, 44, 56), 0.62)
    if shot.expression == "laughing":
        canvas.ellipse(mx, my - 0.012, mw, 0.062, (92, 22, 30), 0.0, math.pi)
        canvas.polygon([(mx - mw * 0.86, my - 0.010), (mx + mw * 0.86, my - 0.010),
                        (mx + mw * 0.72, my + 0.012), (mx - mw * 0.72, my + 0.012)], (250, 248, 244))  # fmt: skip
        canvas.line([(mx - mw, my - 0.012), (mx + mw, my - 0.012)], lip, who.lips)
    else:
        bend = {"smiling": -0.030, "neutral": 0.0, "serious": 0.018}[shot.expression]
        curve = [(mx + mw * u, my + bend * (u * u - 0.4)) for u in np.linspace(-1, 1, 9)]
        canvas.line(curve, lip, who.lips + 0.006)


def _hair_front(canvas: _Canvas, who: Identity, shot: Photo) -> None:
    w, h, colour = who.face_width, who.face_height, HAIR_COLOURS[who.hair_colour]
    light = _shade(colour, 1.12)

    def crown(low: float, width: float = 1.06, height: float = 1.08) -> None:
        canvas.ellipse(0, -h * low, w * width, h * (height - low), colour, math.pi, 2 * math.pi)

    style = who.hair_style
    if style in ("short", "bun", "curly", "afro"):
        crown(0.46)
    elif style == "fringe":
        crown(0.40)
        canvas.polygon(
            [(-w * 1.04, -h * 0.42), (w * 1.04, -h * 0.42), (w * 0.8, -h * 0.28), (-w * 0.8, -h * 0.28)], colour
        )
    elif style in ("long", "bob"):
        crown(0.50, 1.10, 1.12)
        for side in (-1, 1):
            canvas.polygon([(side * w * 1.12, -h * 0.52), (side * w * 0.52, -h * 0.62), (side * w * 0.92, -h * 0.05),
                            (side * w * 1.12, h * 0.30)], colour)  # fmt: skip
    elif style == "mohawk":
        canvas.polygon([(-w * 0.30, -h * 0.62), (-w * 0.34, -h * 1.30), (0, -h * 1.42), (w * 0.34, -h * 1.30),
                        (w * 0.30, -h * 0.62)], colour)  # fmt: skip
    elif style == "parting":
        crown(0.48)
        canvas.polygon([(-w * 1.05, -h * 0.48), (-w * 0.2, -h * 0.92), (w * 0.98, -h * 0.46), (w * 0.55, -h * 0.34),
                        (-w * 0.25, -h * 0.66)], light)  # fmt: skip
    if shot.cap:
        cap = COLOURS[shot.trim_colour]
        canvas.ellipse(0, -h * 0.50, w * 1.16, h * 0.68, cap, math.pi, 2 * math.pi)
        bx = math.copysign(0.06, shot.yaw)
        canvas.ellipse(bx, -h * 0.50, w * 1.12, 0.045, _shade(cap, 0.78))


def _accessories(canvas: _Canvas, who: Identity, shot: Photo) -> None:
    if who.glasses == "none":
        return
    shift, y, gap = shot.yaw * 0.035, -0.032, who.eye_gap
    dark = (28, 28, 34)
    for side in (-1, 1):
        x = side * gap + shift
        if who.glasses == "dark":
            canvas.ellipse(x, y, 0.066, 0.052, dark)
        elif who.glasses == "round":
            canvas.ring(x, y, 0.062, 0.060, dark, 0.014)
        else:
            r, t = 0.066, 0.048
            canvas.line([(x - r, y - t), (x + r, y - t), (x + r, y + t), (x - r, y + t), (x - r, y - t)], dark, 0.014)
        canvas.line([(x + side * 0.06, y), (side * who.face_width, y - 0.012)], dark, 0.011)
    canvas.line([(-gap + 0.058 + shift, y), (gap - 0.058 + shift, y)], dark, 0.013)


def draw(who: Identity, shot: Photo, resolution: int = RESOLUTION) -> np.ndarray:
    """Draw one photo of one person.

    Returns (H, W, 3) uint8 with H = W = `resolution`. The same arguments give the same bytes on every
    machine: all randomness is in how `who` and `shot` were drawn from their seeds.
    """
    canvas = _Canvas(who, shot, resolution * SUPERSAMPLING)
    _background(canvas, shot)
    _hair_behind(canvas, who)
    _body(canvas, who, shot)
    _face(canvas, who, shot)
    _features(canvas, who, shot)
    _hair_front(canvas, who, shot)
    _accessories(canvas, who, shot)
    small = canvas.image.resize((resolution, resolution), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32)
    # Light falls from one side; exposure and colour temperature act on the whole picture.
    across = np.linspace(-1, 1, resolution, dtype=np.float32)[None, :, None]
    tint = np.array([1 + 0.04 * shot.warmth, 1.0, 1 - 0.04 * shot.warmth], dtype=np.float32)
    pixels = pixels * (shot.exposure * (1 + 0.10 * shot.light * across)) * tint
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
