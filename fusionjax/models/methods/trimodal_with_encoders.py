"""Image, audio and text encoders in front of a `TrimodalClassifier`.

See docs/methods/multimodal.md.
"""

import itertools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from fusionjax.models.methods.image_text_with_encoders import ImageText
from fusionjax.models.methods.trimodal import TrimodalClassifier
from fusionjax.models.observation import observe_tokens, stop_gradient
from fusionjax.types import Array, Aux


class Multimodal(ImageText):
    """One encoder per modality of `fusion`; a call may pass the features of an encoder instead of its input.

    Attributes:
        trunk, text, freeze_trunk, freeze_text, trunk_norm, dtype: see `ImageText`; encoders are None where `fusion` does not
            have the modality.
        fusion: classifier of the modalities.
        audio: audio encoder, (tokens, {"mask": …}) = audio(samples, mask), or None.
        freeze_audio: the audio encoder runs in evaluation mode and receives no gradient.
        image_grid: rows and columns of the image tokens.
    """

    trunk: nn.Module | None  # type: ignore[assignment]  # linen's fields may be narrowed and widened
    fusion: TrimodalClassifier  # type: ignore[assignment]
    audio: nn.Module | None = None
    freeze_audio: bool = False
    image_grid: tuple[int, int] = (1, 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the image's tokens."""
        return self.image_grid

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"] | None = None,
        *,
        present: Mapping[str, Shaped[Array, " batch"]] | None = None,
        train: bool = False,
        capture: tuple[str, ...] = (),
        **inputs: Array | None,
    ) -> tuple[Float[Array, "batch classes"], Aux]:
        """Computes class logits.

        Args:
            images: (B, H, W, 3) float, normalised; or `features`.
            present: modality → (B,), 0 or False where an example lacks it; only for modalities that may be missing.
            train: dropout on; needs the PRNG collection "dropout".
            capture: see `TrimodalClassifier`.
            **inputs: see `encoded`.

        Returns:
            As `TrimodalClassifier`; aux also has "mask": modality → (B, N) bool, False at padding.
        """
        found, masks = self.encoded(images, present=present, train=train, **inputs)
        logits, aux = self.fusion(found, masks, present, train=train, capture=capture)
        return logits, {**aux, "mask": masks}

    def by_subset(
        self,
        images: Float[Array, "batch rows columns channels"] | None = None,
        *,
        present: Mapping[str, Shaped[Array, " batch"]] | None = None,
        **inputs: Array | None,
    ) -> dict[tuple[str, ...], Float[Array, "batch classes"]]:
        """Computes the logits for each subset of the modalities, as if all others were missing.

        Args:
            images, present, **inputs: as for the call.

        Returns:
            Subset → logits (B, C) float32, in the order of `subsets`.
        """
        found, masks = self.encoded(images, present=present, train=False, **inputs)
        out = {}
        for subset in subsets(self.fusion.modalities):
            there = {m: jnp.full(len(x), m in subset) for m, x in found.items()}
            there |= {m: there[m] & (jnp.asarray(p) != 0) for m, p in (present or {}).items() if m in there}
            out[subset], _ = self.fusion(found, masks, there)
        return out

    def encoded(
        self,
        images: Float[Array, "batch rows columns channels"] | None = None,
        *,
        features: Float[Array, "batch grid_rows grid_columns width"] | None = None,
        audio: Float[Array, "batch samples ..."] | None = None,
        audio_mask: Shaped[Array, "batch samples"] | None = None,
        masked_frames: Shaped[Array, "batch frames"] | None = None,
        tokens: Int[Array, "batch length"] | None = None,
        text: Float[Array, "batch length text_width"] | None = None,
        text_mask: Shaped[Array, "batch length"] | None = None,
        present: Mapping[str, Shaped[Array, " batch"]] | None = None,
        train: bool = False,
    ) -> tuple[dict[str, Float[Array, "batch _ _"]], dict[str, Shaped[Array, "batch _"]]]:
        """Encodes every modality.

        Args:
            images: (B, H, W, 3) float, normalised; or
            features: (B, h, w, C) float, the output of `trunk` for them.
            audio: the input of the audio encoder, e.g. (B, samples) float.
            audio_mask: (B, samples) bool, False at padding.
            masked_frames: (B, frames) bool, passed on to the audio encoder if given.
            tokens: (B, T) int32 token ids; or
            text: (B, T, Ct) float, the output of `text` for them.
            text_mask: (B, T) bool, False at padding.
            present: as for the call; images that are missing do not enter the statistics of `trunk_norm`.
            train: as for the call.

        Returns:
            Modality → tokens (B, N, D), and modality → mask (B, N), False at padding, for those that have padding.

        Raises:
            ValueError: the input of a modality is missing.
        """
        kinds = self.fusion.modalities
        found: dict[str, Array] = {}
        masks: dict[str, Array] = {}
        if "image" in kinds:
            image = self.image_features(images, features, train=train)
            found["image"] = self._image(image.astype(self.dtype), (present or {}).get("image"), train)
        if "audio" in kinds:
            if self.audio is None or audio is None:
                raise ValueError("the model has audio input: pass audio")
            more = {} if masked_frames is None else {"masked_frames": masked_frames}
            heard, aux = self.audio(audio, audio_mask, train=train and not self.freeze_audio, **more)
            found["audio"] = stop_gradient(self, heard) if self.freeze_audio else heard
            masks["audio"] = aux["mask"]
        if "text" in kinds:
            if text is None:
                text = self.encode_text(tokens, text_mask, train=train)
            found["text"] = text.astype(self.dtype)
            if text_mask is not None:
                masks["text"] = text_mask
        return found, masks

    def _image(self, image: Array, present: Array | None, train: bool) -> Array:
        rows = None
        if present is not None:
            seen = (jnp.asarray(present) != 0)[:, None, None, None]
            image = jnp.where(seen, image, 0)
            # In a batch without any image the statistics are those of the zeros in its place, which are finite.
            rows = seen | ~seen.any()
        if self.trunk_norm:
            image = self.feature_norm(image, use_running_average=not train, mask=rows)
        tokens = image.reshape(image.shape[0], -1, image.shape[-1])
        observe_tokens(self, tokens)
        return tokens


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns all non-empty subsets, smaller ones first, and all modalities last."""
    return [s for n in range(1, len(modalities) + 1) for s in itertools.combinations(modalities, n)]
