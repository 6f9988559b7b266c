"""All attention maps of one forward pass, and their gradients of one backward pass: what every explanation here is made from.

See docs/methods/explanations.md.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from fusionjax.errors import UserError
from fusionjax.models import parameters
from fusionjax.models.observation import MAPS, OFFSETS, TOKENS, Axis, Stream
from fusionjax.types import Aux, PyTree
from fusionjax.vectors import unit

Output = jax.Array | Mapping[str, jax.Array]
"""Logits (B, C), an embedding (B, D), or embeddings by modality."""
Score = Callable[[Output, Aux], jax.Array]
"""(output, aux) of a model → (B,), the score that is explained."""


@dataclasses.dataclass(frozen=True, eq=False)
class Captured:
    """What a model computed for B examples; arrays on the host.

    Attributes:
        maps: stream → (L, B, H, Q, K) float32, the attention of each layer, 0 at padding.
        gradients: stream → gradient of the score with respect to its map, of the same shape; empty without a score.
        streams: stream → what the axes of its maps are.
        tokens: stream → (L, B, N, D) float32, the outputs of its layers; "image" of a model that fuses features of an
            encoder.
        output: (B, C) logits or (B, D) embedding, or embeddings by modality.
        branches: branch → (B, C) logits, of a model with several.
        score: (B,) float32, what the gradients are of; None without one.
        rollout: (B, h · w) float32, weights by which GLCA selects; None without GLCA.
        selected: (B, k) int32, the patches that GLCA selects, by descending weight, without the class token; or None.
        masks: modality → (B, N) bool, False at padding; only of modalities with padding.
    """

    maps: Mapping[str, np.ndarray]
    gradients: Mapping[str, np.ndarray]
    streams: Mapping[str, Stream]
    tokens: Mapping[str, np.ndarray]
    output: Any
    branches: Mapping[str, np.ndarray]
    score: np.ndarray | None
    rollout: np.ndarray | None
    selected: np.ndarray | None
    masks: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.output)[0])

    def __getitem__(self, which: int | slice) -> "Captured":
        """Some of the examples; one if `which` is a number."""
        if isinstance(which, int):
            which = slice(which, which + 1 or None)
        return dataclasses.replace(
            self,
            maps={name: x[:, which] for name, x in self.maps.items()},
            gradients={name: x[:, which] for name, x in self.gradients.items()},
            tokens={name: x[:, which] for name, x in self.tokens.items()},
            **jax.tree.map(
                lambda x: x[which],
                {
                    k: getattr(self, k)
                    for k in ("output", "branches", "score", "rollout", "selected", "masks")
                },
            ),
        )

    def among(self, prefix: str) -> "Captured":
        """The streams whose names start with a prefix, such as "rgb/"."""
        kept: dict[str, Any] = {
            kind: {name: x for name, x in getattr(self, kind).items() if name.startswith(prefix)}
            for kind in ("maps", "gradients", "streams", "tokens")
        }
        return dataclasses.replace(self, **kept)

    @classmethod
    def joined(cls, parts: Sequence["Captured"]) -> "Captured":
        """Several records of the same model and options as one."""
        first = parts[0]

        def along(axis: int, *names: str) -> dict[str, Any]:
            return {
                name: jax.tree.map(lambda *x: np.concatenate(x, axis), *(getattr(p, name) for p in parts))
                for name in names
            }

        return dataclasses.replace(
            first,
            **along(1, "maps", "gradients", "tokens"),
            **along(0, "output", "branches", "score", "rollout", "selected", "masks"),
        )


def streams(module: nn.Module) -> dict[str, Stream]:
    """Path of a map → its stream, of a module and every network that it puts together (`models.observation`)."""
    found: dict[str, Stream] = {}
    grid = getattr(module, "grid", None)
    for prefix, one in parameters.networks(module):
        for path, stream in getattr(one, "streams", {}).items():
            axes = [
                axis._replace(grid=grid) if axis.kind == "image" and axis.grid is None else axis
                for axis in (stream.queries, stream.keys)
            ]
            # A module may describe the maps of its networks itself: it comes first.
            found.setdefault(
                prefix + path,
                stream._replace(name=prefix + stream.name, queries=axes[0], keys=axes[1]),
            )
    return found


def observe(
    module: nn.Module, variables: PyTree, arguments: Mapping[str, Any], score: Score | None = None
) -> dict[str, Any]:
    """One forward pass with all attention maps and, with a score, one backward pass. Pure; to be jitted.

    Args:
        module: of a trained model.
        variables: its variables.
        arguments: of its call, in evaluation mode.
        score: what to differentiate; None for no gradients.

    Returns:
        The fields of `Captured` but for `streams`, as device arrays; the masks are those of the model's aux.
    """

    def run(offsets: PyTree) -> tuple[jax.Array, tuple[Any, ...]]:
        given = {**variables, OFFSETS: offsets} if offsets else dict(variables)
        (output, aux), seen = module.apply(given, **arguments, mutable=[MAPS, TOKENS])
        value = None if score is None else score(output, aux)
        total = jnp.zeros(()) if value is None else value.sum()
        return total, (output, aux, seen.get(MAPS, {}), seen.get(TOKENS, {}), value)

    slopes: PyTree = {}
    if score is None:
        _, (output, aux, maps, tokens, value) = run({})
    else:
        shapes = jax.eval_shape(lambda: run({})[1][2])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        slopes, (output, aux, maps, tokens, value) = jax.grad(run, has_aux=True)(zeros)
    listed, batch = streams(module), len(jax.tree.leaves(output)[0])
    logits = aux.get("logits", {})
    return {
        "maps": _by_stream(maps, listed, batch, 5),
        "gradients": _by_stream(slopes, listed, batch, 5),
        "tokens": _by_stream(tokens, _of_tokens(listed), batch, 4),
        "output": jax.tree.map(lambda x: x.astype(jnp.float32), output),
        "branches": dict(logits) if isinstance(logits, Mapping) else {},
        "score": value,
        "rollout": aux["rollout"][:, 1:] if "rollout" in aux else None,
        "selected": aux["selected"][:, 1:] - 1 if "selected" in aux else None,
        "masks": dict(aux.get("mask", {})),
    }


def captured(module: nn.Module, found: Mapping[str, Any]) -> Captured:
    """The record of what `observe` returned for a module; a mask may have a batch of 1."""
    host = jax.device_get(dict(found))
    by_name = {stream.name: stream for stream in _single(streams(module)).values()}
    batch = len(jax.tree.leaves(host["output"])[0])
    host["masks"] = {
        m: np.broadcast_to(mask != 0, (batch, mask.shape[-1])) for m, mask in host["masks"].items()
    }
    for kind in ("maps", "gradients"):
        host[kind] = {
            name: _without_padding(x.astype(np.float32), by_name[name], host["masks"])
            for name, x in ((name, host[kind][name]) for name in by_name if name in host[kind])
        }
    return Captured(streams={name: by_name[name] for name in host["maps"]}, **host)


def class_score(target: jax.Array, branch: str = "") -> Score:
    """The logit of a class minus the mean of all logits.

    A softmax ignores a constant that is added to all logits, and so does this score. It is the same whether a model gives
    logits or log probabilities, as DCAL does, and does not saturate as a log probability does.

    Args:
        target: (B,) int; −1 for the class that the output is largest for.
        branch: of the model; "" for its output.
    """

    def score(output: Output, aux: Aux) -> jax.Array:
        if isinstance(output, Mapping):
            raise ValueError("the model has no classes")
        logits = aux["logits"][branch] if branch else output
        which = jnp.where(target < 0, output.argmax(-1), target)
        return jnp.take_along_axis(logits, which[:, None], 1)[:, 0] - logits.mean(-1)

    return score


def similarity_score(target: jax.Array, modality: str = "") -> Score:
    """The cosine similarity of the embedding and another one.

    Args:
        target: (B, D) float.
        modality: of a model with an embedding for each; "" for one with a single embedding.
    """

    def score(output: Output, aux: Aux) -> jax.Array:
        own = output[modality] if isinstance(output, Mapping) else output
        if target.shape != own.shape:
            raise UserError(f"target: {target.shape}, the embeddings of the model are {own.shape}")
        return (unit(own.astype(jnp.float32)) * unit(target.astype(jnp.float32))).sum(-1)

    return score


def _single(listed: Mapping[str, Stream]) -> dict[str, Stream]:
    """Streams by (path, group), each with the name of its group; paths of streams without groups are unchanged."""
    found = {}
    for path, stream in listed.items():
        for group in stream.groups or ("",):
            name = f"{group}/{stream.name}" if group else stream.name
            found[f"{path}:{group}"] = stream._replace(name=name, groups=())
    return found


def _of_tokens(listed: Mapping[str, Stream]) -> dict[str, Stream]:
    """The streams of tokens, by path: those of the maps of the same module, and the image tokens of a fusion model."""
    image = Axis("image")
    found = {"tokens": Stream("image", image, image)}
    for path, stream in listed.items():
        found.setdefault(path.rpartition("/")[0] + "/tokens", stream)
    return found


def _by_stream(tree: PyTree, listed: Mapping[str, Stream], batch: int, rank: int) -> dict[str, jax.Array]:
    """Stream → its arrays along the layer axis, of a tree whose paths `listed` describes; the others are left out."""
    flat = traverse_util.flatten_dict(dict(tree), sep="/")
    parts: dict[str, list[jax.Array]] = {}
    for path, stream in listed.items():
        if path not in flat:
            continue
        x = flat[path] if flat[path].ndim == rank else flat[path][None]
        groups = stream.groups or ("",)
        # With PWCA the tokens of an example's two streams are neighbours (`dcal.merge_streams`): the first is its own.
        x = x.reshape(x.shape[0], batch, len(groups), -1, *x.shape[2:])
        for i, group in enumerate(groups):
            name = f"{group}/{stream.name}" if group else stream.name
            parts.setdefault(name, []).append(x[:, :, i, 0])
    return {name: jnp.concatenate(x) for name, x in parts.items()}


def _without_padding(x: np.ndarray, stream: Stream, masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Maps (L, B, H, Q, K) with 0 in the rows and columns of padding."""
    for axis, shape in (
        (stream.queries, (1, -1, 1, x.shape[3], 1)),
        (stream.keys, (1, -1, 1, 1, x.shape[4])),
    ):
        mask = masks.get(axis.kind)
        if mask is not None and mask.shape[-1] in shape[3:]:
            x = x * mask.reshape(shape)
    return x
