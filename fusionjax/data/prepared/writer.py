"""Checks a data set image by image, and writes it as ArrayRecord files."""

import dataclasses
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tqdm
from ml_collections import ConfigDict

from fusionjax import files
from fusionjax.data import datasets
from fusionjax.data.datasets import checks, duplicates, manifest
from fusionjax.data.datasets import folder as folder_source
from fusionjax.data.image.decode import decode
from fusionjax.data.prepared import records
from fusionjax.data.sampling import splits
from fusionjax.data.source import FileSource
from fusionjax.data.unreadable import BadImages, DecodeError, why_unreadable
from fusionjax.errors import UserError

_REID = ("train", "query", "gallery")
SPLITS = {
    "market1501": _REID,
    "dukemtmc": _REID,
    "msmt17": ("train", "val", "trainval", "query", "gallery"),
    "veri776": _REID,
    "cub": ("train", "test"),
    "cars": ("train", "test"),
    "aircraft": ("train", "val", "trainval", "test"),
    "folder": (),
    "manifest": (),
}
"""Data sets that can be prepared, with their splits; () for those whose splits depend on the files."""


@dataclasses.dataclass(frozen=True)
class Row:
    """The row of a split in the summary.

    Attributes:
        split: name of the split.
        images: number of examples; a manifest may list an image more than once.
        classes: number of classes.
        identities, cameras: number of different values of these columns; None where the data set has no such column.
        unreadable: number of images that cannot be decoded.
        size: bytes of all different images.
    """

    split: str
    images: int
    classes: int
    identities: int | None
    cameras: int | None
    unreadable: int
    size: int


class Preparation:
    """A data set to be prepared: its lists of files are read and validated, its images are not read yet.

    Args:
        data: `config.data`; `source`, `root`, `check_counts`, `fractions`, `max_pixels`, `max_bad_fraction` and `threads` are
            read, and the fields of the data set.
        seed: seed of the splits where there are no official ones.
        wanted: names of the splits; () for all.

    Raises:
        UserError: the data set cannot be prepared, or its reader raises; a data set of one class.
    """

    def __init__(self, data: ConfigDict, *, seed: int, wanted: Sequence[str] = ()):
        if data.source not in SPLITS:
            raise UserError(f"data set {data.source!r} cannot be prepared; allowed are {', '.join(SPLITS)}")
        chosen = tuple(wanted) or SPLITS[data.source] or _found(data)
        data = data.copy_and_resolve_references()
        data.eval_splits = chosen  # each split is asked for by its own name
        self.data = data
        self.sources: dict[str, FileSource] = {}
        for split in chosen:
            source = datasets.create(data, split, seed=seed)
            assert isinstance(source, FileSource)  # of all data sets in SPLITS
            if not {"identity", "question"} & source.columns.keys():
                checks.two_classes(source)
            self.sources[split] = source
        self.made: records.Made = {
            "root": str(Path(data.root).expanduser().resolve()),
            "source": data.source,
            "splits": list(self.sources),
            "seed": seed,
            "fractions": list(data.fractions),
            "check_counts": bool(data.check_counts),
        }
        self._bad = BadImages()

    @property
    def unreadable(self) -> dict[str, str]:
        """name → reason of the images that cannot be decoded, in the order in which they were read."""
        return self._bad.reasons

    def notes(self) -> tuple[str, ...]:
        """What the readers decided, and files with the same content under different labels, or in training and evaluation."""
        return (
            *datasets.notes(self.sources.values()),
            *duplicates.notes(self.sources, self.data.train_split, most=None),
        )

    def check(self) -> list[Row]:
        """Decodes every image once; images that cannot be decoded are logged and added to `unreadable`.

        Returns:
            One row per split.

        Raises:
            UserError: a file cannot be read; or, after the last image, more than `data.max_bad_fraction` of a split cannot be
                decoded.
        """
        return self._pass(None, 1)

    def write(self, folder: Path, *, shards: int = 1, allow_outside: bool = False) -> list[Row]:
        """Checks the data set as `check` does, and writes it; files are stored unchanged, an image of several splits once.

        Of an image that cannot be decoded, the name and the reason are stored, not the content.

        Args:
            folder: see `records.writing`; its data set is replaced atomically, or kept if this fails.
            shards: number of files per split.
            allow_outside: copy images that lie outside of the root too, by an absolute path, by ".." or by a link.

        Returns:
            One row per split.

        Raises:
            UserError: as `check` and `records.writing`; an image outside of the root, unless allowed.
        """
        datasets.outside_root(folder, self.data, "--out")
        if not allow_outside:
            for source in self.sources.values():
                _stays_inside(source)
        with records.writing(folder):
            return self._pass(folder, shards)

    def _pass(self, folder: Path | None, shards: int) -> list[Row]:
        where: dict[str, int] = {}  # name → record
        sizes: dict[str, int] = {}
        files: list[records.FileEntry] = []
        rows: list[Row] = []
        for split, source in self.sources.items():
            new = {name: i for i, name in enumerate(source.names) if name not in where}
            where.update({name: len(where) + k for k, name in enumerate(new)})
            indices = list(new.values())
            with tqdm.tqdm(total=len(indices), desc=split, unit=" images", disable=None) as progress:
                parts = np.array_split(indices, min(shards, max(1, len(indices))))
                for k, part in enumerate(parts):
                    images = self._read(source, part.astype(int).tolist(), sizes, progress)
                    if folder is None or not len(part):
                        deque(images, maxlen=0)
                        continue
                    stem = split if shards == 1 else f"{split}-{k:05d}-of-{len(parts):05d}"
                    files.append(records.write_file(folder, _plain(stem), images))
            rows.append(self._row(split, source, sizes))
        for row in rows:
            self._limit(row)
        if folder is not None:
            records.commit(
                folder,
                {
                    "made": {**self.made, "shards": shards},
                    "bottom_rows_removed": getattr(next(iter(self.sources.values())), "banner", 0),
                    "unreadable": self.unreadable,
                    "files": files,
                    "splits": {
                        split: records.split_entry(source, [where[name] for name in source.names])
                        for split, source in self.sources.items()
                    },
                },
            )
        return rows

    def _read(
        self, source: FileSource, indices: Sequence[int], sizes: dict[str, int], progress: tqdm.tqdm
    ) -> Iterator[bytes]:
        """The encoded images, in order; each is decoded, and recorded where that fails."""
        threads = self.data.threads
        ahead: deque[tuple[int, Future[tuple[bytes, str]]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            try:
                for i in indices:
                    ahead.append((i, pool.submit(self._one, source, i)))
                    if len(ahead) > 4 * threads:
                        yield self._note(source, sizes, *ahead.popleft())
                        progress.update()
                while ahead:
                    yield self._note(source, sizes, *ahead.popleft())
                    progress.update()
            finally:
                pool.shutdown(cancel_futures=True)

    def _one(self, source: FileSource, i: int) -> tuple[bytes, str]:
        try:
            # The whole file, also where `load` of the source returns a part of the image.
            encoded = files.read_bytes(source.root / source.names[i])
        except OSError as e:
            raise UserError(
                f"image {source.root / source.names[i]} cannot be read: {e.strerror or e}; fix or remove it"
            ) from None
        try:
            decode(encoded, self.data.max_pixels, self.data.value_range)
        except (DecodeError, MemoryError, OSError) as e:
            # Nothing of it is stored: what does not decode may be any file of this machine that a manifest names.
            return b"", why_unreadable(e, source.names[i])
        return encoded, ""

    def _note(
        self, source: FileSource, sizes: dict[str, int], i: int, future: Future[tuple[bytes, str]]
    ) -> bytes:
        encoded, reason = future.result()
        sizes[source.names[i]] = len(encoded)
        if reason:
            self._bad.record(source.names[i], reason)
        return encoded

    def _row(self, split: str, source: FileSource, sizes: dict[str, int]) -> Row:
        different, bad = set(source.names), set(self._bad.names)
        identities, cameras = (
            len(np.unique(source.columns[key].astype(str))) if key in source.columns else None
            for key in ("identity", "camera")
        )
        return Row(
            split, len(source), len(source.class_names), identities, cameras, len(different & bad),
            sum(sizes[name] for name in different),
        )  # fmt: skip

    def _limit(self, row: Row) -> None:
        if row.unreadable > self.data.max_bad_fraction * row.images:
            known = set(self.sources[row.split].names)
            shown = [f"{n} ({r})" for n, r in self.unreadable.items() if n in known][:3]
            raise UserError(
                f"{row.unreadable} of {row.images} images of split {row.split!r} are unreadable, more than "
                f"config.data.max_bad_fraction={self.data.max_bad_fraction:g} allows: {'; '.join(shown)}"
                f"{' …' if row.unreadable > len(shown) else ''}; fix or remove them"
            )


def table(rows: Sequence[Row]) -> str:
    """The summary as text, one line per split."""
    head = ("split", "images", "classes", "identities", "cameras", "unreadable", "MiB")
    cells = [
        (r.split, *("–" if v is None else f"{v:,}" for v in (r.images, r.classes, r.identities, r.cameras, r.unreadable)),
         f"{r.size / 2**20:,.1f}")
        for r in rows
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in (head, *cells)
    )  # fmt: skip


def same_request(folder: Path, content: records.Index, made: Mapping[str, object]) -> None:
    """Raises UserError where a finished output was prepared for another request.

    Args:
        folder: folder of the output.
        content: its index.
        made: what the present request specifies, with the keys of `records.Made`.
    """
    earlier: dict[str, object] = dict(content["made"])
    for key, value in made.items():
        if earlier.get(key) != value:
            raise UserError(
                f"--out={folder} was prepared with {key}={earlier.get(key)!r}, not {value!r}; name another folder, or add "
                "--overwrite"
            )


def _stays_inside(source: FileSource) -> None:
    """Raises UserError where an image lies outside of the root: preparing would copy any file that a manifest names."""
    root = os.path.realpath(source.root)
    folders: dict[str, str] = {}  # most images share theirs
    for name in source.names:
        path = os.path.join(source.root, name)
        folder, base = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.join(folders[folder], base)
        real = os.path.realpath(real) if os.path.islink(real) else real
        if not Path(real).is_relative_to(root):
            raise UserError(
                f"image {path} is {real}, outside of {root}, and would be copied; --allow_outside accepts such images"
            )


def _found(data: ConfigDict) -> tuple[str, ...]:
    """The splits of a folder or a manifest: the given ones, else those that are drawn."""
    drawn = tuple(s for s, share in zip(splits.SPLITS, data.fractions, strict=True) if share > 0)
    root = Path(data.root).expanduser()
    given: Sequence[str] = ()
    if data.source == "folder" and root.is_dir():
        given = folder_source.scan(root, data, data.train_split, checks.IMAGE_SUFFIXES).given
    elif data.source == "manifest" and root.is_file():
        given = manifest.split_names(root)
    # By their standard names, where those are unambiguous.
    meant = [splits.standard(name) for name in given]
    names = [m if m and meant.count(m) == 1 else name for m, name in zip(meant, given, strict=True)]
    return tuple(sorted(names, key=splits.rank)) or drawn  # of a wrong root, the reader reports what is wrong


def _plain(stem: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in stem)
