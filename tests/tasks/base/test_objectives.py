"""Losses per example as the config names them."""

import types

import numpy as np
import pytest

from fusionjax import config as config_lib
from fusionjax.errors import UserError
from fusionjax.tasks.base import objectives


@pytest.fixture
def config():
    return config_lib.default()


def test_losses_of_the_config(config, rng):
    logits, labels = rng.normal(size=(5, 3)).astype(np.float32), np.array([0, 1, 2, 2, 2])
    of_true = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[np.arange(5), labels]
    config.loss.label_smoothing = 0.0
    weights = np.array([1.0, 2.0, 0.5], np.float32)
    weighted = objectives.ExampleLoss(config, weights)
    np.testing.assert_allclose(weighted(logits, labels), -weights[labels] * np.log(of_true), rtol=1e-4)
    config.loss.focal_gamma, config.loss.focal_alpha = 2.0, 0.5
    focal = objectives.ExampleLoss(config)
    np.testing.assert_allclose(focal(logits, labels), -0.5 * (1 - of_true) ** 2 * np.log(of_true), rtol=1e-4)


def test_class_weights(config):
    train = types.SimpleNamespace(labels=np.array([0, 0, 0, 0, 1, 1, 2, 2]))
    assert objectives.class_weights(config, "abc", train) is None
    config.loss.balanced = True
    weights = objectives.class_weights(config, "abc", train)
    np.testing.assert_allclose(weights, 8 / (3 * np.array([4, 2, 2])), rtol=1e-6)
    assert objectives.class_weights(config, "abc", None) is None
    config.loss.balanced, config.loss.class_weights = False, (1.0, 2.0)
    with pytest.raises(UserError, match="one number for each of 3 classes"):
        objectives.class_weights(config, "abc", train)
