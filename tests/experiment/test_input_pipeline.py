"""What a run says of its images beside the numbers."""

from types import SimpleNamespace

import numpy as np

from fusionjax import config
from fusionjax.data.image import nodata
from fusionjax.distributed import mesh
from fusionjax.experiment.input_pipeline import ImageFeed


def test_no_data_is_counted_for_each_split():
    whole, filled = SimpleNamespace(), SimpleNamespace(filled=nodata.Record())
    feed = ImageFeed(config.default(), whole, {"test": filled}, mesh=mesh.create())
    assert feed.warnings() == []
    filled.filled.add(3, np.arange(8) < 1)
    assert feed.warnings() == [
        "1 of the images of test that were read have values declared to be no data, 12 % of theirs, which were filled "
        "(config.data.nodata='mean')"
    ]
