"""The report page of a finished run: selects examples, measures baselines and passes them to `interpret.report`."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax.data.feature_cache.store import CachedFeatures
from fusionjax.data.image import transforms
from fusionjax.data.loading import pipeline
from fusionjax.data.loading.auxiliary import Auxiliary, AuxiliaryAt
from fusionjax.data.source import Source
from fusionjax.distributed import mesh as mesh_lib
from fusionjax.evaluation.collect import collect
from fusionjax.evaluation.probe import Baseline
from fusionjax.experiment import faithfulness, results, workdir
from fusionjax.interpret import pages, report
from fusionjax.interpret.maps import Example
from fusionjax.tasks.base.baselines import PooledFeatures
from fusionjax.tasks.base.class_scorer import Predict
from fusionjax.tasks.base.protocol import ReportFields, Scorer, Shown, Variables
from fusionjax.train import metrics

_PROBE = 64
LINKED = 50
"""Maximum number of links to other runs."""


def probe(
    scorer: Scorer,
    train: CachedFeatures,
    test: CachedFeatures,
    source: Source,
    pool: Callable[[np.ndarray], jax.Array],
) -> list[Baseline]:
    """The task's baseline on the pretrained network's features, pooled over the grid.

    Args:
        scorer: of the task.
        train, test: pass 0 of each, the images as they are, is used.
        source: of `test`.
        pool: (B, h, w, C) cached features → (B, D) rows, with the initial weights of the run.
    """

    def rows(part: CachedFeatures) -> tuple[np.ndarray, np.ndarray]:
        maps = part.features[0]
        pooled = [
            np.asarray(pool(_padded(maps[i : i + _PROBE])))[: len(maps) - i]
            for i in range(0, len(maps), _PROBE)
        ]
        good = np.flatnonzero(part.valid[0] > 0)
        return np.concatenate(pooled)[good], good

    (x, kept), (y, chosen) = rows(train), rows(test)
    return scorer.probe(PooledFeatures(x, train.labels[kept], y, chosen, source))


def _padded(maps: np.ndarray) -> np.ndarray:
    """Padded to one batch, so that only one program is compiled."""
    return np.concatenate([maps, np.zeros((_PROBE - len(maps), *maps.shape[1:]), maps.dtype)])


JOINED = ("headline", "tables", "figures")
"""Fields of the page that several sections may add to."""


def join(sections: Sequence[ReportFields]) -> ReportFields:
    """The fields of all sections: lists one after another, of other fields the last."""
    found: ReportFields = {}
    for fields in sections:
        lists = {name: [*found.get(name, ()), *fields[name]] for name in JOINED if name in fields}
        found |= {**fields, **lists}
    return found


def examples(
    predict: Predict, variables: Variables, source: Source, data: ConfigDict, outputs: Mapping[str, np.ndarray], mesh: Mesh,
    grid: tuple[int, int] | None, count: int, *, output_names: tuple[str, ...], auxiliary: Auxiliary | None = None,
) -> tuple[list[Shown], list[Shown]]:  # fmt: skip
    """The correct and the incorrect predictions with the highest confidence, with their maps.

    Args:
        predict: compiled.
        variables: of the model.
        source: the split.
        data: `config.data`.
        outputs: of `collect` over the split, with "probabilities/combined".
        mesh: of the devices.
        grid: rows and columns of the patch tokens.
        count: of each kind.
        output_names: prefixes of the outputs to return.
        auxiliary: auxiliary inputs of the split; None for none.
    """
    p, label, valid = outputs["probabilities/combined"], outputs["label"], outputs["valid"] > 0
    guess, confidence = p.argmax(-1), p.max(-1)
    ranked = np.argsort(-confidence, kind="stable")
    right = [i for i in ranked if valid[i] and guess[i] == label[i]]
    wrong = [i for i in ranked if valid[i] and guess[i] != label[i]][:count]
    chosen = _spread(right, label, count) + wrong
    if not chosen:
        return [], []
    index = outputs["index"][chosen]
    images = [pipeline.view(source, int(i), data) for i in index]
    # Batches of the devices' number, padded: the report may show fewer images than there are devices.
    batches = pipeline.array_batches(
        images,
        mesh_lib.round_up(min(len(images), faithfulness.BATCH), mesh),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        carried={name: np.asarray(source.columns[name])[index] for name in data.carry},
        auxiliary=None if auxiliary is None else AuxiliaryAt(auxiliary, index),
    )
    maps = collect(predict, variables, batches, mesh, output_names=output_names)
    made: list[Shown] = [
        (
            Example(
                name=str(source.names[int(i)]),
                image=transforms.picture_of(images[k]),
                true=source.class_names[label[at]],
                predicted=source.class_names[guess[at]],
                probability=float(confidence[at]),
                rollout=maps["rollout"][k].reshape(grid) if "rollout" in maps else None,
                selected=maps["selected"][k] if "selected" in maps else None,
                grid=grid,
            ),
            int(i),
            {name: maps[name][k] for name in maps if name.startswith(output_names)},
        )
        for k, (i, at) in enumerate(zip(index, chosen, strict=True))
    ]
    return made[: len(made) - len(wrong)], made[len(made) - len(wrong) :]


def write(
    folder: Path, *, baselines: Sequence[Baseline], seconds: float, parameters: int, warnings: Sequence[str],
    notes: Sequence[str], fields: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Writes report/index.html below the workdir `folder`; returns its path.

    Args:
        folder: the workdir.
        baselines, seconds, parameters, warnings, notes: as in `report.ReportContent`.
        fields: further ones of it, the task's.
    """
    content = workdir.read(folder)
    config = content["config"]
    return report.write(
        folder / "report",
        report.ReportContent(
            title=f"{config['model']['name']} on {config['data']['builder'] or config['data']['source']}",
            baselines=[(b.title, b.value, b.note) for b in baselines],
            records=metrics.read(folder),
            config_json=json.dumps(config, indent=1, ensure_ascii=False),
            environment=content["environment"],
            command=content.get("command", ""),
            warnings=warnings,
            notes=notes,
            others=_others(folder),
            train_seconds=seconds,
            n_parameters=parameters,
            **fields,
        ),
    )


def _others(folder: Path) -> list[tuple[str, str]]:
    """(name, link from the report) of pages beside the workdir: reports of other finished runs, and comparisons."""
    own, found = folder.resolve(), []
    try:
        beside = sorted(path for path in own.parent.iterdir() if path != own and path.is_dir())
    except OSError:  # a folder that can be entered, not listed
        return []
    for other in beside:
        run = (other / results.FILE).is_file() and (other / "report" / pages.PAGE).is_file()
        page = other / "report" / pages.PAGE if run else other / pages.PAGE
        if run or ((other / "comparison.csv").is_file() and page.is_file()):
            found.append((other.name, pages.link(own / "report", page)))
    return found[:LINKED]


def count_parameters(variables: Variables) -> int:
    """The number of parameters in "params"."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def _spread(ranked: list[int], label: np.ndarray, count: int) -> list[int]:
    """The most confident examples of every class in turn, so that the page shows more than one easy class."""
    by_class: dict[int, list[int]] = {}
    for i in ranked:
        by_class.setdefault(int(label[i]), []).append(i)
    rounds = (i for k in range(count) for members in by_class.values() for i in members[k : k + 1])
    return [i for i, _ in zip(rounds, range(count), strict=False)]
