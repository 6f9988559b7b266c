"""Which parameters have weights, and what is refused where a frozen network has none."""

import jax
import numpy as np
import pytest

from configs import openmoji_spectral
from fusionjax import config as config_lib
from fusionjax import tasks
from fusionjax.errors import UserError
from fusionjax.tasks.base import initial_weights
from fusionjax.tasks.base.protocol import Facts
from tests.support import fields as fields_lib
from tests.support import frozen_trunk


def model_of(**fields):
    c = config_lib.default()
    c.model.name, c.model.ablation = "vit_shallow", "sa_only"
    c.data.resize = c.data.image_size = 32
    return tasks.create(fields_lib.validated(c, fields), Facts(("a", "b"))).model


def checked(model, held=()):
    fresh = jax.eval_shape(model.init_module, jax.random.key(0))
    random = initial_weights.random_parameters(fresh, model.put_pretrained(fresh))
    initial_weights.refuse_frozen(model, held, fresh, random)
    return random


def test_weights_of_a_file_are_told_from_random_values(tmp_path):
    source = frozen_trunk.source("vit_shallow", tmp_path)
    assert checked(model_of(pretrained__source=source)) == {"head/kernel", "head/bias"}
    kept = checked(model_of(pretrained__source=source, pretrained__skip=("norm/.*",)))
    assert kept == {"head/kernel", "head/bias", "norm/scale", "norm/bias"}
    assert "blocks/qkv/kernel" in checked(model_of())


def test_arrays_and_shapes_agree(tmp_path):
    model = model_of(pretrained__source=frozen_trunk.source("vit_shallow", tmp_path))
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    loaded = model.load_pretrained(variables)
    assert initial_weights.random_parameters(variables, loaded) == checked(model)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded["params"]))


@pytest.mark.parametrize(
    ("fields", "held", "message"),
    [
        ({"model__trunk": "tf_efficientnet_lite0", "model__freeze_trunk": True}, (), "trunk is frozen, but"),
        ({"model__trunk": "tf_efficientnet_lite0"}, ("^trunk/",), "trunk is frozen, but"),
        ({"model__trunk": "tf_efficientnet_lite0", "model__freeze_trunk": True, "pretrained__into": "trunk",
          "pretrained__source": "package:efficientnet_lite0", "pretrained__skip": ("block_3/.*",)}, (),
         "trunk is frozen, but .* e.g. trunk/block_3/"),
    ],
)  # fmt: skip
def test_a_frozen_network_without_weights_is_one_line(fields, held, message):
    with pytest.raises(UserError, match=message) as error:
        checked(model_of(**fields), held)
    assert "\n" not in str(error.value) and "config.pretrained.source" in str(error.value)


def test_the_frozen_half_of_a_cut_encoder_too():
    c = openmoji_spectral.get_config()
    c.pretrained.source, c.evaluation.probe = "", False
    model = tasks.create(config_lib.validate(c), Facts(("a", "b"))).model
    with pytest.raises(UserError, match="tower_color is frozen, but .* e.g. tower_color/"):
        checked(model)


def test_single_random_parameters_may_be_held():
    """As MoCo v3 holds its patch embedding."""
    checked(model_of(), ("^patch_embed/",))
