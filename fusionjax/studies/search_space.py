"""The search space of a sweep: ranges for the `sweep()` of a config file, and configs from points of the space.

A config file may define the fields to search and their values:

    from fusionjax.studies import search_space

    def sweep():
        return {
            "optim.learning_rate": search_space.log(1e-5, 1e-3),
            "model.drop_path": [0.0, 0.1, 0.2],
            "model.depth": search_space.integers(2, 12),
        }

A list is a set of choices; `uniform` and `log` are ranges of real numbers, `integers` is a range of integers, both ends
included. `fusionjax.studies.search` runs the search, `fusionjax.studies.leaderboard` shows its results.
"""

import itertools
import math
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from fusionjax import config as config_lib
from fusionjax.config import ownership
from fusionjax.config.user_file import UserFile
from fusionjax.errors import UserError

if TYPE_CHECKING:
    from optuna import Trial

# Fields that determine which images are scored, and by which metric: they must be the same in all trials.
_FIXED = ("data.source", "data.root", "data.builder", "data.label", "data.train_split", "data.eval_splits", "data.fractions",
          "train.best_metric")  # fmt: skip


@dataclass(frozen=True)
class Range:
    """A range from `low` to `high`, both included; `logarithmic`: uniform in the logarithm; `whole`: integers only."""

    low: float
    high: float
    logarithmic: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        name = "integers" if self.whole else "log" if self.logarithmic else "uniform"
        said = f"search_space.{name}({self.low!r}, {self.high!r})"
        kinds = int if self.whole else (int, float)
        for value in (self.low, self.high):
            if not isinstance(value, kinds) or isinstance(value, bool) or not math.isfinite(value):
                raise UserError(
                    f"{said}: {value!r} is not a {'whole ' if self.whole else 'finite '}number; give low and high"
                )
        if not self.low < self.high:
            raise UserError(f"{said}: low must be below high; write a single value as a list")
        if self.logarithmic and self.low <= 0:
            raise UserError(f"{said}: low must be above 0 in a logarithmic range")


def uniform(low: float, high: float) -> Range:
    """A range of real numbers, sampled uniformly."""
    return Range(low, high)


def log(low: float, high: float) -> Range:
    """A range of positive real numbers, sampled uniformly in the logarithm: for learning rates and weight decay."""
    return Range(low, high, logarithmic=True)


def integers(low: int, high: int, log: bool = False) -> Range:
    """A range of integers, both ends included; `log`: sampled uniformly in the logarithm."""
    return Range(low, high, logarithmic=log, whole=True)


class Space:
    """The fields that are searched, checked against the base config.

    Args:
        spec: return value of `sweep()`: dotted field → list of choices, or a `Range`.
        base: the config that every trial starts from.

    Raises:
        UserError: a field is unknown or must be the same in all trials; a list is empty or has duplicates; a value has not the
            type of its field.

    Attributes:
        fields: name → a `Range` or a tuple of values of the type of the field, in the order of `spec`.
    """

    def __init__(self, spec: Mapping[str, Any], base: ConfigDict):
        if not isinstance(spec, Mapping) or not spec:
            raise UserError(
                f"sweep() returned {spec!r}; it must return a dict of config fields, e.g. "
                '{"optim.learning_rate": search_space.log(1e-5, 1e-3)}'
            )
        self.fields: dict[str, Range | tuple[Any, ...]] = {}
        for name, values in spec.items():
            if not isinstance(name, str):
                raise UserError(f"sweep(): {name!r} is not a field name; write e.g. 'optim.learning_rate'")
            config_lib.check_key(f"config.{name}")
            self.fields[name] = _checked(name, values, _get(base, name))

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """Returns the values of an Optuna trial, sampled by Optuna unless the trial already has them."""
        values: dict[str, Any] = {}
        for name, field in self.fields.items():
            if isinstance(field, tuple):
                shown: dict[object, object] = {_shown(value): value for value in field}
                values[name] = shown[trial.suggest_categorical(name, [_shown(value) for value in field])]
            elif field.whole:
                values[name] = trial.suggest_int(name, int(field.low), int(field.high), log=field.logarithmic)
            else:
                values[name] = trial.suggest_float(name, field.low, field.high, log=field.logarithmic)
        return values

    def grid(self) -> list[dict[str, Any]]:
        """Returns all combinations in the form in which Optuna stores them, the last field varying fastest.

        Raises:
            UserError: a field is a range of real numbers, which has no grid.
        """
        axes: list[Sequence[str | float]] = []
        for name, field in self.fields.items():
            if isinstance(field, Range) and not field.whole:
                raise UserError(
                    f"--sampler=grid needs a list of values for {name}, not a range of real numbers"
                )
            axes.append(
                range(int(field.low), int(field.high) + 1)
                if isinstance(field, Range)
                else [_shown(v) for v in field]
            )
        return [dict(zip(self.fields, point, strict=True)) for point in itertools.product(*axes)]

    def described(self) -> dict[str, list[Any]]:
        """Returns the space in a form that JSON can store, to compare it with another."""
        return {
            name: [_shown(v) for v in field]
            if isinstance(field, tuple)
            else [field.low, field.high, "log" if field.logarithmic else "uniform", "int" if field.whole else "float"]
            for name, field in self.fields.items()
        }  # fmt: skip


def fill(base: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Returns a validated copy of `base` with the given fields set.

    A field that the combination does not read keeps the value of `base`: optim.momentum beside optim.name="adamw" is searched
    for the other optimisers only. A field of `base` that the combination switches off returns to its default.

    Raises:
        UserError: the combination of values is invalid.
    """
    config = base.copy_and_resolve_references()
    with config.unlocked():
        for name, value in values.items():
            section, _, field = name.rpartition(".")
            target = _get(config, section) if section else config
            target[field] = float(value) if isinstance(target[field], float) else value
        for name in values.keys() & set(ownership.unread(config)):
            section, _, field = name.rpartition(".")
            _get(config, section)[field] = _get(base, name)
        ownership.put_back(config, base, ())
    return config_lib.validate(config)


def spec_of(path: str) -> Mapping[str, Any]:
    """Returns the result of `sweep()` of a config file.

    Args:
        path: path of the file, optionally with the argument of the config after a colon.

    Raises:
        UserError: the file cannot be imported, or has no `sweep`.
    """
    hint = 'add a function that returns the fields to search, e.g. {"optim.learning_rate": search_space.log(1e-5, 1e-3)}'
    return UserFile(path.partition(":")[0]).call("sweep", hint=hint)


def check_metric(metric: str, base: ConfigDict, *, allow_test: bool = False) -> None:
    """Checks that the metric of a sweep is not computed on training or test images.

    Args:
        metric: <split>/<score>.
        base: the base config of the sweep.
        allow_test: allow any split that is not used for training.

    Raises:
        UserError: the metric is not allowed; the message says what to do instead.
    """
    split, _, score = metric.partition("/")
    if not split or not score:
        raise UserError(
            f"--metric={metric!r} is not <split>/<score>, e.g. val/accuracy; the default is config.train.best_metric"
        )
    trained = base.data.train_split
    if split == trained or split.partition("[")[0] == trained:
        raise UserError(
            f"--metric={metric} selects on training images (data.train_split={trained!r}): hold some images out"
        )
    if not allow_test and not re.match(r"(val|dev|holdout)|train\w*\[", split):
        raise UserError(
            f"--metric={metric} selects hyperparameters on {split!r}, which then is no longer a test set: add a split that is "
            "held out of training, such as val, to config.data.eval_splits, or pass --allow_test"
        )


def _checked(name: str, values: object, now: object) -> Range | tuple[Any, ...]:
    """Returns the values of one field, converted to its type; `now` is the value in the base config."""
    if isinstance(now, ConfigDict):
        raise UserError(f"sweep(): config.{name} is a section, not a field; it has {', '.join(now)}")
    if name in _FIXED:
        raise UserError(f"sweep(): config.{name} must be the same in all trials, so it cannot be searched")
    kind = type(now)
    if isinstance(values, Range):
        if kind not in (int, float):
            raise UserError(f"sweep(): config.{name}={now!r} is not a number: list the choices")
        if kind is int and not values.whole:
            raise UserError(
                f"sweep(): config.{name}={now!r} is an integer: use search_space.integers(low, high)"
            )
        return values
    if not isinstance(values, list):
        raise UserError(
            f"sweep(): {name}: {values!r} must be a list of choices, or search_space.log, uniform or integers(low, high)"
        )
    if not values:
        raise UserError(f"sweep(): {name}: the list of choices is empty")
    chosen = []
    for value in values:
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise UserError(f"sweep(): {name}: {value!r} must be of type {kind.__name__}, like {now!r}")
        if value in chosen:
            raise UserError(f"sweep(): {name}: {value!r} is listed twice")
        chosen.append(value)
    return tuple(chosen)


def _shown(value: object) -> str | int | float | bool:
    """Returns a choice in the form in which Optuna stores it; a tuple becomes its repr."""
    return value if isinstance(value, str | int | float | bool) else repr(value)


def _get(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def command(name: str, arguments: Mapping[str, Any]) -> list[str]:
    """Returns the words of a command line, python -m fusionjax.<name> --key=value …; a bool becomes --key or --nokey."""
    words = ["python", "-m", f"fusionjax.{name}"]
    for key, value in arguments.items():
        if isinstance(value, bool) and not key.startswith("config."):
            words.append(f"--{key}" if value else f"--no{key}")
        else:
            words.append(f"--{key}={value}")
    return words


def sbatch_script(words: str, folder: Path, here: Path, *, workers: int, options: list[str]) -> str:
    """Returns the script of a Slurm job array of workers, which are requeued when preempted and then resume.

    Args:
        words: the command of a worker, quoted for a shell.
        folder: folder of the sweep, where Slurm writes the output.
        here: working directory of the workers.
        workers: size of the array.
        options: further options of sbatch, such as --gres=gpu:1.

    Raises:
        UserError: an option is malformed, or a path has a character that is not allowed.
    """
    for option in options:
        if not re.fullmatch(r"--?[A-Za-z][^\n\r]*", option):
            raise UserError(
                f"--sbatch={option!r} is not an option of sbatch; write e.g. --sbatch=--gres=gpu:1"
            )
    for path in (folder, here):
        if re.search(r"[\s\"'\\$`]", str(path)):
            raise UserError(
                f"{str(path)!r} has a character that is not allowed in #SBATCH lines; use another folder"
            )
    lines = [f"--job-name=sweep-{folder.name}", f"--array=0-{workers - 1}", f"--chdir={here}",
             f"--output={folder}/slurm-%A_%a.txt", "--open-mode=append", "--requeue", *options]  # fmt: skip
    return "".join(["#!/bin/bash\n", *(f"#SBATCH {line}\n" for line in lines), f"exec {words}\n"])


def submit(script: str, folder: Path) -> str:
    """Submits a script with sbatch and returns the output of sbatch.

    Args:
        script: from `sbatch_script`.
        folder: folder of the sweep, created here because Slurm opens the output file before a worker starts.

    Raises:
        UserError: sbatch is not installed, or rejects the script.
    """
    if not shutil.which("sbatch"):
        raise UserError(
            "--launch=slurm needs sbatch, which is not on this machine; --dry_run prints the script"
        )
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["sbatch"], input=script, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"sbatch rejected the script: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()
