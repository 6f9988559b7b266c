r"""Image and sound of a user's own files together; either may be missing.

    python -m fusionjax.main --config=configs/audiovisual.py:root=things.csv --workdir=runs/things

The manifest, CSV or Parquet, has the columns path, label and audio (paths below its folder; several sounds with "|" between,
of which training draws one), and where known split. An empty sound is a missing one; where pictures may be missing, too, add
`partial`. ViT and Wav2Vec2 by default, frozen; regions read moments, moments read regions. Arguments:
modalities=all|image|audio, pairings=default|all|none, dropout=<probability that training hides a modality>, image=<trunk>,
weights=<its file>, hearing=wav2vec2_base|mel, hearing_weights=<its file or hub:…>, seconds=<of a clip>, train_encoders,
partial, cache=<folder that runs share>, seed=<n>, runlocal.
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
