r"""Images a second of the input pipeline: JPEG files to uint8 training batches, as configs/cub.py has them and at 224.

    python benchmarks/input_pipeline.py --images=512

Writes JPEGs of 500×400 to a temporary folder, reads them through the folder source, and times whole batches.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np
import simplejpeg

from fusionjax import config as config_lib
from fusionjax.data import datasets
from fusionjax.data.loading import pipeline


def photograph(rng: np.random.Generator) -> bytes:
    """500×400 of smooth noise at quality 90: about 100 kB, as a photograph of that size has."""
    coarse = rng.integers(0, 256, (100, 125, 3), np.uint8)
    image = np.repeat(np.repeat(coarse, 4, 0), 4, 1)
    noise = rng.integers(0, 24, image.shape, np.uint8)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(np.minimum(image, 231) + noise), quality=85)


def main() -> None:
    """Prints a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=512)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        rng = np.random.default_rng(0)
        for k in range(2):
            (root / f"class_{k}").mkdir()
            for i in range(arguments.images // 2):
                (root / f"class_{k}" / f"{i}.jpg").write_bytes(photograph(rng))
        mean = sum(p.stat().st_size for p in root.rglob("*.jpg")) / arguments.images / 1000
        print(f"{arguments.images} JPEGs of 500×400, {mean:.0f} kB on average")
        for text, crop, resize, size, mode in (
            ("resize 550², random crop 448", "random", 550, 448, "squash"),
            ("random resized crop 224", "random_resized", 256, 224, "shorter"),
        ):
            for threads in (1, 2, 4, 8):
                data = config_lib.default().data
                data.root, data.resize, data.image_size, data.resize_mode = str(root), resize, size, mode
                data.augment.crop, data.threads, data.fractions = crop, threads, (1.0, 0.0, 0.0)
                source = datasets.create(data, "train", seed=0)
                batches = pipeline.train_dataset(source, data, seed=0, batch_size=32)
                next(batches)
                count = max(4, arguments.images // 32)
                began = time.perf_counter()
                for _ in range(count):
                    next(batches)
                rate = count * 32 / (time.perf_counter() - began)
                batches.close()
                print(f"{text:30} {threads} threads {rate:8.0f} images/s")


if __name__ == "__main__":
    main()
