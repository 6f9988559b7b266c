"""VQA v2 in its official layout: questions about images of COCO with ten answers each (Goyal et al., CVPR 2017).

    v2_OpenEnded_mscoco_train2014_questions.json    v2_mscoco_train2014_annotations.json    train2014/COCO_train2014_….jpg
    v2_OpenEnded_mscoco_val2014_questions.json      v2_mscoco_val2014_annotations.json      val2014/COCO_val2014_….jpg

The answers of the test split are not public; "val" can be evaluated without the server of the challenge.
"""

import dataclasses
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.data.datasets import checks
from fusionjax.data.source import FileSource
from fusionjax.data.vqa import json_files
from fusionjax.data.vqa.questions import Question
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

QUESTIONS = {"train": 443_757, "val": 214_354}
_GET = "questions and annotations from visualqa.org, pictures from cocodataset.org"


@dataclasses.dataclass(frozen=True, eq=False)
class QuestionedImages(FileSource):
    """Images and the questions about them.

    Attributes:
        questions: their `image_id` is the index of the image in this source; answers are those of the file, not normalised.
    """

    questions: tuple[Question, ...] = ()


def create(data: ConfigDict, split: str, *, seed: int) -> QuestionedImages:
    """The images that the questions of a split refer to, once each, by ascending id; set `data.questions="columns"`.

    Args:
        data: `config.data`; `root` is the folder with the JSON files and the folders train2014 and val2014.
        split: "train" or "val".
        seed: unused, the split is official.

    Raises:
        UserError: see `datasets.create` and `json_files.read`.
    """
    if split.startswith("test"):
        raise UserError(f"VQA v2's answers of split {split!r} are not public: evaluate on 'val'")
    checks.split_is_one_of("VQA v2", split, QUESTIONS)
    root, subtype = checks.root_folder(data.root, "VQA v2", _GET), f"{split}2014"
    files = f"v2_OpenEnded_mscoco_{subtype}_questions.json", f"v2_mscoco_{subtype}_annotations.json"
    found = json_files.read(*(root / name for name in files))
    checks.count(f"VQA v2, questions of split {split!r}", len(found), QUESTIONS[split], data.check_counts)
    if not found:
        raise UserError(f"{root / files[0]} holds no question")
    pictures = sorted({q.image_id for q in found})
    names = [f"{subtype}/{json_files.image_name(subtype, i)}" for i in pictures]
    checks.files_exist(root, names, files[0])
    place = {image: i for i, image in enumerate(pictures)}
    asked = tuple(dataclasses.replace(q, image_id=place[q.image_id]) for q in found)
    labels = np.zeros(len(names), np.int32)
    return QuestionedImages("VQA v2", split, ("picture",), labels, names, Path(root), questions=asked)


def _check(config: ConfigDict) -> None:
    if config.data.questions != "columns":
        raise impossible(
            config, "data.questions", "VQA v2 has questions of its own: 'columns', with the task vqa"
        )


RECORD = DatasetRecord("vqa2", create, check=_check)
