"""What a re-identification data set must have to be scored."""

from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.data.source import Source
from fusionjax.errors import UserError
from fusionjax.tasks.base.protocol import Facts
from fusionjax.tasks.reid.scorer import identities_and_cameras, query_gallery_pairs


def check(config: ConfigDict, facts: Facts) -> None:
    """Raises a UserError where cameras are missing or beyond `model.cameras`, no query has a match, or a test identity is also
    one of training's.

    Args:
        config: of the whole run, validated.
        facts: of the data.
    """
    for name, source in facts.splits.items():
        _check_cameras(config, name.removeprefix("eval/"), source)
    for name, (query, gallery) in query_gallery_pairs(facts.evaluation.keys()).items():
        _check_matches(name, facts.evaluation[query], facts.evaluation[gallery], query == gallery)
        for split in {query, gallery}:
            _check_unseen(facts.train, facts.evaluation[split])


def _check_cameras(config: ConfigDict, split: str, source: Source) -> None:
    columns: Mapping[str, np.ndarray] = source.columns
    if "camera" in columns and np.asarray(columns["camera"]).dtype.kind not in "iu":
        raise UserError(f"{source.name}, split {split}: the column camera must be whole numbers")
    n = config.model.cameras
    if n and "camera" not in columns:
        raise impossible(config, "model.cameras", f"{source.name} has no column camera")
    if n and not 0 <= int(columns["camera"].min()) <= int(columns["camera"].max()) < n:
        most = int(columns["camera"].max())
        raise impossible(config, "model.cameras", f"split {split} has camera {most}; they count from 0")


def _check_matches(name: str, query: Source, gallery: Source, same: bool) -> None:
    """A UserError where no query could have a match."""
    seen: dict[int, set[int]] = {}
    ids, cameras = identities_and_cameras(gallery, np.arange(len(gallery)))
    for identity, camera in zip(ids, np.arange(len(ids)) if cameras is None else cameras, strict=True):
        seen.setdefault(int(identity), set()).add(int(camera))
    ids, cameras = identities_and_cameras(query, np.arange(len(query)))
    own = np.full(len(ids), -1) if cameras is None else cameras
    if cameras is None and same:
        found = any(len(members) > 1 for members in seen.values())
    else:
        found = any(seen.get(int(i), set()) - {int(c)} for i, c in zip(ids, own, strict=True))
    if not found:
        raise UserError(
            f"{query.name}, {name}: no query has an image of its identity from another camera in the gallery; check the "
            "columns identity and camera"
        )


def _check_unseen(train: Source | None, test: Source) -> None:
    """A UserError where test identities are training's: what is measured then is not re-identification."""
    if train is None or test.name.startswith("MSMT17"):  # its test identities count from 0 again
        return
    shared = np.intersect1d(train.columns["identity"], test.columns["identity"])
    if len(shared):
        raise UserError(
            f"{test.name}: split {test.split!r} shares {len(shared)} identities with training (e.g. {shared[0]}); "
            "re-identification is measured on identities that training never saw"
        )
