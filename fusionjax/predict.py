"""Predictions of a trained model for some images: python -m fusionjax.predict --workdir=runs/cub photo1.jpg photo2.jpg

With a re-identification model the first image is the query, and the others are ranked by their similarity to it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from fusionjax import cli
from fusionjax.errors import UserError

if TYPE_CHECKING:
    from fusionjax.experiment.inference import Run

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run.")
TOP = flags.DEFINE_integer("top", 5, "Classes, or images of a gallery, to name.", lower_bound=1)
TEXT = flags.DEFINE_multi_string(
    "text", None, "Text of an image, once per image; for a model that uses the image's own text."
)
SOUND = flags.DEFINE_multi_string(
    "sound", None, 'Sound file of an image, once per image, "" for none; for a model with audio input.'
)
OUT = flags.DEFINE_string("out", None, "Folder for the attention maps; <workdir>/predictions by default.")


def main(rest: Sequence[str]) -> None:
    """Prints the top classes of every image, and writes a PNG with its maps."""
    if not WORKDIR.value:
        raise UserError("--workdir is missing: name the folder of a run")
    if not rest:
        raise UserError("no image given: python -m fusionjax.predict --workdir=… photo.jpg …")
    from fusionjax.experiment.inference import load
    from fusionjax.interpret import figures

    run = load(WORKDIR.value)
    if run.task.inputs.reads_text and len(TEXT.value or ()) != len(rest):
        raise UserError(
            f"the run reads a text of each image: give --text {len(rest)} times, one for each image"
        )
    if "embedding" in run.task.scorer.output_names:
        _rank(run, rest)
        return
    folder = Path(OUT.value) if OUT.value else run.folder / "predictions"
    for i, found in enumerate(run.predict(rest, texts=TEXT.value, sounds=SOUND.value, top=TOP.value)):
        print(found.name)
        for name, p in zip(found.classes, found.probabilities, strict=True):
            print(f"  {100 * p:5.1f} %  {name}")
        figure = figures.attention_rows([found.example()])
        if figure is not None and found.rollout is not None:
            folder.mkdir(parents=True, exist_ok=True)
            print(f"  maps: {figures.save(figure, folder / f'{i + 1:03d}_{Path(found.name).stem[:80]}.png')}")


def _rank(run: "Run", names: Sequence[str]) -> None:
    """Prints the other images by falling similarity to the first."""
    if OUT.value:
        raise UserError("--out is for attention maps; a re-identification run prints similarities")
    if len(names) < 2:
        raise UserError("a re-identification run compares images: name the query first, then the gallery")
    embeddings = run.embed(names)
    similarity = embeddings[1:] @ embeddings[0]
    print(names[0])
    for i in sorted(range(len(similarity)), key=lambda i: -similarity[i])[: TOP.value]:
        print(f"  {similarity[i]:7.4f}  {names[1 + i]}")


if __name__ == "__main__":
    cli.run(main)
