"""Checkpoints that are verified before use: Orbax, with a checksum manifest that is committed together with the data.

Orbax writes no checksums, so that a flipped byte in an array would be loaded silently. A sha256 manifest is therefore
written after all files of a checkpoint are final and before its folder is renamed, and is verified before a restore.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from fusionjax import files
from fusionjax.errors import UserError
from fusionjax.types import PyTree

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.sha256.json"
_FINAL = re.compile(r"^\d+$")


class DamagedCheckpoint(Exception):
    """The files of a checkpoint differ from those that were saved."""


class Checkpointer:
    """Saves the state and the data position of a run together, asynchronously, and keeps the best and the last.

    Args:
        folder: of the checkpoints, created if missing.
        keep_last: number of newest checkpoints to keep; 2, so that a damaged one has a predecessor.
        read_only: for evaluation: nothing is written or removed.
    """

    def __init__(self, folder: Path, *, keep_last: int = 2, read_only: bool = False) -> None:
        self.folder = Path(folder).absolute()
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._drop_leftovers()
        best = keep.BestN(get_metric_fn=lambda m: m["best"], n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                best_fn=lambda m: m[
                    "best"
                ],  # without it Orbax writes no metrics, and a resumed run loses its best checkpoint
                preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(keep_last), best]),
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifests),
            ),
        )

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
            metrics=None if best is None else {"best": float(best)},
            force=True,
        )

    def wait(self) -> None:
        """Waits until everything is on disk; raises the errors of the background writer, such as a full disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases the threads."""
        self._manager.close()

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints on disk in ascending order, damaged ones included."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Returns the step of the undamaged checkpoint with the highest `best`; None if no checkpoint has a score."""
        found = []
        for step in self.steps():
            try:
                self.verify(step)
                best = self._record(step)["best"]
            except Exception as e:
                log.warning("checkpoint %s is damaged (%s)", self.folder / str(step), _short(e))
                continue
            if best is not None:
                found.append((best, -step))
        return -max(found)[1] if found else None

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

    def verify(self, step: int) -> None:
        """Compares every file of a checkpoint with the manifest.

        Raises:
            DamagedCheckpoint: a file is missing or has changed; the message names the first one.
        """
        folder = self.folder / str(step)
        manifest = folder / MANIFEST
        if not manifest.is_file():
            raise DamagedCheckpoint(f"{MANIFEST} is missing")
        want = json.loads(manifest.read_text())
        have = {p.relative_to(folder).as_posix() for p in _files(folder)}
        for name, digest in want.items():
            if name not in have:
                raise DamagedCheckpoint(f"{name} is missing")
            if files.sha256(folder / name) != digest:
                raise DamagedCheckpoint(f"{name} has changed")

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
                digests = {p.relative_to(folder).as_posix(): files.sha256(p) for p in sorted(_files(folder))}
                (folder / MANIFEST).write_text(json.dumps(digests, indent=1))

    def _drop_leftovers(self) -> None:
        """Removes empty numeric folders, which would count as steps."""
        for folder in self.folder.iterdir():
            if folder.is_dir() and _FINAL.match(folder.name) and not any(folder.iterdir()):
                folder.rmdir()


def _files(folder: Path) -> list[Path]:
    """Lists all files but the manifest and the top-level metadata, to which Orbax later adds the commit time."""
    apart = {folder / MANIFEST, folder / "_CHECKPOINT_METADATA"}
    return [p for p in folder.rglob("*") if p.is_file() and p not in apart]


def _shapes(state: PyTree) -> dict[str, str]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): f"{np.dtype(x.dtype)}{list(x.shape)}" for path, x in leaves}


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
