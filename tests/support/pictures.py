"""Made-up pictures whose colour tells their class."""

import numpy as np


def coloured(rng: np.random.Generator, channel: int, shape: tuple[int, int] = (36, 40)) -> np.ndarray:
    """Noise, brighter in one channel (OpenCV writes 0 as blue): uint8 (rows, columns, 3)."""
    image = rng.integers(0, 120, (*shape, 3), np.uint8)
    image[:, :, channel] += 100
    return image
