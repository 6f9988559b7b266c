"""Image–text fusion: both token sequences read each other, a head makes one vector of them, a classifier its logits.

docs/methods/image_text_fusion.md. The encoders stay outside, so that their features can be kept.

Padding is inert to the bit: text goes through every layer in blocks of a fixed size (`token_blocks`), and the output depends
on the tokens that count alone, neither on what stands in the padding nor on how much of it there is.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from fusionjax import register
from fusionjax.errors import UserError
from fusionjax.models.layers import Dense, DType
from fusionjax.models.methods import fusion_heads, token_blocks
from fusionjax.models.methods.cross_attention import BidirectionalStack, sincos_2d
from fusionjax.models.methods.token_blocks import Blocks
from fusionjax.types import Array

MODES = ("fusion", "concat", "image", "text")
CAPTURE = ("image_to_text", "text_to_image", "gates", "pooled_attention")


class Classifier(nn.Module):
    """Dropout, linear to `hidden`, ReLU, dropout, linear to `num_classes`; float32."""

    hidden: int
    num_classes: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = jax.nn.relu(Dense(self.hidden, name="fc1")(drop(x)))
        return Dense(self.num_classes, name="fc2")(drop(x))


class FusionClassifier(nn.Module):
    """Classifies an image and a text by their tokens.

    Attributes:
        grid: rows h and columns w of the image tokens.
        num_classes: C.
        width, depth, heads: d, number of layers, H.
        mlp_ratio: hidden width of a layer's FFN / d.
        dropout: of attention maps, inside FFNs and in the classifier.
        mode: "fusion"; or a baseline: "concat", the masked means of both projections side by side, "image" or "text", the
            mean of that one projection. A baseline has neither layers nor positions, and its head is "concat" or none.
        head: a name of `register.fusion_heads`.
        head_options: fields of that head alone, e.g. {"form": "hadamard"}.
        text_block: tokens a block of text, S: lengths are rounded up to a multiple of S, and to 2·S at least. 0 for no blocks:
            the text is computed at its length, and longer padding changes the rounding (its content still changes nothing).
        remat: recompute layers in the backward pass; memory for time.
        dtype: of the computation over tokens; parameters, heads and classifier are float32.

    Raises:
        UserError: a field has a value that cannot be.

    Example:
        >>> module = FusionClassifier(grid=(2, 2), num_classes=3, width=8, depth=1, heads=2)
        >>> image, text, mask = jnp.ones((1, 4, 6)), jnp.ones((1, 5, 10)), jnp.ones((1, 5), bool)
        >>> variables = module.init(jax.random.key(0), image, text, mask)
        >>> logits, aux = module.apply(variables, image, text, mask, capture=("image_to_text",))
        >>> logits.shape, aux["image_to_text"].shape
        ((1, 3), (1, 1, 2, 4, 5))
    """

    grid: tuple[int, int] = (7, 7)
    num_classes: int = 1000
    width: int = 768
    depth: int = 4
    heads: int = 12
    mlp_ratio: float = 4.0
    dropout: float = 0.1
    mode: str = "fusion"
    head: str = "concat"
    head_options: Mapping[str, Any] = FrozenDict()
    text_block: int = 16
    remat: bool = False
    dtype: DType = jnp.float32

    def __post_init__(self) -> None:
        # A module must have a hash, to be a static argument of jit; a dict has none.
        self.head_options = FrozenDict(self.head_options)
        super().__post_init__()

    @property
    def stacked(self) -> tuple[str, ...]:
        """The layers' parameters: see `models.parameters`."""
        return (r"cross_attention/layers/.*",)

    @property
    def undecayed(self) -> tuple[str, ...]:
        """What the head's record names: see `models.parameters`."""
        return tuple(f"fusion_head/({p})" for p in register.fusion_heads.get(self.head).undecayed)

    def setup(self) -> None:
        check(self)
        if self.mode != "text":
            self.image_proj = Dense(self.width, dtype=self.dtype)
        if self.mode != "image":
            self.text_proj = Dense(self.width, dtype=self.dtype)
        if self.mode == "fusion":
            self.cross_attention = BidirectionalStack(
                self.width,
                self.heads,
                self.depth,
                self.mlp_ratio,
                self.dropout,
                remat=self.remat,
                dtype=self.dtype,
            )
            self.fusion_head = fusion_heads.create(self.head, self.width, **self._head_fields())
        self.classifier = Classifier(self.width // 2, self.num_classes, self.dropout)

    def _head_fields(self) -> dict[str, Any]:
        return dict(options=self.head_options, heads=self.heads, dropout=self.dropout, dtype=self.dtype)

    def __call__(
        self,
        image_tokens: Array | None = None,
        text_tokens: Array | None = None,
        text_mask: Array | None = None,
        *,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Array, dict[str, Array]]:
        """Class logits.

        Args:
            image_tokens: (B, h·w, Ci), row-major; not read in mode "text".
            text_tokens: (B, T, Ct), not read in mode "image"; or one text for all images, (M, Ct) or (1, M, Ct), such as the
                descriptions of all classes one after another. It is projected once, also to the first layer's keys and
                values; from then on every image has its own.
            text_mask: (B, T) with 0 or False where a token is padding, or (M,) or (1, M) as the tokens; None for no padding.
            train: dropout on; needs the PRNG collection "dropout".
            capture: any of CAPTURE: "image_to_text" (L, B, H, N, T) and "text_to_image" (L, B, H, T, N), the maps before
                dropout, float32, 0 in rows and columns of padding; "gates" and "pooled_attention" of the heads that have them.

        Returns:
            logits (B, C) float32, and aux: "features" (B, width of the head), what the classifier reads, float32, and what
            `capture` named. Where no token of a text counts, its attention output and its mean are 0.

        Raises:
            ValueError: an input that the mode reads is missing, or its shape does not fit.
        """
        image = text = None
        if self.mode != "text":
            image = self._embed_image(image_tokens)
        if self.mode != "image":
            text = self._embed_text(text_tokens, text_mask, None if image is None else image.shape[0])
        aux: dict[str, Array] = {}
        if self.mode == "fusion":
            length = text_tokens.shape[-2]
            image = image + jnp.asarray(sincos_2d(self.grid, self.width), image.dtype)
            image, text, maps = self.cross_attention(image, text, train=train, capture=capture)
            aux.update(_join(maps, text.mask, length))
        means = []
        if image is not None:
            means.append(image.astype(jnp.float32).mean(1))
        if text is not None:
            mean = token_blocks.masked_mean(text)
            means.append(mean if image is None else jnp.broadcast_to(mean, (image.shape[0], self.width)))
        if self.mode == "fusion":
            fused, seen = self.fusion_head(*means, image, text, train=train, capture=capture)
            aux.update(seen)
        else:
            fused = jnp.concatenate(means, -1)
        aux["features"] = fused
        return self.classifier(fused, train=train), aux

    def _embed_image(self, tokens: Array | None) -> Array:
        if tokens is None:
            raise ValueError(f"mode={self.mode!r} reads image_tokens: pass them")
        if tokens.ndim != 3 or tokens.shape[1] != self.grid[0] * self.grid[1]:
            raise ValueError(f"image_tokens {tokens.shape} are not (B, {self.grid[0]}·{self.grid[1]}, C)")
        return self.image_proj(tokens)

    def _embed_text(self, tokens: Array | None, mask: Array | None, batch: int | None) -> Blocks:
        if tokens is None:
            raise ValueError(f"mode={self.mode!r} reads text_tokens: pass them")
        if tokens.ndim == 2:
            tokens = tokens[None]
        mask = jnp.ones(tokens.shape[:2], bool) if mask is None else jnp.asarray(mask) != 0
        mask = mask[None] if mask.ndim == 1 else mask
        if mask.shape != tokens.shape[:2]:
            raise ValueError(
                f"text_mask {mask.shape} is not of the shape of the text tokens {tokens.shape[:2]}"
            )
        if batch is not None and tokens.shape[0] not in (1, batch):
            raise ValueError(f"{tokens.shape[0]} texts for {batch} images: pass as many, or one for all")
        blocks = token_blocks.split(tokens, mask, self.text_block)
        project = token_blocks.map_blocks(lambda module, x: module.text_proj(x), self, blocks.tokens)
        return Blocks(project, blocks.mask)


def _join(maps: Mapping[str, Array], mask: Array, length: int) -> dict[str, Array]:
    """The layers' maps without blocks: (L, n, B, H, N, S) → (L, B, H, N, T), (L, n, B, H, S, N) → (L, B, H, T, N)."""
    out = {}
    if "image_to_text" in maps:
        out["image_to_text"] = token_blocks.join_maps(maps["image_to_text"].swapaxes(0, 1), length, 4)
    if "text_to_image" in maps:
        # A padded query reads the image, too; nobody reads it.
        seen = jnp.where(mask[:, None, :, None, :, None], maps["text_to_image"].swapaxes(0, 1), 0)
        out["text_to_image"] = token_blocks.join_maps(seen, length, 3)
    return out


def check(module: FusionClassifier) -> None:
    """Raises UserError where the fields cannot be together."""
    if module.mode not in MODES:
        raise UserError(f"fusion: mode={module.mode!r} is not one of {', '.join(MODES)}")
    for name in ("num_classes", "width", "depth", "heads"):
        value = getattr(module, name)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"fusion: {name}={value!r} must be a whole number above 0")
    if module.width % module.heads:
        raise UserError(f"fusion: heads={module.heads} must divide width={module.width}")
    if module.width % 4:
        raise UserError(f"fusion: width={module.width} must be a multiple of 4 for the positions")
    if not 0 <= module.dropout < 1:
        raise UserError(f"fusion: dropout={module.dropout} must be in [0, 1)")
    if module.text_block < 0:
        raise UserError(f"fusion: text_block={module.text_block} must be 0 or more")
    if module.mode != "fusion" and (module.head != "concat" or module.head_options):
        raise UserError(f"fusion: mode={module.mode!r} has no head to choose; leave head='concat'")
    fusion_heads.create(
        module.head, module.width, options=module.head_options, heads=module.heads, parent=None
    )
