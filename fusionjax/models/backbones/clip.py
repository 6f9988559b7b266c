"""CLIP (Radford et al., ICML 2021): an image encoder and a causal text encoder with a shared space of unit vectors."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.errors import UserError
from fusionjax.models.backbones import naming
from fusionjax.models.backbones.text import SelfAttention
from fusionjax.models.layers import Dense, DType, LayerNorm, gelu, scan_layers, trunc_normal
from fusionjax.models.observation import Axis, Stream, observe_tokens, self_attention
from fusionjax.types import Array
from fusionjax.vectors import unit

EPSILON = 1e-5


def quick_gelu(x: Array) -> Array:
    """x·σ(1.702 x), the approximation of GELU that OpenAI's weights need."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {"quick_gelu": quick_gelu, "gelu": gelu}


@dataclasses.dataclass(frozen=True)
class Tower:
    """The sizes of one transformer: D, L, H and the hidden width of its MLP."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    ffn: int = 3072


class PreNormLayer(nn.Module):
    """x + attention(norm1 x), x + mlp(norm2 x). Arguments and results as for `SelfAttention`."""

    tower: Tower
    activation: str = "quick_gelu"
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, mask: Array | None, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, dict[str, Array]]:
        attend = SelfAttention(self.tower.heads, dtype=self.dtype, name="attention")
        out, seen = attend(
            LayerNorm(EPSILON, self.dtype, name="norm1")(x), mask, train=train, capture=capture
        )
        x = x + out
        out = Dense(self.tower.ffn, dtype=self.dtype, name="fc1")(
            LayerNorm(EPSILON, self.dtype, name="norm2")(x)
        )
        out = Dense(x.shape[-1], dtype=self.dtype, name="fc2")(ACTIVATIONS[self.activation](out))
        return x + out, seen


class ImageTower(nn.Module):
    """Patches, CLS, positions, a norm before and one after the blocks: (B, h, w, 3) → CLS (B, D), tokens (B, 1 + N, D)."""

    tower: Tower
    image_size: int
    patch: int
    activation: str
    remat: bool
    dtype: DType

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool, capture: tuple[str, ...]
    ) -> tuple[Array, dict[str, Array]]:
        batch, height, wide, channels = images.shape
        if (height, wide) != (self.image_size, self.image_size):
            raise ValueError(
                f"an image of {height}×{wide}; the model was built for {self.image_size} pixels a side"
            )
        p, side, width = self.patch, self.image_size // self.patch, self.tower.width
        patches = images.reshape(batch, side, p, side, p, channels).transpose(0, 1, 3, 2, 4, 5)
        patches = patches.reshape(batch, side * side, p * p * channels)
        x = Dense(width, use_bias=False, dtype=self.dtype, name="patch_embed")(patches)
        cls = self.param("cls_token", trunc_normal, (1, 1, width), jnp.float32)
        positions = self.param("pos_embed", trunc_normal, (1, 1 + side * side, width), jnp.float32)
        cls = jnp.broadcast_to(cls.astype(x.dtype), (batch, 1, width))
        x = jnp.concatenate([cls, x], axis=1) + positions.astype(x.dtype)
        x = LayerNorm(EPSILON, self.dtype, name="norm_before")(x)
        layers = PreNormLayer(self.tower, self.activation, self.dtype, name="layers")
        x, aux = scan_layers(
            layers, x, None, length=self.tower.layers, remat=self.remat, train=train, capture=capture
        )
        observe_tokens(self, x)
        return LayerNorm(EPSILON, self.dtype, name="norm")(x[:, 0]), {**aux, "tokens": x}


class TextTower(nn.Module):
    """Words and positions, causal blocks, a norm: (B, T) int32 → end-of-text vector (B, d), tokens (B, T, d)."""

    tower: Tower
    vocab: int
    positions: int
    end_token: int | None
    activation: str
    remat: bool
    dtype: DType

    @nn.compact
    def __call__(
        self, input_ids: Array, attention_mask: Array | None, *, train: bool, capture: tuple[str, ...]
    ) -> tuple[Array, dict[str, Array]]:
        length, width = input_ids.shape[1], self.tower.width
        if length > self.positions:
            raise ValueError(f"a text of {length} tokens; the model has {self.positions} positions")
        words = self.param("words", trunc_normal, (self.vocab, width), jnp.float32)
        positions = self.param("positions", trunc_normal, (self.positions, width), jnp.float32)
        x = (jnp.take(words, input_ids, axis=0) + positions[:length]).astype(self.dtype)
        mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
        if attention_mask is not None:
            mask = mask & (jnp.asarray(attention_mask) != 0)[:, None, None, :]
        layers = PreNormLayer(self.tower, self.activation, self.dtype, name="layers")
        x, aux = scan_layers(
            layers, x, mask, length=self.tower.layers, remat=self.remat, train=train, capture=capture
        )
        x = LayerNorm(EPSILON, self.dtype, name="norm")(x)
        ends = input_ids if self.end_token is None else input_ids == self.end_token
        end = jnp.argmax(ends, axis=1)[:, None, None]
        return jnp.take_along_axis(x, end, axis=1)[:, 0], {**aux, "tokens": x}


class CLIP(nn.Module):
    """The image and text towers with their projections, without bias, into a shared space.

    Attributes:
        image_size, patch: side of the image and of a patch, in pixels.
        image, text: sizes of the towers.
        vocab, positions: size of the vocabulary, and length of the longest text in tokens.
        projection: P, the width of the shared space.
        activation: "quick_gelu" (OpenAI) or "gelu" (most of OpenCLIP), exact.
        end_token: id of the end-of-text token; a text feature is read at its first position. None: at the position of the
            highest id, which is the same in OpenAI's vocabulary.
        remat: recompute layers in the backward pass, which saves memory and takes longer.
        dtype: dtype of the towers; parameters, projections and unit vectors are float32.

    Example:
        >>> module = build("clip_vit_base_patch32")
        >>> features, _ = module.apply(variables, images, method="encode_image")  # (B, 512), unit
    """

    image_size: int = 224
    patch: int = 32
    image: Tower = Tower()
    text: Tower = Tower(512, 12, 8, 2048)
    vocab: int = 49408
    positions: int = 77
    projection: int = 512
    activation: str = "quick_gelu"
    end_token: int | None = None
    remat: bool = False
    dtype: DType = jnp.float32

    @property
    def streams(self) -> dict[str, Stream]:
        """See `models.observation`: those of the image tower."""
        side = self.image_size // self.patch
        return self_attention("image_tower/layers/attention/attention", Axis("image", (side, side), 1, True))

    def setup(self) -> None:
        check(self)
        self.image_tower = ImageTower(
            self.image, self.image_size, self.patch, self.activation, self.remat, self.dtype
        )
        self.text_tower = TextTower(
            self.text, self.vocab, self.positions, self.end_token, self.activation, self.remat, self.dtype
        )
        self.image_projection = Dense(self.projection, use_bias=False)
        self.text_projection = Dense(self.projection, use_bias=False)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(math.log(1 / 0.07)), (), jnp.float32
        )

    def __call__(
        self,
        images: Array,
        input_ids: Array,
        attention_mask: Array | None = None,
        *,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Array, dict[str, Any]]:
        """Returns the scaled similarity of each image and each text.

        Args:
            images: (B, h, w, 3) float, normalised with CLIP's mean and standard deviation.
            input_ids, attention_mask: (C, T); see `encode_text`.
            train: has no effect, since CLIP has no dropout; for the common interface of models.
            capture: "attention".

        Returns:
            e^logit_scale · cosine, (B, C) float32; aux: "image" (B, P) and "text" (C, P) unit vectors, "logit_scale", and
            the aux of both encoders under "image_aux" and "text_aux".
        """
        image, image_aux = self.encode_image(images, train=train, capture=capture)
        text, text_aux = self.encode_text(input_ids, attention_mask, train=train, capture=capture)
        aux = dict(
            image=image, text=text, logit_scale=self.logit_scale, image_aux=image_aux, text_aux=text_aux
        )
        return jnp.exp(self.logit_scale) * image @ text.T, aux

    def encode_image(
        self, images: Array, *, train: bool = False, capture: tuple[str, ...] = ()
    ) -> tuple[Array, dict[str, Array]]:
        """Returns unit vectors of images.

        Args:
            images: (B, h, w, 3) float, normalised.
            train: has no effect.
            capture: "attention" (L, B, H, 1 + N, 1 + N).

        Returns:
            (B, P) float32, and aux: "tokens" (B, 1 + N, D) after the last block, and what `capture` names.
        """
        cls, aux = self.image_tower(images, train=train, capture=capture)
        return unit(self.image_projection(cls).astype(jnp.float32), 1e-24), aux

    def encode_text(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        *,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Array, dict[str, Array]]:
        """Returns unit vectors of texts.

        Args:
            input_ids: (B, T) int32, each row with an end-of-text token; an id outside the vocabulary gives NaN.
            attention_mask: (B, T), 0 for padding tokens. None gives the same result, because the end-of-text token does not
                attend to what follows it.
            train: has no effect.
            capture: "attention" (L, B, H, T, T).

        Returns:
            (B, P) float32, and aux: "tokens" (B, T, d) after the last norm, and what `capture` names.
        """
        end, aux = self.text_tower(input_ids, attention_mask, train=train, capture=capture)
        return unit(self.text_projection(end).astype(jnp.float32), 1e-24), aux


CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "clip_vit_base_patch32": dict(patch=32),
    "clip_vit_base_patch16": dict(patch=16),
}
NAMES: tuple[str, ...] = tuple(sorted(CONFIGS))


def build(name: str, **overrides: Any) -> CLIP:
    """Builds the CLIP of a name, with fields overridden.

    Args:
        name: one of NAMES.
        **overrides: fields of CLIP.

    Raises:
        UserError: the name or a field is unknown, or a combination of fields is invalid.
    """
    if name not in CONFIGS:
        raise UserError(f"model {name!r} is not one of {', '.join(NAMES)}")
    return make(name, **{**CONFIGS[name], **overrides})


def make(name: str, **fields: Any) -> CLIP:
    """Builds a CLIP from fields; `name` is the name of the model in messages."""
    naming.check_fields(name, fields, naming.fields_of(CLIP))
    module = CLIP(**fields)
    check(module, name)
    return module


def check(module: CLIP, name: str = "clip") -> None:
    """Raises a UserError if the combination of fields is invalid."""
    if module.image_size % module.patch:
        raise UserError(
            f"model {name}: image_size={module.image_size} must be a multiple of the patch {module.patch}"
        )
    for kind, tower in (("image", module.image), ("text", module.text)):
        if tower.width % tower.heads:
            raise UserError(f"model {name}: {kind} heads={tower.heads} must divide width={tower.width}")
    if module.activation not in ACTIVATIONS:
        raise UserError(
            f"model {name}: activation={module.activation!r} is not one of {', '.join(ACTIVATIONS)}"
        )
