"""Cross-attention between two token sequences of any width, and layers in which both attend to each other.

See docs/methods/image_text_fusion.md.
"""

from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from fusionjax.errors import UserError
from fusionjax.models.attention import attention_and_map, merge_heads, split_heads
from fusionjax.models.layers import Dense, DType, LayerNorm, Mlp, over_layers
from fusionjax.models.methods import token_blocks
from fusionjax.models.methods.token_blocks import Blocks
from fusionjax.models.observation import observed, observer
from fusionjax.types import Array

EPSILON = 1e-5
"""Epsilon of every layer normalisation here, the default of torch.nn.LayerNorm."""

TokenMask: TypeAlias = Shaped[Array, "#batch keys"] | Shaped[Array, "#batch queries keys"]


def sincos_2d(grid: tuple[int, int], width: int) -> Float[np.ndarray, "tokens width"]:
    """Returns fixed 2-D sine-cosine positions of a grid in row-major order (Vaswani et al., NeurIPS 2017, per axis).

    The first half of the channels encodes rows, the second columns; each half is [sin(p·ω), cos(p·ω)] with
    ω_i = 10000^(−i / (d/4)), i < d/4.

    Args:
        grid: rows h and columns w.
        width: d.

    Returns:
        (h·w, d) float32.

    Raises:
        UserError: `width` is not a multiple of 4.
    """
    if width % 4:
        raise UserError(f"width={width} must be a multiple of 4: sine and cosine of rows and of columns")
    omega = 10000.0 ** (-np.arange(width // 4) / (width // 4))

    def axis(positions: np.ndarray) -> np.ndarray:
        angles = positions.reshape(-1, 1) * omega
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    rows, columns = np.mgrid[: grid[0], : grid[1]]
    return np.concatenate([axis(rows), axis(columns)], axis=1).astype(np.float32)


class CrossAttention(nn.Module):
    """Multi-head attention whose queries, keys and values may have different widths (Vaswani et al., 2017, section 3.2.2).

    Attributes:
        width: d of the projections, all heads together.
        heads: H.
        out_width: D of the output; None for `width`.
        dropout: of the attention map.
        qkv_bias: whether queries, keys and values have a bias.
        dtype: of the computation; parameters and the softmax are float32.

    Raises:
        UserError: `heads` does not divide `width`.

    Example:
        >>> module = CrossAttention(width=8, heads=2)
        >>> queries, keys = jnp.ones((1, 3, 6)), jnp.ones((1, 5, 10))
        >>> variables = module.init(jax.random.key(0), queries, keys)
        >>> out, aux = module.apply(variables, queries, keys, capture=("attention",))
        >>> out.shape, aux["attention"].shape
        ((1, 3, 8), (1, 2, 3, 5))
    """

    width: int
    heads: int
    out_width: int | None = None
    dropout: float = 0.0
    qkv_bias: bool = True
    dtype: DType = jnp.float32

    def setup(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise UserError(f"heads={self.heads} must divide width={self.width}")
        self.query, self.key, self.value = (Dense(self.width, self.qkv_bias, self.dtype) for _ in range(3))
        self.out = Dense(self.out_width or self.width, dtype=self.dtype)

    def __call__(
        self,
        queries: Float[Array, "batch queries query_width"],
        keys: Float[Array, "key_batch keys key_width"],
        values: Float[Array, "key_batch keys value_width"] | None = None,
        mask: TokenMask | None = None,
        *,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "batch queries width"], dict[str, Array]]:
        """Computes each query's weighted mean of the values.

        Args:
            queries: (B, N, Dq) float.
            keys: (B, M, Dk) float, or (1, M, Dk), shared by all examples and projected once.
            values: (B, M, Dv) float, or (1, M, Dv) as the keys; None to use the keys as values.
            mask: (B, M) bool or number, or (B, N, M) for a mask per query; the batch may be 1. Keys where it is 0 or False
                get zero weight.
            train: dropout of the map on; needs the PRNG collection "dropout".
            capture: "attention" or nothing.

        Returns:
            (B, N, D); and, if captured, {"attention": (B, H, N, M) float32, before dropout}. For a query without any key,
            its row of the map and its whole output (the projection's bias included) are 0, and so is their gradient.

        Raises:
            ValueError: the shape of the mask does not fit.
        """
        return self.attend(queries, *self.keys_values(keys, values), mask, train=train, capture=capture)

    def keys_values(self, keys: Array, values: Array | None = None) -> tuple[Array, Array]:
        """Projects keys and values to heads, (B, H, M, d) each, for `attend`."""
        values = keys if values is None else values
        return split_heads(self.key(keys), self.heads), split_heads(self.value(values), self.heads)

    def attend(
        self,
        queries: Array,
        k: Array,
        v: Array,
        mask: Array | None = None,
        *,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Array, dict[str, Array]]:
        """Does the same as the call, with keys and values that `keys_values` projected."""
        q = split_heads(self.query(queries), self.heads)
        mask = _check_mask(mask, queries, k)
        batch, heads, n, depth = q.shape
        # Shared keys: the queries of all examples are one long sequence, so k and v are not repeated.
        see = observer(self)
        folded = (
            see is None and k.shape[0] == 1 < batch and (mask is None or mask.shape[0] == mask.shape[2] == 1)
        )
        if folded:
            q = q.swapaxes(0, 1).reshape(1, heads, batch * n, depth)
        elif k.shape[0] < batch:
            k, v = (jnp.broadcast_to(x, (batch, *x.shape[1:])) for x in (k, v))
        key = self.make_rng("dropout") if train and self.dropout else None
        out, weights = attention_and_map(
            q, k, v, mask=mask, rate=self.dropout, key=key, with_map="attention" in capture, see=see
        )
        if folded:
            out = _unfolded(out, batch, n)
            weights = None if weights is None else _unfolded(weights, batch, n)
        out = self.out(merge_heads(out))
        if mask is not None:
            some = mask.any(-1, keepdims=True)
            out = jnp.where(some[:, 0], out, 0)
            weights = None if weights is None else jnp.where(some, weights, 0)
        return out, {} if weights is None or "attention" not in capture else {"attention": weights}

    def over_blocks(
        self, queries: Array, blocks: Blocks, *, train: bool = False, capture: tuple[str, ...] = ()
    ) -> tuple[Array, dict[str, Array]]:
        """Does the same as the call, over keys in blocks: padding does not change a single bit of the output.

        Args:
            queries: (B, N, Dq) float.
            blocks: the keys, which are also the values; a batch of 1 is shared by all examples.
            train, capture: as for the call.

        Returns:
            As the call, but "attention" in blocks, (n, B, H, N, S).
        """
        if observed(self):  # then there is one block
            out, seen = self(queries, blocks.tokens[0], mask=blocks.mask[0], train=train, capture=capture)
            return out, {name: value[None] for name, value in seen.items()}
        q = split_heads(self.query(queries), self.heads)
        k, v = token_blocks.map_blocks(CrossAttention.keys_values, self, blocks.tokens)
        drop = train and self.dropout > 0
        out, weights = token_blocks.attention(
            q,
            k,
            v,
            blocks.mask,
            rate=self.dropout,
            key=self.make_rng("dropout") if drop else None,
            with_map="attention" in capture,
        )
        some = blocks.mask.any((0, 2))[:, None, None]
        out = jnp.where(some, self.out(merge_heads(out)), 0)
        return out, {} if weights is None else {"attention": weights}


def _unfolded(x: Array, batch: int, n: int) -> Array:
    """(1, H, B·N, ·) → (B, H, N, ·)."""
    return x.reshape(x.shape[1], batch, n, -1).swapaxes(0, 1)


def _check_mask(mask: Array | None, queries: Array, k: Array) -> Array | None:
    """Returns the mask as (B or 1, 1, N or 1, M) bool."""
    if mask is None:
        return None
    batches, n, m = (1, queries.shape[0]), queries.shape[1], k.shape[2]
    if mask.shape[0] not in batches or mask.shape[1:] not in ((m,), (n, m)):
        raise ValueError(
            f"mask {mask.shape} is neither (B, M) nor (B, N, M) for {queries.shape[0]} × {n} queries and {m} keys"
        )
    mask = jnp.asarray(mask) != 0
    return mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]


class Update(nn.Module):
    """One direction of a bidirectional layer: x ← norm(x + attention(x, other, other)), x ← x + ffn(x)."""

    width: int
    heads: int
    hidden: int
    dropout: float = 0.0
    dtype: DType = jnp.float32

    def setup(self) -> None:
        self.attention = CrossAttention(self.width, self.heads, dropout=self.dropout, dtype=self.dtype)
        self.norm = LayerNorm(EPSILON, self.dtype)
        self.ffn = Mlp(self.hidden, self.dropout, self.dtype, last_dropout=False)

    def from_blocks(
        self, x: Array, other: Blocks, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, dict[str, Array]]:
        """Updates tokens x (B, N, d), which attend to blocks."""
        out, seen = self.attention.over_blocks(x, other, train=train, capture=capture)
        return self._finish(x, out, train), seen

    def from_tokens(
        self, x: Blocks, other: Array, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Blocks, dict[str, Array]]:
        """Updates blocks x, which attend to tokens (B, N, d)."""
        k, v = self.attention.keys_values(other)

        def block(module: "Update", tokens: Array) -> tuple[Array, dict[str, Array]]:
            out, seen = module.attention.attend(tokens, k, v, train=train, capture=capture)
            return module._finish(tokens, out, train), seen

        tokens, seen = token_blocks.map_blocks(block, self, x.tokens)
        return Blocks(tokens, x.mask), seen

    def _finish(self, x: Array, out: Array, train: bool) -> Array:
        x = self.norm(x + out)
        return x + self.ffn(x, train=train)


class BidirectionalLayer(nn.Module):
    """Both sequences attend to each other, the image first; see docs/methods/image_text_fusion.md.

    V ← LN(V + MHA(V, T, T)), V ← V + FFN(V); then, with the updated V, T ← LN(T + MHA(T, V, V)), T ← T + FFN(T).

    Attributes:
        width, heads: d and H of both sequences.
        mlp_ratio: hidden width of the FFN / d.
        dropout: of the attention maps and inside the FFN.
        dtype: of the computation; parameters are float32.

    Args (call):
        image: (B, N, d) float.
        text: blocks with tokens of width d. A batch of 1 is shared by all images and is repeated only after the image side
            has attended to it.
        train: dropout on.
        capture: any of "image_to_text", "text_to_image".

    Returns:
        image, text (of batch B), and the captured maps before dropout, in blocks: (n, B, H, N, S) and (n, B, H, S, N)
        float32.
    """

    width: int
    heads: int
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self, image: Array, text: Blocks, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, Blocks, dict[str, Array]]:
        seen: dict[str, Array] = {}

        def ask(name: str) -> tuple[str, ...]:
            return ("attention",) if name in capture else ()

        sizes = (self.width, self.heads, int(self.width * self.mlp_ratio), self.dropout, self.dtype)
        image, maps = Update(*sizes, name="image").from_blocks(
            image, text, train=train, capture=ask("image_to_text")
        )
        if maps:
            seen["image_to_text"] = maps["attention"]
        text, maps = Update(*sizes, name="text").from_tokens(
            text.broadcast(image.shape[0]), image, train=train, capture=ask("text_to_image")
        )
        if maps:
            seen["text_to_image"] = maps["attention"]
        return image, text, seen


class BidirectionalStack(nn.Module):
    """`depth` bidirectional layers in one scan; their parameters have a leading layer axis.

    Takes the arguments of `BidirectionalLayer`; captured maps are stacked over the layers.

    Attributes:
        width, heads, mlp_ratio, dropout, dtype: as for `BidirectionalLayer`.
        depth: number of layers.
        remat: recompute the layers in the backward pass, which saves memory and costs time.
    """

    width: int
    heads: int
    depth: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    remat: bool = False
    dtype: DType = jnp.float32

    def setup(self) -> None:
        self.layers = BidirectionalLayer(self.width, self.heads, self.mlp_ratio, self.dropout, self.dtype)

    def __call__(
        self, image: Array, text: Blocks, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, Blocks, dict[str, Array]]:
        def body(
            layer: BidirectionalLayer, state: tuple[Array, Blocks]
        ) -> tuple[tuple[Array, Blocks], dict[str, Array]]:
            image, text, seen = layer(*state, train=train, capture=capture)
            return (image, text), seen

        if self.remat:
            body = nn.remat(body, prevent_cse=False)
        shared = text.batch == 1 < image.shape[0] and not self.is_initializing() and not observed(self)
        if not shared:
            state = (image, text.broadcast(image.shape[0]))
            (image, text), seen = over_layers(body, self.depth)(self.layers, state)
            return image, text, seen
        # Up to the first layer the text is the same for all images: that layer, outside the scan, projects it once.
        first = nn.map_variables(body, "params", lambda tree: jax.tree.map(lambda x: x[0], tree))
        (image, text), seen = first(self.layers, (image, text))
        seen = jax.tree.map(lambda x: x[None], seen)
        if self.depth == 1:
            return image, text, seen

        (image, text), rest = nn.map_variables(
            over_layers(body, self.depth - 1), "params", lambda tree: jax.tree.map(lambda x: x[1:], tree)
        )(self.layers, (image, text))
        return image, text, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), seen, rest)
