"""Kinds of figures of the attention over image patches; see `views`."""

import numpy as np

from fusionjax.interpret import attention_maps as maps
from fusionjax.interpret.capture import Captured
from fusionjax.interpret.charts import Chart
from fusionjax.interpret.panels import Panel
from fusionjax.interpret.view import (
    INPUT,
    Lines,
    View,
    asking,
    axis_of,
    key_of,
    over_image,
    own,
    panel_of,
    query_of,
    suffix_of,
    weights_of,
)


def rollout(view: View) -> Lines:
    """Attention rollout of the class token, of every network that has self-attention between patches."""
    names = own(view.captured.streams)
    panels = [
        panel_of(
            f"attention rollout{suffix_of(n, names)}",
            f"rollout_{key_of(n)}",
            _rollout(view, n),
            axis_of(view, n),
        )
        for n in names
    ]
    return [("", [INPUT, *panels])]


def _rollout(view: View, stream: str, stop: int | None = None) -> np.ndarray:
    query = query_of(view, stream)
    if query is None:
        return maps.rollout(view.captured.maps[stream], stop=stop).mean(1)
    return maps.rollout_row(view.captured.maps[stream], stop=stop, query=query)


def selection(captured: Captured) -> Panel:
    """The patches that GLCA selects."""
    axis = captured.streams["glca"].keys
    assert captured.selected is not None
    return Panel(
        "patches that GLCA selects", "selected", "patches", captured.selected[0], axis.grid or (1, 1)
    )


def glca(view: View) -> Lines:
    """GLCA: the selected patches, where they look, what the class token attends to in both branches, and the difference."""
    found, axis = view.captured, view.captured.streams["glca"].keys
    attention = found.maps["glca"][-1].mean(1)  # (1, Q, K): the class token, then the selected patches
    difference = maps.glca_difference(found)[0]
    panels = [
        panel_of("SA: rollout", "rollout", _rollout(view, "sa"), axis),
        panel_of("GLCA: class token", "glca", attention[:, 0], axis),
        Panel("GLCA − SA", "difference", "difference", difference, axis.grid or (1, 1)),
        selection(found),
        panel_of("where the selected patches look", "glca_local", attention[:, 1:].mean(1), axis),
    ]
    return [("", [INPUT, *panels])]


def layers(view: View) -> Lines:
    """Attention by layer, mean of the heads, and the rollout up to each layer."""
    lines: Lines = []
    names = over_image(view.captured.streams)
    for n in names:
        depth, axis = len(view.captured.maps[n]), axis_of(view, n)
        titles = [f"layer {i + 1}" for i in range(depth)]
        raw = [
            panel_of(t, f"attention_{key_of(n)}_{i + 1:02d}", weights_of(view, n, i), axis)
            for i, t in enumerate(titles)
        ]
        lines.append(
            (f"attention of {asking(view, n)}{suffix_of(n, names)}", [*([] if lines else [INPUT]), *raw])
        )
        if n in own(view.captured.streams) and depth > 1:
            rolled = [
                panel_of(f"1 … {i + 1}", f"rollout_{key_of(n)}_{i + 1:02d}", _rollout(view, n, i + 1), axis)
                for i in range(depth)
            ]
            lines.append((f"rollout up to a layer{suffix_of(n, names)}", [*rolled]))
    return lines


def heads(view: View) -> Lines:
    """Attention by layer and head."""
    lines: Lines = []
    names = over_image(view.captured.streams)
    for n in names:
        found, axis = view.captured.maps[n], axis_of(view, n)
        for i in range(len(found)):
            row = [
                panel_of(
                    f"head {h + 1}",
                    f"attention_{key_of(n)}_{i + 1:02d}_{h + 1:02d}",
                    weights_of(view, n, i, h),
                    axis,
                )
                for h in range(found.shape[2])
            ]
            lines.append((f"layer {i + 1}{suffix_of(n, names)}, attention of {asking(view, n)}", [*row]))
    return lines


def scales(view: View) -> Lines:
    """CrossViT: the class token of each branch over its own patches, and over those of the other branch, by stage."""
    streams = view.captured.streams
    lines: Lines = []
    for stage in dict.fromkeys(n.partition("/")[0] for n in streams if "/fusion_" in n):
        panels = []
        for n in (n for n in streams if n.startswith(f"{stage}/")):
            part, _, branch = n.partition("/")[2].partition("_")
            rows, columns = axis_of(view, n).grid or (1, 1)
            where = "own" if part == "branch" else "fusion: the other branch's"
            title = f"branch {int(branch) + 1}, {where} {rows} × {columns} patches"
            panels.append(panel_of(title, f"attention_{key_of(n)}", weights_of(view, n), axis_of(view, n)))
        lines.append((f"stage {int(stage.rpartition('_')[2]) + 1}", [*([] if lines else [INPUT]), *panels]))
    return lines


def gradient(view: View) -> Lines:
    """Gradient × attention of the last layer, positive parts, mean of the heads, for the class."""
    found = view.captured
    names = [n for n in over_image(found.streams) if n in found.gradients]
    panels = [
        panel_of(
            f"gradient × attention{suffix_of(n, names)}", f"gradient_{key_of(n)}",
            maps.gradient_attention(found.maps[n], found.gradients[n], query=query_of(view, n) or 0), axis_of(view, n),
        )
        for n in names
    ]  # fmt: skip
    return [("", [INPUT, *panels])]


def relevance(view: View) -> Lines:
    """Relevance by Chefer et al. (ICCV 2021) for the class, through all layers."""
    found = view.captured
    names = [n for n in own(found.streams) if n in found.gradients]
    panels: list[Panel | Chart] = []
    for n in names:
        rows = maps.relevance(found.maps[n], found.gradients[n])
        query = query_of(view, n)
        row = rows.mean(1) if query is None else rows[:, query]
        panels.append(
            panel_of(f"relevance{suffix_of(n, names)}", f"relevance_{key_of(n)}", row, axis_of(view, n))
        )
    return [("", [INPUT, *panels])]


def pca(view: View) -> Lines:
    """Similarity of patches: the first three principal components of the tokens as red, green and blue."""
    found = view.captured
    names = [n for n in own(found.streams) if n in found.tokens]
    panels = []
    for n in names:
        axis = axis_of(view, n)
        grid = axis.grid or (1, 1)
        colours = maps.pca_rgb(found.tokens[n][-1], grid, axis.prefix)[0]
        panels.append(
            Panel(f"similarity of patches{suffix_of(n, names)}", f"pca_{key_of(n)}", "colours", colours, grid)
        )
    return [("", [INPUT, *panels])]


def partner(view: View) -> Lines:
    """PWCA: the share of attention on the partner image, layer by layer."""
    share = maps.partner_share(view.captured.maps["pwca"])[:, 0]
    at = list(range(1, len(share) + 1))
    chart = Chart(
        "PWCA: attention on the partner's tokens", "partner_share", share[None], positions=at, axis="layer",
        uniform=0.5, top=1.0, span=3,
    )  # fmt: skip
    return [("", [INPUT, chart])]


def paper(view: View, depth: int = 4) -> Lines:
    """The figure of a paper: the input, SA, GLCA, their difference, the selected patches, and some layers."""
    streams = view.captured.streams
    panels: list[Panel | Chart] = list(glca(view)[0][1]) if "glca" in streams else list(rollout(view)[0][1])
    names = own(streams) if "sa" not in streams else ["sa"]
    for n in names or over_image(streams):
        count = len(view.captured.maps[n])
        if count == 1 and n in own(streams):
            continue  # its rollout
        for i in np.unique(np.linspace(0, count - 1, min(depth, count)).round().astype(int)):
            title = f"layer {i + 1}{suffix_of(n, names or over_image(streams))}"
            panels.append(
                panel_of(
                    title, f"attention_{key_of(n)}_{i + 1:02d}", weights_of(view, n, int(i)), axis_of(view, n)
                )
            )
    return [("", panels)]
