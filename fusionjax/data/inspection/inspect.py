"""The inspection of a data set: its splits, classes, sizes and findings."""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax.data import datasets
from fusionjax.data.inspection import findings, images, layout
from fusionjax.data.inspection.findings import Finding
from fusionjax.data.source import Source


@dataclass(frozen=True)
class SplitFacts:
    """A split.

    Attributes:
        images: number of examples.
        classes: number of classes that it has examples of.
        unreadable: number of images that cannot be read.
    """

    images: int
    classes: int
    unreadable: int


@dataclass(frozen=True)
class Inspection:
    """What a data set holds.

    Attributes:
        path: the folder or manifest.
        layout: the reader, a value of `config.data.source`.
        identities: whether its classes are identities.
        notes: what the reader decided, e.g. which folder is which split.
        splits: by name.
        classes: images by class and split, in the order of the classes.
        sizes: (width, height) → number of images, the most frequent first.
        columns: the columns of a manifest beside path, label and split, with the share of rows that have a value.
        findings: errors first.
        command: the command that trains on it.
        sources: by split, for pictures.
    """

    path: Path
    layout: str
    identities: bool
    notes: tuple[str, ...]
    splits: Mapping[str, SplitFacts]
    classes: Mapping[str, Mapping[str, int]]
    sizes: Mapping[tuple[int, int], int]
    columns: Mapping[str, float]
    findings: tuple[Finding, ...]
    command: str
    sources: Mapping[str, Source]

    @property
    def errors(self) -> int:
        """Number of findings that would spoil a result."""
        return sum(f.level == "error" for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "path": str(self.path),
            "layout": self.layout,
            "notes": list(self.notes),
            "splits": {name: vars(facts) for name, facts in self.splits.items()},
            "classes": {name: dict(counts) for name, counts in self.classes.items()},
            "sizes": [{"width": w, "height": h, "images": n} for (w, h), n in self.sizes.items()],
            "columns": dict(self.columns),
            "findings": [
                {
                    "level": f.level,
                    "text": f.text,
                    "examples": [[self.sources[s].names[i] for s, i in group] for group in f.groups],
                }
                for f in self.findings
            ],
            "command": self.command,
        }


def inspect(
    path: Path,
    *,
    threads: int = 8,
    progress: Callable[[str, int], Callable[[], object]] | None = None,
    out: Path | None = None,
) -> Inspection:
    """Reads every image of a data set once.

    Args:
        path: a folder or a manifest, see `layout.recognise`.
        threads: that read.
        progress: (split, number of images) → a function that is called after each image.
        out: the folder that a page will be written to.

    Raises:
        UserError: it is no data set that can be read, or `out` lies in it and would be read as data.
    """
    opened = layout.recognise(path)
    if out is not None:
        datasets.outside_root(out, opened.data, "--out")
    sources: Mapping[str, Source] = opened.sources
    facts = {
        split: images.read_all(
            source, opened.data.max_pixels, threads=threads,
            progress=progress(split, len(source)) if progress else lambda: None,
        )
        for split, source in sources.items()
    }  # fmt: skip
    identities = any(split in sources for split in ("query", "gallery")) or all(
        map(_are_identities, sources.values())
    )
    sizes = Counter(f.size for of_split in facts.values() for f in of_split if not f.problem)
    return Inspection(
        path,
        opened.data.source,
        identities,
        datasets.notes(sources.values()),
        {
            split: SplitFacts(
                len(source), len(np.unique(source.labels)), sum(bool(f.problem) for f in facts[split])
            )
            for split, source in sources.items()
        },
        _classes(sources),
        dict(sizes.most_common()),
        _columns(sources),
        tuple(findings.find(sources, facts, identities=identities)),
        _command(opened.data.source, opened.data.root, sources, identities),
        sources,
    )


def _classes(sources: Mapping[str, Source]) -> dict[str, dict[str, int]]:
    names = list(dict.fromkeys(name for source in sources.values() for name in source.class_names))
    counts = {
        split: Counter(source.class_names[k] for k in np.asarray(source.labels).tolist())
        for split, source in sources.items()
    }
    return {name: {split: counts[split][name] for split in sources} for name in names}


def _columns(sources: Mapping[str, Source]) -> dict[str, float]:
    found: dict[str, list[bool]] = {}
    for source in sources.values():
        for name, values in source.columns.items():
            found.setdefault(name, []).extend(str(v).strip() not in ("", "()") for v in values)
    return {name: float(np.mean(there)) for name, there in found.items() if there}


def _are_identities(source: Source) -> bool:
    """Whether the classes of a split are its identities: those of a manifest without a column label are."""
    identity = source.columns.get("identity")
    names = (source.class_names[k] for k in np.asarray(source.labels).tolist())
    return identity is not None and all(str(i) == name for i, name in zip(identity, names, strict=True))


def _command(layout: str, root: str, sources: Mapping[str, Source], identities: bool) -> str:
    """The command that trains on it, for a shell."""
    place = Path(root).resolve()
    name = place.name.split(".")[0] or "mine"
    columns = {column for source in sources.values() for column in source.columns}
    config, task = layout, ""
    if layout in ("folder", "manifest"):
        config = "vqa" if "question" in columns else "folder"
        tasks = {"reid": identities, "trimodal": "audio" in columns, "fusion": "caption" in columns}
        task = next((f",task={task}" for task, fits in tasks.items() if fits and config == "folder"), "")
    inside = place.is_dir() and Path.cwd().is_relative_to(place)  # a run there would be read as data
    workdir = f"{place.parent}/{name}_run" if inside else f"runs/{name}"
    escaped = root.replace(",", "\\,")
    return shlex.join(
        ["fusionjax", "train", f"--config={config}:root={escaped}{task}", f"--workdir={workdir}"]
    )
