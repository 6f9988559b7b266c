r"""Questions about a user's own pictures.

    python -m fusionjax.main --config=configs/vqa.py:root=questions.csv --workdir=runs/questions

The manifest, CSV or Parquet, has the columns path (of the picture), question and answer, or answers with "|" between, and
where known question_type and split; rows of one picture stay on one side of a split that is drawn. The answer is one of those
that training has often enough, VQA v2's soft scores are the targets and its accuracy is the measure. ViT and BERT by default,
frozen; 4 layers in which image and question read each other. Arguments: answers=<at most>, answer_pictures=<that an answer
needs at least>, baseline=none|image|text|concat (text: the question alone), head=, image=<trunk>, weights=<its file>,
encoder=<text encoder>, train_encoders, cache=<folder that runs share>, seed=<n>, runlocal.
"""

from configs import common
from configs import common_modalities as shared
from fusionjax import config as base


def get_config(arg=None):
    """The run; see the module's text."""
    encoder = "hub:google-bert/bert-base-uncased"
    fusion = common.fusion_arg(encoder=encoder)
    fusion.pop("text")
    own = shared.own_encoders("vit_base_patch16_224")
    arg = base.parse_arg(arg, **fusion, **own, root="", answers=1000, answer_pictures=3)
    c = shared.own_data(shared.vqa(base.default(), arg), arg)
    c.data.questions, c.data.answers, c.data.answer_pictures = "columns", arg.answers, arg.answer_pictures
    c.model.width, c.model.depth, c.model.heads = 768, 4, 12
    c.loss.label_smoothing, c.train.best_metric = 0.0, "val/vqa_accuracy"
    if not arg.runlocal:
        return c
    c.model.depth = 1
    return shared.run_local_manifest(c)
