"""Encoders for images whose channels belong to modalities (RGB and UV, say), with a projection for contrastive learning.

Three ways to fuse, by the same interface: an embedding a modality that depends on that modality's channels alone, and a
feature of all of them together.

- **separate**: an encoder a modality.
- **concat**: one encoder of all channels. A modality's embedding is that of the image in which all other channels are 0, which
  is their mean, and its own are scaled by C / c, as dropout scales what it keeps: a first convolution that repeats published
  weights, scaled by 3 / C, then answers three channels exactly as published.
- **attention**: one encoder that reads one modality at a time, and a learned token a modality that queries its feature map.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.models.attention import attention, merge_heads, split_heads
from fusionjax.models.backbones.crossvit import CrossViT
from fusionjax.models.backbones.efficientnet import EfficientNet
from fusionjax.models.backbones.vit import ViT
from fusionjax.models.layers import INPUT_KERNEL, Dense, LayerNorm
from fusionjax.types import Array
from fusionjax.vectors import unit

FUSIONS = ("separate", "concat", "attention")
SHARED = "shared"
"""Name of the one encoder of `concat` and `attention`."""


class Cut(nn.Module):
    """An EfficientNet in two parts, of which the lower is frozen: in evaluation mode, without a gradient.

    The parameters have the names of the whole network's, so published weights need not know of the cut.

    Attributes:
        lower: with features "stride16" and output "tokens".
        upper: with entry "stride16" and output "tokens".
    """

    lower: EfficientNet
    upper: EfficientNet

    @property
    def below(self) -> tuple[tuple[str, nn.Module], ...]:
        """Both, from the output down: see `models.parameters`."""
        return (("", self.upper), ("", self.lower))

    def setup(self) -> None:
        nn.share_scope(self, self.lower)
        nn.share_scope(self, self.upper)

    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, dict[str, Any]]:
        """(B, h, w, c) → the feature map (B, h', w', D), and no aux."""
        features, _ = self.lower(images)
        return self.upper(jax.lax.stop_gradient(features), train=train)

    @property
    def frozen(self) -> tuple[str, ...]:
        """First part of the names of the parameters that do not train."""
        return ("stem", *(f"block_{i}" for i, b in enumerate(self.lower.blocks()) if b.total <= 16))


class TokenQuery(nn.Module):
    """Learned tokens query a feature map: a mean over the map to which attention adds what a token looks for.

    The last projection starts at 0, so that the feature starts as the mean.

    Attributes:
        queries: names of the tokens.
        width: of queries, keys and values.
        heads: H; divides `width`.

    Args (call):
        tokens: (B, N, D).
        name: of the query.

    Returns:
        (B, D) float32.
    """

    queries: Sequence[str]
    width: int = 256
    heads: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, query: str) -> Array:
        init = nn.initializers.normal(0.02)
        learned = {q: self.param(f"token_{q}", init, (1, 1, self.width), jnp.float32) for q in self.queries}
        x = LayerNorm(dtype=self.dtype, name="norm")(tokens)
        keys, values = (Dense(self.width, dtype=self.dtype, name=name)(x) for name in ("keys", "values"))
        asked = jnp.broadcast_to(learned[query], (len(tokens), 1, self.width)).astype(self.dtype)
        q, k, v = (split_heads(part, self.heads) for part in (asked, keys, values))
        found = merge_heads(attention(q, k, v))[:, 0]
        zeros = nn.initializers.zeros_init()
        added = Dense(tokens.shape[-1], dtype=self.dtype, kernel_init=zeros, name="out")(found)
        return tokens.astype(jnp.float32).mean(1) + added.astype(jnp.float32)


class Projection(nn.Module):
    """Dense layers with ReLU between them, from a feature to the embedding that the loss sees.

    Attributes:
        widths: of the layers; the last is the embedding's.

    Args (call):
        x: (..., D).

    Returns:
        (..., widths[-1]) float32.

    Source: Chen et al., ICML 2020, arXiv 2002.05709, section 4.2.
    """

    widths: Sequence[int] = (512, 128)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.astype(jnp.float32)
        for i, width in enumerate(self.widths):
            x = nn.relu(x) if i else x
            x = Dense(width, kernel_init=nn.initializers.he_normal(), name=f"layer_{i}")(x)
        return x


class SpectralEncoder(nn.Module):
    """Embeddings of the modalities of an image.

    Attributes:
        encoder: number of input channels → an image backbone without a head: an `EfficientNet` or `ResNet` with
            output "tokens", a `Cut`, a `ViT` or `CrossViT` with num_classes 0.
        modalities: (name, indices of its channels) for each; channels that none names are not read.
        fusion: of `FUSIONS`.
        projection: widths of the layers from the feature to the embedding; shared by the modalities.
        query_width, query_heads: of `TokenQuery`.
        fixed_statistics: the encoders run in evaluation mode in training too: batch normalisation by the running statistics,
            no dropout.
        log_scale: start of a learned logarithm of the logit scale; None for none.
        dtype: of the encoders.
    """

    encoder: Callable[[int], nn.Module]
    modalities: Sequence[tuple[str, Sequence[int]]]
    fusion: str = "separate"
    projection: Sequence[int] = (512, 128)
    query_width: int = 256
    query_heads: int = 8
    fixed_statistics: bool = False
    log_scale: float | None = None
    dtype: Any = jnp.float32

    @property
    def names(self) -> tuple[str, ...]:
        """Of the modalities."""
        return tuple(name for name, _ in self.modalities)

    @property
    def towers(self) -> tuple[str, ...]:
        """Names of the encoders: one a modality, or `SHARED`."""
        return self.names if self.fusion == "separate" else (SHARED,)

    @property
    def read(self) -> tuple[int, ...]:
        """Channels that any modality has, in order of the modalities."""
        return tuple(c for _, channels in self.modalities for c in channels)

    @property
    def parts(self) -> tuple[tuple[str, nn.Module], ...]:
        """The encoders: see `models.parameters`."""
        return tuple((f"tower_{name}", self.encoder(self.width_of(name))) for name in self.towers)

    @property
    def undecayed(self) -> tuple[str, ...]:
        """The learned tokens and the logit scale: see `models.parameters`."""
        return (r"query/token_\w+", "log_scale")

    def width_of(self, tower: str) -> int:
        """Input channels of an encoder."""
        if self.fusion == "separate":
            return len(dict(self.modalities)[tower])
        return len(self.read) if self.fusion == "concat" else max(len(c) for _, c in self.modalities)

    def setup(self) -> None:
        self.tower = {name: self.encoder(self.width_of(name)) for name in self.towers}
        if self.fusion == "attention":
            self.query = TokenQuery(self.names, self.query_width, self.query_heads, self.dtype)
        self.head = Projection(tuple(self.projection))
        if self.log_scale is not None:
            self.scale = self.param("log_scale", nn.initializers.constant(self.log_scale), (), jnp.float32)

    def __call__(
        self, images: Array, *, train: bool = False, combined: bool = False
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Embeddings by modality.

        Args:
            images: (B, h, w, C) normalised.
            train: batch statistics, dropout and stochastic depth, unless `fixed_statistics`; needs the PRNG collection
                "dropout".
            combined: also make the feature of all modalities together.

        Returns:
            {modality: (B, d) float32, not unit}, and aux: "features" {modality: (B, D) float32}, before the projection;
            "combined" (B, D'), where asked for: unit features side by side (separate), the encoder's feature of all channels
            (concat), or the tokens' answers over all maps side by side (attention); "log_scale" where it is learned.
        """
        train = train and not self.fixed_statistics
        run = {"separate": self._separate, "concat": self._concat, "attention": self._attention}[self.fusion]
        features, whole = run(images, train, combined)
        aux: dict[str, Any] = {"features": features}
        if combined:
            aux["combined"] = whole
        if self.log_scale is not None:
            aux["log_scale"] = self.scale
        stacked = self.head(jnp.stack(list(features.values()), 1))
        return {name: stacked[:, i] for i, name in enumerate(self.names)}, aux

    def _separate(self, images: Array, train: bool, combined: bool) -> tuple[dict[str, Array], Array | None]:
        features = {
            name: pooled(self.tower[name], images[..., jnp.asarray(channels)], train)
            for name, channels in self.modalities
        }
        return features, jnp.concatenate([unit(f) for f in features.values()], -1) if combined else None

    def _concat(self, images: Array, train: bool, combined: bool) -> tuple[dict[str, Array], Array | None]:
        inputs = jnp.stack([alone(images, self.modalities, name) for name in self.names], 1)
        encoder = self.tower[SHARED]
        made = pooled(encoder, _flat(inputs), train).reshape(*inputs.shape[:2], -1)
        whole = pooled(encoder, images[..., jnp.asarray(self.read)], train) if combined else None
        return {name: made[:, i] for i, name in enumerate(self.names)}, whole

    def _attention(self, images: Array, train: bool, combined: bool) -> tuple[dict[str, Array], Array | None]:
        most = self.width_of(SHARED)
        inputs = jnp.stack([widened(images[..., jnp.asarray(c)], most) for _, c in self.modalities], 1)
        tokens = token_map(self.tower[SHARED], _flat(inputs), train)
        tokens = tokens.reshape(*inputs.shape[:2], *tokens.shape[1:])  # (B, M, N, D)
        features = {name: self.query(tokens[:, i], name) for i, name in enumerate(self.names)}
        if not combined:
            return features, None
        every = tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])
        return features, jnp.concatenate([self.query(every, name) for name in self.names], -1)


def alone(images: Array, modalities: Sequence[tuple[str, Sequence[int]]], name: str) -> Array:
    """The channels of all modalities, those of others 0 and those of `name` scaled by C / c; see `concat` above.

    Args:
        images: (B, h, w, C') normalised.
        modalities: (name, indices of its channels) for each.
        name: of the one that stays.

    Returns:
        (B, h, w, C), C the channels of all modalities together.
    """
    total = sum(len(channels) for _, channels in modalities)
    parts = [
        images[..., jnp.asarray(channels)] * (total / len(channels) if own == name else 0.0)
        for own, channels in modalities
    ]
    return jnp.concatenate(parts, -1)


def widened(images: Array, channels: int) -> Array:
    """(B, h, w, c) → (B, h, w, channels): further channels of 0, and the given ones scaled by channels / c."""
    missing = channels - images.shape[-1]
    if not missing:
        return images
    return jnp.pad(images * (channels / images.shape[-1]), ((0, 0),) * 3 + ((0, missing),))


def pooled(encoder: nn.Module, images: Array, train: bool) -> Array:
    """One feature an image, (B, D) float32: CLS of a transformer, the mean over the map of a convolutional network."""
    if isinstance(encoder, ViT):
        return _vit(encoder, images, train)[:, 0].astype(jnp.float32)
    output, _ = encoder(images, train=train)
    return (output if isinstance(encoder, CrossViT) else output.mean((1, 2))).astype(jnp.float32)


def token_map(encoder: nn.Module, images: Array, train: bool) -> Array:
    """The tokens of an image, (B, N, D): a transformer's patches, or the cells of a feature map."""
    if isinstance(encoder, ViT):
        return _vit(encoder, images, train)[:, 1:]
    output, _ = encoder(images, train=train)
    return output.reshape(len(output), -1, output.shape[-1])


def of_modality(
    variables: Mapping[str, Any], module: SpectralEncoder, modality: str
) -> tuple[dict[str, Any], str]:
    """An encoder's variables as those of a plain backbone that reads one modality's channels, and gives the same features.

    Of `concat` the first layer's kernel is that modality's part, scaled as `alone` scales its images; of `attention` the
    query over the feature map is left out.

    Args:
        variables: of `module`.
        module: whose encoder is taken.
        modality: whose.

    Returns:
        {"params": …, "batch_stats": …}, and the encoder's name.
    """
    tower = modality if module.fusion == "separate" else SHARED
    found = {
        collection: tree[f"tower_{tower}"]
        for collection, tree in variables.items()
        if f"tower_{tower}" in tree
    }
    if module.fusion == "separate":
        return found, tower
    channels = dict(module.modalities)[modality]
    start = module.read.index(channels[0]) if module.fusion == "concat" else 0
    rows, scale = slice(start, start + len(channels)), module.width_of(SHARED) / len(channels)

    def first(path: tuple[Any, ...], leaf: Any) -> Any:
        name = "/".join(str(getattr(p, "key", p)) for p in path)
        # By its width too: behind a trunk, patch_embed reads the trunk's features.
        if not INPUT_KERNEL.fullmatch(name) or leaf.shape[2] != module.width_of(SHARED) or scale == 1:
            return leaf
        return leaf[:, :, rows] * scale

    return {**found, "params": jax.tree_util.tree_map_with_path(first, found["params"])}, tower


def _vit(encoder: ViT, images: Array, train: bool) -> Array:
    """All tokens after the last norm, CLS first."""
    x = encoder.embed(images, None, train=train)
    x, _ = encoder.encode(x, attend=attention, train=train)
    return encoder.norm(x)


def _flat(x: Array) -> Array:
    """(B, M, ...) → (B·M, ...): rows that a device has stay on it."""
    return x.reshape(-1, *x.shape[2:])
