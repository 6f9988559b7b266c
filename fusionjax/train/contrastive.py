"""Contrastive losses between modalities and between views, their temperature and their curriculum.

Pure functions of a batch's embeddings, in float32. Negatives come from the whole (global) batch: with arrays sharded over
devices, loss and gradients are the same as on one device. Embeddings are normalised to unit length here; the gradient is
therefore tangential to the sphere. Rows whose `valid` is 0 are neither anchors, positives nor negatives, whatever they
contain; their gradient is 0.

`chunk` bounds memory: the B × B similarities are computed `chunk` rows at a time and recomputed for the gradient, so memory
grows with chunk × B. All similarities are still used: the result equals that without chunks, up to rounding.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from fusionjax.errors import UserError
from fusionjax.train.losses import masked_mean
from fusionjax.types import Array, PyTree
from fusionjax.vectors import unit_or_zero

TEMPERATURE = 0.1
SCALES = (1.0, 100.0)
"""Range of a learned logit scale; the upper bound is that of Radford et al., ICML 2021, arXiv 2103.00020, section 2.5."""

Embeddings: TypeAlias = Float[Array, "batch width"]
Valid: TypeAlias = Shaped[Array, " batch"]
Scalar: TypeAlias = Float[Array, ""]
_ABSENT = -1e30  # logit of an excluded pair; finite, so that its gradient is 0 and not NaN


def info_nce(
    a: Embeddings,
    b: Embeddings,
    *,
    temperature: float | Scalar | None = None,
    logit_scale: Scalar | None = None,
    valid: Valid | None = None,
    chunk: int = 0,
) -> Scalar:
    """Computes symmetric InfoNCE: row i of `a` and row i of `b` are a pair, all other rows of the **other** side negatives.

    ½ (mean_i −log softmax_j(s·aᵢ·bⱼ)ᵢ + mean_i −log softmax_j(s·bᵢ·aⱼ)ᵢ) with the logit scale s: a mean over 2B anchors,
    and thus comparable to `nt_xent`, which adds the negatives of the anchor's own side.

    Args:
        a: (B, D) float embeddings of one modality.
        b: (B, D) float embeddings of the other.
        temperature: 1 / s, above 0; 0.1 if neither it nor `logit_scale` is given.
        logit_scale: s, e.g. `clamped_scale(log_scale)`, instead of `temperature`.
        valid: (B,) 1 for a real pair, 0 for padding; None where all are real.
        chunk: rows of similarities to compute at a time; 0 for all at once.

    Returns:
        float32 scalar, in nats; 0 if no pair is valid.

    Raises:
        UserError: both `temperature` and `logit_scale` are given, the temperature is not above 0, or `chunk` is negative.
        ValueError: shapes do not agree.

    Source: Radford et al., ICML 2021, arXiv 2103.00020, figure 3.
    """
    a, b, valid = _pairs(a, b, valid)
    scale = _scale(temperature, logit_scale)
    rows, columns = _log_sums(a, b, valid, scale, chunk, within=False)
    return masked_mean((rows + columns) / 2 - scale * (a * b).sum(-1), valid)


def nt_xent(
    views_1: Embeddings,
    views_2: Embeddings,
    *,
    temperature: float | Scalar | None = None,
    logit_scale: Scalar | None = None,
    valid: Valid | None = None,
    chunk: int = 0,
) -> Scalar:
    """Computes NT-Xent: each of 2B views is an anchor, the other view of its image the positive, the other 2B − 2 negatives.

    The result is the mean over the 2B anchors, as in the paper (algorithm 1). google-research/simclr adds the means over the
    B anchors of each view, which is twice this value.

    Args:
        views_1: (B, D) float embeddings of one view of each image.
        views_2: (B, D) float embeddings of the other.
        temperature, logit_scale: as for `info_nce`.
        valid: (B,) 1 for a real image, 0 for padding; None where all are real.
        chunk: images whose similarities (three rows each) are computed at a time; 0 for all at once.

    Returns:
        float32 scalar, in nats; 0 if no image is valid.

    Raises:
        UserError, ValueError: as for `info_nce`.

    Source: Chen et al., ICML 2020, arXiv 2002.05709, equation 1.
    """
    a, b, valid = _pairs(views_1, views_2, valid)
    scale = _scale(temperature, logit_scale)
    rows, columns = _log_sums(a, b, valid, scale, chunk, within=True)
    return masked_mean((rows + columns) / 2 - scale * (a * b).sum(-1), valid)


def alignment_uniformity(
    a: Embeddings, b: Embeddings, *, valid: Valid | None = None, chunk: int = 0
) -> tuple[Scalar, Scalar]:
    """Measures how close pairs are and how evenly each side is spread over the sphere; smaller is better for both.

    Alignment is the mean of |aᵢ − bᵢ|², in 0 … 4. Uniformity is the logarithm of the mean of e^(−2 |x − y|²) over pairs of
    different rows of a side, averaged over both sides; in −8 … 0, and close to −4 for many rows that are uniform in many
    dimensions.

    Args:
        a: (B, D) float embeddings of one side.
        b: (B, D) float embeddings of the other.
        valid: (B,) 1 for a real pair, 0 for padding; None where all are real.
        chunk: as for `info_nce`.

    Returns:
        Alignment and uniformity, float32 scalars; 0 with no valid pair, and with fewer than two valid pairs.

    Raises:
        UserError: `chunk` is negative.
        ValueError: shapes do not agree.

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
def clamped_scale(log_scale: Scalar | float) -> Scalar:
    """Computes a learned logit scale, e^log_scale, clipped to `SCALES`.

    The gradient is that of projected descent: at or beyond a bound, it is passed on (with the slope at the bound) if descent
    leads back into the range, and is 0 if descent leads further out. A plain clip has no gradient beyond a bound, so a
    parameter that the optimiser's momentum carried there would never return; clipping the parameter after its update, as
    CLIP does, would have to be part of the optimiser. Here the parameter may overshoot with the remaining momentum, but the
    scale may not.

    Args:
        log_scale: float32 scalar; ln(1 / 0.07) is CLIP's initial value, ln 10 corresponds to temperature 0.1.

    Returns:
        float32 scalar in 1 … 100, 1 / temperature.
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
    cross: Scalar | float,
    intra: Sequence[Scalar | float],
    w_cross: float | Scalar,
    w_intra: float | Scalar | None = None,
) -> Scalar:
    """Combines the losses between and within modalities: w_cross · cross + w_intra · mean(intra).

    Args:
        cross: scalar loss between modalities.
        intra: scalar loss within each modality, one or more.
        w_cross: weight, e.g. from `curriculum`.
        w_intra: weight; None for 1 − w_cross.

    Returns:
        Scalar.

    Raises:
        UserError: `intra` is empty.
    """
    if not len(intra):
        raise UserError("total needs the loss within at least one modality; without one, use the cross loss")
    w_intra = 1 - w_cross if w_intra is None else w_intra
    return w_cross * cross + w_intra * jnp.mean(jnp.stack([jnp.asarray(x) for x in intra]))


def curriculum(
    step: Int[Array, ""] | Float[Array, ""] | float, steps: int, start: float = 0.2, end: float = 0.8
) -> Scalar:
    """Computes the weight of the cross-modal loss, which rises linearly from `start` at step 0 to `end` at step `steps`.

    Args:
        step: scalar, the number of steps done; may be a fraction of `steps`.
        steps: length of the ramp, at least 1; the weight is constant afterwards.
        start, end: weights.

    Returns:
        float32 scalar.

    Raises:
        UserError: `steps` is below 1.
    """
    if steps < 1:
        raise UserError(f"steps={steps} of the curriculum must be at least 1")
    done = jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0, 1)
    return start * (1 - done) + end * done  # exact at both ends


def _pairs(a: Array, b: Array, valid: Array | None) -> tuple[Array, Array, Array]:
    """Returns the rows as float32 unit vectors, 0 where not valid, and `valid` as (B,) bool."""
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
    """Computes log Σ e^logit of each row of a over b, and of each row of b over a.

    `within` also includes the other rows of the anchor's own side. A single pass over the rows of a computes both: the sums
    for the rows of b are accumulated in the carry.
    """

    def block(columns: Array, part: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
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
    """Computes log Σ e^logit of each row over the other rows."""

    def block(carry: Array, part: tuple[Array, ...]) -> tuple[Array, Array]:
        return carry, _within(part[0], x, valid, part[1], scale)

    (x, valid), count = _padded((x, valid), chunk)
    return _blocks(block, jnp.zeros(()), (x, jnp.arange(len(x))), chunk)[1][:count]


def _logits(rows: Array, others: Array, valid: Array, index: Array, scale: Array) -> Array:
    """Computes the logits (c, B) of the rows at `index` of the batch, (c, D), with all others, (B, D).

    They are `_ABSENT` where either row is not valid.
    """
    products = jnp.matmul(rows, others.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(valid[index][:, None] & valid, scale * products, _ABSENT)


def _within(rows: Array, side: Array, valid: Array, index: Array, scale: Array) -> Array:
    """Computes log Σ e^logit of rows over their own side, excluding themselves."""
    logits = _logits(rows, side, valid, index, scale)
    return jax.nn.logsumexp(jnp.where(index[:, None] == jnp.arange(len(side)), _ABSENT, logits), axis=1)


def _padded(arrays: tuple[Array, ...], chunk: int) -> tuple[tuple[Array, ...], int]:
    """Pads with rows of 0 (not valid) to a multiple of the chunk; also returns the original number of rows."""
    if chunk < 0:
        raise UserError(
            f"chunk={chunk} must be the number of rows to compute at a time, or 0 for all at once"
        )
    count = len(arrays[0])
    more = -count % chunk if 0 < chunk < count else 0
    if more:
        arrays = tuple(jnp.pad(x, ((0, more),) + ((0, 0),) * (x.ndim - 1)) for x in arrays)
    return arrays, count


def _blocks(
    block: Callable[[Array, tuple[Array, ...]], tuple[Array, PyTree]],
    carry: Array,
    parts: tuple[Array, ...],
    chunk: int,
) -> tuple[Array, PyTree]:
    """Scans over blocks of rows, which are recomputed for the gradient; the outputs are in the order of the rows.

    A block takes every n-th row, not consecutive ones: if rows are sharded over devices, each device has a share of every
    block.
    """
    size = len(parts[0])
    if not 0 < chunk < size:
        return block(carry, parts)
    n = size // chunk
    split = jax.tree.map(lambda x: x.reshape(chunk, n, *x.shape[1:]).swapaxes(0, 1), parts)
    carry, outputs = jax.lax.scan(jax.checkpoint(block, prevent_cse=False), carry, split)
    return carry, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(size, *x.shape[2:]), outputs)
