"""Tux Paint stamps: an image, its caption in many languages, spoken captions and a sound effect; the folder is the class.

The data are in Debian's package `tuxpaint-stamps-default`. Version 2022.06.04 has 956 stamps in 17 folders;
docs/data_stamps.md lists what exists in each language. No part of them is included in fusionjax.

**Splits** are by stamp, stratified by class, drawn by the seed with `data.fractions`. Duplicate groups (see
`stamp_files.stamps`) are never split; there are 694.

**Information about the class.** A caption names the content of the image, so text and speech are strong clues, as captions
are; nothing is selected by the class. But whether a stamp has a sound effect depends on its class (most animals have one), and
a model may learn that. Only few stamps lack a spoken caption in French, Russian, Romanian, Catalan, Bulgarian or Spanish.
"""

import functools
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
from ml_collections import ConfigDict

from fusionjax.config import require_one_of
from fusionjax.data.datasets import checks
from fusionjax.data.datasets.stamp_files import Stamp, stamps
from fusionjax.data.datasets.stamp_words import NOUNS, kind
from fusionjax.data.image import transforms
from fusionjax.data.image.decode import decode, decode_png
from fusionjax.data.sampling import splits
from fusionjax.data.unreadable import DecodeError
from fusionjax.errors import UserError
from fusionjax.files import check_readable
from fusionjax.register import DatasetRecord

ROOT = "/usr/share/tuxpaint/stamps"
STAMPS = 956
SOUNDS = ("description", "effect", "any")
INSTALL = "apt-get install tuxpaint-stamps-default"
_DPI = 96


class StampsSource:
    """A split of the stamps; see `Source`.

    Columns, of text unless noted otherwise:
        group: int64, the duplicate group.
        folder: all folders below the class, "mammals/dogs", or "".
        subfolder: the first of them.
        category, kind: nouns for `vqa.questions.generate`: "an animal", "bird" or "".
        caption: as `captions`.
        translations: one line per different caption in `languages`, the evaluation language first; "" where that caption is
            missing. Read by `data.text.translations`.
        audio: paths of audio files relative to `root`, separated by "|", one for each of `audio_languages`; only that of the
            first language, or "", unless the split is "train". Read by `audio.clips.audio_files`.

    Attributes:
        root: folder of the stamps.
        captions: N texts in the evaluation language, the first of `languages`; "" where there is none.
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
        audio = [dict.fromkeys(filter(None, (_sound(s, tag, sound) for tag in tags))) for s in items]
        self.columns = {
            "group": np.asarray([s.group for s in items], np.int64),
            "folder": np.asarray(["/".join(folders) for folders in below], object),
            "subfolder": np.asarray([folders[0] if folders else "" for folders in below], object),
            "category": np.asarray([NOUNS.get(s.folders[0], f"of {s.folders[0]}") for s in items], object),
            "kind": np.asarray([kind(s.folders) for s in items], object),
            "caption": np.asarray(self.captions, object),
            "translations": np.asarray(translations, object),
            "audio": np.asarray(
                ["|".join(p.relative_to(root).as_posix() for p in own) for own in audio], object
            ),
        }

    def __len__(self) -> int:
        return len(self._items)

    def file(self, i: int) -> Path:
        """The PNG or SVG file of stamp `i`."""
        return self._items[i].picture

    def load(self, i: int) -> np.ndarray:
        """RGB uint8 (size, size, 3), the image centred on a white square; rendered once, then kept in memory as PNG.

        Raises:
            DecodeError: the file is damaged or too large.
        """
        png = self._png.get(i)
        if png is None:
            image = draw(self._items[i].picture, self._size, self._max_pixels)
            done, array = cv2.imencode(".png", image[..., ::-1])
            if not done:
                raise DecodeError("it cannot be encoded as PNG")
            self._png[i] = array.tobytes()
            return image
        return decode_png(png)

    def audio(self, i: int) -> Path | None:
        """The audio file that evaluation uses for stamp `i`; None where there is none."""
        first = self.columns["audio"][i].split("|")[0]
        return self.root / first if first else None


def create(data: ConfigDict, split: str, *, seed: int) -> StampsSource:
    """One split of the stamps.

    Args:
        data: `config.data`; read are `root` (folder of the stamps, "" for that of the package), `resize` (size of the images
            in pixels), `fractions`, `check_counts`, `max_pixels`, `languages` (of the captions; evaluation uses the first),
            `audio_languages` (likewise for the spoken captions) and `sound`: "description", "effect", or "any" for the effect
            where there is one.
        split: "train", "val" or "test".
        seed: seed of the split.

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
        raise UserError(f"{root} has no stamps (images in class folders): {INSTALL}")
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
        _resvg()  # a missing package is an error now, not an unreadable image
    class_names = tuple(sorted({s.folders[0] for s in found}))
    labels = np.asarray([class_names.index(s.folders[0]) for s in found])
    parts = splits.stratified(labels, data.fractions, seed=seed, groups=np.asarray([s.group for s in found]))
    return StampsSource(
        split, class_names, [found[i] for i in splits.pick(StampsSource.name, parts, split)], root=root, size=data.resize,
        max_pixels=data.max_pixels, languages=data.languages, audio_languages=data.audio_languages, sound=data.sound,
    )  # fmt: skip


def draw(picture: Path, size: int, max_pixels: int) -> np.ndarray:
    """Renders a PNG or SVG file, centred on a white square that its longer side fills.

    Args:
        picture: the file.
        size: rows and columns of the square, in pixels.
        max_pixels: the limit of `decode`.

    Returns:
        RGB uint8 (size, size, 3).

    Raises:
        DecodeError: the file is damaged or too large.
        UserError: resvg-py is missing.
    """
    source: bytes | Path = picture
    if picture.suffix.lower() == ".svg":
        check_readable(picture)
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
    """The effect in a language, else in a regional variant of it, else that of all languages."""
    variants = sorted(other for other in effects if other.partition("_")[0] == tag)
    return effects.get(tag) or (effects[variants[0]] if variants else effects.get(""))


def _known(field: str, languages: Sequence[str], known: set[str]) -> None:
    if not languages:
        raise UserError(f"config.data.{field} is empty: name at least one language")
    for tag in languages if known else ():  # a folder may have no captions or no audio at all
        if tag not in known:
            raise UserError(
                f"config.data.{field}: no stamp has {tag!r}; there are {', '.join(sorted(known - {''}))}"
            )


@functools.cache
def _resvg() -> ModuleType:
    try:
        return importlib.import_module("resvg_py")
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
    lists_folders=True,
    licence="GPL-2 as a whole",
)
