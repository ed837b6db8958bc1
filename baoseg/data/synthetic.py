"""Generated scenes to try the methods without data: small animals on natural backgrounds, with exact masks.

Each animal has a large scaly body and a small head. The head shows the class; the bodies of all classes look alike. A
classifier therefore looks at the heads, and plain CAM finds a part of each animal instead of the whole animal. The
ground and the clutter have either the colours or the scales of bodies, never both, so that a body differs from the
ground in its look but not in one constant colour.
"""

import colorsys
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from baoseg.core.errors import DataError, RecipeError
from baoseg.core.types import ClassSet, Sample

CLASSES = ClassSet(("ladybird", "bee", "frog", "jay", "badger"))
SPLITS = ("train", "val")
_VERSION = 1  # of the drawing code; part of the fingerprint

Array = np.ndarray
# Distances in this file are in units of 1/128 of the image's side: a larger image shows the same scene.
_UNITS = 128


@dataclass(frozen=True, kw_only=True)
class Config:
    """Size and number of the images, and the difficulty of the scenes."""

    size: int = 128  # side of the square images in pixels
    train_images: int = 600
    eval_images: int = 100
    body_hint: float = 0.3  # share of bodies whose hue depends on the class; 0: only the heads show the class
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 32 or min(self.train_images, self.eval_images) < 1 or self.seed < 0:
            raise RecipeError(
                f"synthetic data: {self.train_images} + {self.eval_images} images of {self.size} pixels, "
                f"seed {self.seed}; choose at least 1 image, 32 pixels, and a seed of at least 0"
            )
        if not 0 <= self.body_hint <= 1:
            raise RecipeError(f"synthetic data: body_hint is {self.body_hint}; choose a share in 0..1")


class Synthetic:
    """One split ("train" or "val") of generated scenes. An image depends on seed, split and index alone."""

    classes = CLASSES
    has_masks = True

    def __init__(self, config: Config, split: str = "train") -> None:
        if split not in SPLITS:
            raise DataError(f"synthetic data: no split {split!r}; the splits are {', '.join(SPLITS)}")
        self.config = config
        self.split = split
        count = config.train_images if split == "train" else config.eval_images
        self.names: Sequence[str] = tuple(f"{split}_{index:05d}" for index in range(count))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        rng = self._rng(index)
        animals = _place_animals(rng, self.config.body_hint)
        image, mask = _draw(rng, animals, self.config.size)
        return Sample(self.names[index], torch.from_numpy(image), _present(animals), torch.from_numpy(mask))

    def labels(self, index: int) -> Float[Tensor, "K"]:
        """Label vector y in {0, 1} of an image, without drawing the image."""
        return _present(_place_animals(self._rng(index), self.config.body_hint))

    def mask(self, index: int) -> UInt8[Tensor, "h w"] | None:
        """The exact mask of an image."""
        return self[index].mask

    def fingerprint(self, *, masks: bool = True) -> str:
        """SHA-256 (hex) of the settings, the split and the version of the drawing code."""
        content = [_VERSION, asdict(self.config), self.split, CLASSES.names]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _rng(self, index: int) -> np.random.Generator:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return np.random.default_rng([self.config.seed, SPLITS.index(self.split), index])


# ------------------------------------------------------------------------------------- the layout


@dataclass(frozen=True)
class _Animal:
    kind: int  # class 0..K-1
    x: float  # centre of the body
    y: float
    long: float  # half axes of the body
    wide: float
    angle: float  # of the long axis; the head is at its positive end
    boxiness: float  # 0 an ellipse, 1 a rectangle, rounded in between
    wobble: tuple[float, float]  # the outline's relative waves, two and three around it
    hue: float  # of the body
    head_radius: float

    @property
    def head(self) -> tuple[float, float]:
        reach = 0.95 * self.long
        return self.x + reach * math.cos(self.angle), self.y + reach * math.sin(self.angle)


def _place_animals(rng: np.random.Generator, body_hint: float) -> list[_Animal]:
    """Place one to three animals of one or two classes. Bodies may overlap; heads are visible and inside the image."""
    count = rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2])
    kinds = rng.integers(len(CLASSES), size=2 if rng.random() < 0.6 else 1)
    placed: list[_Animal] = []
    for number in range(count):
        for _ in range(20):
            animal = _random_animal(rng, int(kinds[number % len(kinds)]), body_hint)
            if _inside(animal) and all(_apart(animal, other) for other in placed):
                placed.append(animal)
                break
    return placed or _place_animals(rng, body_hint)


def _present(animals: list[_Animal]) -> Float[Tensor, "K"]:
    vector = torch.zeros(len(CLASSES))
    vector[[animal.kind for animal in animals]] = 1.0
    return vector


def _random_animal(rng: np.random.Generator, kind: int, body_hint: float) -> _Animal:
    long = rng.uniform(19, 32)
    wide = long * rng.uniform(0.55, 0.85)
    leaning = rng.random() < body_hint
    hue = (kind / len(CLASSES) + 0.35 + rng.normal(0, 0.05)) if leaning else rng.random()
    return _Animal(
        kind=kind,
        x=rng.uniform(10, _UNITS - 10),
        y=rng.uniform(10, _UNITS - 10),
        long=long,
        wide=wide,
        angle=rng.uniform(0, 2 * math.pi),
        boxiness=rng.uniform(0, 0.5),
        wobble=(rng.normal(0, 0.04), rng.normal(0, 0.04)),
        hue=hue % 1,
        head_radius=math.sqrt(rng.uniform(0.14, 0.22) * long * wide),
    )


def _inside(animal: _Animal) -> bool:
    return all(animal.head_radius <= place <= _UNITS - animal.head_radius for place in animal.head)


def _apart(one: _Animal, other: _Animal) -> bool:
    """Whether neither animal covers the head or more than an edge of the body of the other."""
    bodies = math.dist((one.x, one.y), (other.x, other.y)) > 0.7 * (one.long + other.long)
    heads = all(math.dist(a.head, (b.x, b.y)) > b.long + 0.5 * a.head_radius for a, b in ((one, other), (other, one)))
    return bodies and heads and math.dist(one.head, other.head) > one.head_radius + other.head_radius


# ------------------------------------------------------------------------------------- the image


def _draw(
    rng: np.random.Generator, animals: list[_Animal], size: int
) -> tuple[UInt8[Array, "3 h w"], UInt8[Array, "h w"]]:
    image = _ground(rng, size)
    mask = np.zeros((size, size), dtype=np.uint8)
    for _ in range(rng.integers(3, 8)):
        _draw_clutter(rng, image)
    for animal in animals:
        _draw_animal(rng, image, mask, animal)
    image *= 1 + 0.25 * (_noise(rng, size, 3) - 0.5)  # light and shade
    image += 0.02 * rng.standard_normal((size, size), dtype=np.float32)
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8), mask


def _ground(rng: np.random.Generator, size: int) -> Float32[Array, "3 h w"]:
    """A ground of two or three muted colours, mixed by one of five textures."""
    texture = _GROUNDS[rng.integers(len(_GROUNDS))]
    mix = texture(rng, size)
    low, high = _muted(rng), _muted(rng)
    image = low + mix * (high - low)
    patches = np.clip(6 * (_noise(rng, size, 5) - rng.uniform(0.5, 0.8)), 0, 1)
    image += patches * (_muted(rng) - image)
    return image


def _grain(rng: np.random.Generator, size: int) -> Float32[Array, "h w"]:
    weights = rng.dirichlet(np.ones(4)).astype(np.float32)
    layers = [_noise(rng, size, cells) for cells in (6, 14, 30, 64)]
    return _stretch(sum(weight * layer for weight, layer in zip(weights, layers, strict=True)))


def _waves(rng: np.random.Generator, size: int) -> Float32[Array, "h w"]:
    angle, period = rng.uniform(0, math.pi), rng.uniform(7, 30)
    along, _ = _turned(size, _whole(size), 0.0, 0.0, angle)
    return 0.5 + 0.5 * np.sin(2 * math.pi * along / period + rng.uniform(2, 9) * _noise(rng, size, 4))


def _slope(rng: np.random.Generator, size: int) -> Float32[Array, "h w"]:
    along, _ = _turned(size, _whole(size), _UNITS / 2, _UNITS / 2, rng.uniform(0, 2 * math.pi))
    return np.clip(0.5 + along / _UNITS + 0.3 * (_noise(rng, size, 24) - 0.5), 0, 1)


def _pebbles(rng: np.random.Generator, size: int) -> Float32[Array, "h w"]:
    cells = int(rng.integers(10, 26))
    return np.clip(5 * (_noise(rng, size, cells) - 0.5) + 0.5, 0, 1) * (0.7 + 0.3 * _noise(rng, size, 64))


def _weave(rng: np.random.Generator, size: int) -> Float32[Array, "h w"]:
    along, across = _turned(size, _whole(size), 0.0, 0.0, rng.uniform(0, math.pi))
    return _scales(along, across, rng.uniform(4.5, 12)) * (0.6 + 0.4 * _noise(rng, size, 8))


_GROUNDS = (_grain, _waves, _slope, _pebbles, _weave)


def _draw_clutter(rng: np.random.Generator, image: Float32[Array, "3 h w"]) -> None:
    """Draw a smooth leaf in a strong colour, or a pebble with scales in a muted colour."""
    leaf = rng.random() < 0.6
    long = rng.uniform(4, 12) if leaf else rng.uniform(6, 16)
    wide = long * rng.uniform(0.3, 0.9)
    x, y = rng.uniform(0, _UNITS), rng.uniform(0, _UNITS)
    size = image.shape[-1]
    window = _window(size, x, y, long + 2)
    along, across = _turned(size, window, x, y, rng.uniform(0, math.pi))
    cover = _cover(1 - np.hypot(along / long, across / wide), wide, size)
    if leaf:
        colour = _hsv(rng.random(), rng.uniform(0.4, 0.8), rng.uniform(0.35, 0.85))
        colour = colour * (0.85 + 0.15 * across / wide)
    else:
        low, high = _muted(rng), _muted(rng)
        colour = low + _scales(along, across, rng.uniform(4, 7)) * (high - low)
    _paint(image[:, *window], colour, cover)


def _draw_animal(
    rng: np.random.Generator,
    image: Float32[Array, "3 h w"],
    mask: UInt8[Array, "h w"],
    animal: _Animal,
) -> None:
    size = len(mask)
    window = _window(size, animal.x, animal.y, 1.2 * animal.long + animal.head_radius + 2)
    along, across = _turned(size, window, animal.x, animal.y, animal.angle)

    turn = np.arctan2(across, along)
    outline = 1 + sum(w * np.sin(n * turn + n) for n, w in enumerate(animal.wobble, start=2))
    u, v = along / animal.long, across / animal.wide
    box = animal.boxiness
    radius = (1 - box) * np.hypot(u, v) + box * np.maximum(np.abs(u), np.abs(v))
    body = _cover(outline - radius, animal.wide, size)
    saturation = rng.uniform(0.4, 0.75)
    dark = _hsv(animal.hue, saturation, rng.uniform(0.25, 0.45))
    light = _hsv(animal.hue + rng.normal(0, 0.03), saturation, rng.uniform(0.65, 0.95))
    scales = _scales(along, across, rng.uniform(4, 7))
    shade = 1.1 - 0.3 * radius.clip(0, 1) ** 2
    _paint(image[:, *window], (dark + scales * (light - dark)) * shade, body)

    ahead, aside = (along - 0.95 * animal.long) / animal.head_radius, across / animal.head_radius
    distance = np.hypot(ahead, aside)
    head = _cover(1 - distance, animal.head_radius, size)
    base, mark, pattern = _HEADS[animal.kind]
    hue, saturation, value = base
    ground = _hsv(hue + rng.normal(0, 0.015), saturation, value * rng.uniform(0.8, 1))
    marks = np.clip(4 * pattern(ahead, aside, distance) + 0.5, 0, 1)
    _paint(image[:, *window], ground + marks * (_hsv(*mark) - ground), head)

    mask[window][np.maximum(body, head) > 0.5] = animal.kind + 1


# Of each class: colour (hue, saturation, value) of the head and of its marks, and where the marks are (above
# 0), with coordinates in head radii: ahead, aside, and the distance from the middle.
_HEADS = (
    ((0.0, 0.85, 0.9), (0.0, 0.0, 0.08), lambda ahead, aside, _: np.cos(5 * ahead) * np.cos(5 * aside) - 0.35),
    ((0.14, 0.9, 1.0), (0.0, 0.0, 0.08), lambda ahead, aside, _: np.sin(7 * ahead)),
    ((0.33, 0.8, 0.8), (0.2, 0.3, 1.0), lambda ahead, aside, distance: np.cos(8 * distance) - 0.2),
    ((0.6, 0.85, 0.85), (0.55, 0.15, 1.0), lambda ahead, aside, _: np.sin(4.5 * ahead) * np.sin(4.5 * aside)),
    ((0.0, 0.0, 1.0), (0.0, 0.0, 0.08), lambda ahead, aside, _: -np.cos(6.5 * aside)),
)


# ------------------------------------------------------------------------------------- the tools


def _hsv(hue: float, saturation: float, value: float) -> Float32[Array, "3 1 1"]:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), dtype=np.float32)[:, None, None]


def _muted(rng: np.random.Generator) -> Float32[Array, "3 1 1"]:
    """A natural ground: greens, browns and blues of little saturation, and greys."""
    hue = rng.choice([0.08, 0.12, 0.25, 0.33, 0.55]) + rng.normal(0, 0.03)
    return _hsv(hue, rng.uniform(0.0, 0.3), rng.uniform(0.2, 0.85))


def _scales(along: Float32[Array, "h w"], across: Float32[Array, "h w"], period: float) -> Float32[Array, "h w"]:
    turns = 2 * math.pi / period
    return 0.5 + 0.5 * np.sin(turns * along) * np.sin(turns * across)


def _noise(rng: np.random.Generator, size: int, cells: int) -> Float32[Array, "h w"]:
    """Smooth noise in [0, 1]: random values on a grid of cells x cells, linear in between."""
    spread = _spread(size, cells)
    return spread @ rng.random((cells, cells), dtype=np.float32) @ spread.T


@functools.lru_cache
def _spread(size: int, cells: int) -> Float32[Array, "size cells"]:
    """The matrix of linear interpolation from `cells` values to `size` values."""
    position = np.linspace(0, cells - 1, size)[:, None]
    return np.maximum(0, 1 - np.abs(position - np.arange(cells)[None])).astype(np.float32)


@functools.lru_cache
def _grid(size: int) -> Float32[Array, "size"]:
    return ((np.arange(size) + 0.5) * _UNITS / size).astype(np.float32)


_Window = tuple[slice, slice]


def _turned(
    size: int, window: _Window, x: float, y: float, angle: float
) -> tuple[Float32[Array, "h w"], Float32[Array, "h w"]]:
    """Coordinates of the pixels of a window along and across an axis through (x, y)."""
    rows, columns = window
    right, down = (_grid(size)[columns] - x)[None, :], (_grid(size)[rows] - y)[:, None]
    cosine, sine = math.cos(angle), math.sin(angle)
    return cosine * right + sine * down, cosine * down - sine * right


def _whole(size: int) -> _Window:
    return slice(0, size), slice(0, size)


def _window(size: int, x: float, y: float, reach: float) -> _Window:
    """The pixels within `reach` of (x, y) along both axes."""
    first = [max(0, math.floor((place - reach) * size / _UNITS)) for place in (y, x)]
    last = [max(0, math.ceil((place + reach) * size / _UNITS)) for place in (y, x)]
    return slice(first[0], last[0]), slice(first[1], last[1])


def _cover(depth: Float32[Array, "h w"], radius: float, size: int) -> Float32[Array, "h w"]:
    """The share of each pixel that a shape covers; `depth` is the depth inside the outline, relative to the radius."""
    return np.clip(depth * radius * size / _UNITS + 0.5, 0, 1)


def _paint(image: Float32[Array, "3 h w"], colour: Float32[Array, "3 h w"], cover: Float32[Array, "h w"]) -> None:
    image += cover * (colour - image)


def _stretch(field: Float32[Array, "h w"]) -> Float32[Array, "h w"]:
    low, high = field.min(), field.max()
    return (field - low) / (high - low)
