"""Whether a map over an image shows what a prediction rests on, and controls that a map must beat.

- Deletion and insertion: Petsiuk, Das & Saenko, "RISE", BMVC 2018.
- Pointing game: Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016. Energy: Wang et al., "Score-CAM",
  CVPR Workshops 2020.
- Sanity check by randomised weights: Adebayo et al., NeurIPS 2018.

See docs/methods/explanations.md.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

Score = Callable[[Sequence[np.ndarray], np.ndarray], np.ndarray]
"""(M images (h, w, C), (M,) int, which example each is made of) → (M,), the score of each: the higher, the surer the model."""
STEPS = 8
"""Parts in which pixels are removed or added."""
_BLUR = 5 / 224  # of the shorter side; RISE uses σ = 5 at 224 pixels


def to_pixels(map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolates a map (h, w) bilinearly to (H, W) float32, its values unchanged otherwise."""
    picture = Image.fromarray(np.asarray(map, np.float32))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def centre_prior(size: tuple[int, int]) -> np.ndarray:
    """A Gaussian around the centre, (h, w) float32, with a standard deviation of a quarter of each side.

    Photographers centre objects: a map that is no better than this one has not found anything.
    """
    across = [(np.arange(n) + 0.5) / n - 0.5 for n in size]
    rows, columns = (np.exp(-0.5 * (x / 0.25) ** 2) for x in across)
    return np.outer(rows, columns).astype(np.float32)


def random_map(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Uniform noise, (h, w) float32."""
    return rng.random(size, np.float32)


def deletion_insertion(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    score: Score,
    *,
    fill: Sequence[float],
    steps: int = STEPS,
    seed: int = 0,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Areas under the score while the pixels with the largest values of a map are removed, or are added to a blurred image.

    Args:
        images: (N, h, w, C), as the model takes them before normalisation.
        maps: name → (N, h', w').
        score: of images.
        fill: (C,), what replaces a removed pixel.
        steps: parts in which pixels are removed; the score is taken after each.
        seed: of the order of pixels of equal value.

    Returns:
        Name → deletion (N,), the lower the better, and insertion (N,), the higher the better; both in the unit of the score.
    """
    shared = _Ends(images, score, np.asarray(fill, images.dtype))
    found = {}
    for name, map in maps.items():
        parts: list[np.ndarray] = []
        for n, image in enumerate(images):
            rank = _rank(to_pixels(map[n], image.shape[:2]), np.random.default_rng([seed, n]))
            for k in range(1, steps):
                first = (rank < k / steps)[..., None]
                parts += [np.where(first, shared.fill, image), np.where(first, image, shared.blurred[n])]
        values = score(parts, np.repeat(np.arange(len(images)), 2 * (steps - 1)))
        between = values.reshape(len(images), steps - 1, 2)
        deleted = np.column_stack([shared.whole, between[..., 0], shared.empty])
        inserted = np.column_stack([shared.soft, between[..., 1], shared.whole])
        found[name] = (_area(deleted), _area(inserted))
    return found


def _area(curves: np.ndarray) -> np.ndarray:
    """(N, steps + 1) values at equal distances on 0 … 1 → (N,), by the trapezoidal rule."""
    return (curves[:, 1:] + curves[:, :-1]).mean(1) / 2


class _Ends:
    """The scores of the images, of their blurred versions, and of the fill alone: every map's curves begin and end there."""

    def __init__(self, images: np.ndarray, score: Score, fill: np.ndarray):
        self.fill = fill
        self.blurred = np.stack([blurred(image) for image in images])
        every = np.arange(len(images))
        self.whole, self.soft = score(list(images), every), score(list(self.blurred), every)
        self.empty = score([np.broadcast_to(fill, image.shape) for image in images], every)


def blurred(image: np.ndarray) -> np.ndarray:
    """A Gaussian blur of an image (h, w, C), of its dtype."""
    width = max(1.0, _BLUR * min(image.shape[:2]))
    return ndimage.gaussian_filter(image.astype(np.float32), (width, width, 0)).astype(image.dtype)


def _rank(map: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The share of pixels that come before each, the largest value first; equal values in random order."""
    order = np.lexsort((rng.random(map.size), -map.ravel()))
    rank = np.empty(map.size)
    rank[order] = np.arange(map.size) / map.size
    return rank.reshape(map.shape)


def points_inside(map: np.ndarray, mask: np.ndarray) -> float:
    """Pointing game: 1 if the largest value of a map lies on the object, else 0.

    Args:
        map: (h', w'), interpolated to the size of the mask.
        mask: (h, w) bool, True on the object.
    """
    pixels = to_pixels(map, mask.shape[:2])
    return float(mask.ravel()[pixels.argmax()])


def energy_inside(map: np.ndarray, mask: np.ndarray) -> float:
    """The share of a map's sum that lies on the object; arguments as for `points_inside`, the map not negative."""
    pixels = to_pixels(map, mask.shape[:2]).astype(np.float64)
    total = pixels.sum()
    return float(pixels[mask].sum() / total) if total > 0 else 0.0


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of the values of two maps; 0 if one of them is constant."""
    a, b = np.asarray(a).ravel(), np.asarray(b).ravel()
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    from scipy import stats  # seconds to import, which most commands need not wait for

    return float(stats.spearmanr(a, b).statistic)
