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


def mlp(x, p, gated=False):
    hidden = dense(x, p["fc1"])
    if gated:
        a, b = np.split(hidden, 2, axis=-1)
        return dense(a / (1 + np.exp(-a)) * b, p["fc2"])
    return dense(gelu(hidden), p["fc2"])


def scaled(x, p, name):
    """The residual x, times the layer scale of this name where the block has one."""
    return x * p[name]["scale"] if name in p else x


def block(x, p, h, partner=None, gated=False):
    """One image (N, D). With `partner`, the tokens of the other image entering the same block: PWCA. `gated`: SwiGLU."""
    d = x.shape[-1]

    def qkv(tokens):
        parts = dense(layer_norm(tokens, p["norm1"]), p["qkv"])
        return parts[:, :d], parts[:, d : 2 * d], parts[:, 2 * d :]

    q, k, v = qkv(x)
    if partner is not None:
        _, k2, v2 = qkv(partner)
        k, v = np.concatenate([k, k2]), np.concatenate([v, v2])
    out, weights = attend(q, k, v, h)
    x = x + scaled(dense(out, p["proj"]), p, "ls1")
    return x + scaled(mlp(layer_norm(x, p["norm2"]), p["mlp"], gated), p, "ls2"), weights


def rollout_matrix(maps):
    """(L, N, N) head means → the full accumulated matrix S̄_L ⋯ S̄_1."""
    n = maps.shape[-1]
    total = np.eye(n)
    for layer in maps:
        total = (0.5 * layer + 0.5 * np.eye(n)) @ total
    return total


def glca(x, selected, p, h, gated=False):
    """All tokens (N, D); queries are the rows `selected`."""
    d = x.shape[-1]
    normed = layer_norm(x, p["norm1"])
    kv = dense(normed, p["kv"])
    out, _ = attend(dense(normed[selected], p["q"]), kv[:, :d], kv[:, d:], h)
    local = x[selected] + scaled(dense(out, p["proj"]), p, "ls1")
    return local + scaled(mlp(layer_norm(local, p["norm2"]), p["mlp"], gated), p, "ls2")


def layer(params, i):
    """Parameters of block i out of the scanned stack."""
    if isinstance(params, dict):
        return {k: layer(v, i) for k, v in params.items()}
    return params[i]


def dcal(params, images, patch, h, depth, count, partner=None, glca_input="last", partner_stream="pwca",
         gated=False):  # fmt: skip
    """Logits by branch, rollout (B, N) and selection (B, 1 + count) of a batch (B, s, s, 3), both over CLS and patches."""
    batch, side, _, channels = images.shape
    grid, d = side // patch, params["cls_token"].shape[-1]
    patches = images.reshape(batch, grid, patch, grid, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    kernel = params["patch_embed"]["kernel"].reshape(-1, d)
    tokens = patches.reshape(batch, grid * grid, -1) @ kernel + params["patch_embed"]["bias"]
    x = np.concatenate([np.broadcast_to(params["cls_token"], (batch, 1, d)), tokens], 1) + params["pos_embed"]
    registers = params["reg_token"][0] if "reg_token" in params else np.zeros((0, d))
    extra = np.broadcast_to(registers, (batch, *registers.shape))
    x = np.concatenate([x[:, :1], extra, x[:, 1:]], 1)
    sa, pwca = [x], [x]
    maps = []
    for i in range(depth):
        p = layer(params["blocks"], i)
        done = [block(image, p, h, gated=gated) for image in sa[-1]]
        maps.append(np.stack([w.mean(0) for _, w in done]))
        if partner is not None:
            source = pwca[-1] if partner_stream == "pwca" else sa[-1]
            done_pairs = [block(pwca[-1][b], p, h, source[partner[b]], gated) for b in range(batch)]
            pwca.append(np.stack([tokens for tokens, _ in done_pairs]))
        sa.append(np.stack([image for image, _ in done]))
    maps = np.stack(maps)
    rollout = np.stack([rollout_matrix(maps[:, b])[0] for b in range(batch)])
    rollout = np.delete(rollout, range(1, 1 + len(registers)), axis=1)
    order = np.argsort(-rollout[:, 1:], axis=1, kind="stable")[:, :count] + 1
    selected = np.concatenate([np.zeros((batch, 1), int), order], 1)
    source = sa[-1] if glca_input == "last" else sa[-2]
    rows = np.where(selected > 0, selected + len(registers), 0)
    local = np.stack([glca(source[b], rows[b], params["glca_block"], h, gated) for b in range(batch)])
    logits = {
        "sa": dense(layer_norm(sa[-1][:, 0], params["norm"]), params["head"]),
        "glca": dense(layer_norm(local[:, 0], params["glca_norm"]), params["glca_head"]),
    }
    if partner is not None:
        logits["pwca"] = dense(layer_norm(pwca[-1][:, 0], params["norm"]), params["head"])
    return logits, rollout, selected
