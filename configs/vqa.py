r"""Questions about a user's own pictures.

    python -m fusionjax.main --config=configs/vqa.py:root=questions.csv --workdir=runs/questions
    python -m fusionjax.main --config=configs/vqa.py:source=vqa2,root=<folder of VQA v2> --workdir=runs/vqa2

The manifest, CSV or Parquet, has the columns path (of the picture), question and answer, or answers with "|" between, and
where known question_type and split; rows of one picture stay on one side of a split that is drawn. The answer is one of those
that training has often enough, VQA v2's soft scores are the targets and its accuracy is the measure. ViT and BERT by default,
frozen; 4 layers in which image and question read each other. answers/<split>.json is what VQA v2's own evaluation takes.

With `source=vqa2` the folder holds VQA v2's four JSON files of train2014 and val2014 as they are downloaded, and COCO's two
folders train2014 and val2014. The last checkpoint is scored on val; nothing is chosen by it. Features that are kept of a ViT
take 0.3 MB a picture: 87 GB with `config.data.cache.passes=3`, 37 GB with 1.

Arguments: source=manifest|vqa2, answers=<at most>, answer_pictures=<that an answer needs at least>,
baseline=none|image|text|concat (text: the question alone), head=, image=<trunk>, weights=<its file>, encoder=<text encoder>,
train_encoders, cache=<folder that runs share>, seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common
from configs import common_modalities as shared
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    encoder = "hub:google-bert/bert-base-uncased"
    fusion = common.fusion_arg(encoder=encoder)
    fusion.pop("text")
    own = shared.own_encoders("vit_base_patch16_224")
    options = base.parse_arg(
        arg, **fusion, **own, root="", source=("manifest", "vqa2"), answers=1000, answer_pictures=3
    )
    c = shared.own_data(shared.vqa(base.default(), options), options)
    c.data.questions, c.data.answers, c.data.answer_pictures = (
        "columns",
        options.answers,
        options.answer_pictures,
    )
    c.model.width, c.model.depth, c.model.heads = 768, 4, 12
    c.loss.label_smoothing, c.train.best_metric = 0.0, "val/vqa_accuracy"
    if options.source == "vqa2":
        # Nothing is chosen by the split that is reported.
        c.data.source, c.data.eval_splits, c.train.best_metric = "vqa2", ("val",), ""
        c.data.check_counts = not options.runlocal
    if not options.runlocal:
        return c
    c.model.depth = 1
    return shared.run_local_manifest(c)
