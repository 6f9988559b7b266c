r"""Clips a second of the sound pipeline: read, check, resample to 16 kHz, crop or pad to 3 s, normalise; with 1 and 2 threads.

    python benchmarks/audio_pipeline.py --clips=400
    python benchmarks/audio_pipeline.py --clips=400 --root=/usr/share/tuxpaint/stamps

Without --root it writes Ogg files of 44.1 kHz stereo, half a second to five, to a temporary folder; with it, it reads the
French descriptions of Tux Paint's stamps. Where librosa is installed (pip install librosa: wheels, no weights) it takes turns
with ours: `librosa.load` at 16 kHz, mono, its default quality, then the same crop and normalisation. Medians over the repeats.
"""

import argparse
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import soundfile

from fusionjax.data.audio import augment, waveform
from fusionjax.data.datasets import stamp_files
from fusionjax.types import SAMPLE_RATE

LENGTH = 3 * SAMPLE_RATE


def made(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Ogg files of coloured noise under a slow envelope, about as large as speech."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        seconds = rng.uniform(0.5, 5)
        noise = np.cumsum(rng.standard_normal((int(44_100 * seconds), 2)), axis=0)
        noise -= np.linspace(noise[0], noise[-1], len(noise))
        envelope = np.abs(np.sin(np.arange(len(noise)) / 9_000))[:, None]
        paths.append(folder / f"{i}.ogg")
        soundfile.write(paths[-1], 0.5 * envelope * noise / np.abs(noise).max(), 44_100)
    return paths


def ours(path: pathlib.Path) -> np.ndarray:
    return waveform.clip(path, LENGTH)[0]


def ours_in_training(path: pathlib.Path) -> np.ndarray:
    rng = np.random.default_rng(len(str(path)))
    return waveform.clip(path, LENGTH, rng=rng, augment=augment.Augment())[0]


def with_librosa() -> Callable[[pathlib.Path], np.ndarray] | None:
    """The same by librosa; None where it is not installed."""
    try:
        import librosa
    except ImportError:
        return None

    def load(path: pathlib.Path) -> np.ndarray:
        samples, _ = librosa.load(path, sr=SAMPLE_RATE, mono=True)
        return waveform.normalise(*waveform.fit(samples, LENGTH))

    return load


def rate(
    work: Callable[[pathlib.Path], np.ndarray], paths: list[pathlib.Path], threads: int
) -> tuple[float, float]:
    """Clips a second, and CPU milliseconds a clip, which other work on the machine disturbs less."""
    with ThreadPoolExecutor(threads) as pool:
        began, used = time.perf_counter(), time.process_time()
        for _ in pool.map(work, paths):
            pass
        seconds, used = time.perf_counter() - began, time.process_time() - used
    return len(paths) / seconds, 1000 * used / len(paths)


def main() -> None:
    """Prints a line a contestant and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--root", default="", help="folder of Tux Paint's stamps; empty to make files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.root:
            found = stamp_files.stamps(pathlib.Path(arguments.root))
            paths = [s.descriptions["fr"] for s in found if "fr" in s.descriptions][: arguments.clips]
        else:
            paths = made(pathlib.Path(name), arguments.clips)
        seconds = statistics.mean(waveform.header(p).seconds for p in paths)
        size = statistics.mean(p.stat().st_size for p in paths) / 1000
        print(f"{len(paths)} Ogg files, {seconds:.1f} s and {size:.0f} kB on average")
        contestants = {"fusionjax": ours, "fusionjax, augmented": ours_in_training, "librosa": with_librosa()}
        contestants = {k: v for k, v in contestants.items() if v is not None}
        measured = {(k, threads): [] for threads in (1, 2) for k in contestants}
        for work in contestants.values():
            work(paths[0])
        for _ in range(arguments.repeats):
            for (k, threads), rates in measured.items():
                rates.append(rate(contestants[k], paths, threads))
        for (k, threads), rates in measured.items():
            clips, used = (statistics.median(column) for column in zip(*rates, strict=True))
            print(f"{k:22} {threads} threads {clips:8.0f} clips/s {used:8.2f} CPU ms a clip")


if __name__ == "__main__":
    main()
