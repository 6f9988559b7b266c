"""Attention rollout, for looking at a model. The computation itself is part of DCAL and lives with the models."""

from fusionjax.models.rollout import cls_rollout, cls_rollout_from_qk

__all__ = ["cls_rollout", "cls_rollout_from_qk"]
