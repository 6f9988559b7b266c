"""MVPDR: classification by visual prototypes and prompts in the common space of an image and a text encoder.

Wei et al., ACM MM 2024; docs/methods/mvpdr.md. Training-free (`scores`), or with both kinds of prototypes as trained linear
layers without bias (`MVPDR`). `Align` makes a common space for two encoders that have none.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.errors import UserError
from fusionjax.models.layers import Dense
from fusionjax.types import Array
from fusionjax.vectors import unit, unit_numpy

TEXT_SCALE = 100.0
"""Factor of x·T: CLIP's, whose learned scale ends at its bound."""
_EPSILON = 1e-24  # of unit vectors


class Prototypes(NamedTuple):
    """Vectors of every class, as many as the class has.

    Attributes:
        vectors: (C, P, D) float32, unit; 0 where `counts` does not reach.
        counts: number of vectors of each class, C whole numbers; P is the highest or more.
    """

    vectors: np.ndarray | Array
    counts: tuple[int, ...] | Array

    def filled(self, places: int) -> "Prototypes":
        """The same with room for `places` vectors a class, the rest 0.

        Raises:
            UserError: a class has more.
        """
        more = places - self.vectors.shape[1]
        if more < 0:
            raise UserError(
                f"prototypes: {self.vectors.shape[1]} vectors of a class do not fit into {places}"
            )
        return Prototypes(np.pad(self.vectors, ((0, 0), (0, more), (0, 0))), self.counts)


def visual_prototypes(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, per_class: int = 16, seed: int = 0
) -> Prototypes:
    """Centres of K-means in each class.

    Each pass's features are made unit, averaged over the passes and made unit again; so are the centres.

    Args:
        features: (P, N, D) of the N training images, in P augmented passes (5 in the paper).
        labels: (N,) int in [0, C).
        num_classes: C.
        per_class: K. A class with no more than K different features has each of them as a prototype; one without images has
            none.
        seed: of K-means.

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
            # Threads that wait for each other at every one of many small steps cost more than they save.
            with threadpool_limits(1):
                fitted = KMeans(n_clusters=per_class, n_init=10, random_state=seed).fit(own)
            different = fitted.cluster_centers_
        centres.append(different)
    return _pad(centres, features.shape[-1])


def text_prototypes(features: Sequence[np.ndarray]) -> Prototypes:
    """The vectors of every class's prompts, unit, not averaged.

    Args:
        features: C arrays (P_c, D).

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
    x: Array,
    visual: Prototypes,
    text: Prototypes,
    *,
    alpha: float = 0.3,
    beta: float = 0.5,
    gamma: float = 0.5,
) -> tuple[Array, dict[str, Array]]:
    """Class scores of image features, training-free.

    v_c = Σ_p exp(−β (1 − x·V_p)), t_c = γ mean_p 100 x·T_p + β max_p 100 x·T_p, logits = t + α v.

    Args:
        x: (B, D) image features; made unit here.
        visual, text: the prototypes, with the same C.
        alpha, beta, gamma: α, β, γ.

    Returns:
        logits (B, C) float32, and aux: "visual" v, "text_mean" and "text_max", the mean and maximum of 100 x·T_p, (B, C) each.
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
    """MVPDR with V and T as trained linear layers without bias; `from_prototypes` starts them.

    Attributes:
        width: D of the common space.
        visual_counts, text_counts: prototypes of each class, C numbers each; at least one prompt a class.
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
    def __call__(self, x: Array, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """As `scores`, with the trained prototypes, which need not be unit.

        Args:
            x: (B, D) image features; made unit here.
            train: changes nothing; every model here has it.

        Raises:
            UserError: a class has no prompt, or the numbers of classes differ.
        """
        if min(self.text_counts) < 1:
            raise UserError(f"mvpdr: class {self.text_counts.index(0)} needs at least one prompt")
        kernels = [
            self.param(
                name, nn.initializers.lecun_normal(), (len(counts), max(counts), self.width), jnp.float32
            )
            for name, counts in (("visual", self.visual_counts), ("text", self.text_counts))
        ]
        x = unit(x.astype(jnp.float32), _EPSILON)
        return _scores(x, *kernels, self.visual_counts, self.text_counts, self.alpha, self.beta, self.gamma)


def from_prototypes(visual: Prototypes, text: Prototypes, **fields: float) -> tuple[MVPDR, dict]:
    """The trainable module and its variables, which give at first what `scores` gives.

    Args:
        visual, text: the prototypes.
        **fields: alpha, beta, gamma of `MVPDR`.
    """
    module = MVPDR(visual.vectors.shape[-1], visual.counts, text.counts, **fields)
    params = {"visual": jnp.asarray(visual.vectors), "text": jnp.asarray(text.vectors)}
    return module, {"params": params}


def loss(aux: dict[str, Array], labels: Array, *, text_weight: float = 0.1) -> Array:
    """CE(v) + 0.1 CE(t_max) + 0.1 CE(t_mean), an example.

    Args:
        aux: what `MVPDR` returned beside the logits.
        labels: (B,) int.
        text_weight: of the two text terms.

    Returns:
        (B,) float32.
    """

    def cross_entropy(logits: Array) -> Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]

    texts = cross_entropy(aux["text_max"]) + cross_entropy(aux["text_mean"])
    return cross_entropy(aux["visual"]) + text_weight * texts


class Align(nn.Module):
    """A common space for the pooled features of two frozen encoders: a linear layer without bias each, and a scale.

    Trained by symmetric InfoNCE over scale · image · textᵀ (Radford et al., ICML 2021, section 2.3).

    Attributes:
        width: D of the common space.
        scale: the learned factor's start; it stays in [1, 100].
    """

    width: int
    scale: float = 1 / 0.07

    @nn.compact
    def __call__(
        self, image: Array, text: Array, *, train: bool = False
    ) -> tuple[tuple[Array, Array], dict[str, Array]]:
        """Projects both.

        Args:
            image, text: (B, Di) and (B', Dt) features.
            train: changes nothing; every model here has it.

        Returns:
            two arrays of unit vectors, (B, D) and (B', D) float32, and {"scale": scalar}.
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
    """(C, P) bool."""
    return jnp.arange(vectors.shape[1]) < jnp.asarray(counts)[:, None]


def _pad(vectors: Sequence[np.ndarray], width: int) -> Prototypes:
    counts = tuple(len(own) for own in vectors)
    out = np.zeros((len(vectors), max(counts), width), np.float32)
    for place, own in zip(out, vectors, strict=True):
        place[: len(own)] = unit_numpy(np.asarray(own, np.float64))
    return Prototypes(out, counts)
