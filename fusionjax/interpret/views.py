"""Kinds of figures: what each shows of one example, from the attention that was captured in a forward pass.

`KINDS` lists them with the models that have them; a model is told by its attention streams, not by its name.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fusionjax.interpret import image_views as image
from fusionjax.interpret import modality_views as modality
from fusionjax.interpret.view import Lines, Streams, View, across, over_image, own


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Attributes:
        summary: what it shows, for the help.
        fits: (streams of a model, whether it has gradients of a class) → whether it can be drawn.
        lines: draws one example.
        columns: panels side by side; 0 for all.
        wants_gradients: whether the score is differentiated.
    """

    summary: str
    fits: Callable[[Streams, bool], bool]
    lines: Callable[[View], Lines]
    columns: int = 0
    wants_gradients: bool = False


def _between(streams: Streams, kind: str) -> bool:
    """Whether tokens of a kind attend to those of another kind, or are attended to."""
    return bool(across(streams, kind) + across(streams, "", kind))


def _explains_classes(streams: Streams, gradients: bool) -> bool:
    """Whether the gradients of a score reach a map over the image."""
    return gradients and bool(over_image(streams))


KINDS: dict[str, Kind] = {
    "rollout": Kind("attention rollout", lambda s, g: bool(own(s)), image.rollout),
    "glca": Kind("GLCA: selected patches, where they look, GLCA − SA", lambda s, g: "glca" in s, image.glca),
    "layers": Kind(
        "attention by layer, rollout up to each", lambda s, g: bool(over_image(s)), image.layers, 7
    ),
    "heads": Kind("attention by layer and head", lambda s, g: bool(over_image(s)), image.heads),
    "words": Kind("words and regions", lambda s, g: _between(s, "text"), modality.words, 6),
    "scales": Kind(
        "CrossViT: scales and their fusion", lambda s, g: any("/fusion_" in n for n in s), image.scales
    ),
    "sound": Kind("moments of a sound", lambda s, g: _between(s, "audio"), modality.sound, 6),
    "pca": Kind("similarity of patches as colours", lambda s, g: bool(own(s)), image.pca),
    "gradient_attention": Kind("gradient × attention", _explains_classes, image.gradient_attention, 0, True),
    "relevance": Kind("relevance, Chefer et al.", _explains_classes, image.relevance, 0, True),
    "partner": Kind("PWCA: attention on the partner", lambda s, g: "pwca" in s, image.partner, 6),
}
"""Kind → what it is."""
PAPER = Kind(
    "input, SA, GLCA, difference, selected patches, layers", lambda s, g: bool(over_image(s)), image.paper
)
"""The figure of a paper."""
BESIDE = ("rollout", "glca", "pca", "gradient_attention", "relevance")
"""Kinds of one line of panels, which can stand beside each other: "rollout+relevance"."""


def kind(name: str) -> Kind:
    """A kind by its name: "" for the figure of a paper, or several of `BESIDE` joined by "+".

    Raises:
        KeyError: there is no such kind.
    """
    if "+" not in name:
        return KINDS[name] if name else PAPER
    parts = [KINDS[part] for part in name.split("+")]

    def lines(view: View) -> Lines:
        inputs = view.inputs()
        rows = [row[len(inputs) :] for part in parts for _, row in part.lines(view)]
        return [("", [*inputs, *(panel for row in rows for panel in row)])]

    return Kind(
        "side by side",
        lambda s, g: all(p.fits(s, g) for p in parts),
        lines,
        0,
        any(p.wants_gradients for p in parts),
    )
