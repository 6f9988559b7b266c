"""What a script or a notebook uses: train a config, open a run, look at a data set, compare runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from fusionjax import arguments, progress
from fusionjax.data.inspection import Inspection
from fusionjax.data.inspection import inspect as inspect_data
from fusionjax.errors import UserError

if TYPE_CHECKING:
    from fusionjax.experiment.inference import Run
    from fusionjax.interpret.comparison import Comparison


def config(spec: str | Path, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Reads a config as `--config` does.

    Args:
        spec: a file, or the name of a packaged config; after a colon its argument: "cub:backbone=deit_tiny".
        overrides: values by dotted field: {"optim.learning_rate": 1e-3}.

    Returns:
        The config, locked.

    Raises:
        UserError: the file, its argument or a field is wrong.
    """
    for name, value in (overrides or {}).items():
        if value is None or isinstance(value, Mapping):
            raise UserError(f"the override {name!r} is {value!r}: give a value to each dotted field")
    words = [f"--config.{name}={value}" for name, value in (overrides or {}).items()]
    return arguments.read_config(str(spec), words).value


def train(
    spec: str | Path | ConfigDict, workdir: str | Path, overrides: Mapping[str, Any] | None = None
) -> "Run":
    """Trains a config, evaluates it and writes a report, as `fusionjax train` does; a finished run is opened.

    Args:
        spec: as for `config`, or a config.
        workdir: folder of the run; the same call again resumes it.
        overrides: as for `config`; of a config that is read already, set the fields themselves.

    Returns:
        The trained run.

    Raises:
        UserError: what the command would print as its one line.
    """
    from fusionjax.experiment import inference, trainer

    if isinstance(spec, ConfigDict) and overrides:
        raise UserError("overrides are for a config file: this config is read already, set its fields")
    made = spec if isinstance(spec, ConfigDict) else config(spec, overrides)
    with progress.showing():
        trainer.enable_compilation_cache()
        trainer.Experiment(made, Path(workdir)).train()
    return inference.load(workdir)


def inspect(path: str | Path) -> Inspection:
    """Reads a data set and says what would spoil a result, as `fusionjax inspect` does.

    Args:
        path: a folder or a manifest.

    Raises:
        UserError: it is no data set that can be read.
    """
    return inspect_data(Path(path))


def compare(runs: Sequence[str | Path]) -> "Comparison":
    """Compares finished runs with the first, as `fusionjax compare` does.

    Args:
        runs: workdirs.

    Raises:
        UserError: a run that is not finished, or runs that were scored on different examples.
    """
    from fusionjax.studies.comparison import compare as compare_runs

    return compare_runs([str(run) for run in ([runs] if isinstance(runs, str | Path) else runs)])
