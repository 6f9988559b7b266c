"""Attention between an image and a text as arrays: the regions that a word reads, the words that a region reads.

Pure functions; `text_maps` makes figures of them.

A region is a cell of the grid of image tokens, counted row by row from 0.
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
    """One image, its text, and how they read each other; the mean over heads (and layers) of the attention maps.

    Attributes:
        name: file name or other identifier; shown, never used as a path.
        image: (H, W, 3) uint8, as the model saw it.
        words: T words, tokens or whole descriptions, those alone that count (no padding).
        image_to_text: (h·w, T) float, each region's weights over the words; a row sums to 1 at most.
        text_to_image: (T, h·w) float, each word's weights over the regions.
        grid: (h, w) regions.
        true, predicted: class names.
        probability: of the predicted class, 0 … 1.
        classes: of a bank of descriptions, the class that each of the T describes, spelt as `true` and `predicted`; None where
            `words` are words.

    Raises:
        ValueError: sizes that do not agree, a weight that is negative or not finite, rows of image_to_text above 1.
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
        if most > 1.01:  # what rounding to bfloat16 adds
            raise ValueError(f"a row of image_to_text sums to {most:.3g}: it must be 1 at most")
        if self.classes is not None and len(self.classes) != t:
            raise ValueError(f"{len(self.classes)} classes for {t} descriptions")

    def shares(self) -> np.ndarray:
        """(T,) float64, the share of all regions' attention that each word gets: the mean of image_to_text's rows."""
        return np.asarray(self.image_to_text, np.float64).mean(0)


@dataclass(frozen=True, eq=False)
class Reading:
    """One word or description and its regions.

    Attributes:
        index: in `words`.
        picture: (H, W, 3) uint8, the map over the image.
        peak: the largest weight over the mean weight; 0 where all are 0.
    """

    index: int
    picture: np.ndarray
    peak: float


def pool(
    rows: Sequence[int] | np.ndarray, image_to_text: np.ndarray, text_to_image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens put together to M words or descriptions: what they get is summed, what they read is averaged.

    Args:
        rows: (T,) int, the one that each token belongs to, 0 … M − 1, each with a token at least.
        image_to_text: (N, T) float.
        text_to_image: (T, N) float.

    Returns:
        (N, M) and (M, N) float64.

    Raises:
        ValueError: sizes that do not agree, or one without a token.
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
    """WordPiece's tokens as words: "##ing" joins the token before it, unless that is a special one.

    Args:
        tokens: T tokens.
        image_to_text: (N, T) float; the weights of a word's pieces are summed.
        text_to_image: (T, N) float; theirs are averaged.

    Returns:
        M words, (N, M) and (M, N) float64.

    Raises:
        ValueError: sizes that do not agree.

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
    """Whether it is a token that the tokenizer adds, by its form: [CLS], [unused1], <s>, <|endoftext|>."""
    return bool(_SPECIAL.fullmatch(token))


def is_aside(word: str) -> bool:
    """Whether it is a special token, or nothing but punctuation, signs and space. An emoji is a word."""
    kinds = {unicodedata.category(c) for c in word}
    return is_special(word) or all(k[0] in "PZCM" or k in ("Sc", "Sk", "Sm") for k in kinds)


def most_read(example: TextExample, count: int = 6) -> list[int]:
    """Indices of the words that the image reads most, most first; special tokens and punctuation after all others."""
    shares = example.shares()
    return sorted(range(len(shares)), key=lambda i: (is_aside(example.words[i]), -shares[i], i))[:count]


def words_to_regions(example: TextExample, indices: Sequence[int] | None = None) -> list[Reading]:
    """The regions that words read, text_to_image over the image.

    Black is no weight. Yellow is the word's strongest region, if that has twice the even weight or more: a word that reads all
    regions alike is not made to look as if it preferred some.

    Args:
        example: with T words.
        indices: of the words; None for those of `most_read`.

    Returns:
        One for each index.
    """
    indices = most_read(example) if indices is None else indices
    return [_reading(example, i, np.asarray(example.text_to_image)[i]) for i in indices]


def regions_to_words(example: TextExample, indices: Sequence[int]) -> list[Reading]:
    """The regions that read words or descriptions, columns of image_to_text over the image, in the colours of
    `words_to_regions`."""
    return [_reading(example, i, np.asarray(example.image_to_text)[:, i]) for i in indices]


def strongest_words(example: TextExample) -> np.ndarray:
    """(h, w) int, the word that each region reads most; special tokens and punctuation count only where there is nothing else.
    −1 for a region that reads all alike, or none."""
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
    # Back from its own range to multiples of the mean: a map that is nearly even must look so.
    level = (low + upsample(times, example.image.shape[:2]) * (high - low)) / max(2.0, high)
    return Reading(index, overlay(example.image, level), float(high))
