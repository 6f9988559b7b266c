"""What a sweep searches: the vocabulary of a config's `sweep()`, and points of the space as configs.

A config file may say which of its fields are worth searching, and where:

    from fusionjax.studies import search_space

    def sweep():
        return {
            "optim.learning_rate": search_space.log(1e-5, 1e-3),
            "model.drop_path": [0.0, 0.1, 0.2],
            "model.depth": search_space.integers(2, 12),
        }

A list is a choice; `uniform` and `log` are real numbers, `integers` whole ones, ends included. `fusionjax.studies.search`
runs the search, `fusionjax.studies.leaderboard` shows its results.
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
from fusionjax.errors import UserError
from fusionjax.studies import config_file

if TYPE_CHECKING:
    from optuna import Trial

# What is compared must be the same for all: these decide which images are scored, or by what.
_FIXED = ("data.source", "data.root", "data.builder", "data.label", "data.train_split", "data.eval_splits", "data.fractions",
          "train.best_metric")  # fmt: skip


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `logarithmic`: uniform in the logarithm; `whole`: integers."""

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
                    f"{said}: {value!r} is not a {'whole ' if self.whole else 'finite '}number; give two, low and high"
                )
        if not self.low < self.high:
            raise UserError(f"{said}: the lower end must be below the upper; one value is written as a list")
        if self.logarithmic and self.low <= 0:
            raise UserError(f"{said}: the lower end of a logarithmic range must be above 0")


def uniform(low: float, high: float) -> Range:
    """Real numbers between two, evenly."""
    return Range(low, high)


def log(low: float, high: float) -> Range:
    """Positive real numbers between two, evenly in their logarithm: for learning rates and weight decay."""
    return Range(low, high, logarithmic=True)


def integers(low: int, high: int, log: bool = False) -> Range:
    """Whole numbers from low to high, both included; `log`: evenly in their logarithm."""
    return Range(low, high, logarithmic=log, whole=True)


class Space:
    """The fields that are searched, checked against the config they will be set in.

    Args:
        spec: what `sweep()` returned: dotted field → list of choices, or a `Range`.
        base: the config that every trial begins with.

    Raises:
        UserError: a field that is unknown, or that decides what is compared; an empty list or a value twice; a value that is
            not of the field's type.

    Attributes:
        fields: by name, a `Range` or a tuple of values of the field's type, in the order of `spec`.
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
                raise UserError(
                    f"sweep(): {name!r} is no field; a field is written like 'optim.learning_rate'"
                )
            config_lib.check_key(f"config.{name}")
            self.fields[name] = _checked(name, values, _get(base, name))

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """Returns the values of an Optuna trial, drawn by its sampler; values that it already has are kept."""
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
        """Every combination, the last field varying fastest, as Optuna stores the values.

        Raises:
            UserError: a range of real numbers, which has no grid.
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
        """As JSON carries it, to tell one space from another."""
        return {
            name: [_shown(v) for v in field]
            if isinstance(field, tuple)
            else [field.low, field.high, "log" if field.logarithmic else "uniform", "int" if field.whole else "float"]
            for name, field in self.fields.items()
        }  # fmt: skip


def fill(base: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """A validated copy of `base` with those fields set.

    Raises:
        UserError: a combination that cannot be.
    """
    config = base.copy_and_resolve_references()
    with config.unlocked():
        for name, value in values.items():
            section, _, field = name.rpartition(".")
            target = _get(config, section) if section else config
            target[field] = float(value) if isinstance(target[field], float) else value
    return config_lib.validate(config)


def spec_of(path: str) -> Mapping[str, Any]:
    """What `sweep()` of a config file returns.

    Args:
        path: of the file, with or without the config's argument after a colon.

    Raises:
        UserError: the file has no `sweep`.
    """
    hint = 'add a function that returns the fields to search, e.g. {"optim.learning_rate": search_space.log(1e-5, 1e-3)}'
    _, sweep = config_file.load(path.partition(":")[0], "sweep", hint)
    return sweep()


def check_metric(metric: str, base: ConfigDict, *, allow_test: bool = False) -> None:
    """Refuses to choose by images that must not choose: a test split, or what is trained on.

    Args:
        metric: <split>/<score>.
        base: of the sweep.
        allow_test: any split that is not trained on will do.

    Raises:
        UserError: says what to do instead.
    """
    split, _, score = metric.partition("/")
    if not split or not score:
        raise UserError(
            f"--metric={metric!r} is not <split>/<score>, e.g. val/accuracy; without it, config.train.best_metric says it"
        )
    trained = base.data.train_split
    if split == trained or split.partition("[")[0] == trained:
        raise UserError(
            f"--metric={metric} chooses by images that are trained on (data.train_split={trained!r}): hold some out"
        )
    if not allow_test and not re.match(r"(val|dev|holdout)|train\w*\[", split):
        raise UserError(
            f"--metric={metric} chooses the parameters by {split!r}, whose score then is no test any more: score a split that "
            "is held out of training, such as val, in config.data.eval_splits, or say --allow_test"
        )


def _checked(name: str, values: object, now: object) -> Range | tuple[Any, ...]:
    """The values of one field, of its type; `now` is what the base config has there."""
    if isinstance(now, ConfigDict):
        raise UserError(f"sweep(): config.{name} is a section, not a field; it has {', '.join(now)}")
    if name in _FIXED:
        raise UserError(f"sweep(): config.{name} decides what is compared, so it cannot be searched")
    kind = type(now)
    if isinstance(values, Range):
        if kind not in (int, float):
            raise UserError(f"sweep(): config.{name}={now!r} is no number: list the values to choose from")
        if kind is int and not values.whole:
            raise UserError(
                f"sweep(): config.{name}={now!r} is a whole number: use search_space.integers(low, high)"
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
    """Returns a choice as Optuna stores it: a tuple as its text."""
    return value if isinstance(value, str | int | float | bool) else repr(value)


def _get(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def command(name: str, arguments: Mapping[str, Any]) -> list[str]:
    """Words of a command line: python -m fusionjax.<name> --key=value …; a bool is --key or --nokey."""
    words = ["python", "-m", f"fusionjax.{name}"]
    for key, value in arguments.items():
        if isinstance(value, bool) and not key.startswith("config."):
            words.append(f"--{key}" if value else f"--no{key}")
        else:
            words.append(f"--{key}={value}")
    return words


def sbatch_script(words: str, folder: Path, here: Path, *, workers: int, options: list[str]) -> str:
    """A Slurm array of workers, to be put back in the queue when preempted: each goes on where one stopped.

    Args:
        words: the worker's command, quoted for a shell.
        folder: of the sweep: the output goes there.
        here: where to run it.
        workers: size of the array.
        options: further lines of #SBATCH, such as --gres=gpu:1.

    Raises:
        UserError: an option that is none.
    """
    for option in options:
        if not re.fullmatch(r"--?[A-Za-z][^\n\r]*", option):
            raise UserError(f"--sbatch={option!r} is no option of sbatch; write e.g. --sbatch=--gres=gpu:1")
    for path in (folder, here):
        if re.search(r"[\s\"'\\$`]", str(path)):
            raise UserError(
                f"{str(path)!r} has a character that #SBATCH lines cannot carry; use another folder"
            )
    lines = [f"--job-name=sweep-{folder.name}", f"--array=0-{workers - 1}", f"--chdir={here}",
             f"--output={folder}/slurm-%A_%a.txt", "--open-mode=append", "--requeue", *options]  # fmt: skip
    return "".join(["#!/bin/bash\n", *(f"#SBATCH {line}\n" for line in lines), f"exec {words}\n"])


def submit(script: str, folder: Path) -> str:
    """Gives a script to sbatch; returns what that says.

    Args:
        script: of `sbatch_script`.
        folder: of the sweep, made here: Slurm opens the output there before a worker starts.

    Raises:
        UserError: no sbatch, or one that refuses.
    """
    if not shutil.which("sbatch"):
        raise UserError(
            "--launch=slurm needs sbatch, which is not on this machine; --dry_run prints the script"
        )
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["sbatch"], input=script, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"sbatch refused the script: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()
