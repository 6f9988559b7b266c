"""DCAL once more, in plain NumPy and float64, read straight from the equations: slow, obvious, independent."""

import math

import numpy as np
from scipy.special import erf


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(x, p, eps=1e-6):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def heads_of(x, h):
    n, d = x.shape
    return x.reshape(n, h, d // h).transpose(1, 0, 2)


def attend(q, k, v, h):
    """(n, D) queries over (m, D) keys: output (n, D), map (h, n, m)."""
    q, k, v = (heads_of(x, h) for x in (q, k, v))
    weights = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
    return (weights @ v).transpose(1, 0, 2).reshape(q.shape[1], -1), weights


def mlp(x, p):
    return dense(gelu(dense(x, p["fc1"])), p["fc2"])


def block(x, p, h, partner=None):
    """One image (N, D). With `partner`, the tokens of the other image entering the same block: PWCA."""
    d = x.shape[-1]

    def qkv(tokens):
        parts = dense(layer_norm(tokens, p["norm1"]), p["qkv"])
        return parts[:, :d], parts[:, d : 2 * d], parts[:, 2 * d :]

    q, k, v = qkv(x)
    if partner is not None:
        _, k2, v2 = qkv(partner)
        k, v = np.concatenate([k, k2]), np.concatenate([v, v2])
    out, weights = attend(q, k, v, h)
    x = x + dense(out, p["proj"])
    return x + mlp(layer_norm(x, p["norm2"]), p["mlp"]), weights


def rollout_matrix(maps):
    """(L, N, N) head means → the full accumulated matrix S̄_L ⋯ S̄_1."""
    n = maps.shape[-1]
    total = np.eye(n)
    for layer in maps:
        total = (0.5 * layer + 0.5 * np.eye(n)) @ total
    return total


def glca(x, selected, p, h):
    """All tokens (N, D); queries are the rows `selected`."""
    d = x.shape[-1]
    normed = layer_norm(x, p["norm1"])
    kv = dense(normed, p["kv"])
    out, _ = attend(dense(normed[selected], p["q"]), kv[:, :d], kv[:, d:], h)
    local = x[selected] + dense(out, p["proj"])
    return local + mlp(layer_norm(local, p["norm2"]), p["mlp"])


def layer(params, i):
    """Parameters of block i out of the scanned stack."""
    if isinstance(params, dict):
        return {k: layer(v, i) for k, v in params.items()}
    return params[i]


def dcal(params, images, patch, h, depth, count, partner=None, glca_input="last", partner_stream="pwca"):
    """Logits by branch, rollout (B, N) and selection (B, 1 + count) of a batch (B, s, s, 3)."""
    batch, side, _, channels = images.shape
    grid, d = side // patch, params["cls_token"].shape[-1]
    patches = images.reshape(batch, grid, patch, grid, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    kernel = params["patch_embed"]["kernel"].reshape(-1, d)
    tokens = patches.reshape(batch, grid * grid, -1) @ kernel + params["patch_embed"]["bias"]
    x = np.concatenate([np.broadcast_to(params["cls_token"], (batch, 1, d)), tokens], 1) + params["pos_embed"]
    sa, pwca = [x], [x]
    maps = []
    for i in range(depth):
        p = layer(params["blocks"], i)
        done = [block(image, p, h) for image in sa[-1]]
        maps.append(np.stack([w.mean(0) for _, w in done]))
        if partner is not None:
            source = pwca[-1] if partner_stream == "pwca" else sa[-1]
            pwca.append(np.stack([block(pwca[-1][b], p, h, source[partner[b]])[0] for b in range(batch)]))
        sa.append(np.stack([image for image, _ in done]))
    maps = np.stack(maps)
    rollout = np.stack([rollout_matrix(maps[:, b])[0] for b in range(batch)])
    order = np.argsort(-rollout[:, 1:], axis=1, kind="stable")[:, :count] + 1
    selected = np.concatenate([np.zeros((batch, 1), int), order], 1)
    source = sa[-1] if glca_input == "last" else sa[-2]
    local = np.stack([glca(source[b], selected[b], params["glca_block"], h) for b in range(batch)])
    logits = {
        "sa": dense(layer_norm(sa[-1][:, 0], params["norm"]), params["head"]),
        "glca": dense(layer_norm(local[:, 0], params["glca_norm"]), params["glca_head"]),
    }
    if partner is not None:
        logits["pwca"] = dense(layer_norm(pwca[-1][:, 0], params["norm"]), params["head"])
    return logits, rollout, selected
