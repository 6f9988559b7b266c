"""The files of a folder of Tux Paint stamps: images, captions and audio, and the groups of stamps that must not be split.

A stamp is an image `<name>.png` or `<name>.svg`. Optional files beside it are

    <name>.txt              its caption: the first line in English, then lines like `de.utf8=Ein Hund.`
    <name>_desc.ogg         the caption spoken in English; <name>_desc_fr.ogg in French
    <name>.ogg              its sound effect; <name>_de.ogg in German (the name of a letter or number)

Some audio files are .wav instead of .ogg. `<name>_mirror.png` is the mirrored image of a stamp, not a stamp of its own.
"""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from fusionjax import files as files_lib
from fusionjax.data.datasets import listing
from fusionjax.data.sampling import splits
from fusionjax.errors import UserError

PICTURES = (".png", ".svg")
"""In order of preference: seven SVG files need a font that may be missing, and have a PNG file beside them."""
SOUNDS = (".ogg", ".wav")
SPOKEN = ("en", "be", "bg", "ca", "da", "el", "es", "fr", "ro", "ru")
"""English, and the languages in which most stamps have a spoken caption."""
_MIRRORED = re.compile(r"_(mirror|flip)(_flip)?$")
_SERIES = re.compile(r"[-_ ]?\d+[a-z]?$")
_TAG = re.compile(r"[a-z]{2,3}(_[A-Za-z]{2})?(@[a-z]+)?")
_LETTERS = "symbols/alphabets/english/{0}/lowercase/{2}_{1} symbols/alphabets/english/{0}/lowercase/{3}_{1}"
# Near-duplicates: all images were compared, cropped to their content, at 32×32, also mirrored. Other pairs as close are mostly
# white images.
_NEAR_DUPLICATES = (
    *(_LETTERS.format(*style, *pair).split()
      for style in (("filled", "filled"), ("outlined", "outline")) for pair in ("bd", "pq")),
    ("symbols/math/operators/op6_lessthan", "symbols/math/operators/op7_greaterthan"),
    ("symbols/math/operators/op8_lessthanequal", "symbols/math/operators/op9_greaterthanequal"),
    [f"people/body_parts/eye_{colour}_left" for colour in ("blue", "brown", "green")],
    [f"seasonal/hanukkah/dreydl{letter}" for letter in ("", "-gimmel", "-hay", "-nun", "-shin")],
    ("clothes/t_poloshirt", "clothes/t_tshirt"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Stamp:
    """One stamp.

    Attributes:
        name: path below the root, without suffix: "animals/birds/crow".
        picture: the image file.
        captions: language → caption; may be empty.
        descriptions: language → file of the spoken caption.
        effects: language → file of the sound effect; "" for the one of all languages.
        group: index of the duplicate group.
    """

    name: str
    picture: Path
    captions: Mapping[str, str]
    descriptions: Mapping[str, Path]
    effects: Mapping[str, Path]
    group: int

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that contain the stamp, outermost first; the outermost is its class."""
        return tuple(self.name.split("/")[:-1])


def stamps(root: Path) -> tuple[Stamp, ...]:
    """All stamps below a folder, sorted by name.

    **Duplicate groups**: stamps are in one group if, directly or through others, they have the same caption in a language of
    `SPOKEN` (the same words would be spoken in training and test), byte-identical images or audio files, names in one folder
    that differ only in a final number, or images that were found to be near-duplicates.

    Args:
        root: folder of the stamps.

    Raises:
        UserError: a caption file is not UTF-8.
    """
    pictures: dict[str, Path] = {}
    sounds: dict[str, Path] = {}
    for name in listing.all_below(root):
        stem, dot, kind = name.rpartition(".")
        kind = dot + kind.lower()
        if kind in PICTURES and "/" in stem and (stem not in pictures or kind == PICTURES[0]):
            pictures[stem] = root / name
        elif kind in SOUNDS:
            sounds.setdefault(stem, root / name)
    pictures = {
        n: p for n, p in pictures.items() if _MIRRORED.sub("", n) == n or _MIRRORED.sub("", n) not in pictures
    }
    descriptions: dict[str, dict[str, Path]] = {name: {} for name in pictures}
    effects: dict[str, dict[str, Path]] = {name: {} for name in pictures}
    for stem, path in sounds.items():
        owner, language = next(
            ((o, tag) for o, tag in _readings(stem) if o.removesuffix("_desc") in pictures), ("", "")
        )
        if owner in pictures:
            effects[owner][language] = path
        elif owner:
            descriptions[owner.removesuffix("_desc")][language or "en"] = path
    captions = {name: _captions(root / f"{name}.txt") for name in pictures}
    names = sorted(pictures)
    audio = {name: [*descriptions[name].values(), *effects[name].values()] for name in names}
    place = {name: i for i, name in enumerate(names)}
    keys = _shared_keys(names, pictures, captions, audio)
    groups = splits.linked(len(names), ((place[name], key) for name, key in keys)).tolist()
    return tuple(
        Stamp(name, pictures[name], captions[name], descriptions[name], effects[name], group)
        for name, group in zip(names, groups, strict=True)
    )


def counts(found: Sequence[Stamp]) -> dict[str, tuple[int, int, int]]:
    """Language → numbers of stamps with a caption, a spoken caption and a sound effect; "" for effects of all languages."""
    languages = {tag for s in found for tag in (*s.captions, *s.descriptions, *s.effects)}
    table = {
        tag: (
            sum(tag in s.captions for s in found),
            sum(tag in s.descriptions for s in found),
            sum(tag in s.effects for s in found),
        )
        for tag in languages
    }
    return dict(sorted(table.items(), key=lambda item: (-item[1][1], -item[1][0], item[0])))


def _readings(stem: str) -> Iterator[tuple[str, str]]:
    """The possible (stamp, language) readings of a file name: "a_pt_br" is itself, "a_pt" in br, or "a" in pt_BR."""
    yield stem, ""
    parts = stem.split("_")
    for k in (1, 2):
        tag = "_".join(parts[-k:])
        if len(parts) > k and _TAG.fullmatch(tag):
            yield "_".join(parts[:-k]), _tag(tag)


def _tag(language: str) -> str:
    """zh_tw → zh_TW."""
    head, line, country = language.partition("_")
    return head + line + country.upper()


def _captions(path: Path) -> dict[str, str]:
    try:
        lines = files_lib.read_bytes(path).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the caption file {path} cannot be read: {error}") from None
    found = {"en": lines[0].strip() if lines else ""}
    for line in lines[1:]:
        language, marker, text = line.partition(".utf8=")
        if marker:
            found[_tag(language.strip())] = text.strip()
    return {language: text for language, text in found.items() if text}


def _shared_keys(
    names: Sequence[str],
    pictures: Mapping[str, Path],
    captions: Mapping[str, Mapping[str, str]],
    audio: Mapping[str, Sequence[Path]],
) -> Iterator[tuple[str, Hashable]]:
    """(name, key) pairs; stamps with a common key are in one group."""
    for name in names:
        for language in SPOKEN:
            words = " ".join(re.findall(r"\w+", captions[name].get(language, "").casefold()))
            if words:
                yield name, ("caption", language, words)
        folder, _, last = name.rpartition("/")
        series = _SERIES.sub("", last)
        if sum(map(str.isalpha, series)) > 1:
            yield name, ("series", folder, series.casefold())
    alike = {name: i for i, pair in enumerate(_NEAR_DUPLICATES) for name in pair}
    yield from ((name, ("alike", alike[name])) for name in names if name in alike)
    yield from _same_bytes((name, pictures[name]) for name in names)
    yield from _same_bytes((name, path) for name in names for path in audio[name])


def _same_bytes(files: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, Hashable]]:
    """(name, key) of the files that have the size of another file; only these are read."""
    by_size: dict[int, list[tuple[str, Path]]] = {}
    for name, path in files:
        by_size.setdefault(path.stat().st_size, []).append((name, path))
    for name, path in itertools.chain.from_iterable(f for f in by_size.values() if len(f) > 1):
        yield name, ("bytes", hashlib.sha256(files_lib.read_bytes(path)).digest())
