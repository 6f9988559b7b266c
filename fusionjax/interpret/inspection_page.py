"""The inspection of a data set, as text and as a page with thumbnails."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusionjax.data.inspection import Finding, Inspection, images
from fusionjax.interpret import pages

_SHOWN = 12  # classes in the text, groups of a finding on the page
_PER_CLASS = 8
_CLASSES = 60
_PIXELS = 100_000_000


def text(found: Inspection) -> str:
    """The inspection as lines for a terminal: splits, classes, sizes, findings, command."""
    lines = [headline(found), *found.notes, ""]
    lines += _columns(
        [("split", "images", "classes", "unreadable")]
        + [(name, f"{s.images:,}", f"{s.classes:,}", f"{s.unreadable:,}") for name, s in found.splits.items()]
    )
    if not found.identities:
        splits = list(found.splits)
        rows = [(name, *(f"{counts[s]:,}" for s in splits)) for name, counts in found.classes.items()]
        lines += ["", *_columns([("class", *splits), *rows[:_SHOWN]])]
        lines += [f"… and {len(rows) - _SHOWN} more classes"] if len(rows) > _SHOWN else []
    lines += ["", sizes(found)]
    if found.columns:
        shares = ", ".join(f"{name} ({pages.number(share)})" for name, share in found.columns.items())
        lines.append(f"columns with a value: {shares}")
    lines.append("")
    for finding in found.findings:
        lines.append(f"{finding.level}: {finding.text}")
        lines += [f"    {line}" for line in _examples(found, finding)]
    if not found.findings:
        lines.append("nothing was found that would spoil a result")
    return "\n".join([*lines, "", f"to train: {found.command}"])


def headline(found: Inspection) -> str:
    """What the data set is, in a line."""
    total = sum(s.images for s in found.splits.values())
    kind = "identities" if found.identities else "classes"
    return f"{found.path} is read as {found.layout!r}: {total:,} images, {len(found.classes):,} {kind}"


def sizes(found: Inspection) -> str:
    """The sizes of the images, in a line."""
    if not found.sizes:
        return "no image can be read"
    if len(found.sizes) <= 3:
        return "sizes: " + ", ".join(f"{w} × {h} ({n:,})" for (w, h), n in found.sizes.items())
    widths, heights = (np.repeat([s[k] for s in found.sizes], list(found.sizes.values())) for k in (0, 1))
    return (
        f"sizes: {len(found.sizes):,} different, {widths.min()} to {widths.max()} wide (median {np.median(widths):.0f}), "
        f"{heights.min()} to {heights.max()} high (median {np.median(heights):.0f})"
    )


@dataclass(frozen=True)
class Picture:
    """A thumbnail: its data as a URI ("" where the image cannot be read), and what stands below it."""

    uri: str
    caption: str


def write(folder: Path, found: Inspection) -> Path:
    """Writes index.html: the numbers, the findings with the images that show them, and images of every class.

    Args:
        folder: made if absent.
        found: the inspection.

    Returns:
        The page.
    """
    page = pages.render(
        "inspection.html",
        warnings=[],
        found=found,
        headline=headline(found),
        sizes=sizes(found),
        findings=[
            (f, [[_picture(found, *e) for e in g[:6]] for g in f.groups[:_SHOWN]]) for f in found.findings
        ],
        classes=list(_classes(found)),
        more=max(0, len(found.classes) - _CLASSES),
        largest=max((sum(c.values()) for c in found.classes.values()), default=1),
    )
    with pages.replacing(folder, "inspection") as made:
        (made / pages.PAGE).write_text(page, encoding="utf-8")
    return folder / pages.PAGE


def _classes(found: Inspection) -> Iterator[tuple[str, dict[str, int], list[Picture]]]:
    """Name, counts and some images of each class."""
    split, source = next(iter(found.sources.items()))
    labels = np.asarray(source.labels)
    for name, counts in list(found.classes.items())[:_CLASSES]:
        index = source.class_names.index(name) if name in source.class_names else -1
        mine = np.flatnonzero(labels == index)
        chosen = (
            mine[np.linspace(0, len(mine) - 1, min(_PER_CLASS, len(mine))).astype(int)] if len(mine) else mine
        )
        yield name, dict(counts), [_picture(found, split, int(i)) for i in chosen]


def _picture(found: Inspection, split: str, i: int) -> Picture:
    source = found.sources[split]
    small = images.thumbnail(source, i, _PIXELS)
    uri = "data:image/jpeg;base64," + base64.b64encode(small).decode() if small else ""
    return Picture(
        uri, f"{split}: {_printable(source.names[i])}, {source.class_names[int(source.labels[i])]}"
    )


def _examples(found: Inspection, finding: Finding) -> list[str]:
    shown = [
        " = ".join(f"{split}: {_printable(found.sources[split].names[i])}" for split, i in group[:3])
        + (" …" if len(group) > 3 else "")
        for group in finding.groups[:3]
    ]
    return shown + ([f"… and {len(finding.groups) - 3} more"] if len(finding.groups) > 3 else [])


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
