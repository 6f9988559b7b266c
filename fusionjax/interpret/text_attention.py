"""Attention between an image and a text as arrays: regions attended to by words, and words attended to by regions.

Pure functions; `text_maps` draws them.

A region is a cell of the grid of image tokens; regions are numbered row by row from 0.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusionjax.interpret.maps import overlay, upsample

_SPECIAL = re.compile(r"\[[A-Za-z]+\d*\]|</?[^<>\s]+>")


@dataclass(frozen=True, eq=False)
class TextExample:
    """One image, its text, and the attention between them in both directions, averaged over heads (and layers).

    Attributes:
        name: file name or other identifier; displayed only, never used as a path.
        image: (H, W, 3) uint8, the input of the model.
        words: T words, tokens or whole descriptions, without padding.
        image_to_text: (h·w, T) float, the attention of each region over the words; the sum of a row is at most 1.
        text_to_image: (T, h·w) float, the attention of each word over the regions.
        grid: (h, w), rows and columns of regions.
        true, predicted: class names.
        probability: of the predicted class, 0 … 1.
        classes: for a bank of descriptions, the class of each of the T descriptions, spelt as in `true` and `predicted`; None
            if `words` are the words of a text.

    Raises:
        ValueError: sizes differ, a weight is negative or not finite, or a row of image_to_text sums to more than 1.
    """

    name: str
    image: np.ndarray
    words: Sequence[str]
    image_to_text: np.ndarray
    text_to_image: np.ndarray
    grid: tuple[int, int]
    true: str
    predicted: str
    probability: float
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        image, n, t = np.asarray(self.image), self.grid[0] * self.grid[1], len(self.words)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"an image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
        for what, shape in (("image_to_text", (n, t)), ("text_to_image", (t, n))):
            weights = np.asarray(getattr(self, what))
            if weights.shape != shape:
                raise ValueError(f"{what} {weights.shape} is not {shape}: {n} regions and {t} words")
            if not np.isfinite(weights).all() or weights.min(initial=0) < 0:
                raise ValueError(f"{what} has weights that are negative or not finite")
        most = np.asarray(self.image_to_text, np.float64).sum(1).max(initial=0)
        if most > 1.01:  # tolerance for bfloat16 rounding
            raise ValueError(f"a row of image_to_text sums to {most:.3g}: it must be 1 at most")
        if self.classes is not None and len(self.classes) != t:
            raise ValueError(f"{len(self.classes)} classes for {t} descriptions")

    def shares(self) -> np.ndarray:
        """Returns the share of all regions' attention that each word gets, (T,) float64: the mean row of image_to_text."""
        return np.asarray(self.image_to_text, np.float64).mean(0)


@dataclass(frozen=True, eq=False)
class Reading:
    """The attention map of one word or description.

    Attributes:
        index: position in `words`.
        picture: (H, W, 3) uint8, the map overlaid on the image.
        peak: the largest weight divided by the mean weight; 0 if all weights are 0.
    """

    index: int
    picture: np.ndarray
    peak: float


def pool(
    rows: Sequence[int] | np.ndarray, image_to_text: np.ndarray, text_to_image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pools the attention of tokens into that of M words or descriptions.

    Attention that the tokens receive (image_to_text) is summed; attention that they pay (text_to_image) is averaged.

    Args:
        rows: (T,) int, the word or description of each token, 0 … M − 1; each has at least one token.
        image_to_text: (N, T) float.
        text_to_image: (T, N) float.

    Returns:
        The pooled image_to_text (N, M) and text_to_image (M, N), float64.

    Raises:
        ValueError: sizes differ, or a word or description has no token.
    """
    rows = np.asarray(rows, np.int64)
    got, read = np.asarray(image_to_text, np.float64).T, np.asarray(text_to_image, np.float64)
    if rows.ndim != 1 or got.shape != read.shape or len(got) != len(rows):
        raise ValueError(
            f"image_to_text {got.T.shape} and text_to_image {read.shape} do not fit {rows.size} tokens"
        )
    sizes = np.bincount(rows)
    if not sizes.all():
        raise ValueError(f"no token belongs to number {int(np.argmin(sizes))}")
    sums = np.zeros((2, len(sizes), got.shape[1]))
    np.add.at(sums[0], rows, got)
    np.add.at(sums[1], rows, read)
    return sums[0].T, sums[1] / sizes[:, None]


def merge_pieces(
    tokens: Sequence[str], image_to_text: np.ndarray, text_to_image: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Merges WordPiece tokens into words: "##ing" is joined to the token before it, unless that token is special.

    Args:
        tokens: T tokens.
        image_to_text: (N, T) float; the weights of the pieces of a word are summed.
        text_to_image: (T, N) float; the weights of the pieces of a word are averaged.

    Returns:
        M words, (N, M) and (M, N) float64.

    Raises:
        ValueError: sizes differ.

    Example:
        >>> words, _, _ = merge_pieces(["a", "mil", "##dew"], np.ones((4, 3)) / 3, np.ones((3, 4)) / 4)
        >>> words
        ['a', 'mildew']
    """
    words: list[str] = []
    rows = []
    for token in tokens:
        piece = token.startswith("##") and len(token) > 2
        if piece and words and not is_special(words[-1]):
            words[-1] += token[2:]
        else:
            words.append(token[2:] if piece else token)
        rows.append(len(words) - 1)
    return words, *pool(rows, image_to_text, text_to_image)


def is_special(token: str) -> bool:
    """Returns whether a token is special, judged by its form: [CLS], [unused1], <s>, <|endoftext|>."""
    return bool(_SPECIAL.fullmatch(token))


def is_aside(word: str) -> bool:
    """Returns whether a word is a special token, or has only punctuation, symbols and white space. An emoji is a word."""
    kinds = {unicodedata.category(c) for c in word}
    return is_special(word) or all(k[0] in "PZCM" or k in ("Sc", "Sk", "Sm") for k in kinds)


def most_read(example: TextExample, count: int = 6) -> list[int]:
    """Returns the indices of the words that get most attention from the image, in descending order; special tokens and
    punctuation come after all other words."""
    shares = example.shares()
    return sorted(range(len(shares)), key=lambda i: (is_aside(example.words[i]), -shares[i], i))[:count]


def words_to_regions(example: TextExample, indices: Sequence[int] | None = None) -> list[Reading]:
    """Returns the regions that words attend to: text_to_image, overlaid on the image.

    Black is no weight. Yellow is the region with the largest weight, if that is at least twice the mean weight: nearly uniform
    attention is not drawn as if it were concentrated.

    Args:
        example: has T words.
        indices: indices of words; None for those of `most_read`.

    Returns:
        One map per index.
    """
    indices = most_read(example) if indices is None else indices
    return [_reading(example, i, np.asarray(example.text_to_image)[i]) for i in indices]


def regions_to_words(example: TextExample, indices: Sequence[int]) -> list[Reading]:
    """Returns the regions that attend to words or descriptions: columns of image_to_text, overlaid on the image in the
    colours of `words_to_regions`."""
    return [_reading(example, i, np.asarray(example.image_to_text)[:, i]) for i in indices]


def strongest_words(example: TextExample) -> np.ndarray:
    """Returns the index of the word that each region attends to most, (h, w) int.

    Special tokens and punctuation count only if there are no other words. −1 for a region whose attention is uniform or zero.
    """
    weights = np.asarray(example.image_to_text, np.float64)
    if not weights.size:
        return np.full(example.grid, -1)
    words = [i for i, word in enumerate(example.words) if not is_aside(word)] or [*range(len(example.words))]
    weights = weights[:, words]
    most, least = weights.max(1), weights.min(1)
    decided = (most > 0) & ((most - least > 1e-6 * most) | (len(words) == 1))
    return np.where(decided, np.asarray(words)[weights.argmax(1)], -1).reshape(example.grid)


def _reading(example: TextExample, index: int, weights: np.ndarray) -> Reading:
    weights = np.asarray(weights, np.float64)
    mean = weights.mean()
    times = (weights / mean if mean else weights).reshape(example.grid)
    low, high = times.min(), times.max()
    # Back from its own range to multiples of the mean, so that a nearly uniform map looks uniform.
    level = (low + upsample(times, example.image.shape[:2]) * (high - low)) / max(2.0, high)
    return Reading(index, overlay(example.image, level), float(high))
