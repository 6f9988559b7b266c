"""The audio of a task's examples: the encoder and its inputs."""

import functools
from collections.abc import Sequence
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax import models, pretrained
from fusionjax.config import impossible
from fusionjax.data import fingerprint
from fusionjax.data.audio import clips
from fusionjax.data.audio import waveform as audio_lib
from fusionjax.data.audio.augment import Augment
from fusionjax.data.source import Source
from fusionjax.data.unreadable import DecodeError, why_unreadable
from fusionjax.errors import UserError
from fusionjax.models import log_mel as mel_lib
from fusionjax.models.backbones import audio as audio_models
from fusionjax.models.backbones.mel import MelEncoder
from fusionjax.tasks.base.protocol import Facts, Say, silent
from fusionjax.types import SAMPLE_RATE, Array, PyTree


class AudioInputs:
    """The sound of each example, by `config.audio`, and the audio encoder.

    Args:
        config: of the run, validated.
        facts: of the data; the sounds of its splits are listed here, once.

    Attributes:
        module: the encoder.
        samples: S of a clip.
        frames: (samples) → frames that the encoder's input has, of so many.
        made: split, as `Facts.splits` names it → its sounds; they count which could not be read.

    Raises:
        UserError: sizes that do not go together, or a clip too short for a frame.
    """

    def __init__(self, config: ConfigDict, facts: Facts):
        self.config = config
        c, dtype = config.audio, jnp.dtype(config.precision).type
        self.samples = round(c.seconds * SAMPLE_RATE)
        self.log_mel = c.encoder == "mel"
        if self.log_mel:
            self.module: nn.Module = MelEncoder(c.width, c.depth, c.heads, dropout=c.dropout, dtype=dtype)
            self.frames = mel_lib.num_frames
        else:
            self.module = models.create(
                c.encoder, dropout=c.dropout, freeze_extractor=True, remat=config.model.remat, dtype=dtype
            )
            kernels, strides = self.module.kernels, self.module.strides
            self.frames = functools.partial(audio_models.num_frames, kernels=kernels, strides=strides)
        if self.frames(self.samples) < 1:
            raise impossible(config, "audio.seconds", "a clip must be longer than a frame of 25 ms")
        self._splits = facts.splits
        self.made = {name: self._make(source) for name, source in self._splits.items()}

    @property
    def frozen(self) -> tuple[str, ...]:
        """Patterns of the parameters that never train: those of Wav2Vec2's convolutions."""
        return () if self.log_mel else (f"^audio/{self.module.frozen_parameters}$",)

    def weights(self, *, shapes_only: bool = False, log: Say = silent) -> PyTree | None:
        """The encoder's published parameters; see `image_model.ReadWeights`."""
        c = self.config.audio
        if not c.source:
            return None
        return pretrained.load(c.source, c.encoder, shapes_only=shapes_only, log=log)["params"]

    def rows(self, source: Source) -> clips.AudioClips:
        """The auxiliary inputs of a split.

        Raises:
            UserError: the source has no sounds; a split for evaluation may have none, but must have the column.
        """
        for name, known in self._splits.items():
            if known is source:
                return self.made[name]
        return self._make(source)

    def _make(self, source: Source) -> clips.AudioClips:
        c = self.config
        augment = Augment(gain=c.audio.gain, noise=c.audio.noise, shift=c.audio.shift)
        files = clips.audio_files(source, needed=source.split == c.data.train_split)
        return clips.AudioClips(
            files, samples=self.samples, frames=self.frames, augment=augment,
            bands=mel_lib.BANDS if self.log_mel else 0, seed=c.seed, hide_frames=c.audio.hide_frames,
            hide_bands=c.audio.hide_bands, memory=c.audio.memory * 2**20, most_bad=c.data.max_bad_fraction,
        )  # fmt: skip

    def fingerprint(self) -> dict[str, str]:
        """Digest of a sample of the audio files of all splits."""
        return {
            "audio": fingerprint.of_files(
                [path for _, rows in sorted(self.made.items()) for path in rows.paths]
            )
        }

    def from_user(self, files: Sequence[str | Path | None]) -> clips.AudioClips:
        """The auxiliary inputs of a user's images.

        Args:
            files: the sound of each, None or "" for none. A silent one is named, and taken as none.

        Raises:
            UserError: a file that cannot be read.
        """
        paths = [(Path(file).expanduser(),) if file else () for file in files]
        for path in {path for own in paths for path in own}:
            try:
                audio_lib.read(path, longest=self.samples)
            except audio_lib.SilentError:
                pass
            except (DecodeError, MemoryError, OSError) as error:
                raise UserError(
                    f"the sound {path} cannot be read: {why_unreadable(error, str(path))}"
                ) from None
        return self._sounds(paths)

    def padding_example(self) -> dict[str, np.ndarray]:
        """What `rows` adds to a padding example."""
        return self._sounds([]).padding_example

    def _sounds(self, files: Sequence[Sequence[Path]]) -> clips.AudioClips:
        bands = mel_lib.BANDS if self.log_mel else 0
        return clips.AudioClips(files, samples=self.samples, frames=self.frames, bands=bands)

    def arguments(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Arguments of the module: "audio", "audio_mask", and "masked_frames" of a Wav2Vec2.

        Args:
            batch: with the outputs of `rows`; without "audio", as for a user's images, there is no sound.
        """
        batch = self._with_sound(batch)
        audio, mask = batch["audio"], batch["audio_mask"]
        if not self.log_mel:
            return {"audio": audio, "audio_mask": mask, "masked_frames": batch["hidden_frames"]}
        mel, own = mel_lib.log_mel(audio, mask)
        mel = standardised(mel, own)
        # Hidden values become the mean, which is 0, as in SpecAugment.
        hidden = batch["hidden_frames"][:, :, None] | batch["hidden_bands"][:, None]
        return {"audio": jnp.where(hidden, 0, mel), "audio_mask": own}

    def spectrogram(self, batch: dict[str, Array]) -> tuple[Array, Array]:
        """The spectrogram of a sound: its log-mel frames (B, T, F), and which are the clip's own, bool (B, T)."""
        batch = self._with_sound(batch)
        return mel_lib.log_mel(batch["audio"], batch["audio_mask"])

    def seconds(self, frames: int) -> float:
        """Length of a clip with so many frames in `spectrogram`."""
        return ((frames - 1) * mel_lib.HOP + mel_lib.WINDOW) / SAMPLE_RATE if frames else 0.0

    def _with_sound(self, batch: dict[str, Array]) -> dict[str, Array]:
        """The batch; with empty sounds if it has none."""
        if "audio" in batch:
            return batch
        size = len(next(iter(batch.values())))
        return {k: jnp.zeros((size, *v.shape), v.dtype) for k, v in self.padding_example().items()}


def standardised(mel: Array, mask: Array) -> Array:
    """Each clip with mean 0 and variance 1 over its own frames and all bands: (B, T, F), bool (B, T) → (B, T, F), else 0."""
    weight = mask[..., None].astype(jnp.float32)
    count = jnp.maximum(weight.sum((1, 2), keepdims=True) * mel.shape[-1], 1)
    mean = (mel * weight).sum((1, 2), keepdims=True) / count
    variance = (jnp.square(mel - mean) * weight).sum((1, 2), keepdims=True) / count
    return (mel - mean) * jax.lax.rsqrt(variance + 1e-5) * weight
