"""`python -m fusionjax.main` under `tfds.testing.mock_data`: the data set's structure without its images."""

import simplejpeg
import tensorflow_datasets as tfds

from fusionjax import cli, main
from tests.support import trees

CLASSES = 200
EXAMPLES = 12


def serve(self, split=None, decoders=None, **kwargs):
    """What `tfds.data_source` gives, with pictures made here: TFDS's own generator needs TensorFlow to encode them."""
    return [
        {"image": simplejpeg.encode_jpeg(trees.picture(i)), "label": i * 7 % CLASSES} for i in range(EXAMPLES)
    ]


if __name__ == "__main__":
    with tfds.testing.mock_data(as_data_source_fn=serve):
        cli.run(main.COMMAND)
