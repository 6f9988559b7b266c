"""A run in a folder that others can read, as `experiment.sharing` writes it: found, verified and opened.

The folder holds model.safetensors, config.json (as in a workdir, with "exported"), results.json, README.md, and copies of the
small files that the model needs; sums.json lists them with their checksums. It may be a repository of the Hugging Face hub.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fusionjax import disk_cache, register
from fusionjax.errors import UserError
from fusionjax.experiment import workdir
from fusionjax.pretrained import files, hub, native
from fusionjax.types import PyTree

WEIGHTS, SUMS = files.FOLDER_FILES[0], files.SUMS
CONFIG, CARD = "config.json", "README.md"
MARK = "exported"
"""Key of config.json that a workdir's does not have: the training step of the weights."""
HERE = "./"
"""Beginning of a value in the config that names a copy in the folder itself."""
PUBLIC = ("hub:", "package:")
"""Beginnings of sources that are the same on every machine."""
# A name, or one in a folder; hidden ones, and types that nothing here reads, are not downloaded.
NAME = re.compile(r"(?:[A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*\.(?:json|txt|safetensors|model)", re.ASCII)


def place(source: str | Path) -> Path:
    """The folder of a run: a local one as it is named, of "hub:owner/name" that of its files, downloaded if necessary.

    Raises:
        UserError: a repository that cannot be read, or that holds no exported run.
    """
    if not str(source).startswith("hub:"):
        return Path(source).expanduser()
    folder = hub.fetch(str(source), [SUMS])
    return hub.fetch(str(source), [SUMS, *_listed(folder, str(source))])


def verify(folder: Path) -> None:
    """Compares the files of an exported run with their checksums.

    Raises:
        UserError: one is missing, damaged, or not of an exported run.
    """
    expected = _listed(folder, str(folder))
    try:
        disk_cache.verify(folder, expected)
    except (ValueError, TypeError) as e:
        raise UserError(f"{folder} is damaged ({e}): download or export it again") from None


def _listed(folder: Path, shown: str) -> dict[str, Any]:
    """The checksums of the files, by name."""
    try:
        found = disk_cache.read_json(folder / SUMS)["files"]
        foreign = [name for name in found if not NAME.fullmatch(name)]
        lacking = sorted({WEIGHTS, CONFIG} - set(found))
        if foreign or lacking or not isinstance(found, dict):
            raise ValueError(f"{SUMS} lists {foreign[0][:80]!r}" if foreign else f"{SUMS} lacks {lacking}")
        return found
    except FileNotFoundError:
        raise UserError(f"{shown} is no exported run, or an incomplete one: it has no {SUMS}") from None
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{shown} is damaged ({e}): download or export it again") from None


def config_of(folder: Path, content: Mapping[str, Any]) -> ConfigDict:
    """The config of a verified folder, in which the names of its own files are paths.

    Raises:
        UserError: it is none of this version, or names a file outside of the folder.
    """
    config = {key: dict(v) if isinstance(v, dict) else v for key, v in content["config"].items()}
    for field in register.tasks.get(str(config.get("task"))).sharing.files:
        section, _, key = field.partition(".")
        value = config[section].get(key, "") if isinstance(config.get(section), dict) else ""
        if not isinstance(value, str) or not value or value.startswith(PUBLIC):
            continue
        name = value.removeprefix(HERE)
        if "/" in name or "\\" in name or name.startswith((".", "~")):
            raise UserError(
                f"{folder / CONFIG}: config.{field}={value[:80]!r} names a file outside of the folder"
            )
        if value.startswith(HERE):
            config[section][key] = str(folder / name)
    return workdir.config_of({**content, "config": config})


def variables(folder: Path, template: PyTree) -> dict[str, Any]:
    """The variables of a verified folder, on the host.

    Args:
        folder: of the run.
        template: their shapes and dtypes.

    Raises:
        UserError: they are not those of the run's model.
    """
    path = folder / WEIGHTS
    try:
        native.whole(files.read(path, shapes_only=True), template)
        return native.whole(files.read(path), template)
    except UserError as e:
        raise UserError(f"{path}: {e}") from None
