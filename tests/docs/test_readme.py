"""What the README and the configs promise."""

import functools
import importlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest

from fusionjax import __main__ as program
from fusionjax import arguments, tasks
from fusionjax import config as config_lib
from fusionjax.data.text import descriptions
from fusionjax.experiment import trainer
from fusionjax.tasks.base.protocol import Facts
from tests.support import tiny, tiny_bert, tiny_spectral

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(
    p.stem for p in (ROOT / "configs").glob("*.py") if not p.stem.startswith(("__init__", "common", "folder"))
)


class Labels:
    """A source of which only the length, the labels and the texts are needed."""

    def __init__(self, size):
        self.size, self.labels = size, np.arange(size, dtype=np.int32) % 2
        self.names, self.columns = (
            [str(i) for i in range(size)],
            {
                "caption": ["a leaf"] * size,
                "question": ["a leaf"] * size,
            },
        )

    def __len__(self):
        return self.size


VARIANTS = {
    "spectral": (
        "",
        "fusion=concat,labels",
        "fusion=attention,optimizer=adamw",
        "modalities=uv,backbone=vit_base_patch16_224",
    ),
    "openmoji_dinov2": ("", "ablation=sa_glca,size=224,cache=features", "runlocal"),
    "openmoji_spectral": ("", "fusion=concat", "fusion=attention", "modalities=line"),
    "crossvit": ("", "small", "model=crossvit_18_dagger_408"),
    "market1501": ("", "ablation=sa_glca,sie,stride=12,rerank,flip", "backbone=deit_tiny,ablation=sa_only"),
    "dukemtmc": ("ablation=sa_pwca",),
    "msmt17": ("sie,train=trainval",),
    "veri776": ("backbone=deit_small",),
    "openmoji_fusion": (
        "",
        "head=bottleneck",
        "baseline=concat",
        "text=bank",
        "runlocal,baseline=text",
        "baseline=mvpdr,prompts=descriptions",
        "runlocal,baseline=mvpdr_free",
    ),
    "stamps_trimodal": ("", "modalities=audio", "modalities=image_text,pairings=all", "runlocal"),
    "stamps_audiovisual": ("", "modalities=image", "sound=any,pairings=none,runlocal"),
    "stamps_vqa": ("", "baseline=image", "baseline=text", "runlocal"),
    "trimodal": ("", "modalities=audio_text,train_encoders", "hearing=mel,pairings=all,partial", "runlocal"),
    "audiovisual": ("", "modalities=audio", "runlocal,hearing=mel"),
    "vqa": ("", "baseline=text", "head=bottleneck,train_encoders", "runlocal", "source=vqa2"),
    "plant_village": (
        "",
        "head=adaptive,loss=focal,balanced",
        "baseline=image,image=efficientnet_b3",
        "data=manifest,text=instance,train_encoders,image=vit_base_patch16_224",
        "runlocal",
        "baseline=mvpdr",
        "runlocal,baseline=mvpdr_free,data=manifest,prompts=captions",
    ),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """In place of an encoder that would come from the network."""
    return tiny_bert.write(tmp_path_factory.mktemp("bert"), ["leaf"], positions=128)


ABLATIONS = tuple(f"ablation={name}" for name in config_lib.ABLATIONS)


@pytest.mark.parametrize(
    ("name", "argument"), [(name, arg) for name in CONFIGS for arg in VARIANTS.get(name, ABLATIONS)]
)
def test_every_config_shapes_a_step(name, argument, bert):
    """The published size, no data, nothing computed."""
    config = config_lib.validate(importlib.import_module(f"configs.{name}").get_config(argument or None))
    run = object.__new__(trainer.Experiment)
    run.config, run.steps, run.steps_per_epoch = config, 100, 10.0
    run.source, names = Labels(20), [str(i) for i in range(200)]
    if config.text.encoder.startswith("hub:"):
        config.text.encoder = str(bert)
    if config.task == "fusion" and config.text.kind != "instance":
        names = list(descriptions.read(config.text.descriptions))
    run.task = tasks.create(config, Facts(tuple(names)))
    run._variables = jax.eval_shape(run.task.model.init, jax.random.key(0))
    optimizer = run.optimizer()
    current = jax.eval_shape(functools.partial(run.create_state, optimizer), run.abstract_variables())
    after, metrics = jax.eval_shape(run.train_step(optimizer, 1), current, run.abstract_batch())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), current
    )
    assert metrics["loss"].total.dtype == np.float32


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def commands(page=ROOT / "README.md"):
    """The command lines of a page's shell blocks."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                yield line.strip()


def ours(line):
    """The subcommand and the arguments of a command line of this program; None for another program's."""
    words = shlex.split(line.partition(" && ")[2] or line)
    words = words[: words.index(">")] if ">" in words else words
    if words[0] == "fusionjax":
        return words[1], words[2:]
    if words[0] == "python" and words[2].startswith("fusionjax."):
        modules = {module: name for name, module in program.MODULES.items()}
        return modules[words[2].removeprefix("fusionjax.")], words[3:]
    assert words[0] in ("pip", "python", "git", "hf", "apt-get", "sphinx-build"), line
    return None


LINES = [(page.name, line) for page in PAGES for line in commands(page) if ours(line)]


@pytest.fixture
def folder_of_a_reader(tmp_path, monkeypatch):
    """Where the documents' examples are typed: class folders "photos", and tables beside them."""
    tiny.pictures(tmp_path / "photos", per_class=12)
    shutil.copytree(tmp_path / "photos", tmp_path / "animals")
    tiny_spectral.images(tmp_path / "fields", per_class=5)
    rows = [
        f"photos/{label}/{i:03d}.png,{label},a {label} thing,{k},{i % 2},"
        for k, label in enumerate(tiny.CLASSES)
        for i in range(12)
    ]
    for table in ("leaves.csv", "things.csv", "cows.csv", "animals.csv", "questions.csv"):
        (tmp_path / table).write_text("\n".join(["path,label,caption,identity,camera,audio", *rows]))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line}" for page, line in LINES])
def test_every_command_of_the_documents_is_understood(page, line, folder_of_a_reader):
    """Command, options, config, its argument and its overrides exist, and their values are possible."""
    name, words = ours(line)
    options = arguments.parse(program.command(name), words)
    if isinstance(getattr(options, "config", None), arguments.ConfigFile):
        config_lib.validate(options.config.value)


def test_the_quick_start_as_written(tmp_path):
    """The README's first command after its installation, then the three that follow; only the folder is another."""
    first, evaluate, predict, visualize = [
        line.replace("runs/quickstart", str(tmp_path / "run"))
        for line in commands()
        if "runs/quickstart" in line
    ]
    install, _, train = first.partition(" && ")
    assert install == 'python -m pip install -e ".[quickstart]"'
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.full((90, 120, 3), 200, np.uint8))
    environment = {
        k: v for k, v in os.environ.items() if k != "XLA_FLAGS"
    }  # the tests' own: programs left unoptimised

    def run(line):
        words = [sys.executable if word == "python" else word for word in shlex.split(line)]
        words = [str(tmp_path / word) if word == "photo.jpg" else word for word in words]
        return subprocess.run(
            words, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        ).stdout

    run(train)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test/accuracy"] > 0.705, (
        "logistic regression on frozen features, as the field would do it first"
    )
    assert results["test/accuracy"] > results["baseline/logistic_regression"], (
        "and on the same images, in the same run"
    )
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "Logistic regression, frozen features" in page and "most frequent class of this split" in page
    scores = dict(line.split() for line in run(evaluate).splitlines())
    # The run scores cached float16 features, `evaluate` the images.
    assert abs(float(scores["test/accuracy"]) - results["test/accuracy"]) < 0.01
    assert run(predict).count(" %  ") == 5
    figures = [line for line in run(visualize).splitlines() if line.endswith(".png")]
    assert figures and all(pathlib.Path(figure).exists() for figure in figures)
