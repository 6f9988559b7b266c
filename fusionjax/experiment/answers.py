"""Predictions as text, CSV or JSON, with their attention maps as pictures."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fusionjax import files
from fusionjax.experiment.prediction import Prediction
from fusionjax.interpret import figures

_LONGEST = 200
"""Bytes of an image's name; file systems allow 255, of which a temporary file needs some."""


def write(found: Iterable[Prediction], form: str, *, top: int, maps: Path | None) -> int:
    """Prints predictions as they come, JSON as a whole at the end.

    Args:
        found: the predictions.
        form: "text", "csv" (a row per image: image, error, class_1, probability_1 …) or "json" (a list of objects).
        top: number of classes, for the head of the CSV.
        maps: folder for a PNG with the attention of each image; None draws none.

    Returns:
        The number of images that cannot be read.
    """
    bad, objects = 0, []
    if form == "csv":
        pairs = [f"{what}_{k}" for k in range(1, top + 1) for what in ("class", "probability")]
        print(files.csv_text([["image", "error", *pairs]]), end="")
    for i, one in enumerate(found):
        bad += bool(one.error)
        drawn = _draw(one, maps, i) if maps else None
        if form == "json":
            objects.append(one.to_dict() | ({"maps": str(drawn)} if drawn else {}))
        elif form == "csv":
            print(files.csv_text([_row(one)]), end="")
        else:
            print("\n".join(_lines(one, drawn)))
    if form == "json":
        print(json.dumps(objects, indent=1))
    return bad


def _row(one: Prediction) -> list[Any]:
    pairs = zip(one.classes, one.probabilities, strict=True)
    return [one.name, one.error, *(cell for name, p in pairs for cell in (name, f"{p:.6f}"))]


def _lines(one: Prediction, drawn: Path | None) -> Iterator[str]:
    yield one.name
    for name, p in zip(one.classes, one.probabilities, strict=True):
        yield f"  {100 * p:5.1f} %  {name}"
    if one.error:
        yield f"  cannot be read: {one.error}"
    if drawn:
        yield f"  maps: {drawn}"


def _draw(one: Prediction, folder: Path, i: int) -> Path | None:
    figure = None if one.error or one.rollout is None else figures.attention_rows([one.example()])
    if figure is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return figures.save(figure, folder / f"{i + 1:03d}_{_shortened(one.name)}.png")


def _shortened(name: str) -> str:
    """The name of an image without folder and suffix, so short that it fits into the name of a file with a prefix."""
    stem = Path(name).stem[:80]
    while len(os.fsencode(stem)) > _LONGEST:
        stem = stem[:-1]
    return stem
