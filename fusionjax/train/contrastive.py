"""Contrastive losses between modalities and between views, their temperature and their curriculum.

Pure functions of a batch's embeddings, in float32. Negatives come from the whole (global) batch: on arrays that are sharded
over devices, loss and gradients are those of one device. Embeddings are brought to unit length here, so those that already
have it give the same loss, and a gradient only along the sphere. Rows whose `valid` is 0 are neither anchors, positives nor
negatives, whatever they hold; their gradient is 0.

`chunk` bounds memory: the B × B similarities are made `chunk` rows at a time, and made again for the gradient, so memory
grows with chunk × B. Every similarity is still there: the result is that without chunks, up to rounding.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fusionjax.errors import UserError
from fusionjax.train.losses import masked_mean
from fusionjax.types import Array
from fusionjax.vectors import unit_or_zero

TEMPERATURE = 0.1
SCALES = (1.0, 100.0)
"""Range of a learned scale; Radford et al., ICML 2021, arXiv 2103.00020, section 2.5, for its upper end."""
_ABSENT = -1e30  # logit of a pair that is none; finite, so that its gradient is 0 and not NaN


def info_nce(
    a: Array,
    b: Array,
    *,
    temperature: float | Array | None = None,
    logit_scale: Array | None = None,
    valid: Array | None = None,
    chunk: int = 0,
) -> Array:
    """Symmetric InfoNCE: row i of `a` and row i of `b` are a pair, all other rows of the **other** side its negatives.

    ½ (mean_i −log softmax_j(s·aᵢ·bⱼ)ᵢ + mean_i −log softmax_j(s·bᵢ·aⱼ)ᵢ), s the logit scale: a mean over 2B anchors, so on
    the footing of `nt_xent`, which differs by the negatives of the anchor's own side.

    Args:
        a: (B, D) float embeddings of one modality.
        b: (B, D) float embeddings of the other.
        temperature: 1 / s, above 0; 0.1 where neither is given.
        logit_scale: s itself, e.g. `clamped_scale(log_scale)`, in place of `temperature`.
        valid: (B,) 1 for a real pair, 0 for padding; None where all are real.
        chunk: rows of similarities at a time; 0 for all at once.

    Returns:
        float32 scalar; 0 where no pair is valid.

    Raises:
        UserError: both `temperature` and `logit_scale`; a temperature that is not above 0; a negative `chunk`.
        ValueError: shapes that do not agree.

    Source: Radford et al., ICML 2021, arXiv 2103.00020, figure 3.
    """
    a, b, valid = _pairs(a, b, valid)
    scale = _scale(temperature, logit_scale)
    rows, columns = _log_sums(a, b, valid, scale, chunk, within=False)
    return masked_mean((rows + columns) / 2 - scale * (a * b).sum(-1), valid)


def nt_xent(
    views_1: Array,
    views_2: Array,
    *,
    temperature: float | Array | None = None,
    logit_scale: Array | None = None,
    valid: Array | None = None,
    chunk: int = 0,
) -> Array:
    """NT-Xent: each of 2B views is an anchor, the other view of its image the positive, the other 2B − 2 views its negatives.

    The mean over the 2B anchors, as in the paper (algorithm 1). google-research/simclr adds the means over the B anchors of
    either view: its total is twice this.

    Args:
        views_1: (B, D) float embeddings of one view of each image.
        views_2: (B, D) float embeddings of the other.
        temperature, logit_scale: as for `info_nce`.
        valid: (B,) 1 for a real image, 0 for padding; None where all are real.
        chunk: images whose similarities (three rows each) are held at a time; 0 for all at once.

    Returns:
        float32 scalar; 0 where no image is valid.

    Raises:
        UserError, ValueError: as for `info_nce`.

    Source: Chen et al., ICML 2020, arXiv 2002.05709, equation 1.
    """
    a, b, valid = _pairs(views_1, views_2, valid)
    scale = _scale(temperature, logit_scale)
    rows, columns = _log_sums(a, b, valid, scale, chunk, within=True)
    return masked_mean((rows + columns) / 2 - scale * (a * b).sum(-1), valid)


def alignment_uniformity(
    a: Array, b: Array, *, valid: Array | None = None, chunk: int = 0
) -> tuple[Array, Array]:
    """How near pairs are, and how evenly each side spreads over the sphere; smaller is better for both.

    Alignment: mean |aᵢ − bᵢ|², 0 … 4. Uniformity: log of the mean of e^(−2 |x − y|²) over the pairs of different rows of a
    side, the mean of both sides; −8 … 0, near −4 for many rows that are uniform in many dimensions.

    Args:
        a: (B, D) float embeddings of one side.
        b: (B, D) float embeddings of the other.
        valid: (B,) 1 for a real pair, 0 for padding; None where all are real.
        chunk: as for `info_nce`.

    Returns:
        alignment, uniformity: float32 scalars. Without a valid pair alignment is 0; with fewer than two uniformity is 0.

    Raises:
        UserError: a negative `chunk`.
        ValueError: shapes that do not agree.

    Source: Wang & Isola, ICML 2020, arXiv 2005.10242, equations in section 4.1 with α = t = 2.
    """
    a, b, valid = _pairs(a, b, valid)
    count = valid.sum().astype(jnp.float32)
    alignment = masked_mean(jnp.square(a - b).sum(-1), valid)
    log_pairs = jnp.log(jnp.maximum(count * (count - 1), 1))

    def uniformity(x: Array) -> Array:
        # −2 |x − y|² = 4 x·y − 4 on the sphere.
        logs = _log_sums_within(x, valid, jnp.float32(4), chunk)
        return jax.nn.logsumexp(jnp.where(valid, logs, _ABSENT)) - 4 - log_pairs

    return alignment, jnp.where(count > 1, (uniformity(a) + uniformity(b)) / 2, 0)


@jax.custom_vjp
def clamped_scale(log_scale: Array) -> Array:
    """A learned logit scale, e^log_scale within `SCALES`.

    The gradient is that of projected descent: on a bound or beyond it, it passes (with the slope at the bound) where descent
    leads back, and is 0 where descent leads further out. A plain clip has no gradient beyond a bound, so a parameter that an
    optimiser's momentum carried there would stay; clipping the parameter after its update, as CLIP does, needs the optimiser
    to know of it. Here the parameter may overshoot by what is left of the momentum, the scale may not.

    Args:
        log_scale: float32 scalar; ln(1 / 0.07) is CLIP's start, ln 10 that of temperature 0.1.

    Returns:
        float32 scalar, 1 … 100; 1 / temperature.
    """
    return jnp.clip(jnp.exp(jnp.asarray(log_scale, jnp.float32)), *SCALES)


def _scale_forward(log_scale: Array) -> tuple[Array, tuple[Array, Array]]:
    scale = clamped_scale(log_scale)
    return scale, (jnp.asarray(log_scale), scale)


def _scale_backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array]:
    log_scale, scale = saved
    outwards = ((scale >= SCALES[1]) & (slope < 0)) | ((scale <= SCALES[0]) & (slope > 0))
    return (jnp.where(outwards, 0, slope * scale).astype(log_scale.dtype),)


clamped_scale.defvjp(_scale_forward, _scale_backward)


def total(
    cross: Array, intra: Sequence[Array], w_cross: float | Array, w_intra: float | Array | None = None
) -> Array:
    """w_cross · cross + w_intra · mean(intra).

    Args:
        cross: scalar loss between modalities.
        intra: scalar loss within each modality, one or more.
        w_cross: weight, e.g. from `curriculum`.
        w_intra: weight; None for 1 − w_cross.

    Raises:
        UserError: no loss within a modality.
    """
    if not len(intra):
        raise UserError("total needs the loss within at least one modality; without one, use the cross loss")
    w_intra = 1 - w_cross if w_intra is None else w_intra
    return w_cross * cross + w_intra * jnp.mean(jnp.stack([jnp.asarray(x) for x in intra]))


def curriculum(step: Array | int, steps: int, start: float = 0.2, end: float = 0.8) -> Array:
    """Weight of the cross-modal loss: `start` at step 0, `end` from step `steps` on, a straight line between.

    Args:
        step: scalar int, steps done.
        steps: length of the line, at least 1.
        start, end: weights.

    Returns:
        float32 scalar.

    Raises:
        UserError: `steps` below 1.
    """
    if steps < 1:
        raise UserError(f"steps={steps} of the curriculum must be at least 1")
    done = jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0, 1)
    return start * (1 - done) + end * done  # exact at both ends


def _pairs(a: Array, b: Array, valid: Array | None) -> tuple[Array, Array, Array]:
    """Unit float32 rows, 0 where not valid; valid as (B,) bool."""
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"embeddings {a.shape} and {b.shape} are not both (B, D)")
    if valid is None:
        valid = jnp.ones(len(a), bool)
    elif valid.shape != a.shape[:1]:
        raise ValueError(f"valid {valid.shape} is not (B,) = ({len(a)},)")
    valid = jnp.asarray(valid) > 0
    # where, not a product: a padded row may hold NaN.
    a, b = (unit_or_zero(jnp.where(valid[:, None], x.astype(jnp.float32), 0)) for x in (a, b))
    return a, b, valid


def _scale(temperature: float | Array | None, logit_scale: Array | None) -> Array:
    if logit_scale is not None:
        if temperature is not None:
            raise UserError("give temperature or logit_scale, which is 1 / temperature, not both")
        return jnp.asarray(logit_scale, jnp.float32)
    temperature = TEMPERATURE if temperature is None else temperature
    if isinstance(temperature, int | float) and not temperature > 0:
        raise UserError(f"temperature={temperature} must be above 0")
    return 1 / jnp.asarray(temperature, jnp.float32)


def _log_sums(
    a: Array, b: Array, valid: Array, scale: Array, chunk: int, *, within: bool
) -> tuple[Array, Array]:
    """log Σ e^logit of each row of a over b, and of each row of b over a; `within`: also over the other rows of its own side.

    One pass over the rows of a gives both: the sums of b's rows build up in the carry.
    """

    def block(columns: Array, part: tuple[Array, ...]):
        a_rows, b_rows, index = part
        logits = _logits(a_rows, b, valid, index, scale)
        columns = jnp.logaddexp(columns, jax.nn.logsumexp(logits, axis=0))
        rows = jax.nn.logsumexp(logits, axis=1)
        if not within:
            return columns, (rows, rows)
        rows = jnp.logaddexp(rows, _within(a_rows, a, valid, index, scale))
        return columns, (rows, _within(b_rows, b, valid, index, scale))

    (a, b, valid), count = _padded((a, b, valid), chunk)
    start = jnp.full(len(b), _ABSENT)
    columns, (rows, own) = _blocks(block, start, (a, b, jnp.arange(len(a))), chunk)
    columns = jnp.logaddexp(columns, own) if within else columns
    return rows[:count], columns[:count]


def _log_sums_within(x: Array, valid: Array, scale: Array, chunk: int) -> Array:
    """log Σ e^logit of each row over the other rows."""

    def block(carry: Array, part: tuple[Array, ...]):
        return carry, _within(part[0], x, valid, part[1], scale)

    (x, valid), count = _padded((x, valid), chunk)
    return _blocks(block, jnp.zeros(()), (x, jnp.arange(len(x))), chunk)[1][:count]


def _logits(rows: Array, others: Array, valid: Array, index: Array, scale: Array) -> Array:
    """(c, D) rows at `index` of the batch, (B, D) → (c, B); `_ABSENT` where either is not valid."""
    products = jnp.matmul(rows, others.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(valid[index][:, None] & valid, scale * products, _ABSENT)


def _within(rows: Array, side: Array, valid: Array, index: Array, scale: Array) -> Array:
    """log Σ e^logit of rows over their own side, themselves left out."""
    logits = _logits(rows, side, valid, index, scale)
    return jax.nn.logsumexp(jnp.where(index[:, None] == jnp.arange(len(side)), _ABSENT, logits), axis=1)


def _padded(arrays: tuple[Array, ...], chunk: int) -> tuple[tuple[Array, ...], int]:
    """Rows of 0 (not valid) up to a multiple of the chunk, and the number of rows that there were."""
    if chunk < 0:
        raise UserError(f"chunk={chunk} must be 0, for all rows at once, or the rows at a time")
    count = len(arrays[0])
    more = -count % chunk if 0 < chunk < count else 0
    if more:
        arrays = tuple(jnp.pad(x, ((0, more),) + ((0, 0),) * (x.ndim - 1)) for x in arrays)
    return arrays, count


def _blocks(block, carry: Array, parts: tuple[Array, ...], chunk: int):
    """lax.scan of `block` over blocks of rows, nothing of a block kept for the gradient; outputs in the order of the rows.

    A block takes every n-th row, not neighbours: where rows are sharded over devices, each has its share of every block.
    """
    size = len(parts[0])
    if not 0 < chunk < size:
        return block(carry, parts)
    n = size // chunk
    split = jax.tree.map(lambda x: x.reshape(chunk, n, *x.shape[1:]).swapaxes(0, 1), parts)
    carry, outputs = jax.lax.scan(jax.checkpoint(block, prevent_cse=False), carry, split)
    return carry, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(size, *x.shape[2:]), outputs)
