"""Image–text fusion in NumPy, float64: cross-attention, the bidirectional layers and every head, from their equations in
docs/methods/image_text_fusion.md.

Parameters are dicts as the modules have them. Sequences are (B, N, d) with masks (B, N); nothing is cut into blocks.
"""

import math

import numpy as np

erf = np.vectorize(math.erf)


def linear(p, x):
    return x @ np.asarray(p["kernel"], np.float64) + (np.asarray(p["bias"], np.float64) if "bias" in p else 0)


def norm(p, x):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * np.asarray(p["scale"]) + np.asarray(p["bias"])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def ffn(p, x):
    h = linear(p["fc1"], x)
    return linear(p["fc2"], 0.5 * h * (1 + erf(h / np.sqrt(2))))


def softmax(scores, mask):
    """Over the keys that count alone: the others are left out, not made small. (B, H, N, M), mask broadcastable."""
    mask = np.broadcast_to(mask, scores.shape)
    out = np.zeros(scores.shape)
    for index in np.ndindex(scores.shape[:-1]):
        row = scores[index][mask[index]]
        if row.size:
            e = np.exp(row - row.max())
            out[index][mask[index]] = e / e.sum()
    return out


def heads_of(x, h):
    return np.stack(np.split(x, h, axis=-1), 1)


def scaled(q, k, v, h, mask):
    """Multi-head attention of projected (B, N, d): merged output and map; mask (B, M) or (B, N, M) or None."""
    q, k, v = (heads_of(x, h) for x in (q, k, v))
    if mask is None:
        mask = np.ones((1, 1, 1), bool)
    mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
    weights = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), mask)
    out = weights @ v
    return np.concatenate(list(out.swapaxes(0, 1)), -1), weights


def attention(p, queries, keys, values, h, mask=None):
    """A query without any key gives 0."""
    out, weights = scaled(
        linear(p["query"], queries), linear(p["key"], keys), linear(p["value"], values), h, mask
    )
    some = weights.any((1, 3))[..., None]
    return np.where(some, linear(p["out"], out), 0), weights


def update(p, x, other, h, mask=None):
    out, weights = attention(p["attention"], x, other, other, h, mask)
    x = norm(p["norm"], x + out)
    return x + ffn(p["ffn"], x), weights


def layer(p, v, t, mask, h):
    v, to_text = update(p["image"], v, t, h, mask)
    t, to_image = update(p["text"], t, v, h)
    return v, t, to_text, to_image


def take(tree, index):
    return {k: take(x, index) for k, x in tree.items()} if isinstance(tree, dict) else np.asarray(tree)[index]


def positions(h, w, d):
    out = np.zeros((h * w, d))
    for y in range(h):
        for x in range(w):
            for i in range(d // 4):
                omega = 1 / 10000 ** (i / (d / 4))
                parts = np.sin(y * omega), np.cos(y * omega), np.sin(x * omega), np.cos(x * omega)
                for part, value in enumerate(parts):
                    out[y * w + x, part * d // 4 + i] = value
    return out


def mean(x, mask):
    count = np.maximum(mask.sum(1, keepdims=True), 1)
    return np.where(mask[..., None], x, 0).sum(1) / count


def concat(p, v, t, **_):
    return np.concatenate([v, t], -1)


def adaptive(p, v, t, *, d, **_):
    g = sigmoid(linear(p["gates"], np.concatenate([v, t], -1)))
    one, two = np.split(g, 2, axis=-1)
    return linear(p["out"], one / (one + two) * v + two / (one + two) * t)


def bilinear(p, v, t, **_):
    if "bilinear" in p:
        w = linear(p["bilinear"], v * t)
    else:
        kernel = np.asarray(p["kernel"], np.float64)
        w = np.array([[a @ k @ b for k in kernel] for a, b in zip(v, t, strict=True)]) + np.asarray(p["bias"])
    return norm(p["norm"], v + t + w)


def attention_head(p, v, t, *, h, residual=False, **_):
    v1, t1 = v[:, None], t[:, None]
    one, two = attention(p["image"], v1, t1, t1, h)[0], attention(p["text"], t1, v1, v1, h)[0]
    x = np.concatenate([one + residual * v1, two + residual * t1], 1)
    out = attention(p["pair"], x, x, x, 8)[0]
    return norm(p["norm"], (out + residual * x).mean(1))


def transformer(p, x, mask, h):
    q, k, v = np.split(linear(p["qkv"], norm(p["norm1"], x)), 3, axis=-1)
    x = x + linear(p["proj"], scaled(q, k, v, h, mask)[0])
    return x + ffn(p["ffn"], norm(p["norm2"], x))


def bottleneck(p, v, t, *, image, text, mask, h, **_):
    narrow = np.broadcast_to(np.asarray(p["bottleneck"]), (len(image), 4, image.shape[-1]))
    always = np.ones((len(image), 4), bool)
    depth = sum(name.startswith("image_") for name in p)
    for i in range(depth):
        # The bottleneck after the tokens here, before them in the module: the order of keys means nothing.
        one = transformer(p[f"image_{i}"], np.concatenate([image, narrow], 1), None, h)
        two = transformer(
            p[f"text_{i}"], np.concatenate([text, narrow], 1), np.concatenate([mask, always], 1), h
        )
        image, text, narrow = one[:, :-4], two[:, :-4], (one[:, -4:] + two[:, -4:]) / 2
    return norm(p["norm"], (image.mean(1) + mean(text, mask)) / 2)


def low_rank(p, v, t, *, d, **_):
    out = 0
    v, t = (np.concatenate([x, np.ones((len(x), 1))], 1) for x in (v, t))
    for r in range(np.asarray(p["image"]["kernel"]).shape[1] // d):
        part = slice(r * d, (r + 1) * d)
        out = out + (v @ np.asarray(p["image"]["kernel"])[:, part]) * (
            t @ np.asarray(p["text"]["kernel"])[:, part]
        )
    return out


HEADS = {
    "concat": concat,
    "adaptive": adaptive,
    "bilinear": bilinear,
    "attention": attention_head,
    "bottleneck": bottleneck,
    "low_rank": low_rank,
}


def classifier(p, x):
    return linear(p["fc2"], np.maximum(linear(p["fc1"], x), 0))


def fusion(p, image, text, mask, *, grid, h, head, **options):
    """Logits, and the maps both ways stacked over layers."""
    v = linear(p["image_proj"], np.float64(image))
    t = linear(p["text_proj"], np.where(mask[..., None], np.float64(text), 0))
    d = v.shape[-1]
    v = v + positions(*grid, d)
    maps = [], []
    stacked = p["cross_attention"]["layers"]
    for index in range(np.asarray(stacked["image"]["norm"]["scale"]).shape[0]):
        v, t, *seen = layer(take(stacked, index), v, t, mask, h)
        for kept, one in zip(maps, seen, strict=True):
            kept.append(one)
    fused = HEADS[head](
        p.get("fusion_head", {}),
        v.mean(1),
        mean(t, mask),
        image=v,
        text=t,
        mask=mask,
        h=h,
        d=d,
        **options,
    )
    return classifier(p["classifier"], fused), *(np.stack(kept) for kept in maps)
