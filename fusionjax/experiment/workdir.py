"""The workdir of a run: its config.json, config.py and its lock; a folder of another run is refused."""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fusionjax import config as config_lib
from fusionjax import files
from fusionjax._version import __version__
from fusionjax.errors import UserError, folder_errors

# Fields that may change when a run resumes: they do not affect its scores.
FREE = ("data.root", "data.cache.folder", "data.cache.batch_size", "data.threads", "data.prefetch", "data.max_bad_fraction",
        "train.log_every", "train.checkpoint_every", "train.checkpoint_minutes", "train.skip_nonfinite", "train.tracker",
        "report.", "evaluation.")  # fmt: skip
_OF_A_START = {"command", "data_set", "steps"}
"""Facts that may differ when a run resumes: a folder that was moved has another name, and the config determines the steps."""
_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "opencv-python-headless",
    "pillow",
)


def open_for_training(folder: Path, config: ConfigDict, facts: Mapping[str, Any]) -> contextlib.ExitStack:
    """Creates the folder, or checks that it holds this run; locks it against other processes and writes its config.json.

    Args:
        folder: the workdir.
        config: validated.
        facts: what `write` will store: class names, numbers and a digest of the examples.

    Returns:
        The lock; it lasts until it is closed or the process ends, however it ends.

    Raises:
        UserError: a file in the way, no permission, a training that is running there, files that are no run's, or the first
            field in which the stored config, or the data set, differs.
    """
    with folder_errors(f"--workdir={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        refuse_others(folder)
        _lock(folder, held)
        if _has_results(folder):
            _same_run(folder, config, facts)
        for left in folder.glob(".*.part"):  # of a process that was killed
            left.unlink(missing_ok=True)
        write(folder, config, facts)
        return held.pop_all()


def check_writable(folder: Path) -> None:
    """Raises UserError where the folder cannot be made or written; nothing is left behind."""
    try:
        above = next(part for part in (folder, *folder.absolute().parents) if part.exists())
        if not above.is_dir():
            raise UserError(f"--workdir={folder}: {above} is a file; name a folder")
        # Permissions do not tell: of a read-only or a virtual file system they may say that everything is allowed.
        with tempfile.TemporaryFile(dir=above):  # without a name, so that nothing is left even by a kill
            pass
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):  # `cli` says what to do
            raise
        raise UserError(f"--workdir={folder} cannot be written: {e.strerror or e}") from None


def refuse_others(folder: Path) -> None:
    """Refuses a folder without config.json that holds anything but logs: a run would overwrite and remove files in it."""
    if not folder.is_dir():
        return
    if (folder / "config.json").exists():
        if (folder / "model.safetensors").exists():
            raise UserError(
                f"--workdir={folder} is an exported run, which is not trained further: use another --workdir, with "
                f"config.pretrained.source={folder}"
            )
        return
    found = sorted(p.name for p in folder.iterdir() if not (_is_mark(p) or _is_log(p)))
    found = [name for name in found if not (name.startswith(".config.json.") and name.endswith(".part"))]
    if "checkpoints" in found:
        raise UserError(
            f"--workdir={folder} holds checkpoints, but its config.json is missing: restore it, or use another --workdir"
        )
    if found:
        raise UserError(
            f"--workdir={folder} is not empty and not the folder of a run ({found[0]} is there, config.json is not); name a "
            "new or an empty folder"
        )


def _is_mark(path: Path) -> bool:
    """Whether a file is a lock, or the claim of a sweep: hidden and empty, so that nothing is lost with it."""
    return path.name.startswith(".") and path.is_file() and not path.stat().st_size


def _is_log(path: Path) -> bool:
    """Whether a file is what this process prints to, or a log by its name."""
    if path.suffix in (".log", ".out", ".err"):
        return path.is_file()
    with contextlib.suppress(OSError):
        return any(os.path.samestat(path.stat(), os.fstat(stream)) for stream in (1, 2))
    return False


def _lock(folder: Path, held: contextlib.ExitStack) -> None:
    """Locks the folder itself, which nobody replaces, and .lock in it, for file systems that lock no folder (NFS)."""
    try:
        file = held.enter_context((folder / ".lock").open("ab"))
        handle = os.open(folder, os.O_RDONLY)
        held.callback(os.close, handle)
    except OSError as e:
        raise UserError(f"--workdir={folder} cannot be written: {e.strerror}") from None
    for descriptor in (handle, file.fileno()):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--workdir={folder} is in use: another process trains there; wait, or name another folder"
            ) from None
        except OSError as e:
            if descriptor != handle:
                raise UserError(f"--workdir={folder} cannot be locked: {e.strerror}") from None


def _has_results(folder: Path) -> bool:
    """Whether something was trained there: a run that ended before its first checkpoint leaves nothing to protect."""
    checkpoints = folder / "checkpoints"
    held = checkpoints.is_dir() and any(checkpoints.iterdir())
    return (folder / "config.json").exists() and (held or (folder / "results.json").exists())


def _same_run(folder: Path, config: ConfigDict, facts: Mapping[str, Any]) -> None:
    stored = read(folder)
    if other_version(stored):
        raise UserError(
            f"--workdir={folder} holds a run of fusionjax {trained_by(stored)}, this is {__version__}, which computes other "
            "numbers (CHANGELOG.md); use another --workdir, or that version to resume"
        )
    # Through the schema: a field that is newer than the run has its default there.
    before, now = (flattened(json.loads(c.to_json_best_effort())) for c in (config_of(stored), config))
    for key in sorted(set(before) | set(now)):
        if before.get(key) != now.get(key) and not key.startswith(FREE):
            raise UserError(
                f"--workdir={folder} belongs to a run of another config: config.{key} is {before.get(key)!r} there and "
                f"{now.get(key)!r} here; use another --workdir, or the same config to resume"
            )
    for key in facts:
        if key in stored and key not in _OF_A_START and stored[key] != json.loads(json.dumps(facts.get(key))):
            raise UserError(
                f"--workdir={folder} belongs to a run on other data: its {key} differ; use another --workdir, or the same "
                "data set to resume"
            )


def write(folder: Path, config: ConfigDict, facts: Mapping[str, Any]) -> None:
    """Writes config.json: the resolved config, the environment, `facts` (class names, counts …), and the run's identity; and
    config.py, the config to edit."""
    edited = _edited(folder)
    stored = json.loads(config.to_json_best_effort())
    run = _identity(stored, facts)
    if _has_results(folder):
        run = read(folder).get("run", run)  # a field that is newer than the run does not make it another
    content = {"run": run, "config": stored, "environment": environment(), **facts}
    # ASCII: a file name may be invalid Unicode, which JSON escapes can represent.
    files.write_text(folder / "config.json", json.dumps(content, indent=1))
    if not edited:  # after config.json, by which the folder is known as a run's
        files.write_text(folder / "config.py", config_lib.python_file(config))


def _edited(folder: Path) -> bool:
    """Whether config.py is not as it was written beside the config.json that is there: then it is somebody's work."""
    try:
        text = (folder / "config.py").read_text(encoding="utf-8")
        return text != config_lib.python_file(config_of(read(folder)))
    except FileNotFoundError:
        return False
    except (UserError, OSError, UnicodeDecodeError):
        return True


def _identity(config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Digest of what the weights of a run follow from: config, data and version. Each of its checkpoints carries it."""
    fields = {key: value for key, value in flattened(config).items() if not key.startswith(FREE)}
    known = {key: value for key, value in facts.items() if key not in _OF_A_START}
    text = json.dumps([fields, known, __version__.split(".")[:2]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(folder: Path) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        UserError: no such folder, no config.json, or one that is no JSON or of the wrong types.
    """
    path = Path(folder) / "config.json"
    if Path(folder).is_file():
        raise UserError(
            f"--workdir={folder} is a file: name the folder of a run, the one that holds config.json"
        )
    try:
        content = files.read_json(path)
        _check_types(content)
        return content
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"--workdir={folder} holds no run: {path} is missing") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror or e}") from None
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}); restore it, or train again in another --workdir") from None


def _check_types(content: Any) -> None:
    """Raises ValueError where the content of a config.json is not of the types that are written."""
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise ValueError("it holds no config")
    names = content.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names is no list of names")
    kinds: dict[str, type] = {
        "environment": dict,
        "images": dict,
        "examples": dict,
        "steps": int,
        "exported": int,
    }
    kinds |= dict.fromkeys(("run", "tokenizer", "data_set", "command"), str)
    for key, kind in kinds.items():
        if not isinstance(content.get(key, kind()), kind):
            raise ValueError(f"{key} is no {kind.__name__}")


def config_of(content: Mapping[str, Any]) -> ConfigDict:
    """The validated config of a config.json; models by the names that they have in this version."""
    config = content["config"]
    if other_version(content):
        from fusionjax.models import registry

        version = ".".join(trained_by(content).split(".")[:2])
        config = {**config, **{part: dict(config.get(part, {})) for part in ("model", "pretrained")}}
        for part, field in (("model", "name"), ("model", "trunk"), ("pretrained", "name")):
            if field in config[part]:
                config[part][field] = registry.renamed(config[part][field], version)
    return config_lib.from_json(config)


def trained_by(content: Mapping[str, Any]) -> str:
    """The version of fusionjax that wrote a config.json; "" where it does not say."""
    return str(content.get("environment", {}).get("fusionjax", ""))


def other_version(content: Mapping[str, Any]) -> bool:
    """Whether a run is of another minor version, which may compute other numbers."""
    stored = trained_by(content)
    return bool(stored) and stored.split(".")[:2] != __version__.split(".")[:2]


def environment() -> dict[str, Any]:
    """Versions, git revision and devices, on which scores depend beside the config."""
    import jax

    return {
        "fusionjax": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "git": _git(),
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind} ({jax.default_backend()})",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processes": jax.process_count(),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _git() -> str:
    """Revision of the source tree, with a mark where files differ from it; "" outside a repository."""
    here = Path(__file__).parent

    def ask(*command: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *command], capture_output=True, text=True, timeout=5
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    revision = ask("rev-parse", "--short=12", "HEAD")
    return revision + ("+changes" if revision and ask("status", "--porcelain", "--", str(here)) else "")


def flattened(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= (
            flattened(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": _listed(value)}
        )
    return flat


def _listed(value: object) -> object:
    return (
        [_listed(v) for v in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
    )
