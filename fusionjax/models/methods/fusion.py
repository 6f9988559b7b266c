"""Image–text fusion: both token sequences attend to each other, a head fuses them into one vector, a classifier follows.

See docs/methods/image_text_fusion.md. The encoders are not part of this module, so that their features can be cached.

Padding does not change a single bit of the output: text goes through every layer in blocks of a fixed size (`token_blocks`),
and the output depends on the unpadded tokens alone, neither on the content of the padding nor on its length.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Float, Shaped

from fusionjax import register
from fusionjax.errors import UserError
from fusionjax.models.layers import Dense, DType
from fusionjax.models.methods import fusion_heads, token_blocks
from fusionjax.models.methods.cross_attention import BidirectionalStack, sincos_2d
from fusionjax.models.methods.token_blocks import Blocks
from fusionjax.models.observation import Axis, Stream, observed
from fusionjax.types import Array

MODES = ("fusion", "concat", "image", "text")
CAPTURE = ("image_to_text", "text_to_image", "gates", "pooled_attention")


class Classifier(nn.Module):
    """Two-layer classifier in float32: dropout, linear to `hidden`, ReLU, dropout, linear to `num_classes`."""

    hidden: int
    num_classes: int
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch width"], *, train: bool
    ) -> Float[Array, "batch {self.num_classes}"]:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = jax.nn.relu(Dense(self.hidden, name="fc1")(drop(x)))
        return Dense(self.num_classes, name="fc2")(drop(x))


class FusionClassifier(nn.Module):
    """Classifies an image and a text from their tokens.

    Attributes:
        grid: rows h and columns w of the image tokens.
        num_classes: C.
        width, depth, heads: d, number of layers, H.
        mlp_ratio: hidden width of a layer's FFN / d.
        dropout: of attention maps, inside FFNs and in the classifier.
        mode: "fusion"; or a baseline: "concat", the masked means of both projections, concatenated; "image" or "text", the
            mean of that projection alone. A baseline has neither layers nor positions; leave its head at "concat".
        head: a name of `register.fusion_heads`.
        head_options: fields that only this head has, e.g. {"form": "hadamard"}.
        text_block: S, tokens per block of text: lengths are rounded up to a multiple of S, and to 2·S at least. 0 for no
            blocks: the text is computed at its own length, and the length of the padding (not its content) changes the
            rounding.
        remat: recompute the layers in the backward pass, which saves memory and costs time.
        dtype: of the computation over tokens; parameters, heads and classifier are float32.

    Raises:
        UserError: a field has an invalid value.

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
        # A module must be hashable, to be a static argument of jit; a dict is not.
        self.head_options = FrozenDict(self.head_options)
        super().__post_init__()

    @property
    def streams(self) -> dict[str, Stream]:
        """See `models.observation`."""
        if self.mode != "fusion":
            return {}
        image, text, layers = Axis("image", self.grid), Axis("text"), "cross_attention/layers"
        return {
            f"{layers}/image/attention/attention": Stream("image_to_text", image, text),
            f"{layers}/text/attention/attention": Stream("text_to_image", text, image),
        }

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
        image_tokens: Float[Array, "batch image_tokens image_width"] | None = None,
        text_tokens: Float[Array, "*text_batch text_tokens text_width"] | None = None,
        text_mask: Shaped[Array, "*mask_batch text_tokens"] | None = None,
        *,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "batch {self.num_classes}"], dict[str, Array]]:
        """Computes class logits.

        Args:
            image_tokens: (B, h·w, Ci) float, row-major; not used in mode "text".
            text_tokens: (B, T, Ct) float; or one text for all images, (M, Ct) or (1, M, Ct), such as the concatenated
                descriptions of all classes. A shared text is projected once, to the first layer's keys and values too;
                from then on every image has its own copy. Not used in mode "image".
            text_mask: (B, T), 0 or False where a token is padding, or (M,) or (1, M) as the tokens; None for no padding.
            train: dropout on; needs the PRNG collection "dropout".
            capture: any of CAPTURE: "image_to_text" (L, B, H, N, T) and "text_to_image" (L, B, H, T, N), the attention maps
                before dropout, float32, 0 in rows and columns of padding; "gates" and "pooled_attention" of the heads that
                have them.

        Returns:
            Logits, (B, C) float32, and aux: "features" (B, out_width of the head) float32, the input of the classifier, and
            what `capture` names. For a text that is all padding, attention output and mean are 0.

        Raises:
            ValueError: an input that the mode needs is missing, or its shape does not fit.
        """
        image: Array | None = None
        text: Blocks | None = None
        if self.mode != "text":
            image = self._embed_image(image_tokens)
        if self.mode != "image":
            text = self._embed_text(text_tokens, text_mask, None if image is None else image.shape[0])
        aux: dict[str, Array] = {}
        if image is not None and text is not None and text_tokens is not None and self.mode == "fusion":
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
            raise ValueError(f"mode={self.mode!r} needs image_tokens: pass them")
        if tokens.ndim != 3 or tokens.shape[1] != self.grid[0] * self.grid[1]:
            raise ValueError(f"image_tokens {tokens.shape} are not (B, {self.grid[0]}·{self.grid[1]}, C)")
        return self.image_proj(tokens)

    def _embed_text(self, tokens: Array | None, mask: Array | None, batch: int | None) -> Blocks:
        if tokens is None:
            raise ValueError(f"mode={self.mode!r} needs text_tokens: pass them")
        if tokens.ndim == 2:
            tokens = tokens[None]
        mask = jnp.ones(tokens.shape[:2], bool) if mask is None else jnp.asarray(mask) != 0
        mask = mask[None] if mask.ndim == 1 else mask
        if mask.shape != tokens.shape[:2]:
            raise ValueError(
                f"text_mask {mask.shape} does not have the shape of the text tokens, {tokens.shape[:2]}"
            )
        if batch is not None and tokens.shape[0] not in (1, batch):
            raise ValueError(f"{tokens.shape[0]} texts for {batch} images: pass as many, or one for all")
        # Observed maps are not in blocks.
        blocks = token_blocks.split(tokens, mask, 0 if observed(self) else self.text_block)
        project = token_blocks.map_blocks(lambda module, x: module.text_proj(x), self, blocks.tokens)
        return Blocks(project, blocks.mask)


def _join(maps: Mapping[str, Array], mask: Array, length: int) -> dict[str, Array]:
    """Joins the blocks of the layers' maps: (L, n, B, H, N, S) → (L, B, H, N, T), (L, n, B, H, S, N) → (L, B, H, T, N)."""
    out = {}
    if "image_to_text" in maps:
        out["image_to_text"] = token_blocks.join_maps(maps["image_to_text"].swapaxes(0, 1), length, 4)
    if "text_to_image" in maps:
        # A padded query attends to the image too, but no token attends to it.
        seen = jnp.where(mask[:, None, :, None, :, None], maps["text_to_image"].swapaxes(0, 1), 0)
        out["text_to_image"] = token_blocks.join_maps(seen, length, 3)
    return out


def check(module: FusionClassifier) -> None:
    """Checks the fields of a module.

    Raises:
        UserError: a field is invalid, or two of them contradict each other.
    """
    if module.mode not in MODES:
        raise UserError(f"fusion: mode={module.mode!r} is not one of {', '.join(MODES)}")
    for name in ("num_classes", "width", "depth", "heads"):
        value = getattr(module, name)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"fusion: {name}={value!r} must be a positive integer")
    if module.width % module.heads:
        raise UserError(f"fusion: heads={module.heads} must divide width={module.width}")
    if module.width % 4:
        raise UserError(f"fusion: width={module.width} must be a multiple of 4 for the sine-cosine positions")
    if not 0 <= module.dropout < 1:
        raise UserError(f"fusion: dropout={module.dropout} must be in [0, 1)")
    if module.text_block < 0:
        raise UserError(f"fusion: text_block={module.text_block} must be 0 or more")
    if module.mode != "fusion" and (module.head != "concat" or module.head_options):
        raise UserError(f"fusion: mode={module.mode!r} has no head to choose; leave head='concat'")
    fusion_heads.create(
        module.head, module.width, options=module.head_options, heads=module.heads, parent=None
    )
