"""Cross-modal attention over image, audio and text, any of which may be missing.

See docs/methods/multimodal.md.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from fusionjax.errors import UserError
from fusionjax.models.backbones.text import masked_mean
from fusionjax.models.layers import DType, LayerNorm
from fusionjax.models.methods.cross_attention import EPSILON, CrossAttention
from fusionjax.models.methods.fusion import Classifier
from fusionjax.models.observation import Axis, Stream
from fusionjax.types import Array, Aux

MODALITIES = ("image", "audio", "text")
PAIRINGS = tuple(f"{to}_from_{of}" for to in MODALITIES for of in MODALITIES if to != of)
"""All ordered pairings, <queries>_from_<keys>."""
DEFAULT = ("image_from_audio", "audio_from_image", "text_from_image")
"""The default pairings."""


class TrimodalClassifier(nn.Module):
    """Classifies an example from the tokens of up to three modalities, which attend to each other.

    x_m ← LN(x_m + Σ attention(x_m, x_s, x_s)) over the pairings <m>_from_<s>, all computed from the input tokens; then the
    masked means of the modalities are concatenated and classified. Each attention has its own weights.

    A missing modality is treated as fully masked: no modality attends to it, and its mean is 0.

    Attributes:
        num_classes: C.
        modalities: the members of MODALITIES in use, in the order of the concatenation.
        pairings: the members of PAIRINGS in use, over `modalities`; may be empty.
        width, heads: total width of the queries, keys and values of every attention, and H.
        hidden: width of the classifier's hidden layer.
        dropout: of attention maps, of attention outputs, and in the classifier.
        modality_dropout: probability that training hides a modality of an example; at least one is always kept.
        dtype: of the computation over tokens; parameters, means and classifier are float32.

    Raises:
        UserError: a field has an invalid value.

    Example:
        >>> kinds, pairings = ("image", "audio"), ("image_from_audio",)
        >>> module = TrimodalClassifier(num_classes=3, modalities=kinds, pairings=pairings, width=8, heads=2)
        >>> tokens = {"image": jnp.ones((1, 4, 6)), "audio": jnp.ones((1, 5, 10))}
        >>> masks = {"audio": jnp.arange(5)[None] < 3}
        >>> variables = module.init(jax.random.key(0), tokens, masks)
        >>> logits, aux = module.apply(variables, tokens, masks, capture=("attention",))
        >>> logits.shape, aux["attention"]["image_from_audio"].shape
        ((1, 3), (1, 2, 4, 5))
    """

    num_classes: int
    modalities: Sequence[str] = MODALITIES
    pairings: Sequence[str] = DEFAULT
    width: int = 256
    heads: int = 8
    hidden: int = 256
    dropout: float = 0.1
    modality_dropout: float = 0.0
    dtype: DType = jnp.float32

    def __post_init__(self) -> None:
        check(self.modalities, self.pairings)
        if self.heads < 1 or self.width % self.heads:
            raise UserError(f"trimodal: heads={self.heads} must divide width={self.width}")
        if not (0 <= self.dropout < 1 and 0 <= self.modality_dropout < 1):
            raise UserError("trimodal: dropout and modality_dropout must be in [0, 1)")
        super().__post_init__()

    @property
    def streams(self) -> dict[str, Stream]:
        """See `models.observation`."""
        found = {}
        for pairing in self.pairings:
            to, of = map(Axis, pairing.split("_from_"))
            found[f"{pairing}/attention"] = Stream(pairing, to, of, parallel=True)
        return found

    @nn.compact
    def __call__(
        self,
        tokens: Mapping[str, Float[Array, "batch _ _"]],
        masks: Mapping[str, Shaped[Array, "batch _"]],
        present: Mapping[str, Shaped[Array, " batch"]] | None = None,
        *,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "batch {self.num_classes}"], Aux]:
        """Computes class logits.

        Args:
            tokens: modality → (B, N_m, D_m) float.
            masks: modality → (B, N_m), 0 or False at padding; only for modalities with padding.
            present: modality → (B,), 0 or False where an example lacks it; None if nothing is missing.
            train: dropout and modality dropout on; needs the PRNG collection "dropout".
            capture: "attention" or nothing.

        Returns:
            Logits, (B, C) float32, and aux: "features" (B, Σ D_m) float32, the input of the classifier; if captured,
            "attention": pairing → (B, H, N_to, N_from) float32 before dropout, 0 in rows and columns of padding.

        Raises:
            ValueError: a mask does not have the shape of its tokens.
        """
        masks = {m: self._mask(m, tokens[m], masks, present or {}) for m in self.modalities}
        if train and self.modality_dropout and len(self.modalities) > 1:
            masks = self._hide(masks)
        # Padding may contain anything, NaN included.
        x = {m: jnp.where(masks[m][..., None], tokens[m], 0).astype(self.dtype) for m in self.modalities}
        maps, means = {}, []
        for m in self.modalities:
            total = x[m]
            for pairing in self.pairings:
                to, source = pairing.split("_from_")
                if to != m:
                    continue
                read = CrossAttention(
                    self.width, self.heads, x[m].shape[-1], self.dropout, dtype=self.dtype, name=pairing
                )
                out, seen = read(x[m], x[source], mask=masks[source], train=train, capture=capture)
                total = total + nn.Dropout(self.dropout, deterministic=not train)(out)
                if seen:
                    maps[pairing] = jnp.where(masks[m][:, None, :, None], seen["attention"], 0)
            total = LayerNorm(EPSILON, self.dtype, name=f"norm_{m}")(total)
            means.append(masked_mean(total, masks[m]))
        features = jnp.concatenate(means, -1)
        aux: Aux = {"features": features} | ({"attention": maps} if "attention" in capture else {})
        return Classifier(self.hidden, self.num_classes, self.dropout, name="classifier")(
            features, train=train
        ), aux

    def _mask(
        self, name: str, tokens: Array, masks: Mapping[str, Array], present: Mapping[str, Array]
    ) -> Array:
        mask = jnp.ones(tokens.shape[:2], bool) if name not in masks else jnp.asarray(masks[name]) != 0
        if mask.shape != tokens.shape[:2]:
            raise ValueError(
                f"the mask of {name}, {mask.shape}, does not have the shape of its tokens, {tokens.shape[:2]}"
            )
        return mask if name not in present else mask & (jnp.asarray(present[name]) != 0)[:, None]

    def _hide(self, masks: Mapping[str, Array]) -> dict[str, Array]:
        """Hides each modality with probability `modality_dropout`; an example left without any gets one of its own back."""
        there = jnp.stack([masks[m].any(1) for m in self.modalities], 1)
        key, again = jax.random.split(self.make_rng("dropout"))
        kept = there & jax.random.bernoulli(key, 1 - self.modality_dropout, there.shape)
        drawn = jnp.where(there, jax.random.uniform(again, there.shape), -1).argmax(1)
        spared = jax.nn.one_hot(drawn, len(self.modalities), dtype=bool)
        kept = jnp.where(kept.any(1, keepdims=True), kept, spared)
        return {m: masks[m] & kept[:, i, None] for i, m in enumerate(self.modalities)}


def check(modalities: Sequence[str], pairings: Sequence[str]) -> None:
    """Checks modalities and pairings.

    Raises:
        UserError: a name is unknown or repeated, or a pairing names a modality that is not in use.
    """
    for what, values, known in (("modalities", modalities, MODALITIES), ("pairings", pairings, PAIRINGS)):
        for value in values:
            if value not in known:
                raise UserError(
                    f"trimodal: {what} contains {value!r}, which is not one of {', '.join(known)}"
                )
        if len(set(values)) < len(values):
            raise UserError(f"trimodal: {what}={tuple(values)} contains a duplicate")
    if not modalities:
        raise UserError(f"trimodal: modalities is empty: name some of {', '.join(MODALITIES)}")
    for pairing in pairings:
        for part in pairing.split("_from_"):
            if part not in modalities:
                raise UserError(
                    f"trimodal: the pairing {pairing} needs {part}, which modalities={tuple(modalities)} lacks"
                )


def possible(pairings: Sequence[str], modalities: Sequence[str]) -> tuple[str, ...]:
    """Returns the pairings whose two modalities are both among `modalities`."""
    return tuple(p for p in pairings if set(p.split("_from_")) <= set(modalities))
