r"""Classification of image and audio files of your own; either modality may be missing.

    python -m fusionjax.main --config=configs/audiovisual.py:root=things.csv --workdir=runs/things

Needs a manifest, CSV or Parquet, with the columns path, label and audio (paths relative to its folder; several audio files
are separated by "|", and training draws one of them), and optionally split. An empty audio entry means that audio is missing;
add `partial` if images may be missing too. The encoders are ViT and Wav2Vec2 with published weights from the Hugging Face
hub, frozen by default; image regions and audio tokens attend to each other. Arguments: modalities=all|image|audio,
pairings=default|all|none, dropout=<probability of dropping a modality in training>, image=<trunk>,
weights=published|none|<file, package: or hub:, of the trunk>, hearing=wav2vec2_base|mel, hearing_weights=published|none|<file
or hub:…>, seconds=<length of a clip>, train_encoders, partial, cache=<folder shared by runs>, seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common_modalities as shared
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    encoders = shared.own_encoders("vit_base_patch16_224")
    options = base.parse_arg(arg, **shared.audiovisual_arg(**encoders, **shared.HEARING))
    c = shared.own_data(shared.trimodal(base.default(), options, task="audiovisual"), options)
    c = shared.hearing(c, options)
    return shared.run_local_manifest(c) if options.runlocal else c
