"""The audio clips of the examples of a source, as an auxiliary input. A missing clip is masked."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fusionjax.data.audio import augment as audio_augment
from fusionjax.data.audio import waveform as audio_lib
from fusionjax.data.loading.stream import Example
from fusionjax.data.source import Source, find_attribute, listed_columns
from fusionjax.data.unreadable import BadImages, DecodeError, why_unreadable
from fusionjax.errors import UserError
from fusionjax.types import SAMPLE_RATE

_STREAM = 0x50D  # keeps these draws apart from others that start from the same seed


class AudioClips:
    """Audio as an auxiliary input: "audio" (S,) float32, normalised, and "audio_mask" (S,) bool, False at padding.

    The mask is all False for an example without audio and for a clip that is damaged, silent or shorter than a frame; such a
    file is logged once. In training, further arrays hold the SpecAugment masks, which are all False at evaluation:
    "hidden_frames" (T,) bool and, with `bands`, "hidden_bands" (F,) bool.

    Args:
        files: for each example the paths of its audio files; training draws one of them, evaluation uses the first. Empty for
            an example without audio. See `audio_files`.
        samples: S, at `types.SAMPLE_RATE`; of a longer clip training uses a random window, evaluation the middle.
        frames: number of samples → number of frames of the encoder.
        bands: F, the mel bands of the encoder's spectrogram; 0 for none.
        seed: seed of all randomness, which is a function of (seed, epoch, index, repeat).
        augment: (samples, rng) → samples, the augmentation of the waveform in training; None for none.
        hide_frames, hide_bands: SpecAugment: masked fraction of the frames and of the bands; 0 for none.
        span: frames per masked span.
        memory: bytes of decoded clips to keep in memory, so that they need not be read again.
        most_bad: the run stops when more than this fraction of the audio files is damaged.

    Attributes:
        paths, total: the audio files, each once, and their number, including damaged ones.
        formats: path → (rate in Hz, channels) of every file that was read; all are converted to 16 kHz and one channel.
        bad: record of the damaged files.
        silent: record of the silent files, which never stop the run.
    """

    def __init__(
        self,
        files: Sequence[Sequence[Path]],
        *,
        samples: int,
        frames: Callable[[int], int],
        bands: int = 0,
        seed: int = 0,
        augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
        hide_frames: float = 0.0,
        hide_bands: float = 0.0,
        span: int = 10,
        memory: int = 2**28,
        most_bad: float = 1.0,
    ):
        self._files, self._samples, self._frames, self._bands = files, samples, frames, bands
        self._seed, self._augment, self._most_bad = seed, augment, most_bad
        self._hide, self._span = (hide_frames, hide_bands), span
        self.paths = sorted({path for own in files for path in own})
        self.total = len(self.paths)
        self._kept: dict[Path, np.ndarray] = {}
        self.formats: dict[Path, tuple[int, int]] = {}
        self._room, self._lock = memory, threading.Lock()
        self.bad, self.silent = BadImages("audio file"), BadImages("audio file")
        self.padding_example = {"audio": np.zeros(samples, np.float32), "audio_mask": np.zeros(samples, bool)}
        self.padding_example["hidden_frames"] = np.zeros(frames(samples), bool)
        if bands:
            self.padding_example["hidden_bands"] = np.zeros(bands, bool)

    def row(self, index: int, epoch: int | None, repeat: int = 0) -> Example:
        """See `Auxiliary`."""
        own = self._files[index]
        if not own:
            return dict(self.padding_example)
        rng = None if epoch is None else np.random.default_rng([_STREAM, self._seed, epoch, index, repeat])
        path = own[int(rng.integers(len(own)))] if rng is not None and len(own) > 1 else own[0]
        try:
            clip = self._read(path, rng)
            if self._frames(len(clip)) < 1:
                raise DecodeError(f"{1000 * len(clip) / SAMPLE_RATE:.1f} ms are too short for a frame")
        except audio_lib.SilentError as error:
            self.silent.record(str(path), str(error))
            return dict(self.padding_example)
        except (DecodeError, MemoryError, OSError) as error:
            self.bad.record(str(path), why_unreadable(error, str(path)))
            self.bad.check(self.total, self._most_bad)
            return dict(self.padding_example)
        if rng is not None and self._augment is not None:
            clip = self._augment(clip, rng)
        clip, mask = audio_lib.fit(clip, self._samples)
        row = self.padding_example | {"audio": audio_lib.normalise(clip, mask), "audio_mask": mask}
        return row if rng is None else row | self._hidden(self._frames(int(mask.sum())), rng)

    def _read(self, path: Path, rng: np.random.Generator | None) -> np.ndarray:
        """At most `samples` samples of the file."""
        found = self._kept.get(path)
        if found is not None:
            return found
        found = audio_lib.read(path, longest=self._samples, rng=rng)
        if path not in self.formats:
            _, rate, channels = audio_lib.header(path)
            self.formats[path] = rate, channels
        # Of a file as long as the clip or longer, another window may be drawn the next time.
        if len(found) < self._samples:
            with self._lock:
                if path not in self._kept and found.nbytes <= self._room:
                    self._kept[path] = found
                    self._room -= found.nbytes
        return found

    def _hidden(self, frames: int, rng: np.random.Generator) -> Example:
        """The SpecAugment masks over the frames of a clip and over the bands."""
        times, bands = self._hide
        own = audio_augment.spans(frames, rng, probability=times, span=self._span, least=1)
        out: Example = {
            "hidden_frames": np.pad(own, (0, len(self.padding_example["hidden_frames"]) - frames))
        }
        if self._bands:
            span = max(1, self._bands // 10)
            out["hidden_bands"] = audio_augment.spans(self._bands, rng, probability=bands, span=span, least=1)
        return out


def audio_files(source: Source, *, needed: bool = True) -> list[tuple[Path, ...]]:
    """The audio files of each example, from the column `audio`: paths relative to the root of the source, separated by "|".

    Args:
        source: a split.
        needed: at least one example must have audio, as in training; False for evaluation.

    Returns:
        N tuples of paths, empty for an example without audio.

    Raises:
        UserError: the source has no such column, or no example has audio though it is needed.
    """
    columns = source.columns
    if "audio" not in columns:
        raise UserError(
            f"{source.name} has no column audio; its columns are {listed_columns(source)}: add one (a manifest can have "
            "it), or leave audio out of config.trimodal.modalities"
        )
    root = Path(find_attribute(source, "root"))
    found = [tuple(root / part for part in str(cell).split("|") if part) for cell in columns["audio"]]
    if needed and not any(found):
        raise UserError(
            f"{source.name}, split {source.split!r}: no example has an audio file in the column audio"
        )
    return found
