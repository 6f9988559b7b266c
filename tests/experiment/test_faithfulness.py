"""The measures of a run's own maps, and where the objects of its images are."""

import cv2
import numpy as np
import pytest

from fusionjax import config as config_lib
from fusionjax.data.datasets.tfds import TfdsSource
from fusionjax.data.source import Subset, object_mask
from fusionjax.errors import UserError
from fusionjax.experiment import faithfulness
from tests.support import nasty, untrained


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """A folder of transparent pictures with an opaque square; returns its config."""
    root, rng = tmp_path_factory.mktemp("drawings"), np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for i in range(8):
            image = np.zeros((40, 60, 4), np.uint8)
            image[10:30, 20:40] = *rng.integers(0, 255, 3), 255
            cv2.imwrite(str(root / name / f"{i}.png"), image)
    c = config_lib.default()
    c.data.root, c.data.eval_splits = str(root), ("test",)
    c.data.resize, c.data.image_size, c.data.fractions = 20, 20, (0.5, 0.25, 0.25)
    c.model.name, c.model.width, c.model.heads, c.model.depth, c.model.patch = "vit_shallow", 8, 2, 1, 5
    c.evaluation.batch_size = 4
    return c


def test_every_map_of_a_run_is_measured(drawings):
    table = faithfulness.measure(untrained.run(drawings), count=3, steps=2)
    assert list(table.values) == [
        "attention",
        "rollout",
        "gradient_attention",
        "relevance",
        "random",
        "centre",
    ]
    for method, found in table.values.items():
        for measure, values in found.items():
            assert values.shape == (3,) and np.isfinite(values).all(), (method, measure)
    assert "randomised" in table.values["rollout"] and "randomised" not in table.values["centre"]
    assert "probability of the predicted class" in table.text()
    # The object is the middle of the picture after the crop.
    assert table.values["centre"]["pointing"].all()


def test_an_embedding_is_measured_by_its_similarity(tmp_path):
    c = nasty.configs(tmp_path)["reid"]
    table = faithfulness.measure(untrained.run(c), "gallery", count=2, steps=2)
    assert {"rollout", "glca"} <= set(table.values) and "cosine similarity" in table.about
    assert (table.values["rollout"]["deletion"] <= 1).all()


def test_a_model_without_attention_is_refused(drawings):
    c = drawings.copy_and_resolve_references()
    c.model = config_lib.default().model
    c.model.name = "efficientnet_b0"
    with pytest.raises(UserError, match="no attention over the image"):
        faithfulness.measure(untrained.run(c, shapes_only=True), count=1)


def test_an_object_is_where_the_model_sees_it(drawings):
    source = untrained.run(drawings).source("test")
    mask = object_mask(source, 0)
    assert mask.shape == (40, 60) and mask[10:30, 20:40].all() and mask.sum() == 400
    seen = faithfulness.mask_as_seen(source, 0, drawings.data)
    # 40×60 becomes 20×30, of which the middle 20 columns are seen.
    want = np.zeros((20, 20), bool)
    want[5:15, 5:15] = True
    np.testing.assert_array_equal(seen, want)


def test_a_box_is_an_object():
    picture = cv2.imencode(".png", np.zeros((20, 10, 3), np.uint8))[1].tobytes()
    records = [
        {"image": picture, "label": 0, "bbox": np.array([0.25, 0.5, 0.75, 1.0])},
        {"image": picture, "label": 0},
    ]
    source = TfdsSource("birds", "test", records, ("one",))
    mask = object_mask(Subset(source, [1, 0]), 1)
    assert mask.shape == (20, 10) and mask[5:15, 5:].all() and mask.sum() == 50
    assert object_mask(source, 1) is None
