"""Writes a run into a folder that others can read and the Hugging Face hub takes: see `experiment.exported`.

Nothing in it tells of the machine that trained it: paths are left out, or shortened to their last part.
"""

import getpass
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from fusionjax import config as config_lib
from fusionjax import disk_cache, files, register
from fusionjax.data import datasets
from fusionjax.data.text.tokens import FILES as TOKENIZER
from fusionjax.errors import UserError
from fusionjax.experiment import model_card, results, workdir
from fusionjax.experiment.exported import CARD, CONFIG, HERE, MARK, NAME, PUBLIC, SUMS, WEIGHTS
from fusionjax.experiment.inference import Run
from fusionjax.pretrained import native, parts

_PATHS = ("data.root", "pretrained.source")
"""Core fields that name a file or folder of the machine."""
_OWN = ("data.cache.folder", "train.trackers", "train.tracker_project")
"""Fields that say nothing to others: at their defaults in the exported config."""
_ABSOLUTE = re.compile(r"(?:~[\w.-]*|[A-Za-z]:)?[/\\](?!\s)")
_IN_TEXT = re.compile(
    r"(?<![\w.:/-])(?:~[\w.-]*|[A-Za-z]:)?[/\\](?:[^\s'\"“”:;,()]+[/\\])+(?=[^\s'\"“”:;,()])"
)


def write(run: Run, out: Path, *, licence: str = "", repository: str = "") -> list[Path]:
    """Writes an exported run.

    Args:
        run: finished.
        out: the folder: new, empty, or of an earlier export, of which an edited README.md is kept.
        licence: identifier of the licence of the weights, for the card; "" for none stated.
        repository: owner/name, for the card's examples.

    Returns:
        The files.

    Raises:
        UserError: the run is not finished or exported already, or the folder holds something else.
    """
    content = workdir.read(run.folder)
    if MARK in content:
        raise UserError(f"{run.folder} is an exported run already: copy it")
    scores, outcomes = results.read(run.folder)
    datasets.outside_root(out, run.config.data, "--hub")
    before, card_before = _earlier(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / SUMS).unlink(
        missing_ok=True
    )  # a folder without it is refused: what is written here is whole or unreadable
    shared, brought = _shared(content, run.step, out)
    scores["cautions"] = [without_paths(line) for line in scores.get("cautions", ())]
    files.write_text(out / CONFIG, json.dumps(shared, indent=1))
    files.write_text(out / results.FILE, json.dumps(scores, indent=1))
    native.write(
        out / WEIGHTS,
        jax.device_get(run.variables),
        run.config.model.name,
        trunk=run.config.model.trunk,
        state=True,
    )
    card_sums = card_before
    if not card_before or disk_cache.sums(out, (CARD,)) == card_before:
        card = model_card.text(
            shared, scores, outcomes, parameters=_count(run), licence=licence, repository=repository
        )
        files.write_text(out / CARD, card)
        card_sums = disk_cache.sums(out, (CARD,))
    names = [WEIGHTS, CONFIG, results.FILE, *brought]
    for name in before - set(names):
        (out / name).unlink(missing_ok=True)
    # That of the card as it was written: one that is edited stays so in every later export.
    disk_cache.write_json(out / SUMS, {"files": disk_cache.sums(out, names), "card": card_sums})
    return [out / name for name in (CARD, *names, SUMS)]


def _earlier(out: Path) -> tuple[set[str], dict[str, Any]]:
    """The files of an earlier export in the folder, and the checksum of its card as it was written, {} where there is none."""
    if not out.is_dir() or not any(not path.name.startswith(".") for path in out.iterdir()):
        return set(), {}
    try:
        found = disk_cache.read_json(out / SUMS)
        own = {name for name in found["files"] if NAME.fullmatch(name)}  # others are not deleted
        card = dict(
            found["card"]
        )  # the sums of a run's own results have none: its folder is not written over
        return own, card if (out / CARD).is_file() else {}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"--hub={out} is not empty and holds no earlier export: name a new or an empty folder"
        ) from None


def _shared(content: dict[str, Any], step: int, out: Path) -> tuple[dict[str, Any], list[str]]:
    """The content of config.json for others, and the names of the files that were copied for it."""
    config = json.loads(json.dumps(content["config"]))
    sharing = register.tasks.get(config["task"]).sharing
    defaults = json.loads(config_lib.default().to_json_best_effort())
    brought: list[str] = []
    for section, key, field, value in list(_strings(config)):
        if field in sharing.files:
            section[key], names = _copied(value, field, out)
            brought += names
        elif field in (*_PATHS, *sharing.weights) or _ABSOLUTE.match(value):
            section[key] = _last(value)
    for field in _OWN:
        *path, key = field.split(".")
        own, default = config, defaults
        for part in path:
            own, default = own[part], default[part]
        own[key] = default[key]
    data_set = {"data_set": _last(content.get("data_set", ""))}
    kept = {key: value for key, value in content.items() if key != "command"}
    return {**kept, "config": config, **data_set, MARK: step}, brought


def _strings(config: Any, prefix: str = "") -> Iterator[tuple[Any, Any, str, str]]:
    """(container, key, dotted field, value) of every string."""
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        field = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, str):
            yield config, key, field, value
        elif isinstance(value, dict | list):
            yield from _strings(value, field)


def _copied(value: str, field: str, out: Path) -> tuple[str, list[str]]:
    """What the exported config says in place of a source that the model opens again, and the files copied for it.

    Of a folder the files of a tokenizer and config.json are copied: its weights are in the model's.
    """
    path = Path(parts.split(value)[0]).expanduser()
    if not value or value.startswith(PUBLIC):
        return value, []
    if path.is_dir():
        names = [f"{field}/{name}" for name in TOKENIZER if (path / name).is_file()]
        (out / field).mkdir(exist_ok=True)
        for name in names:
            shutil.copyfile(path / Path(name).name, out / name)
        return f"{HERE}{field}", names
    if path.is_file():
        shutil.copyfile(path, out / f"{field}{path.suffix}")
        return f"{HERE}{field}{path.suffix}", [f"{field}{path.suffix}"]
    return _last(value), []  # a name that the package knows, or nothing that this model opens


def _last(path: str) -> str:
    """The last part of a path, unless it is the user's name; a source that is public as it is."""
    if path.startswith(PUBLIC):
        return path
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return "" if name.lstrip("~") in {"", Path.home().name, _user()} else name


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for the number of the user, as in a container
        return ""


def without_paths(text: str) -> str:
    """A sentence in which absolute paths are shortened to their last part."""
    return _IN_TEXT.sub("", text)


def _count(run: Run) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(run.variables["params"]))
