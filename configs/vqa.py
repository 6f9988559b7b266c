r"""Visual question answering on your own images, or on VQA v2.

    python -m fusionjax.main --config=configs/vqa.py:root=questions.csv --workdir=runs/questions
    python -m fusionjax.main --config=configs/vqa.py:source=vqa2,root=<folder of VQA v2> --workdir=runs/vqa2

Needs a manifest, CSV or Parquet, with the columns path (of the image), question and answer, or answers separated by "|", and
optionally question_type and split; rows of one image are never divided between drawn splits. The vocabulary has the answers
that are frequent enough in training. The targets are VQA v2's soft scores, and the metric is its accuracy. The encoders are
ViT and BERT with published weights from the Hugging Face hub, frozen by default; image and question attend to each other in 4
layers. answers/<split>.json has the format of VQA v2's official evaluation.

With `source=vqa2`, `root` needs the four JSON files of VQA v2 for train2014 and val2014 as downloaded, and the folders
train2014 and val2014 of COCO. The last checkpoint is scored on val; nothing is selected on it. Cached ViT features take 0.3
MB per image: 87 GB with `config.data.cache.passes=3`, 37 GB with 1.

Arguments: source=manifest|vqa2, answers=<largest vocabulary>, answer_pictures=<smallest number of images per answer>,
baseline=none|image|text|concat (text: only the question), head=, image=<trunk>, weights=published|none|<file, package: or
hub:, of the trunk>, encoder=<text encoder>, train_encoders, cache=<folder shared by runs>, seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common
from configs import common_modalities as shared
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    fusion = common.fusion_arg(encoder=common.BERT)
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
        # Nothing is selected on the split that is reported.
        c.data.source, c.data.eval_splits, c.train.best_metric = "vqa2", ("val",), ""
        c.data.check_counts = not options.runlocal
    if not options.runlocal:
        return c
    c.model.depth = 1
    return shared.run_local_manifest(c)
