"""Checkpoints that are verified before use: Orbax, with a checksum manifest that is committed together with the data.

Orbax writes no checksums, so that a flipped byte in an array would be loaded silently. A sha256 manifest is therefore
written after all files of a checkpoint are final and before its folder is renamed, and is verified before anything of it is
read. It guards against damage, not against someone who computes the sums anew.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from fusionjax import files
from fusionjax._version import __version__
from fusionjax.errors import UserError
from fusionjax.types import PyTree

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.sha256.json"
_FINAL = re.compile(r"^\d+$")
_RECORD = "data/"
"""The item of what belongs to the state: position in the data, shapes, score."""


class DamagedCheckpoint(Exception):
    """The files of a checkpoint differ from those that were saved."""


class Checkpointer:
    """Saves the state and the data position of a run together, asynchronously, and keeps the best and the last.

    Args:
        folder: of the checkpoints, created if missing.
        run: identity of the run, which every manifest carries; "" to ask for none.
        keep_last: number of newest checkpoints to keep; 2, so that a damaged one has a predecessor.
        read_only: for evaluation: nothing is written or removed.

    Raises:
        UserError: `folder` is a file, or a link that leads nowhere.
    """

    def __init__(self, folder: Path, *, run: str = "", keep_last: int = 2, read_only: bool = False) -> None:
        self.folder, self._run, self._read_only = Path(folder).absolute(), run, read_only
        self._retention = _Retention(keep_last)
        if not read_only:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._drop_leftovers()
            except OSError as e:
                raise UserError(
                    f"{self.folder} is to be the folder of the checkpoints and cannot be used ({e.strerror}): remove what is "
                    "there, or use another --workdir"
                ) from None
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                lightweight_initialize=True,  # else Orbax parses files that nobody has verified
                preservation_policy=self._retention,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifests),
            ),
        )
        if not read_only:
            self._read_scores()

    def save(self, step: int, state: PyTree, data: Mapping[str, Any], best: float | None = None) -> None:
        """Starts to write a checkpoint; returns once the arrays are copied, the files are written in the background.

        Args:
            step: name of the checkpoint; an existing one of that name is replaced.
            state: pytree of jax arrays.
            data: JSON-serialisable: the position of the data iterator and whatever else is needed to resume.
            best: score by which the best checkpoint is chosen (higher is better), or None.

        Raises:
            ValueError: a newer checkpoint exists.
        """
        if step in self.steps():
            self._manager.delete(step)
        if self.steps() and step < self.steps()[-1]:
            raise ValueError(f"step {step} is before the newest checkpoint {self.steps()[-1]}")
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave({"data": dict(data), "shapes": _shapes(state), "best": best}),
            ),
            force=True,
        )
        self._retention.scores[step] = best

    def wait(self) -> None:
        """Waits until everything is on disk; raises the errors of the background writer, such as a full disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, removes what a process that was killed did not come to remove, and releases the threads."""
        try:
            self.wait()
            if not self._read_only:
                for step in set(self.steps()) - self._retention.kept(self.steps()):
                    self._manager.delete(step)
        finally:
            self._manager.close()

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints on disk in ascending order, damaged ones included."""
        return sorted(step for step in self._manager.all_steps() if (self.folder / str(step)).is_dir())

    def _read_scores(self) -> None:
        """Reads the scores of the checkpoints on disk; a damaged one has none."""
        for step in self.steps():
            try:
                self.verify(step, only=_RECORD)
                self._retention.scores[step] = self._record(step)["best"]
            except Exception as e:  # named when it is restored
                log.debug("checkpoint %s: %s", step, _short(e))

    def best_step(self) -> int | None:
        """Returns the step of the undamaged checkpoint with the highest `best`, the last of equals; None without scores."""
        found = []
        for step in self.steps():
            try:
                self.verify(step)
                best = self._record(step)["best"]
            except Exception as e:
                log.warning("checkpoint %s is damaged (%s)", self.folder / str(step), _short(e))
                continue
            if best is not None:
                found.append((best, step))
        return max(found)[1] if found else None

    def restore(self, target: PyTree, step: int | None = None) -> tuple[int, PyTree, dict[str, Any]] | None:
        """Restores the newest undamaged checkpoint.

        Args:
            target: pytree of `jax.ShapeDtypeStruct` with shardings.
            step: the checkpoint to restore, or None for the newest. A damaged one is named in a warning, and the next older
                one is tried.

        Returns:
            (step, state, data), or None if there is no checkpoint.

        Raises:
            UserError: all checkpoints are damaged, one cannot be read, or they have another architecture.
        """
        wanted = self.steps() if step is None else [step]
        for candidate in reversed(wanted):
            try:
                self.verify(candidate)
                record = self._record(candidate)
                self._same_architecture(candidate, record["shapes"], target)
                restored = self._manager.restore(
                    candidate, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
                )
                return candidate, restored["state"], record["data"]
            except UserError:
                raise
            except OSError as e:
                if not isinstance(
                    e, FileNotFoundError
                ):  # an error of the disk, not of the checkpoint: do not fall back to an older one
                    raise UserError(
                        f"checkpoint {self.folder / str(candidate)} cannot be read: {e.strerror or e}"
                    ) from None
                log.warning(
                    "checkpoint %s is damaged (%s): not used", self.folder / str(candidate), _short(e)
                )
                damaged = candidate
            except Exception as e:  # damage raises different exceptions in each of the underlying readers
                log.warning(
                    "checkpoint %s is damaged (%s): not used", self.folder / str(candidate), _short(e)
                )
                damaged = candidate
        if not wanted:
            return None
        raise UserError(
            f"all checkpoints in {self.folder} are damaged (the oldest tried is {damaged}); restore one from a backup, or "
            "remove the folder to start over"
        )

    def discard_after(self, step: int) -> None:
        """Renames damaged checkpoints newer than `step` to <step>.damaged, so that their steps can be saved again."""
        for newer in [s for s in self.steps() if s > step]:
            aside = self.folder / f"{newer}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(newer)).rename(aside)
        self._manager.reload()

    def verify(self, step: int, *, only: str = "") -> None:
        """Compares the files of a checkpoint with its manifest.

        Args:
            step: name of the checkpoint.
            only: prefix of the files whose sums are compared; "" for all.

        Raises:
            DamagedCheckpoint: a file is missing, was added or has changed, or the manifest is not that of this step; the
                message names the first one.
            UserError: the checkpoint is whole, and of another run.
        """
        folder = self.folder / str(step)
        manifest = _read_manifest(folder / MANIFEST)
        want = manifest["files"]
        have = {p.relative_to(folder).as_posix() for p in _files(folder)}
        for name in sorted(have - set(want)):
            if not Path(name).name.startswith("."):  # those of a file system or a desktop
                raise DamagedCheckpoint(f"{name} is not in {MANIFEST}")
        for name, digest in want.items():
            if name not in have:
                raise DamagedCheckpoint(f"{name} is missing")
            if name.startswith(only) and files.sha256(folder / name) != digest:
                raise DamagedCheckpoint(f"{name} has changed")
        if manifest["step"] not in (None, step):
            raise DamagedCheckpoint(f"it is the checkpoint of step {manifest['step']} under another name")
        if self._run and manifest["run"] not in (None, self._run):
            raise UserError(
                f"checkpoint {folder} belongs to another run than the config.json beside it (another config, data set or "
                "version): remove it, or use another --workdir"
            )

    def _record(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))["data"]

    def _same_architecture(self, step: int, saved: Mapping[str, Any], target: PyTree) -> None:
        wanted = _shapes(target)
        for name in sorted(set(saved) | set(wanted)):
            if saved.get(name) != wanted.get(name):
                raise UserError(
                    f"checkpoint {self.folder / str(step)} has another architecture: {name} is "
                    f"{saved.get(name, 'absent')} there and {wanted.get(name, 'absent')} in this config; use another --workdir"
                )

    def _write_manifests(self) -> None:
        """Called by Orbax on the primary process when all files are final and before the folder is renamed."""
        for folder in self.folder.iterdir():
            if folder.is_dir() and "orbax-checkpoint-tmp" in folder.name:
                sums = {p.relative_to(folder).as_posix(): files.sha256(p) for p in sorted(_files(folder))}
                step = int(folder.name.partition(".")[0])
                content = {"fusionjax": __version__, "run": self._run or None, "step": step, "files": sums}
                content["sum"] = _sum(content)
                (folder / MANIFEST).write_text(json.dumps(content, indent=1))

    def _drop_leftovers(self) -> None:
        """Removes empty numeric folders, which would count as steps."""
        for folder in self.folder.iterdir():
            if folder.is_dir() and _FINAL.match(folder.name) and not any(folder.iterdir()):
                folder.rmdir()


class _Retention(keep.PreservationPolicy):
    """Keeps the newest checkpoints, and the last of those with the highest score.

    Args:
        newest: number of the newest to keep.

    Attributes:
        scores: step → score, or None.
    """

    def __init__(self, newest: int):
        self._newest, self.scores = newest, dict[int, float | None]()

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Those of some steps to keep."""
        scored = [(score, step) for step in steps if (score := self.scores.get(step)) is not None]
        best = {max(scored)[1]} if scored else set()
        return {*sorted(steps)[-self._newest :], *best}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """See Orbax's protocol: called before each save."""
        kept = self.kept([c.step for c in checkpoints])
        return [c.step in kept for c in checkpoints]


def _files(folder: Path) -> list[Path]:
    """Lists all files but the manifest and the top-level metadata, to which Orbax later adds the commit time."""
    apart = {folder / name for name in (MANIFEST, "_CHECKPOINT_METADATA", "commit_success.txt")}
    return [p for p in folder.rglob("*") if p.is_file() and p not in apart]


def _read_manifest(path: Path) -> dict[str, Any]:
    """The content of a manifest: "run", "step", both None where 0.1 wrote it, and "files", their sums by name.

    Raises:
        DamagedCheckpoint: it is missing, not one, or not as it was written.
    """
    if not path.is_file():
        raise DamagedCheckpoint(f"{MANIFEST} is missing")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise DamagedCheckpoint(f"{MANIFEST} is not JSON") from None
    if isinstance(content, dict) and content and all(isinstance(v, str) for v in content.values()):
        return {"run": None, "step": None, "files": content}
    if not isinstance(content, dict) or content.pop("sum", None) != _sum(content):
        raise DamagedCheckpoint(f"{MANIFEST} has changed")
    return content


def _sum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _shapes(state: PyTree) -> dict[str, str]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): f"{np.dtype(x.dtype)}{list(x.shape)}" for path, x in leaves}


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
