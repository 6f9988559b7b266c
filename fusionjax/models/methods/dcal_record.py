"""DCAL's record: `dcal_<vit name>` puts its branches on a ViT and starts from that one's published weights."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from fusionjax.config import ABLATIONS
from fusionjax.errors import UserError
from fusionjax.models.backbones.record import Layer, LayerOrder
from fusionjax.models.backbones.records import vit
from fusionjax.models.methods.dcal import DCAL

PREFIX = "dcal_"


def published(name: str) -> str:
    """The plain ViT below a DCAL."""
    return name.removeprefix(PREFIX)


def build(name: str, **overrides: Any) -> DCAL:
    """The DCAL of a name; arguments as for `families.vit.build`, with the fields of `DCAL`.

    Raises:
        UserError: unknown field, or a combination that cannot be.
    """
    module = vit.make(name, DCAL, vit.CONFIGS[published(name)], overrides)
    if not 0 < module.ratio <= 1:
        raise UserError(f"model {name}: ratio={module.ratio} (R) must be in (0, 1]")
    if module.glca_input not in ("last", "penultimate"):
        raise UserError(f"model {name}: glca_input={module.glca_input!r}: allowed are last, penultimate")
    if module.partner_stream not in ("pwca", "sa"):
        raise UserError(f"model {name}: partner_stream={module.partner_stream!r}: allowed are pwca, sa")
    if "sa" not in module.branches or not set(module.branches) <= {"sa", "glca", "pwca"}:
        raise UserError(f"model {name}: branches={module.branches!r}: sa, and any of glca, pwca")
    return module


def layers(module: DCAL) -> LayerOrder:
    """The ViT's order; GLCA's block stands above the last one, with its head."""
    depth, rules = vit.layers(module)
    return LayerOrder(depth, (*rules, Layer(r"glca_\w+/.*|log_variance_\w+", depth + 1)))


def configure(config: ConfigDict, *, image_shape: tuple[int, int], channels: int) -> dict[str, Any]:
    """See `Family.configure`."""
    c = config.model
    fields = vit.configure(config, image_shape=image_shape, channels=channels)
    fields |= {key: c[key] for key in ("ratio", "glca_input", "partner_stream")}
    return fields | {"branches": ABLATIONS[c.ablation], "uncertainty_init": config.loss.uncertainty_init}


FAMILY = dataclasses.replace(
    vit.FAMILY,
    name="dcal",
    names=tuple(PREFIX + name for name in vit.FAMILY.names),
    module=DCAL,
    build=build,
    layers=layers,
    undecayed=(*vit.FAMILY.undecayed, r"log_variance_\w+"),
    heads=(*vit.FAMILY.heads, "glca_head"),
    preprocessing={PREFIX + name: found for name, found in vit.FAMILY.preprocessing.items()},
    weights={PREFIX + name: source for name, source in vit.FAMILY.weights.items()},
    unpublished=(*vit.FAMILY.unpublished, "glca_.*", "log_variance_.*"),
    published=published,
    reads=(*vit.FAMILY.reads, "ablation", "ratio", "glca_input", "partner_stream"),
    configure=configure,
    encoder=None,
    tokens=None,
)
