"""What takes long to compute, kept on disk between runs: written whole, with checksums, and verified when it is opened.

An entry is a folder `<name>-<digest of what it depends on>` with its files and `entry.json`, which lists what the entry
depends on, and the size and checksum (XXH3) of every file. An entry that is damaged is named and computed again. Of several
processes that need the same entry, one computes it and the others wait. What a process that was killed left half written is
removed the next time an entry of that folder is opened.

Checksums protect against damage, not against an attacker, who could change them too.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from fusionjax import files
from fusionjax._version import __version__
from fusionjax.errors import UserError, folder_errors

log = logging.getLogger(__name__)

MANIFEST = "entry.json"
_FORMAT = 1
_PART = ".part"


class Entry:
    """One entry of a cache folder.

    Args:
        folder: of the cache; created when an entry is written.
        name: readable beginning of the entry's name.
        depends_on: everything that the content depends on, of types that JSON has; the version of fusionjax is added. Another
            value is another entry, so an outdated one is never read.
        shared: let one of several processes compute the entry while the others wait. False where they compute it together, as
            the processes of one run do.

    Attributes:
        path: folder of the entry.
    """

    def __init__(self, folder: Path, name: str, depends_on: Mapping[str, Any], *, shared: bool = True):
        self._depends_on = json.loads(json.dumps({"fusionjax": __version__, **depends_on}))
        self._folder = Path(folder)
        plain = re.sub(r"[/\0]", "_", name)[:80]
        self.path = self._folder / f"{plain}-{digest(self._depends_on)}"
        own = "" if shared else f".{secrets.token_hex(4)}"
        self._part = self._folder / f".{self.path.name}{own}{_PART}"

    def open(
        self, compute: Callable[[Path], object], *, reuse: Callable[[Path], bool] = lambda path: True
    ) -> Path:
        """The folder of the entry, verified; computed first where it is absent or damaged.

        Args:
            compute: writes the files into the given folder. If it raises, nothing is kept.
            reuse: whether an entry that is there and whole may be used; else it is computed again.

        Raises:
            UserError: the cache folder cannot be created.
            OSError: a file cannot be written, such as on a full disk.
        """
        with folder_errors(f"the cache folder {self._folder}"):
            self._folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(self._folder)
        if self._damage() == "" and reuse(self.path):
            return self.path
        waiting = f"another process computes {self.path.name}: waiting for it"
        with files.locked(_lock_of(self._part), wait=waiting):
            damage = self._damage()
            if damage == "" and reuse(self.path):
                return self.path
            if damage == "":
                _remove(self.path)
            elif damage:
                log.warning("%s is damaged (%s): it is computed again", self.path, damage)
            with self._writing():
                compute(self._part)
        return self.path

    def arrays(
        self,
        compute: Callable[[], Mapping[str, np.ndarray]],
        *,
        keep: Callable[[Mapping[str, np.ndarray]], bool] = lambda made: True,
    ) -> dict[str, np.ndarray]:
        """The arrays of the entry by name, in memory; a folder that cannot be written costs time, not the run.

        Args:
            compute: returns the arrays, without objects.
            keep: whether what was computed may be kept.
        """
        made: dict[str, np.ndarray] = {}
        computing = False

        def write(part: Path) -> None:
            nonlocal computing
            computing = True
            made.update(compute())
            computing = False
            if not keep(made):
                raise _NotKept
            for name, array in made.items():
                np.save(part / f"{name}.npy", array, allow_pickle=False)

        try:
            path = self.open(write)
            return {p.stem: np.load(p, allow_pickle=False) for p in sorted(path.glob("*.npy"))}
        except _NotKept:
            return made
        except (OSError, UserError) as e:
            if computing:
                raise
            log.warning("%s cannot be kept: %s", self.path, e)
            return made or dict(compute())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Makes the entry of what the block writes into the temporary folder, which is removed if the block raises."""
        _remove(self._part)
        self._part.mkdir()
        try:
            yield
            content = {"format": _FORMAT, "depends_on": self._depends_on, "files": sums(self._part)}
            write_json(self._part / MANIFEST, content)
            try:
                os.rename(self._part, self.path)
            except OSError:  # something is there
                if self._damage() != "":
                    _remove(self.path)
                    os.rename(self._part, self.path)
        finally:
            _remove(self._part)

    def _damage(self) -> str | None:
        """What is wrong with the entry, in a few words; "" where it is whole, None where it is absent."""
        if not os.path.lexists(self.path):
            return None
        try:
            content = read_json(self.path / MANIFEST)
            if content["format"] != _FORMAT or content["depends_on"] != self._depends_on:
                raise ValueError(f"{MANIFEST} is of another entry")
            verify(self.path, content["files"])
        except FileNotFoundError:
            return f"{MANIFEST} is missing"
        except OSError as e:
            return f"it cannot be read: {e.strerror or e}"
        except (ValueError, KeyError, TypeError) as e:
            return str(e)
        return ""


class _NotKept(Exception):
    """What was computed is not to be kept."""


def digest(content: object) -> str:
    """XXH3 (64 bits), in hexadecimal, of a value of types that JSON has."""
    return xxhash.xxh3_64(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sums(folder: Path, names: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """[size in bytes, XXH3] of files of a folder; of all files where `names` is None."""
    chosen = sorted(p.name for p in folder.iterdir()) if names is None else names
    return {name: [(folder / name).stat().st_size, files.xxh3(folder / name)] for name in chosen}


def verify(folder: Path, expected: Mapping[str, list[Any]]) -> None:
    """Compares files with what `sums` returned.

    Raises:
        ValueError: the first file that is missing, no file, or differs.
    """
    for name, (size, checksum) in expected.items():
        path = folder / name
        try:
            found = files.check_readable(path, limit=sys.maxsize)
            if found != size:
                raise ValueError(f"{name} has {found} bytes instead of {size}")
            if files.xxh3(path) != checksum:
                raise ValueError(f"the checksum of {name} differs")
        except FileNotFoundError:
            raise ValueError(f"{name} is missing") from None
        except OSError as e:
            raise ValueError(f"{name} cannot be read: {e.strerror or e}") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically, with its own checksum under the key "checksum"."""
    plain = json.loads(json.dumps(content))
    files.write_text(path, json.dumps({**plain, "checksum": digest(plain)}, indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """Reads and verifies what `write_json` wrote, without the checksum; a file without one is read unverified.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged; the message is one line.
    """
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    checksum = content.pop("checksum", None)
    if checksum is not None and checksum != digest(content):
        raise ValueError(f"the checksum of {path.name} differs")
    return content


def _lock_of(part: Path) -> Path:
    return part.with_suffix(".lock")


def _remove_leftovers(folder: Path) -> None:
    """Removes what processes that no longer run left half written: nobody holds the lock of its entry."""
    for part in folder.glob(f".*{_PART}"):
        # In a folder that may only be read they stay.
        with contextlib.suppress(OSError), files.locked(_lock_of(part)) as held:
            if held:
                _remove(part)


def _remove(path: Path) -> None:
    """Removes a file, a link or a folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        # At once for those who look at it: a folder is emptied file by file.
        hidden = path.with_name(f".{secrets.token_hex(8)}{_PART}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
