"""The batches of a run: resumable training batches and evaluation batches of every split, of images or cached features."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax.data.feature_cache import batches
from fusionjax.data.feature_cache import store as cache
from fusionjax.data.loading import pipeline
from fusionjax.data.loading.auxiliary import Auxiliary
from fusionjax.data.loading.stream import FiniteBatches, TrainStream
from fusionjax.data.sampling import identity_batches
from fusionjax.data.source import Source, find_attribute
from fusionjax.data.unreadable import BadImages
from fusionjax.distributed import mesh as mesh_lib


class ImageFeed:
    """Batches of images.

    Args:
        config: of the run.
        train: training source.
        evaluation: source by split.
        mesh: of the devices; the size of evaluation batches is rounded up to a multiple of their number.
        auxiliary: auxiliary inputs by the names of `bad`; None for none.

    Attributes:
        bad: unreadable images by split; "train" is the training source's.
        mesh: of the devices.
        cached: features of a frozen trunk by the names of `bad`; empty where images are read.
    """

    def __init__(
        self, config: ConfigDict, train: Source, evaluation: dict[str, Source], *, mesh: Mesh,
        auxiliary: Mapping[str, Auxiliary | None] = MappingProxyType({}),
    ):  # fmt: skip
        self.auxiliary, self.mesh = auxiliary, mesh
        self.config, self.sources = config, {"train": train} | {f"eval/{k}": v for k, v in evaluation.items()}
        self.eval_batch = mesh_lib.round_up(config.evaluation.batch_size, mesh)
        self.bad = {name: BadImages() for name in self.sources}
        self.cached: dict[str, cache.CachedFeatures] = {}

    def train(self) -> TrainStream:
        """This process's share of endless training batches."""
        c = self.config
        return pipeline.train_dataset(
            self.sources["train"],
            c.data,
            seed=c.seed,
            batch_size=c.train.batch_size,
            bad=self.bad["train"],
            order=train_order(self.sources["train"], c),
            auxiliary=self.auxiliary.get("train"),
            **_share(),
        )

    def evaluation(self, split: str) -> FiniteBatches:
        """This process's share of a split, once, padded."""
        c, name = self.config, f"eval/{split}"
        return pipeline.eval_batches(
            self.sources[name], c.data, batch_size=self.eval_batch, bad=self.bad[name],
            auxiliary=self.auxiliary.get(name), **_share(),
        )  # fmt: skip

    def warnings(self) -> list[str]:
        """A line for each split with images that could not be read, or with values that are no data."""
        unreadable = [
            f"{bad.count} of {len(self.sources[name])} images of {name.removeprefix('eval/')} could not be read and were "
            f"left out: {'; '.join(bad.messages)}"
            for name, bad in self.bad.items()
            if bad.count
        ]
        return [*unreadable, *filter(None, map(self._filled, self.sources))]

    def _filled(self, name: str) -> str:
        """A line on the images of a split with values that are no data; "" where there are none."""
        record = find_attribute(self.sources[name], "filled")
        images, share = (0, 0.0) if record is None else record.count()
        if not images:
            return ""
        return (
            f"{images} of the images of {name.removeprefix('eval/')} that were read have values declared to be no data, "
            f"{100 * share:.2g} % of theirs, which were filled (config.data.nodata={self.config.data.nodata!r})"
        )


class FeatureFeed(ImageFeed):
    """Batches of a frozen trunk's outputs, computed from the images the first time.

    Args:
        config, train, evaluation, mesh, auxiliary: as for `ImageFeed`.
        folder: of the cache.
        encode: compiled, batch of images → features.
        weights: digest of the trunk's weights.
        say: takes lines of progress.
    """

    def __init__(
        self,
        config: ConfigDict,
        train: Source,
        evaluation: dict[str, Source],
        *,
        mesh: Mesh,
        folder: Path,
        encode: Callable[[dict[str, np.ndarray]], jax.Array],
        weights: str,
        say: Callable[[str], None],
        auxiliary: Mapping[str, Auxiliary | None] = MappingProxyType({}),
    ):
        super().__init__(config, train, evaluation, mesh=mesh, auxiliary=auxiliary)
        for name, source in self.sources.items():
            store = cache.FeatureCache(
                folder,
                encode,
                weights=weights,
                data=config.data,
                seed=config.seed,
                bad=self.bad[name],
                say=say,
            )
            self.cached[name] = store.train(source) if name == "train" else store.evaluation(source)

    def train(self) -> TrainStream:
        """As `ImageFeed.train`, of features; epoch e reads pass e mod `data.cache.passes`."""
        c, part = self.config, self.cached["train"]
        return batches.feature_dataset(
            part.features,
            part.labels,
            valid=part.valid,
            seed=c.seed,
            batch_size=c.train.batch_size,
            order=train_order(self.sources["train"], c),
            auxiliary=self.auxiliary.get("train"),
            **_share(),
        )

    def evaluation(self, split: str) -> FiniteBatches:
        """As `ImageFeed.evaluation`, of features."""
        part = self.cached[f"eval/{split}"]
        return batches.feature_batches(
            part.features[0],
            part.labels,
            valid=part.valid[0],
            batch_size=self.eval_batch,
            auxiliary=self.auxiliary.get(f"eval/{split}"),
            **_share(),
        )


def train_order(source: Source, config: ConfigDict) -> identity_batches.IdentityOrder | None:
    """P×K batches where `data.per_identity` is K; None for one permutation per epoch."""
    k = config.data.per_identity
    if not k:
        return None
    return identity_batches.IdentityOrder(
        source.labels, identities=config.train.batch_size // k, per_identity=k, seed=config.seed
    )


def _share() -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}
