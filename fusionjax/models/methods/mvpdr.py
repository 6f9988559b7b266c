"""MVPDR: classification by visual prototypes and text prompts in the common space of an image and a text encoder.

Wei et al., ACM MM 2024; see docs/methods/mvpdr.md. Either training-free (`scores`), or with both kinds of prototypes as
trained linear layers without bias (`MVPDR`). `Align` learns a common space for two encoders that have none.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from fusionjax.errors import UserError
from fusionjax.models.layers import Dense
from fusionjax.types import Array
from fusionjax.vectors import unit, unit_numpy

TEXT_SCALE = 100.0
"""Factor of x·T: CLIP's logit scale, which training drives to its upper bound."""
_EPSILON = 1e-24  # of unit vectors


class Prototypes(NamedTuple):
    """Prototype vectors of every class; their number may differ between classes.

    Attributes:
        vectors: (C, P, D) float32 unit vectors, zero-padded beyond the class's count.
        counts: number of vectors of each class, C integers of at most P.
    """

    vectors: np.ndarray | Array
    counts: tuple[int, ...] | Array

    def filled(self, places: int) -> "Prototypes":
        """Pads the vectors of every class with zeros to `places`.

        Raises:
            UserError: P is larger than `places`.
        """
        more = places - self.vectors.shape[1]
        if more < 0:
            raise UserError(
                f"prototypes: {self.vectors.shape[1]} vectors of a class do not fit into {places}"
            )
        return Prototypes(np.pad(self.vectors, ((0, 0), (0, more), (0, 0))), self.counts)


def visual_prototypes(
    features: Float[np.ndarray, "passes images width"],
    labels: Int[np.ndarray, " images"],
    num_classes: int,
    *,
    per_class: int = 16,
    seed: int = 0,
) -> Prototypes:
    """Computes the K-means centres of each class's image features.

    The features of each pass are normalised to unit length, averaged over the passes and normalised again; so are the centres.

    Args:
        features: (P, N, D) float, features of the N training images in P augmented passes.
        labels: (N,) int in [0, C).
        num_classes: C.
        per_class: K. A class with at most K distinct features uses each of them as a prototype; a class without images has
            none.
        seed: of K-means.

    Returns:
        Prototypes.

    Raises:
        UserError: the shapes do not fit, or a label is outside [0, C).
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if features.ndim != 3 or labels.shape != features.shape[1:2]:
        raise UserError(
            f"visual prototypes: features {features.shape} are not (passes, {labels.size} images, width)"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(
            f"visual prototypes: labels {labels.min()}…{labels.max()} are not all in [0, {num_classes})"
        )
    if per_class < 1:
        raise UserError(f"visual prototypes: per_class={per_class} must be 1 or more")
    features = unit_numpy(unit_numpy(features).mean(0))
    centres = []
    for label in range(num_classes):
        own = features[labels == label]
        different = np.unique(own, axis=0)
        if len(different) > per_class:
            # The steps are so small that synchronising threads costs more than it saves.
            with threadpool_limits(1):
                fitted = KMeans(n_clusters=per_class, n_init=10, random_state=seed).fit(own)
            different = fitted.cluster_centers_
        centres.append(different)
    return _pad(centres, features.shape[-1])


def text_prototypes(features: Sequence[np.ndarray]) -> Prototypes:
    """Normalises the prompt vectors of every class to unit length; they are not averaged.

    Args:
        features: C arrays (P_c, D) float.

    Returns:
        Prototypes.

    Raises:
        UserError: a class has no prompt.
    """
    for label, own in enumerate(features):
        if np.ndim(own) != 2 or not len(own):
            raise UserError(
                f"text prototypes: class {label} needs at least one prompt, features (prompts, width)"
            )
    return _pad(features, np.shape(features[0])[1])


def scores(
    x: Float[Array, "batch width"],
    visual: Prototypes,
    text: Prototypes,
    *,
    alpha: float = 0.3,
    beta: float = 0.5,
    gamma: float = 0.5,
) -> tuple[Float[Array, "batch classes"], dict[str, Float[Array, "batch classes"]]]:
    """Computes the class scores of image features, without training.

    v_c = Σ_p exp(−β (1 − x·V_p)), t_c = γ mean_p 100 x·T_p + β max_p 100 x·T_p, logits = t + α v.

    Args:
        x: (B, D) float image features, normalised to unit length here.
        visual, text: the prototypes, with the same C.
        alpha, beta, gamma: α, β, γ.

    Returns:
        Logits, (B, C) float32, and aux: "visual", v, and "text_mean" and "text_max", the mean and maximum of 100 x·T_p,
        (B, C) float32 each.

    Raises:
        UserError: the numbers of classes differ.

    Source: Wei et al., ACM MM 2024.
    """
    return _scores(
        unit(x.astype(jnp.float32), _EPSILON),
        jnp.asarray(visual.vectors, jnp.float32),
        jnp.asarray(text.vectors, jnp.float32),
        visual.counts,
        text.counts,
        alpha,
        beta,
        gamma,
    )


def _scores(
    x: Array,
    visual: Array,
    text: Array,
    visual_counts: tuple[int, ...] | Array,
    text_counts: tuple[int, ...] | Array,
    alpha: float,
    beta: float,
    gamma: float,
) -> tuple[Array, dict[str, Array]]:
    if len(visual_counts) != len(text_counts):
        raise UserError(
            f"mvpdr: {len(visual_counts)} classes have visual, {len(text_counts)} have text prototypes; they must agree"
        )
    near = jnp.exp(-beta * (1 - jnp.einsum("bd,cpd->bcp", x, visual)))
    v = jnp.where(_mask(visual_counts, visual), near, 0).sum(-1)
    mask, similar = _mask(text_counts, text), TEXT_SCALE * jnp.einsum("bd,cpd->bcp", x, text)
    mean = jnp.where(mask, similar, 0).sum(-1) / jnp.asarray(text_counts, jnp.float32)
    top = jnp.where(mask, similar, -jnp.inf).max(-1)
    return gamma * mean + beta * top + alpha * v, {"visual": v, "text_mean": mean, "text_max": top}


class MVPDR(nn.Module):
    """MVPDR with V and T as trained linear layers without bias; `from_prototypes` initialises them.

    Attributes:
        width: D of the common space.
        visual_counts, text_counts: number of prototypes of each class, C integers each; at least one prompt per class.
        alpha, beta, gamma: α, β, γ of `scores`.

    Example:
        >>> module, variables = from_prototypes(visual, text)
        >>> logits, aux = module.apply(variables, features)
    """

    width: int
    visual_counts: tuple[int, ...]
    text_counts: tuple[int, ...]
    alpha: float = 0.3
    beta: float = 0.5
    gamma: float = 0.5

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch {self.width}"], *, train: bool = False
    ) -> tuple[Float[Array, "batch classes"], dict[str, Float[Array, "batch classes"]]]:
        """Computes `scores` with the trained prototypes, which need not be unit vectors.

        Args:
            x: (B, D) float image features, normalised to unit length here.
            train: has no effect; all models accept it.

        Returns:
            As `scores`.

        Raises:
            UserError: a class has no prompt, or the numbers of classes differ.
        """
        if min(self.text_counts) < 1:
            raise UserError(f"mvpdr: class {self.text_counts.index(0)} needs at least one prompt")
        visual, text = (
            self.param(
                name, nn.initializers.lecun_normal(), (len(counts), max(counts), self.width), jnp.float32
            )
            for name, counts in (("visual", self.visual_counts), ("text", self.text_counts))
        )
        x = unit(x.astype(jnp.float32), _EPSILON)
        return _scores(
            x, visual, text, self.visual_counts, self.text_counts, self.alpha, self.beta, self.gamma
        )


def from_prototypes(
    visual: Prototypes, text: Prototypes, *, alpha: float = 0.3, beta: float = 0.5, gamma: float = 0.5
) -> tuple[MVPDR, dict[str, dict[str, Array]]]:
    """Builds the trainable module and initial variables with which it returns the same as `scores`.

    Args:
        visual, text: the prototypes; their counts are integers, not arrays.
        alpha, beta, gamma: as for `scores`.

    Returns:
        The module and its variables.
    """
    first, second = (tuple(int(n) for n in prototypes.counts) for prototypes in (visual, text))
    module = MVPDR(visual.vectors.shape[-1], first, second, alpha, beta, gamma)
    params = {"visual": jnp.asarray(visual.vectors), "text": jnp.asarray(text.vectors)}
    return module, {"params": params}


def loss(
    aux: dict[str, Float[Array, "batch classes"]], labels: Int[Array, " batch"], *, text_weight: float = 0.1
) -> Float[Array, " batch"]:
    """Computes CE(v) + w CE(t_max) + w CE(t_mean) for each example.

    Args:
        aux: the second return value of `MVPDR`.
        labels: (B,) int.
        text_weight: w, of the two text terms.

    Returns:
        (B,) float32.
    """

    def cross_entropy(logits: Array) -> Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]

    texts = cross_entropy(aux["text_max"]) + cross_entropy(aux["text_mean"])
    return cross_entropy(aux["visual"]) + text_weight * texts


class Align(nn.Module):
    """Common space for the pooled features of two frozen encoders: one linear layer without bias each, and a scale.

    Trained with symmetric InfoNCE over scale · image · textᵀ (Radford et al., ICML 2021, section 2.3).

    Attributes:
        width: D of the common space.
        scale: initial value of the learned scale, which is clipped to [1, 100].
    """

    width: int
    scale: float = 1 / 0.07

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "images image_width"],
        text: Float[Array, "texts text_width"],
        *,
        train: bool = False,
    ) -> tuple[
        tuple[Float[Array, "images {self.width}"], Float[Array, "texts {self.width}"]],
        dict[str, Float[Array, ""]],
    ]:
        """Projects image and text features into the common space.

        Args:
            image, text: (B, Di) and (B', Dt) float features.
            train: has no effect; all models accept it.

        Returns:
            Two arrays of unit vectors, (B, D) and (B', D) float32, and {"scale": float32 scalar}.

        Raises:
            UserError: `scale` is outside [1, 100].
        """
        if not 1 <= self.scale <= 100:
            raise UserError(f"align: scale={self.scale} must be in [1, 100]")
        log = self.param("log_scale", nn.initializers.constant(math.log(self.scale)), (), jnp.float32)
        init = nn.initializers.lecun_normal()
        one, two = (
            unit(Dense(self.width, use_bias=False, kernel_init=init, name=name)(x), _EPSILON)
            for name, x in (("image", image), ("text", text))
        )
        return (one, two), {"scale": jnp.exp(jnp.clip(log, 0, math.log(100)))}


def _mask(counts: tuple[int, ...] | Array, vectors: Array) -> Array:
    """Returns (C, P) bool, True for the vectors that a class has."""
    return jnp.arange(vectors.shape[1]) < jnp.asarray(counts)[:, None]


def _pad(vectors: Sequence[np.ndarray], width: int) -> Prototypes:
    counts = tuple(len(own) for own in vectors)
    out = np.zeros((len(vectors), max(counts), width), np.float32)
    for place, own in zip(out, vectors, strict=True):
        place[: len(own)] = unit_numpy(np.asarray(own, np.float64))
    return Prototypes(out, counts)
