"""Kinds of figures of the attention over image patches; see `views`."""

from collections.abc import Callable, Sequence

import numpy as np

from fusionjax.interpret import attention_maps as maps
from fusionjax.interpret import image_maps
from fusionjax.interpret.charts import Chart
from fusionjax.interpret.image_maps import of_queries
from fusionjax.interpret.panels import Panel
from fusionjax.interpret.view import Lines, View, across, over_image, own, suffix


def rollout(view: View) -> Lines:
    """Attention rollout of the class token, of every network that has self-attention between patches."""
    names = own(view.captured.streams)
    panels = [
        view.panel(n, f"attention rollout{suffix(n, names)}", "rollout", view.rollout(n)) for n in names
    ]
    return [("", [*view.inputs(), *panels])]


def glca(view: View) -> Lines:
    """GLCA: where the class token looks in both branches, the difference, the selected patches and where they look."""
    found = view.captured
    axis = view.axis("glca")
    queries = maps.glca_queries(found.maps["glca"], axis)[
        0
    ]  # (Q, h, w): the class token, then the selected patches
    difference = maps.glca_difference(found.maps["sa"], found.maps["glca"], axis)[0]
    assert found.selected is not None
    panels = [
        view.panel("sa", "SA: rollout", "rollout", view.rollout("sa")),
        view.panel("glca", "GLCA: class token", "class_token", queries[0]),
        view.panel("glca", "GLCA − SA", "difference", difference, "difference"),
        view.panel("glca", "patches that GLCA selects", "selected", found.selected[0], "patches"),
        view.panel("glca", "where the selected patches look", "local_queries", queries[1:].mean(0)),
    ]
    return [("", [*view.inputs(), *panels])]


def layers(view: View) -> Lines:
    """Attention by layer, mean of the heads, and the rollout up to each layer."""
    lines: Lines = []
    names = over_image(view.captured.streams)
    for n in names:
        depth = len(view.captured.maps[n])
        raw = [
            view.panel(n, f"layer {i + 1}", f"attention_{i + 1:02d}", view.weights(n, i))
            for i in range(depth)
        ]
        first = [] if lines else view.inputs()
        lines.append((f"attention of {view.asking(n)}{suffix(n, names)}", [*first, *raw]))
        if n in own(view.captured.streams) and depth > 1:
            rolled = [
                view.panel(n, f"1 … {i + 1}", f"rollout_{i + 1:02d}", view.rollout(n, i + 1))
                for i in range(depth)
            ]
            lines.append((f"rollout up to a layer{suffix(n, names)}", [*rolled]))
    return lines


def heads(view: View) -> Lines:
    """Attention by layer and head."""
    lines: Lines = []
    names = over_image(view.captured.streams)
    for n in names:
        count, _, heads = view.captured.maps[n].shape[:3]
        for i in range(count):
            row = [
                view.panel(n, f"head {h + 1}", f"attention_{i + 1:02d}_{h + 1:02d}", view.weights(n, i, h))
                for h in range(heads)
            ]
            lines.append((f"layer {i + 1}{suffix(n, names)}, attention of {view.asking(n)}", [*row]))
    return lines


def scales(view: View) -> Lines:
    """CrossViT: the class token of each branch over its own patches, and over those of the other branch, by stage."""
    streams = view.captured.streams
    lines: Lines = []
    for stage in dict.fromkeys(n.partition("/")[0] for n in streams if "/fusion_" in n):
        panels = []
        for n in (n for n in streams if n.startswith(f"{stage}/")):
            part, _, branch = n.partition("/")[2].partition("_")
            rows, columns = view.axis(n).grid or (1, 1)
            where = "own" if part == "branch" else "fusion: the other branch's"
            title = f"branch {int(branch) + 1}, {where} {rows} × {columns} patches"
            panels.append(view.panel(n, title, "attention", view.weights(n)))
        first = [] if lines else view.inputs()
        lines.append((f"stage {int(stage.rpartition('_')[2]) + 1}", [*first, *panels]))
    return lines


def gradient_attention(view: View) -> Lines:
    """Gradient × attention of the last layer, for the class."""
    return _for_the_class(view, "gradient_attention", _gradient_attention)


def relevance(view: View) -> Lines:
    """Relevance by Chefer et al. (ICCV 2021), for the class."""
    return _for_the_class(view, "relevance", maps.relevance)


def _gradient_attention(found: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    return maps.weighted_heads(found[-1], gradients[-1])


def _for_the_class(view: View, method: str, rows: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Lines:
    """The map of a method of `image_maps`; of an image with several modalities one of each.

    Args:
        view: with gradients.
        method: its name.
        rows: (maps, gradients) of a stream → (1, Q, K).
    """
    found, title = view.captured, image_maps.TITLES[method]
    if not view.parts:
        values = image_maps.image_map(found, method)[0]
        return [("", [*view.inputs(), Panel(title, method, "share", values, (len(values), values.shape[1]))])]
    panels = [
        view.panel(
            n,
            f"{title}{suffix(n, view.parts)}",
            method,
            of_queries(rows(found.maps[n], found.gradients[n]), found.streams[n], found),
        )
        for n in own(found.streams)
        if n in found.gradients and found.gradients[n].any()
    ]
    return [("", [*view.inputs(), *panels])]


def pca(view: View) -> Lines:
    """Similarity of patches: the first three principal components of the tokens as red, green and blue."""
    found = view.captured
    names = [n for n in own(found.streams) if n in found.tokens]
    panels = []
    for n in names:
        colours = maps.pca_rgb(found.tokens[n][-1], view.axis(n))[0]
        panels.append(
            view.panel(
                n, f"similarity of patches within the image{suffix(n, names)}", "pca", colours, "colours"
            )
        )
    return [("", [*view.inputs(), *panels])]


def partner(view: View) -> Lines:
    """PWCA: the share of attention on the partner image, layer by layer."""
    share = maps.partner_share(view.captured.maps["pwca"])[:, 0]
    chart = Chart(
        "PWCA: attention on the partner's tokens", "partner_share", share[None],
        positions=list(range(1, len(share) + 1)), axis="layer", uniform=0.5, top=1.0,
    )  # fmt: skip
    return [("", [*view.inputs(), chart])]


def paper(view: View, depth: int = 4) -> Lines:
    """The figure of a paper: the input, SA, GLCA, their difference, the selected patches, and some layers of a deep network.

    Of other models the rollout of each network, in CrossViT of the last stage, and where other tokens look on the image.
    """
    streams = view.captured.streams
    selves, others = _last_stage(own(streams)), _last_stage(across(streams, "", "image"))
    if "glca" in streams:
        ((_, panels),) = glca(view)
    else:
        panels = view.inputs()
        panels += [view.panel(n, f"rollout{suffix(n, selves)}", "rollout", view.rollout(n)) for n in selves]
    asked = [view.asking(n) for n in others]
    for n, who in zip(others, asked, strict=True):
        title = f"attention of {who}{suffix(n, others) if asked.count(who) > 1 else ''}"
        panels.append(view.panel(n, title, "attention", view.weights(n)))
    for n in selves if len(selves) == 1 and not others else []:
        count = len(view.captured.maps[n])
        for i in np.unique(np.linspace(0, count - 1, min(depth, count)).round().astype(int)):
            if count > 1:  # the only layer is its rollout
                panels.append(
                    view.panel(n, f"layer {i + 1}", f"attention_{i + 1:02d}", view.weights(n, int(i)))
                )
    return [("", panels)]


def _last_stage(names: Sequence[str]) -> list[str]:
    """The streams of CrossViT's last stage; the others as they are."""
    stages = [n.partition("/")[0] for n in names if n.startswith("stage_")]
    return [n for n in names if not stages or n.startswith(f"{stages[-1]}/")]
