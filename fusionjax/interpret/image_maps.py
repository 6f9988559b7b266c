"""One map over the image by a named method, for the models of every family: what is drawn and what is measured."""

from collections.abc import Callable, Iterator

import numpy as np

from fusionjax.interpret import attention_maps
from fusionjax.interpret.attention_maps import Relevances, to_patches, weighted_heads
from fusionjax.interpret.capture import Captured
from fusionjax.models.observation import Axis, Stream

Method = Callable[[Captured], np.ndarray]


def image_map(captured: Captured, method: str) -> np.ndarray:
    """A map over the image, (N, h, w) float32 and not negative; the grid is that of the stream that the method reads.

    Args:
        captured: with gradients, where the method needs them.
        method: a name of `available`.

    Raises:
        ValueError: the method does not exist for the model.
    """
    if method not in available(captured):
        raise ValueError(f"{method!r} is not one of {', '.join(available(captured))}")
    return KINDS[method](captured).astype(np.float32)


def available(captured: Captured) -> tuple[str, ...]:
    """The methods of `KINDS` that a model's streams and gradients allow."""
    streams = captured.streams.values()
    has = {
        "attention": any(s.keys.kind == "image" for s in streams),
        "rollout": any(_is_self(s) for s in streams),
        "glca": "glca" in captured.maps,
    }
    has["gradient_attention"] = has["relevance"] = has["attention"] and bool(captured.gradients)
    return tuple(name for name in KINDS if has[name])


def attention(captured: Captured) -> np.ndarray:
    """The last layer's attention over the image, mean over heads: of the class token, or the mean over queries."""
    name, stream = reading(captured)
    rows = captured.maps[name][-1].mean(1)
    return to_patches(of_queries(rows, stream, captured), stream.keys)


def rollout(captured: Captured) -> np.ndarray:
    """The rollout over all layers of the image's self-attention; in CrossViT that of the first branch's last stage."""
    name, stream = _last_self(captured)
    if stream.keys.cls:
        return to_patches(attention_maps.rollout_row(captured.maps[name]), stream.keys)
    return to_patches(of_queries(attention_maps.rollout(captured.maps[name]), stream, captured), stream.keys)


def glca(captured: Captured) -> np.ndarray:
    """Where GLCA's class token looks, mean over heads."""
    return attention_maps.glca_queries(captured.maps["glca"], captured.streams["glca"].keys)[:, 0]


def gradient_attention(captured: Captured) -> np.ndarray:
    """Gradient × attention of the last layer over the image."""
    name, stream = reading(captured)
    rows = weighted_heads(captured.maps[name][-1], captured.gradients[name][-1])
    return to_patches(of_queries(rows, stream, captured), stream.keys)


def relevance(captured: Captured) -> np.ndarray:
    """Chefer's relevance of the patches for the score."""
    if len({s.keys.branch for s in captured.streams.values()}) > 1:
        return _of_scales(captured)
    if any(_is_cross(s) for s in captured.streams.values()):
        return to_patches(*_with_axis(modality_relevance(captured)["image"], captured))
    name, stream = _last_self(captured)
    total = attention_maps.relevance(captured.maps[name], captured.gradients[name])
    row = of_queries(total, stream, captured)
    if "glca" in captured.gradients and captured.gradients["glca"].any():
        # GLCA's class token starts as that of self-attention and reads all tokens; the prediction is the mean of both.
        heads = weighted_heads(captured.maps["glca"][-1], captured.gradients["glca"][-1])
        row = row + 0.5 * (heads[:, :1] @ total)[:, 0]
    return to_patches(row, stream.keys)


KINDS: dict[str, Method] = {
    "attention": attention,
    "rollout": rollout,
    "glca": glca,
    "gradient_attention": gradient_attention,
    "relevance": relevance,
}
"""By name: raw attention of the last layer, rollout, GLCA, gradient × attention, Chefer et al. (ICCV 2021)."""
TITLES = {
    "attention": "attention, last layer",
    "rollout": "attention rollout",
    "glca": "GLCA",
    "gradient_attention": "gradient × attention",
    "relevance": "relevance (Chefer et al.)",
}
"""For figures and tables."""


def modality_relevance(captured: Captured) -> dict[str, np.ndarray]:
    """The relevance of every token for the score, of a model whose modalities attend to each other.

    Self-attention of the encoders in front comes first, where it was captured; then the cross-attention layers, as
    `attention_maps.cross_step`. The models here pool by means: a token's relevance is the sum over modalities of the mean over
    their tokens of R^{m,own}, without E.

    Args:
        captured: with gradients.

    Returns:
        Modality → (N, T); an image's tokens are its patches.
    """
    state = _encoders(captured)
    for names in _in_order(captured):
        added: list[Relevances] = []
        for name in names:
            layer, stream = name[1], captured.streams[name[0]]
            heads = weighted_heads(captured.maps[name[0]][layer], captured.gradients[name[0]][layer])
            step = attention_maps.cross_step(state, stream.queries.kind, stream.keys.kind, heads)
            added.append(step)
        for step in added:
            for pair, value in step.items():
                state[pair] = state[pair] + value
    kinds = list(dict.fromkeys(kind for kind, _ in state))
    found = {}
    for own in kinds:
        total = np.zeros(state[own, own].shape[::2], np.float32)
        for other in kinds:
            rows = state[other, own]
            if other == own:
                rows = rows - np.eye(rows.shape[-1], dtype=rows.dtype)
            mask = captured.masks.get(other, np.ones(rows.shape[:2], bool))
            total += (rows * mask[..., None]).sum(1) / np.maximum(mask.sum(1), 1)[:, None]
        found[own] = total
    return found


def _encoders(captured: Captured) -> Relevances:
    """The relevances before the first cross-attention layer."""
    sizes: dict[str, int] = {}
    for name, stream in captured.streams.items():
        if _is_cross(stream):
            shape = captured.maps[name].shape
            sizes |= {stream.queries.kind: shape[3], stream.keys.kind: shape[4]}
    count = len(captured)
    state: Relevances = {}
    for s, rows in sizes.items():
        for q, columns in sizes.items():
            start = np.eye(rows, dtype=np.float32) if s == q else np.zeros((rows, columns), np.float32)
            state[s, q] = np.broadcast_to(start, (count, rows, columns))
    for name, stream in captured.streams.items():
        kind, prefix = stream.keys.kind, stream.keys.prefix
        if kind in sizes and stream.queries == stream.keys:
            own = attention_maps.relevance(captured.maps[name], captured.gradients[name])[:, prefix:, prefix:]
            if own.shape == state[kind, kind].shape:
                state[kind, kind] = own
    return state


def _in_order(captured: Captured) -> Iterator[list[tuple[str, int]]]:
    """(stream, layer) of the cross-attention maps in their order; those of one list read the same tokens."""
    cross = [name for name, stream in captured.streams.items() if _is_cross(stream)]
    for layer in range(max((len(captured.maps[name]) for name in cross), default=0)):
        here = [(name, layer) for name in cross if layer < len(captured.maps[name])]
        if all(captured.streams[name].parallel for name, _ in here):
            yield here
        else:
            yield from ([one] for one in here)


def _of_scales(captured: Captured) -> np.ndarray:
    """CrossViT: R ← R + Ā R over the tokens of all branches side by side, each map in its place; on the finest grid."""
    parts: dict[str, slice] = {}
    axes = {s.keys.branch: s.keys for s in captured.streams.values() if _is_self(s)}
    for branch, axis in axes.items():
        start = max((part.stop for part in parts.values()), default=0)
        parts[branch] = slice(start, start + axis.prefix + int(np.prod(axis.grid or 0)))
    size = max(part.stop for part in parts.values())
    total = np.broadcast_to(np.eye(size, dtype=np.float32), (len(captured), size, size)).copy()
    for name, stream in captured.streams.items():
        own, there = parts[stream.queries.branch], parts[stream.keys.branch]
        for heads in weighted_heads(captured.maps[name], captured.gradients[name]):
            if _is_self(stream):
                total[:, own] += heads @ total[:, own]
            else:  # the first key is the branch's own class token, in place of the other's
                first = slice(own.start, own.start + 1)
                read = np.concatenate([total[:, first], total[:, there.start + 1 : there.stop]], 1)
                total[:, first] += heads @ read
    rows = np.mean([total[:, part.start] for part in parts.values()], 0)
    finest = max(parts, key=lambda branch: parts[branch].stop - parts[branch].start)
    return to_patches(rows[:, parts[finest]], axes[finest])


def reading(captured: Captured) -> tuple[str, Stream]:
    """The stream by which the top of a model reads the image: cross-attention to its tokens if there is any."""
    over = [(name, s) for name, s in captured.streams.items() if s.keys.kind == "image"]
    cross = [(name, s) for name, s in over if s.queries.kind not in ("image", "selected")]
    return cross[-1] if cross else next((name, s) for name, s in over if _is_self(s))


def _last_self(captured: Captured) -> tuple[str, Stream]:
    """The self-attention of the image; of several the last on the first one's grid."""
    found = [(name, s) for name, s in captured.streams.items() if _is_self(s)]
    return [(name, s) for name, s in found if s.keys == found[0][1].keys][-1]


def _is_self(stream: Stream) -> bool:
    return stream.queries == stream.keys and stream.keys.kind == "image"


def _is_cross(stream: Stream) -> bool:
    kinds = {stream.queries.kind, stream.keys.kind}
    return len(kinds) == 2 and kinds <= {"image", "text", "audio"}


def of_queries(rows: np.ndarray, stream: Stream, captured: Captured) -> np.ndarray:
    """(N, Q, K) → (N, K): the row of the class token, or the mean over patches, or over queries that are no padding."""
    if stream.queries.cls:
        return rows[:, 0]
    rows = rows[:, stream.queries.prefix :]
    mask = captured.masks.get(stream.queries.kind, np.ones(rows.shape[:2], bool))
    return (rows * mask[..., None]).sum(1) / np.maximum(mask.sum(1), 1)[:, None]


def _with_axis(weights: np.ndarray, captured: Captured) -> tuple[np.ndarray, Axis]:
    axes = (a for s in captured.streams.values() if _is_cross(s) for a in (s.queries, s.keys))
    return weights, next(axis for axis in axes if axis.kind == "image")
