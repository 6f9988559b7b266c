"""Tux Paint's stamps: a picture, its caption in many languages, the caption spoken, and a sound; the folder is the class.

Data that install like any package: Debian's `tuxpaint-stamps-default`. Version 2022.06.04 has 956 stamps in 17 folders; what
each language has of them is in docs/data_stamps.md. Nothing of them is part of this package.

**Splits** are by stamp, stratified by class, drawn by the seed with `data.fractions`. Stamps that look or sound alike stay on
one side (`stamp_files.stamps` says which): 694 groups.

**What tells the class.** A caption names what the picture shows, so text and speech are strong clues, as captions are; nothing
is looked up by the class. But whether a stamp has a sound effect at all depends on its class (animals mostly have one), and a
model may learn that. Spoken descriptions in French, Russian, Romanian, Catalan, Bulgarian and Spanish lack for a few only.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from fusionjax.config import require_one_of
from fusionjax.data.datasets import checks
from fusionjax.data.datasets.stamp_files import Stamp, stamps
from fusionjax.data.datasets.stamp_words import NOUNS, kind
from fusionjax.data.image import transforms
from fusionjax.data.image.decode import DecodeError, decode
from fusionjax.data.sampling import splits
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

ROOT = "/usr/share/tuxpaint/stamps"
STAMPS = 956
SOUNDS = ("description", "effect", "any")
INSTALL = "apt-get install tuxpaint-stamps-default"
_DPI = 96


class StampsSource:
    """A split of the stamps; see `Source`.

    Columns, of text unless said otherwise:
        group: int64, stamps that must stay together.
        folder: all folders below the class, "mammals/dogs", or "".
        subfolder: the first of them.
        category, kind: what it is, in words, for `data.questions.generate`: "an animal", "bird" or "".
        caption: as `captions`.
        translations: a line for each different caption in `languages`, the test's first; "" where a stamp lacks that one.
            `data.text.translations` reads them.
        audio: paths of sound files relative to `root`, with "|" between, one of each of `audio_languages`; only that of the
            first, or "", unless the split is "train". `data.sounds.files_of` reads them.

    Attributes:
        root: the folder of the stamps.
        captions: N texts in the test's language, the first of `languages`; "" where there is none.
    """

    name = "Tux Paint stamps"

    def __init__(
        self,
        split: str,
        class_names: tuple[str, ...],
        items: Sequence[Stamp],
        *,
        root: Path,
        size: int,
        max_pixels: int,
        languages: Sequence[str] = ("en",),
        audio_languages: Sequence[str] = ("fr",),
        sound: str = "description",
    ):
        self.split, self.class_names, self.root, self._items = split, class_names, root, items
        self._size, self._max_pixels = size, max_pixels
        self._png: dict[int, bytes] = {}
        self.names = [s.name for s in items]
        self.labels = np.asarray([class_names.index(s.folders[0]) for s in items], np.int32)
        self.captions = [s.captions.get(languages[0], "") for s in items]
        translations = [
            "\n".join(dict.fromkeys(s.captions[tag] for tag in languages if tag in s.captions))
            if text
            else ""
            for s, text in zip(items, self.captions, strict=True)
        ]
        below = [s.folders[1:] for s in items]
        tags = audio_languages if split == "train" else audio_languages[:1]
        heard = [dict.fromkeys(filter(None, (_sound(s, tag, sound) for tag in tags))) for s in items]
        self.columns = {
            "group": np.asarray([s.group for s in items], np.int64),
            "folder": np.asarray(["/".join(folders) for folders in below], object),
            "subfolder": np.asarray([folders[0] if folders else "" for folders in below], object),
            "category": np.asarray([NOUNS.get(s.folders[0], f"of {s.folders[0]}") for s in items], object),
            "kind": np.asarray([kind(s.folders) for s in items], object),
            "caption": np.asarray(self.captions, object),
            "translations": np.asarray(translations, object),
            "audio": np.asarray(
                ["|".join(p.relative_to(root).as_posix() for p in own) for own in heard], object
            ),
        }

    def __len__(self) -> int:
        return len(self._items)

    def load(self, i: int) -> np.ndarray:
        """RGB uint8 (size, size, 3): the picture in the middle of a white square. Drawn once, then kept as PNG."""
        png = self._png.get(i)
        if png is None:
            image = draw(self._items[i].picture, self._size, self._max_pixels)
            done, array = cv2.imencode(".png", image[..., ::-1])
            if not done:
                raise DecodeError("it cannot be kept as PNG")
            self._png[i] = array.tobytes()
            return image
        return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)

    def audio(self, i: int) -> Path | None:
        """The sound file that the test hears for stamp `i`; None where it has none."""
        first = self.columns["audio"][i].split("|")[0]
        return self.root / first if first else None


def create(data: Any, split: str, *, seed: int) -> StampsSource:
    """One split of the stamps.

    Args:
        data: `config.data`. `root`: the folder of the stamps, "" for where the package puts them; `resize`: the size drawn;
            `fractions`: shares of the splits; `languages`: of the captions, the first is the test's; `audio_languages`:
            likewise of the spoken descriptions; `sound`: "description", "effect" or "any", the effect where there is one.
        split: "train", "val" or "test".
        seed: draws the split.

    Returns:
        StampsSource in the order of the names.

    Raises:
        UserError: the package is missing or incomplete, an unknown split, language or kind of sound.
    """
    if not data.root and not Path(ROOT).is_dir():
        raise UserError(f"the stamps are not at {ROOT}: {INSTALL}, or set config.data.root to their folder")
    root = checks.root_folder(data.root or ROOT, "the Tux Paint stamps", INSTALL).resolve()
    found = stamps(root)
    if not found:
        raise UserError(f"{root} has no stamps, which are pictures in folders of classes: {INSTALL}")
    if data.check_counts and len(found) < STAMPS:
        raise UserError(
            f"{data.root or ROOT} has {len(found)} of {STAMPS} stamps: {INSTALL} (config.data.check_counts=False accepts it)"
        )
    _known("languages", data.languages, {tag for s in found for tag in s.captions})
    if data.sound not in SOUNDS:
        raise UserError(f"config.data.sound={data.sound!r} is not possible: allowed are {', '.join(SOUNDS)}")
    effects = {tag.partition("_")[0] for s in found for tag in s.effects}
    spoken = {tag for s in found for tag in s.descriptions}
    _known(
        "audio_languages", data.audio_languages, spoken if data.sound == "description" else spoken | effects
    )
    if any(s.picture.suffix.lower() == ".svg" for s in found):
        _resvg()  # found missing now, not as a picture that cannot be read
    class_names = tuple(sorted({s.folders[0] for s in found}))
    labels = np.asarray([class_names.index(s.folders[0]) for s in found])
    parts = splits.stratified(labels, data.fractions, seed=seed, groups=np.asarray([s.group for s in found]))
    return StampsSource(
        split, class_names, [found[i] for i in splits.pick(StampsSource.name, parts, split)], root=root, size=data.resize,
        max_pixels=data.max_pixels, languages=data.languages, audio_languages=data.audio_languages, sound=data.sound,
    )  # fmt: skip


def draw(picture: Path, size: int, max_pixels: int) -> np.ndarray:
    """A PNG or SVG file in the middle of a white square, RGB uint8 (size, size, 3), its longer side as long as the square's.

    Raises:
        DecodeError: the file is damaged or too large.
        UserError: resvg-py is missing.
    """
    source: bytes | Path = picture
    if picture.suffix.lower() == ".svg":
        try:
            source = _resvg().svg_to_bytes(
                svg_path=str(picture), height=size, dpi=_DPI, background="white", skip_system_fonts=True
            )
        except ValueError as error:
            raise DecodeError(" ".join(str(error).split())) from None
    image = decode(source, max_pixels)
    height, width = image.shape[:2]
    scale = size / max(height, width)
    height, width = (max(1, round(side * scale)) for side in (height, width))
    return transforms.pad_to(transforms.resize(image, height, width), size, (255, 255, 255))


def _sound(stamp: Stamp, tag: str, kind: str) -> Path | None:
    effect = None if kind == "description" else _local(stamp.effects, tag)
    return effect if effect is not None or kind == "effect" else stamp.descriptions.get(tag)


def _local(effects: Mapping[str, Path], tag: str) -> Path | None:
    """The sound of a language, of a country's variant of it, or of every language."""
    variants = sorted(other for other in effects if other.partition("_")[0] == tag)
    return effects.get(tag) or (effects[variants[0]] if variants else effects.get(""))


def _known(field: str, languages: Sequence[str], known: set[str]) -> None:
    if not languages:
        raise UserError(f"config.data.{field} is empty: name at least one language")
    for tag in languages if known else ():  # a folder without captions or sounds has none in any language
        if tag not in known:
            raise UserError(
                f"config.data.{field}: no stamp has {tag!r}; there are {', '.join(sorted(known - {''}))}"
            )


@functools.cache
def _resvg() -> Any:
    try:
        return __import__("resvg_py")
    except ImportError:
        raise UserError(
            "config.data.source='stamps' needs the package resvg_py for SVG: pip install resvg-py"
        ) from None


def _check(config: ConfigDict) -> None:
    require_one_of(config, "data.sound", *SOUNDS)


RECORD = DatasetRecord(
    "stamps",
    create,
    reads=("root", "fractions", "resize", "languages", "audio_languages", "sound"),
    check=_check,
)
