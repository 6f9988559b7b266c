"""Encoders for images whose channels belong to modalities (RGB and UV, say), with a projection for contrastive learning.

There are three kinds of fusion with the same interface: one embedding per modality, which depends on the channels of that
modality alone, and one feature of all modalities together. See docs/methods/contrastive.md.

- **separate**: one encoder per modality.
- **concat**: one encoder of all channels. The embedding of a modality is that of the image in which all other channels are 0
  (their mean) and its own are scaled by C / c, as dropout scales the units it keeps: a first convolution that repeats
  published weights, scaled by 3 / C, then computes exactly the published response to three channels.
- **attention**: one encoder that is applied to one modality at a time, and one learned token per modality that queries the
  feature map.
"""

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from fusionjax.models import registry
from fusionjax.models.attention import attention, merge_heads, split_heads
from fusionjax.models.backbones.efficientnet import EfficientNet
from fusionjax.models.backbones.record import FEATURE_MAP, Encoder
from fusionjax.models.layers import INPUT_KERNEL, Dense, DType, LayerNorm
from fusionjax.models.observation import Axis, Stream, observer
from fusionjax.types import Array, Aux, PyTree
from fusionjax.vectors import unit

FUSIONS = ("separate", "concat", "attention")
SHARED = "shared"
"""Name of the shared encoder of `concat` and `attention`."""


class Cut(nn.Module):
    """An EfficientNet in two parts, the lower of which is frozen: it runs in evaluation mode and receives no gradient.

    The parameters have the same names as in the whole network, so that published weights apply unchanged.

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

    def __call__(
        self, images: Float[Array, "batch rows columns channels"], *, train: bool = False
    ) -> tuple[Float[Array, "batch grid_rows grid_columns width"], Aux]:
        """Computes the feature map (B, h', w', D) of images (B, h, w, c), and an empty aux."""
        features, _ = self.lower(images)
        return self.upper(jax.lax.stop_gradient(features), train=train)

    @property
    def frozen(self) -> tuple[str, ...]:
        """First path components of the parameters that are not trained."""
        return ("stem", *(f"block_{i}" for i, b in enumerate(self.lower.blocks()) if b.total <= 16))


class TokenQuery(nn.Module):
    """Learned tokens query a feature map: the mean over the map plus the result of the attention.

    The last projection is initialised with 0, so that the feature is the mean at first.

    Attributes:
        queries: names of the tokens.
        width: of queries, keys and values.
        heads: H; divides `width`.
        dtype: of the computation.

    Args (call):
        tokens: (B, N, D) float.
        query: name of the token that queries.

    Returns:
        (B, D) float32.
    """

    queries: Sequence[str]
    width: int = 256
    heads: int = 8
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "batch tokens width"], query: str) -> Float[Array, "batch width"]:
        init = nn.initializers.normal(0.02)
        learned = {q: self.param(f"token_{q}", init, (1, 1, self.width), jnp.float32) for q in self.queries}
        x = LayerNorm(dtype=self.dtype, name="norm")(tokens)
        keys, values = (Dense(self.width, dtype=self.dtype, name=name)(x) for name in ("keys", "values"))
        asked = jnp.broadcast_to(learned[query], (len(tokens), 1, self.width)).astype(self.dtype)
        q, k, v = (split_heads(part, self.heads) for part in (asked, keys, values))
        found = merge_heads(attention(q, k, v, see=observer(self, query)))[:, 0]
        zeros = nn.initializers.zeros_init()
        added = Dense(tokens.shape[-1], dtype=self.dtype, kernel_init=zeros, name="out")(found)
        return tokens.astype(jnp.float32).mean(1) + added.astype(jnp.float32)


class Projection(nn.Module):
    """Dense layers with ReLU between them, from a feature to the embedding that the loss is computed on.

    Attributes:
        widths: of the layers; the last is the width of the embedding.

    Args (call):
        x: (..., D) float.

    Returns:
        (..., widths[-1]) float32.

    Source: Chen et al., ICML 2020, arXiv 2002.05709, section 4.2.
    """

    widths: Sequence[int] = (512, 128)

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch embedding"]:
        x = x.astype(jnp.float32)
        for i, width in enumerate(self.widths):
            x = nn.relu(x) if i else x
            x = Dense(width, kernel_init=nn.initializers.he_normal(), name=f"layer_{i}")(x)
        return x


class SpectralEncoder(nn.Module):
    """Computes one embedding per modality of an image.

    Attributes:
        encoder: function from the number of input channels to an image backbone without a head: of a family whose record
            has an `encoder`, with the fields that this one names, or a `Cut`.
        modalities: (name, channel indices) of each modality; channels that are in none are not used.
        fusion: one of `FUSIONS`.
        projection: widths of the layers from the feature to the embedding, shared by the modalities.
        query_width, query_heads: width and heads of `TokenQuery`.
        fixed_statistics: the encoders run in evaluation mode during training too: batch normalisation uses the running
            statistics, and there is no dropout.
        log_scale: initial value of the learned logarithm of the logit scale; None if there is none.
        dtype: of the computation in the encoders.
    """

    encoder: Callable[[int], nn.Module]
    modalities: Sequence[tuple[str, Sequence[int]]]
    fusion: str = "separate"
    projection: Sequence[int] = (512, 128)
    query_width: int = 256
    query_heads: int = 8
    fixed_statistics: bool = False
    log_scale: float | None = None
    dtype: DType = jnp.float32

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(name for name, _ in self.modalities)

    @property
    def towers(self) -> tuple[str, ...]:
        """Names of the encoders: those of the modalities, or `SHARED`."""
        return self.names if self.fusion == "separate" else (SHARED,)

    @property
    def read(self) -> tuple[int, ...]:
        """Channel indices of all modalities, in the order of the modalities."""
        return tuple(c for _, channels in self.modalities for c in channels)

    @property
    def parts(self) -> tuple[tuple[str, nn.Module], ...]:
        """The encoders: see `models.parameters`."""
        return tuple((f"tower_{name}", self.encoder(self.width_of(name))) for name in self.towers)

    @property
    def undecayed(self) -> tuple[str, ...]:
        """The learned tokens and the logit scale: see `models.parameters`."""
        return (r"query/token_\w+", "log_scale")

    @property
    def streams(self) -> dict[str, Stream]:
        """See `models.observation`: those of the encoders, by modality, and of the learned tokens."""
        found: dict[str, Stream] = {}
        for tower in self.towers:
            encoder = self.encoder(self.width_of(tower))
            for path, stream in getattr(encoder, "streams", {}).items():
                if self.fusion == "attention":  # it reads the patches
                    own = stream.keys._replace(cls=False)
                    stream = stream._replace(queries=own, keys=own)
                alone = stream._replace(name=f"{tower}/{stream.name}")
                shared = stream._replace(groups=self.names)
                found[f"tower_{tower}/{path}"] = alone if self.fusion == "separate" else shared
        if self.fusion == "attention":
            keys = Axis("image", getattr(self.encoder(3), "grid", None))
            found |= {
                f"query/{name}": Stream(f"{name}/query", Axis("cls", cls=True), keys) for name in self.names
            }
        return found

    def width_of(self, tower: str) -> int:
        """Returns the number of input channels of an encoder."""
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
        self,
        images: Float[Array, "batch rows columns channels"],
        *,
        train: bool = False,
        combined: bool = False,
    ) -> tuple[dict[str, Float[Array, "batch embedding"]], Aux]:
        """Computes the embeddings by modality.

        Args:
            images: (B, h, w, C) float, normalised.
            train: batch statistics, dropout and stochastic depth on, unless `fixed_statistics`; needs the PRNG collection
                "dropout".
            combined: also compute the feature of all modalities together.

        Returns:
            Modality → (B, d) float32 embedding, not normalised to unit length; and aux: "features", modality → (B, D)
            float32, before the projection; if requested, "combined" (B, D'): the concatenated unit features (separate), the
            encoder's feature of all channels (concat), or the concatenated query results over all maps (attention);
            "log_scale" if it is learned.
        """
        train = train and not self.fixed_statistics
        run = {"separate": self._separate, "concat": self._concat, "attention": self._attention}[self.fusion]
        features, whole = run(images, train, combined)
        aux: Aux = {"features": features}
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


def alone(
    images: Float[Array, "batch rows columns channels"],
    modalities: Sequence[tuple[str, Sequence[int]]],
    name: str,
) -> Float[Array, "batch rows columns read"]:
    """Sets the channels of all modalities but one to 0 and scales that one by C / c; see `concat` above.

    Args:
        images: (B, h, w, C') float, normalised.
        modalities: (name, channel indices) of each modality.
        name: of the modality to keep.

    Returns:
        (B, h, w, C), C the total number of channels of all modalities.
    """
    total = sum(len(channels) for _, channels in modalities)
    parts = [
        images[..., jnp.asarray(channels)] * (total / len(channels) if own == name else 0.0)
        for own, channels in modalities
    ]
    return jnp.concatenate(parts, -1)


def widened(
    images: Float[Array, "batch rows columns few"], channels: int
) -> Float[Array, "batch rows columns channels"]:
    """Appends channels of 0 up to `channels` and scales the given ones by channels / c: (B, h, w, c) → (B, h, w, channels)."""
    missing = channels - images.shape[-1]
    if not missing:
        return images
    return jnp.pad(images * (channels / images.shape[-1]), ((0, 0),) * 3 + ((0, missing),))


def pooled(
    encoder: nn.Module, images: Float[Array, "batch rows columns channels"], train: bool
) -> Float[Array, "batch width"]:
    """Computes one feature per image, (B, D) float32, as the record of the encoder's family says."""
    return _record(encoder).feature(encoder, images, train).astype(jnp.float32)


def token_map(
    encoder: nn.Module, images: Float[Array, "batch rows columns channels"], train: bool
) -> Float[Array, "batch tokens width"]:
    """Computes the tokens of each image, (B, N, D), as the record of the encoder's family says.

    Raises:
        ValueError: the encoder has more than one grid of tokens.
    """
    tokens = _record(encoder).tokens
    if tokens is None:
        raise ValueError(f"{type(encoder).__name__} has more than one grid of tokens")
    return tokens(encoder, images, train)


def of_modality(
    variables: Mapping[str, PyTree], module: SpectralEncoder, modality: str
) -> tuple[dict[str, PyTree], str]:
    """Extracts the variables of a plain backbone that has one modality's channels as input and computes the same features.

    With `concat`, the first layer's kernel is restricted to that modality's channels and scaled as `alone` scales images; with
    `attention`, the query over the feature map is left out.

    Args:
        variables: of `module`.
        module: the model to extract from.
        modality: name of the modality.

    Returns:
        {"params": …, "batch_stats": …}, and the name of the encoder in `module`.
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

    def first(path: tuple[jax.tree_util.DictKey, ...], leaf: Array) -> Array:
        name = "/".join(str(getattr(p, "key", p)) for p in path)
        # Its width is checked too: behind a trunk, patch_embed is applied to the trunk's features.
        if not INPUT_KERNEL.fullmatch(name) or leaf.shape[2] != module.width_of(SHARED) or scale == 1:
            return leaf
        return leaf[:, :, rows] * scale

    return {**found, "params": jax.tree_util.tree_map_with_path(first, found["params"])}, tower


def _record(encoder: nn.Module) -> Encoder:
    """How an encoder's family encodes images; a network of no family, such as a `Cut`, returns its feature map."""
    family = registry.family_of(encoder)
    return FEATURE_MAP if family is None or family.encoder is None else family.encoder


def _flat(x: Array) -> Array:
    """(B, M, ...) → (B·M, ...); every row stays on its device."""
    return x.reshape(-1, *x.shape[2:])
