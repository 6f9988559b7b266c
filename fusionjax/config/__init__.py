"""Run configurations: every field and its default, the argument parser, and the one validation.

A config file is Python: `get_config(arg)` takes `default()`, fills in what differs and returns it. `--config.a.b=value`
overrides a field. A field that does not exist is an error, and so is one that the run would not read.

`schema` holds the fields of every run, `fusionjax.tasks.<task>` those of a task; `validation` the rules on values;
`ownership` says which fields a run reads.
"""

from fusionjax.config.parsing import ArgDefault, check_key, from_json, parse_arg
from fusionjax.config.python_file import python_file
from fusionjax.config.rules import impossible, naming_field, require_one_of, require_within
from fusionjax.config.schema import default
from fusionjax.config.validation import ABLATIONS, apply_switches, reported_splits, validate

__all__ = ["ABLATIONS", "ArgDefault", "apply_switches", "check_key", "default", "from_json", "impossible", "naming_field",
           "parse_arg", "python_file", "reported_splits", "require_one_of", "require_within", "validate"]  # fmt: skip
