"""Configs of tests with some fields set."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from fusionjax import config as config_lib


def put(c: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    """Sets fields by name, `__` for a dot: {"data__cache__enabled": True}; returns the config."""
    for key, value in fields.items():
        section, _, name = key.rpartition("__")
        target = c
        for part in filter(None, section.split("__")):
            target = target[part]
        target[name] = value
    return c


def validated(c: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    """The config with fields set by name, validated."""
    return config_lib.validate(put(c, fields))


def frozen_encoders(task: str, model: str, manifest: object, bert: object) -> ConfigDict:
    """A small run of a task on a manifest: features of a frozen, random ViT beside the tokens of a small BERT."""
    c = config_lib.default()
    c.task = task
    c.data.source, c.data.root, c.data.eval_splits = "manifest", str(manifest), ("test",)
    c.data.resize = c.data.image_size = 32
    c.data.threads, c.data.prefetch, c.data.cache.passes = 2, 8, 2
    c.data.cache.enabled = c.model.freeze_trunk = c.model.trunk_norm = True
    c.model.name, c.model.ablation, c.model.trunk = model, "sa_only", "vit_shallow"
    c.model.width, c.model.heads, c.model.dropout = 16, 4, 0.1
    c.text.encoder, c.text.max_tokens = str(bert), 16
    c.train.batch_size, c.train.steps, c.train.log_every = 8, 6, 3
    c.train.checkpoint_every, c.train.eval_every_epochs, c.evaluation.batch_size = 3, 0.0, 8
    c.optim.learning_rate, c.report.examples = 3e-3, 2
    return c
