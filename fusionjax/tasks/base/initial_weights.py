"""What the parameters of a run start from: published weights, or random values where none were put in.

Works on arrays and on shapes (`jax.eval_shape`), so that a mistake is found before anything is allocated.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from fusionjax.errors import UserError
from fusionjax.models import parameters, registry
from fusionjax.tasks.base.protocol import TaskModel, Variables
from fusionjax.train import optim
from fusionjax.train.state import flatten

MANY_IMAGES = 100_000
"""With fewer, a transformer without published weights stays far below its published scores (Dosovitskiy et al., ICLR 2021)."""


def random_parameters(before: Variables, after: Variables) -> frozenset[str]:
    """Names of the parameters that pretrained weights did not replace.

    Args:
        before: the variables of `TaskModel.init`.
        after: the same from `TaskModel.put_pretrained`, which keeps the leaves that have no weights.
    """
    old, new = flatten(before["params"]), flatten(after["params"])
    return frozenset(name for name, leaf in new.items() if old.get(name) is leaf)


def refuse_frozen(
    model: TaskModel, held: Sequence[str], variables: Variables, random: frozenset[str]
) -> None:
    """Refuses a frozen network without weights: its features, and all that is trained on them, would be noise.

    Args:
        model: of the task; its own frozen parameters are refused one by one.
        held: further patterns of parameters that do not train (`config.optim.freeze`). They may hold single random parameters,
            as MoCo v3 holds its patch embedding, but not a whole network.
        variables: of the model, with weights put in; arrays or shapes.
        random: see `random_parameters`.

    Raises:
        UserError: names the first network, one of its parameters, and the field that its weights belong in.
    """
    names = sorted(flatten(variables["params"]))
    own_frozen = optim.matching("freeze", model.frozen, names) - optim.matching("freeze", model.fitted, names)
    wrong = sorted(own_frozen & random)
    still = optim.matching("freeze", [*held, *model.frozen], names)
    for prefix, _ in _networks(model.module):
        own = [name for name in names if name.startswith(prefix)]
        if own and still.issuperset(own) and random.issuperset(own):
            wrong += own
    if wrong:
        part = wrong[0].split("/")[0]
        count = len({name for name in wrong if name.split("/")[0] == part})
        field = model.weight_fields.get(part, "pretrained.source")
        raise UserError(
            f"{part} is frozen, but {count} of its parameters have no weights and would keep random values, e.g. {wrong[0]}: "
            f"name its weights in config.{field}, or let it train"
        )


def notes(
    model: TaskModel, name: str, variables: Variables, random: frozenset[str], images: int
) -> list[str]:
    """Lines that a run and its report begin with: that a transformer is trained from scratch on few images.

    Args:
        model: of the task.
        name: name of the model in the config.
        variables, random: as for `refuse_frozen`.
        images: number of training images.
    """
    names, found = list(flatten(variables["params"])), []
    for prefix, network in _networks(model.module):
        own = [n for n in names if n.startswith(prefix)]
        family = registry.family_of(network)
        if own and family is not None and family.transformer and random.issuperset(own):
            found.append(prefix.rstrip("/") or name)
    if not found or images >= MANY_IMAGES:
        return []
    one = len(found) == 1
    return [
        f"{', '.join(found)}: {'a transformer' if one else 'transformers'} trained from scratch on {images:,} images. Below "
        f"about {MANY_IMAGES:,}, published weights reach far higher scores: name them in config."
        f"{model.weight_fields.get(found[0].split('/')[0], 'pretrained.source')} (config argument weights=published)"
    ]


def _networks(module: nn.Module) -> list[tuple[str, Any]]:
    """(prefix of its parameters, module) of every network of a backbone family in the module."""
    found = [(prefix, one) for prefix, one in parameters.networks(module)]
    return [(prefix, one) for prefix, one in found if registry.family_of(one) is not None]
