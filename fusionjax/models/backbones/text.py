"""BERT (Devlin et al., NAACL 2019) and DistilBERT (Sanh et al., 2019): post-norm text encoders.

The layers run as one `nn.scan`, as in the ViT. Padding has no effect: a masked token gets no attention weight and no weight in
the mean, so its content does not change any other token.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.errors import UserError
from fusionjax.models.attention import attention_and_map, merge_heads, split_heads
from fusionjax.models.backbones import naming
from fusionjax.models.layers import Dense, DType, LayerNorm, gelu, scan_layers, trunc_normal
from fusionjax.models.observation import Axis, Stream, observer, self_attention
from fusionjax.types import Array
from fusionjax.vectors import unit

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {"gelu": gelu, "relu": jax.nn.relu}
"""Name in a checkpoint's config → function; "gelu" is the exact one, by erf."""

OUTPUTS = ("tokens", "pooled", "mean")


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The sizes of a text encoder; the defaults are BERT-base's.

    Attributes:
        vocab: V, size of the vocabulary.
        width, layers, heads, ffn: d, L, H and the hidden width of the feed-forward layers.
        positions: length of the longest text, in tokens.
        types: number of token types; 0 for none (DistilBERT).
        pooler: whether there is BERT's pooler, tanh(Linear(CLS)).
        epsilon: epsilon of all layer normalisations.
        activation: "gelu" (exact) or "relu".
        dropout: rate after the embedding, the attention projection and the feed-forward layers.
        attention_dropout: rate for the attention map.
    """

    vocab: int = 30522
    width: int = 768
    layers: int = 12
    heads: int = 12
    ffn: int = 3072
    positions: int = 512
    types: int = 2
    pooler: bool = True
    epsilon: float = 1e-12
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1


CONFIGS: Mapping[str, TextConfig] = {
    "bert_base_uncased": TextConfig(),
    "distilbert_base_uncased": TextConfig(layers=6, types=0, pooler=False),
    "all_minilm_l6_v2": TextConfig(width=384, layers=6, ffn=1536),
}
NAMES: tuple[str, ...] = tuple(sorted(CONFIGS))


class SelfAttention(nn.Module):
    """Multi-head self-attention with its four projections.

    Args (call):
        x: (B, N, D).
        mask: bool, broadcastable to (B, H, N, N); False keys get no weight; None for no mask.
        train: whether dropout is on.
        capture: "attention" or nothing.

    Returns:
        (B, N, D), and {"attention": (B, H, N, N) float32, before dropout} if captured.
    """

    heads: int
    dropout: float = 0.0
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, mask: Array | None, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, dict[str, Array]]:
        width = x.shape[-1]
        q, k, v = (
            split_heads(Dense(width, dtype=self.dtype, name=name)(x), self.heads)
            for name in ("query", "key", "value")
        )
        key = self.make_rng("dropout") if train and self.dropout else None
        out, weights = attention_and_map(
            q,
            k,
            v,
            mask=mask,
            rate=self.dropout,
            key=key,
            with_map="attention" in capture,
            see=observer(self),
        )
        seen = {} if weights is None else {"attention": weights}
        return Dense(width, dtype=self.dtype, name="out")(merge_heads(out)), seen


class PostNormLayer(nn.Module):
    """norm1(x + attention x), norm2(x + feed-forward x). Arguments and results as for `SelfAttention`."""

    config: TextConfig
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, mask: Array, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, dict[str, Array]]:
        config, dropout = self.config, nn.Dropout(self.config.dropout, deterministic=not train)
        attend = SelfAttention(config.heads, config.attention_dropout, self.dtype, name="attention")
        out, seen = attend(x, mask, train=train, capture=capture)
        x = LayerNorm(config.epsilon, self.dtype, name="norm1")(x + dropout(out))
        out = ACTIVATIONS[config.activation](Dense(config.ffn, dtype=self.dtype, name="fc1")(x))
        out = Dense(x.shape[-1], dtype=self.dtype, name="fc2")(out)
        return LayerNorm(config.epsilon, self.dtype, name="norm2")(x + dropout(out)), seen


class TextEncoder(nn.Module):
    """BERT; DistilBERT if the config has no token types and no pooler.

    Attributes:
        config: sizes.
        output: "tokens" (B, T, d); "pooled" (B, d), BERT's pooler; "mean" (B, d), the mean of the tokens that are not padding.
        normalise: scale the pooled or mean vector to unit length, as for sentence embeddings.
        remat: recompute layers in the backward pass, which saves memory and takes longer.
        dtype: dtype of the computation; parameters are float32.

    Example:
        >>> module = TextEncoder(TextConfig(vocab=100, width=16, layers=2, heads=2, ffn=32), output="mean")
        >>> ids = jnp.array([[5, 6, 7, 0]]); mask = ids > 0
        >>> variables = module.init(jax.random.key(0), ids, mask)
        >>> vector, _ = module.apply(variables, ids, mask)
        >>> vector.shape
        (1, 16)
    """

    config: TextConfig = TextConfig()
    output: str = "tokens"
    normalise: bool = False
    remat: bool = False
    dtype: DType = jnp.float32

    @property
    def streams(self) -> dict[str, Stream]:
        """See `models.observation`."""
        return self_attention("layers/attention/attention", Axis("text"))

    def setup(self) -> None:
        config = self.config
        self.words = self.param("words", trunc_normal, (config.vocab, config.width), jnp.float32)
        self.positions = self.param("positions", trunc_normal, (config.positions, config.width), jnp.float32)
        if config.types:
            self.types = self.param("types", trunc_normal, (config.types, config.width), jnp.float32)
        self.norm = LayerNorm(config.epsilon, self.dtype)
        self.embed_dropout = nn.Dropout(config.dropout)
        self.layers = PostNormLayer(config, self.dtype)
        if config.pooler:
            self.pooler = Dense(config.width, dtype=self.dtype)

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array | None = None,
        token_type_ids: Array | None = None,
        *,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Array, dict[str, Any]]:
        """Encodes texts.

        Args:
            input_ids: (B, T) int32; an id outside the vocabulary gives NaN.
            attention_mask: (B, T), 0 or False for padding tokens; None for no padding.
            token_type_ids: (B, T) int32; None for zeros. Ignored if the model has no token types.
            train: dropout on; needs the PRNG collection "dropout".
            capture: "attention" (L, B, H, T, T), the maps before dropout.

        Returns:
            The output (tokens in `dtype`, vectors in float32), and aux: "tokens" (B, T, d), "pooled" (B, d) if there is a
            pooler, and what `capture` names. The mean of a text that is all padding is 0.

        Raises:
            UserError: `output` does not fit the config.
            ValueError: the text is longer than `positions`, or the mask has the wrong shape.
        """
        check(self)
        if attention_mask is None:
            attention_mask = jnp.ones(input_ids.shape, bool)
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask {attention_mask.shape} is not of the shape of input_ids {input_ids.shape}"
            )
        mask = jnp.asarray(attention_mask) != 0
        x = self.embed(input_ids, token_type_ids, train=train)
        x, aux = self.encode(x, mask[:, None, None, :], train=train, capture=capture)
        aux["tokens"] = x
        if self.config.pooler:
            aux["pooled"] = jnp.tanh(self.pooler(x[:, 0])).astype(jnp.float32)
        out = masked_mean(x, mask) if self.output == "mean" else aux[self.output]
        return (unit(out.astype(jnp.float32), 1e-24) if self.normalise else out), aux

    def embed(self, input_ids: Array, token_type_ids: Array | None, *, train: bool) -> Array:
        """Returns the normalised sum of word, position and token type embeddings, (B, T, d)."""
        length = input_ids.shape[1]
        if length > self.config.positions:
            raise ValueError(f"a text of {length} tokens; the model has {self.config.positions} positions")
        x = jnp.take(self.words, input_ids, axis=0) + self.positions[:length]
        if self.config.types:
            x = x + (
                self.types[0] if token_type_ids is None else jnp.take(self.types, token_type_ids, axis=0)
            )
        return self.embed_dropout(self.norm(x), deterministic=not train)

    def encode(
        self, x: Array, mask: Array, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, dict[str, Array]]:
        """Runs all layers; what `capture` names is stacked over layers."""
        return scan_layers(
            self.layers, x, mask, length=self.config.layers, remat=self.remat, train=train, capture=capture
        )


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean over tokens without padding: (B, T, d), (B, T) bool → (B, d) float32; 0 if all tokens are padding."""
    total = jnp.where(mask[..., None], x.astype(jnp.float32), 0).sum(1)
    return total / jnp.maximum(mask.sum(1, keepdims=True), 1)


def build(name: str, **overrides: Any) -> TextEncoder:
    """Builds the text encoder of a name, with fields overridden.

    Args:
        name: one of NAMES.
        **overrides: fields of TextEncoder or of TextConfig, e.g. `output="mean", layers=2`.

    Raises:
        UserError: the name or a field is unknown, or a combination of fields is invalid.
    """
    if name not in CONFIGS:
        raise UserError(f"text model {name!r} is not one of {', '.join(NAMES)}")
    return make(CONFIGS[name], name, **overrides)


def make(config: TextConfig, name: str = "text", **overrides: Any) -> TextEncoder:
    """Builds a text encoder from a config; `name` is the name of the model in messages."""
    sizes, fields = naming.fields_of(TextConfig), naming.fields_of(TextEncoder) - {"config"}
    naming.check_fields(name, overrides, sizes | fields)
    config = dataclasses.replace(config, **{k: v for k, v in overrides.items() if k in sizes})
    module = TextEncoder(config, **{k: v for k, v in overrides.items() if k in fields})
    check(module, name)
    return module


def check(module: TextEncoder, name: str = "text") -> None:
    """Raises a UserError if the combination of fields is invalid."""
    config = module.config
    if module.output not in OUTPUTS:
        raise UserError(f"model {name}: output={module.output!r} is not one of {', '.join(OUTPUTS)}")
    if module.output == "pooled" and not config.pooler:
        raise UserError(f"model {name}: output='pooled' needs a pooler, which it has not; use 'mean'")
    if module.output == "tokens" and module.normalise:
        raise UserError(f"model {name}: normalise=True is for output='mean' or 'pooled', not 'tokens'")
    for size in ("vocab", "width", "layers", "heads", "ffn", "positions"):
        value = getattr(config, size)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"model {name}: {size}={value!r} must be a whole number above 0")
    if config.width % config.heads:
        raise UserError(f"model {name}: heads={config.heads} must divide width={config.width}")
    if config.activation not in ACTIVATIONS:
        raise UserError(
            f"model {name}: activation={config.activation!r} is not one of {', '.join(ACTIVATIONS)}"
        )
    for rate in ("dropout", "attention_dropout"):
        if not 0 <= getattr(config, rate) < 1:
            raise UserError(f"model {name}: {rate}={getattr(config, rate)} must be in [0, 1)")
