"""Encoders of image, audio and text in front of a `TrimodalClassifier`: the whole model of docs/methods/multimodal.md."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.models.methods.image_text import ImageText
from fusionjax.models.methods.trimodal import TrimodalClassifier
from fusionjax.types import Array


class Multimodal(ImageText):
    """An encoder for each modality that `fusion` has; a frozen one may be left out of a call by giving its features.

    Attributes:
        trunk, text, freeze_trunk, freeze_text, trunk_norm, dtype: see `ImageText`; None where `fusion` has no such modality.
        fusion: what reads the modalities.
        audio: encoder of sounds; (tokens, {"mask"}) = audio(sounds, mask), or None.
        freeze_audio: it runs in evaluation mode and receives no gradient.
        image_grid: rows and columns of the image's tokens.
    """

    trunk: nn.Module | None
    fusion: TrimodalClassifier
    audio: nn.Module | None = None
    freeze_audio: bool = False
    image_grid: tuple[int, int] = (1, 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the image's tokens."""
        return self.image_grid

    def __call__(
        self,
        images: Array | None = None,
        *,
        present: Mapping[str, Array] | None = None,
        train: bool = False,
        capture: tuple[str, ...] = (),
        **inputs: Any,
    ) -> tuple[Array, dict[str, Any]]:
        """Class logits.

        Args:
            images: (B, H, W, 3) normalised; or `features`.
            present: (B,) of the modalities that an example may lack, 0 or False where it does.
            train: dropout on; needs the PRNG collection "dropout".
            capture: see `TrimodalClassifier`.
            **inputs: see `encoded`.

        Returns:
            As `TrimodalClassifier`; aux also has "mask", by modality the tokens that count.
        """
        found, masks = self.encoded(images, present=present, train=train, **inputs)
        logits, aux = self.fusion(found, masks, present, train=train, capture=capture)
        return logits, {**aux, "mask": masks}

    def by_subset(
        self, images: Array | None = None, *, present: Mapping[str, Array] | None = None, **inputs: Any
    ) -> dict[tuple[str, ...], Array]:
        """Logits (B, C) with each subset of the modalities, as if the others were missing; arguments as for the call."""
        found, masks = self.encoded(images, present=present, **inputs)
        out = {}
        for subset in subsets(self.fusion.modalities):
            there = {m: jnp.full(len(x), m in subset) for m, x in found.items()}
            there |= {m: there[m] & (jnp.asarray(p) != 0) for m, p in (present or {}).items() if m in there}
            out[subset], _ = self.fusion(found, masks, there)
        return out

    def encoded(
        self,
        images: Array | None = None,
        *,
        features: Array | None = None,
        audio: Array | None = None,
        audio_mask: Array | None = None,
        masked_frames: Array | None = None,
        tokens: Array | None = None,
        text: Array | None = None,
        text_mask: Array | None = None,
        present: Mapping[str, Array] | None = None,
        train: bool = False,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Tokens (B, N, D) of every modality, and the masks (B, N) of those that count.

        Args:
            images: (B, H, W, 3) normalised; or
            features: (B, h, w, C), what `trunk` made of them.
            audio: what the audio encoder takes, e.g. (B, samples).
            audio_mask: bool, False at padding.
            masked_frames: further argument of the audio encoder, where it is one.
            tokens: (B, T) int32 words; or
            text: (B, T, Ct), what `text` made of them.
            text_mask: (B, T) bool, False at padding.
            present: as for the call; what stands in an image that is missing does not enter `trunk_norm`'s statistics.
            train: as for the call.

        Raises:
            ValueError: the input of a modality is missing.
        """
        kinds, found, masks = self.fusion.modalities, {}, {}
        if "image" in kinds:
            if (images is None) == (features is None):
                raise ValueError("pass either images or features")
            if features is None:
                features = self.run_trunk(images, train=train)
            found["image"] = self._image(features.astype(self.dtype), (present or {}).get("image"), train)
        if "audio" in kinds:
            if audio is None:
                raise ValueError("the model hears: pass audio")
            more = {} if masked_frames is None else {"masked_frames": masked_frames}
            heard, aux = self.audio(audio, audio_mask, train=train and not self.freeze_audio, **more)
            found["audio"] = jax.lax.stop_gradient(heard) if self.freeze_audio else heard
            masks["audio"] = aux["mask"]
        if "text" in kinds:
            if text is None:
                if tokens is None:
                    raise ValueError("the model reads: pass tokens or text")
                text = self.encode_text(tokens, text_mask, train=train)
            found["text"] = text.astype(self.dtype)
            if text_mask is not None:
                masks["text"] = text_mask
        return found, masks

    def _image(self, image: Array, present: Array | None, train: bool) -> Array:
        if present is not None:
            seen = (jnp.asarray(present) != 0)[:, None, None, None]
            image = jnp.where(seen, image, 0)
        if self.trunk_norm:
            # Of a batch without any image the statistics are those of the zeros in its place: finite.
            rows = None if present is None else seen | ~seen.any()
            image = self.feature_norm(image, use_running_average=not train, mask=rows)
        return image.reshape(image.shape[0], -1, image.shape[-1])


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """All that are not empty, the smaller first, all modalities last."""
    return [s for n in range(1, len(modalities) + 1) for s in itertools.combinations(modalities, n)]
