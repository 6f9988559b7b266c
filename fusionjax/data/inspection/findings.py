"""What would spoil a result, or is likely a mistake; pure functions of the facts of the splits."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusionjax import config
from fusionjax.data import class_names
from fusionjax.data.datasets import duplicates
from fusionjax.data.inspection.images import ImageFacts, alike
from fusionjax.data.source import Source

Example = tuple[str, int]
"""Split, and index in it."""

_FEW = 10  # training images of a class
_IMBALANCE = 10.0
_TINY = 32  # pixels of the shorter side
_LEAK = 0.01  # share of an evaluation split that may look like training images


@dataclass(frozen=True)
class Finding:
    """Something to know before training.

    Attributes:
        level: error: it would spoil a result; warning: likely a mistake; note: good to know.
        text: one sentence.
        groups: examples that show it; each group is shown side by side.
    """

    level: Literal["error", "warning", "note"]
    text: str
    groups: tuple[tuple[Example, ...], ...] = ()


def find(
    sources: Mapping[str, Source], facts: Mapping[str, Sequence[ImageFacts]], *, identities: bool
) -> list[Finding]:
    """Everything that is found, errors first.

    Args:
        sources: by split.
        facts: by split, those of every image.
        identities: whether the classes are identities, which training and test do not share.
    """
    found = [
        *_unreadable(facts),
        *_same_files(sources, facts),
        *_look_alike(sources, facts, identities),
        *_classes(sources, identities),
        *_sizes(facts),
        *_captions(sources),
    ]
    return sorted(found, key=lambda f: ("error", "warning", "note").index(f.level))


def _unreadable(facts: Mapping[str, Sequence[ImageFacts]]) -> Iterator[Finding]:
    for split, of_split in facts.items():
        bad = [i for i, f in enumerate(of_split) if f.problem]
        if bad:
            allowed = config.default().data.max_bad_fraction
            stops = len(bad) > allowed * len(of_split)
            rest = (
                f"more than data.max_bad_fraction={allowed:g} allows"
                if stops
                else "they are left out of training and scores"
            )
            text = f"{len(bad)} of {len(of_split)} images of {split} cannot be read ({of_split[bad[0]].problem}); {rest}"
            yield Finding("error" if stops else "warning", text, (tuple((split, i) for i in bad[:20]),))


def _same_files(
    sources: Mapping[str, Source], facts: Mapping[str, Sequence[ImageFacts]]
) -> Iterator[Finding]:
    by_sum: dict[bytes, list[duplicates.Use[int]]] = defaultdict(list)
    for split, source in sources.items():
        names = tuple(source.class_names)
        for i, (fact, label) in enumerate(zip(facts[split], np.asarray(source.labels).tolist(), strict=True)):
            if fact.sum:
                by_sum[fact.sum].append(duplicates.Use(i, split, names, label))
    groups = [group for group in by_sum.values() if len(group) > 1]
    labels = [g for g in groups if duplicates.two_labels(g)]
    splits = [g for g in groups if len({use.split for use in g}) > 1 and g not in labels]
    within = [g for g in groups if g not in labels and g not in splits]
    if labels:
        yield Finding("error", f"{_count(labels)} under two labels: one of them is wrong", _shown(labels))
    if splits:
        leaks = any(duplicates.trained_and_not(g, "train") for g in splits)
        level: Literal["error", "note"] = "error" if leaks else "note"
        yield Finding(
            level, f"{_count(splits)} in two splits: the score would count remembered images", _shown(splits)
        )
    if within:
        yield Finding("warning", f"{_count(within)} twice in one class", _shown(within))


def _look_alike(
    sources: Mapping[str, Source], facts: Mapping[str, Sequence[ImageFacts]], identities: bool
) -> Iterator[Finding]:
    examples = [(split, i) for split, of_split in facts.items() for i in range(len(of_split))]
    pairs = alike([f for of_split in facts.values() for f in of_split])
    across = [(examples[i], examples[j]) for i, j in pairs.tolist() if examples[i][0] != examples[j][0]]
    within = [(examples[i], examples[j]) for i, j in pairs.tolist() if examples[i][0] == examples[j][0]]
    leaks = [p for p in across if "train" in {p[0][0], p[1][0]}]
    seen = {e for pair in leaks for e in pair if e[0] != "train"}
    if leaks:
        shares = [
            sum(s == split for s, _ in seen) / max(1, len(of))
            for split, of in facts.items()
            if split != "train"
        ]
        level: Literal["error", "warning"] = "error" if max(shares) >= _LEAK and not identities else "warning"
        count = _number(len(seen), "image of another split looks", "images of other splits look")
        text = f"{count} like training images (near-duplicates): the score would be too high"
        yield Finding(level, text, tuple(leaks))
    if within:
        yield Finding(
            "note",
            f"{_number(len(within), 'pair')} of images within a split look the same (near-duplicates)",
            tuple(within),
        )


def _classes(sources: Mapping[str, Source], identities: bool) -> Iterator[Finding]:
    names = next(iter(sources.values())).class_names
    for line in class_names.alike(names):
        yield Finding("warning", line)
    train = sources.get("train")
    if train is None:
        return
    counts = np.bincount(np.asarray(train.labels), minlength=len(train.class_names))
    if not identities:
        for split, source in sources.items():
            missing = sorted({source.class_names[k] for k in np.unique(source.labels)} - _present(train))
            if missing:
                listed = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
                yield Finding("error", f"{split} has classes without a training image: {listed}")
        few = [train.class_names[k] for k in np.flatnonzero((counts > 0) & (counts < _FEW))]
        if few:
            listed = ", ".join(few[:5]) + (" …" if len(few) > 5 else "")
            count = _number(len(few), "class has", "classes have")
            yield Finding("warning", f"{count} fewer than {_FEW} training images: {listed}")
        largest, smallest = counts.max(), counts[counts > 0].min()
        if largest >= _IMBALANCE * smallest:
            yield Finding(
                "warning",
                f"the largest class has {largest / smallest:.0f} times the images of the smallest: look at the per-class "
                "recall, and consider --config.loss.balanced=True",
            )
    for split, source in sources.items():
        if split != "train" and not identities:
            half = 1.96 * math.sqrt(0.25 / (len(source) + 1.96**2))  # Wilson's, which stays within 0 and 1
            if half > 0.07:
                text = f"{split} has {len(source)} images: an accuracy near 50 % has an interval of ± {100 * half:.0f} points"
                yield Finding("warning", text)


def _sizes(facts: Mapping[str, Sequence[ImageFacts]]) -> Iterator[Finding]:
    good = [(split, i, f) for split, of in facts.items() for i, f in enumerate(of) if not f.problem]
    tiny = [(s, i) for s, i, f in good if min(f.size) < _TINY]
    if tiny:
        count = _number(len(tiny), "image is", "images are")
        yield Finding("warning", f"{count} smaller than {_TINY} pixels", (tuple(tiny[:20]),))
    blank = [(s, i) for s, i, f in good if f.small is not None and float(f.small.std()) < 0.5]
    if blank:
        yield Finding(
            "warning", f"{_number(len(blank), 'image is', 'images are')} of one colour", (tuple(blank[:20]),)
        )
    modes: dict[str, int] = defaultdict(int)
    for _, _, f in good:
        modes[f.mode] += 1
    if len({mode.split()[-1] for mode in modes}) > 1:
        listed = ", ".join(f"{n:,} {mode}" for mode, n in sorted(modes.items(), key=lambda m: -m[1]))
        yield Finding("note", f"files of several kinds, all read as RGB: {listed}")


def _captions(sources: Mapping[str, Source]) -> Iterator[Finding]:
    for split, source in sources.items():
        captions = source.columns.get("caption")
        if captions is None:
            continue
        texts = [str(c) for c in captions]
        empty = sum(not t.strip() for t in texts)
        named = sum(
            source.class_names[k].casefold() in t.casefold()
            for k, t in zip(np.asarray(source.labels), texts, strict=True)
        )
        if empty:
            yield Finding("note", f"{empty} of {len(texts)} captions of {split} are empty")
        if named > 0.5 * len(texts):
            yield Finding(
                "warning",
                f"{named} of {len(texts)} captions of {split} contain the name of their class: the text gives the answer",
            )


def _present(source: Source) -> set[str]:
    return {source.class_names[k] for k in np.unique(np.asarray(source.labels))}


def _shown(groups: Sequence[Sequence[duplicates.Use[int]]]) -> tuple[tuple[Example, ...], ...]:
    return tuple(tuple((use.split, use.place) for use in group) for group in groups)


def _number(n: int, one: str, many: str = "") -> str:
    """`1 image`, `2 images`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _count(groups: Sequence[object]) -> str:
    return _number(len(groups), "image is there", "images are there")
