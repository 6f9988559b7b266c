"""A field that a run does not read is an error, unless it is at its default."""

import importlib
from fnmatch import fnmatchcase

import pytest

from fusionjax import config as config_lib
from fusionjax import register
from fusionjax.config import ownership, schema
from fusionjax.errors import UserError

RUNS = {
    "classification": ("cub", "root=x"),
    "reid": ("market1501", "root=x"),
    "fusion": ("openmoji_fusion", ""),
    "mvpdr": ("openmoji_fusion", "baseline=mvpdr"),
    "spectral": ("openmoji_spectral", ""),
    "trimodal": ("stamps_trimodal", ""),
    "audiovisual": ("stamps_audiovisual", ""),
    "vqa": ("stamps_vqa", ""),
}
"""Task → a config of it, and its argument."""
FOREIGN = {
    "fusion.head": ("adaptive", "reid mvpdr spectral trimodal audiovisual classification"),
    "fusion.rank": (8, "classification reid fusion mvpdr spectral trimodal audiovisual vqa"),
    "mvpdr.per_class": (4, "classification reid fusion spectral trimodal audiovisual vqa"),
    "mvpdr.max_prompts": (4, "classification reid fusion spectral trimodal audiovisual vqa"),
    "text.encoder": ("x", "classification reid spectral audiovisual"),
    "text.bank_level": ("token", "classification reid fusion mvpdr spectral trimodal audiovisual vqa"),
    "text.descriptions": ("x.json", "classification reid fusion mvpdr spectral trimodal audiovisual vqa"),
    "trimodal.hidden": (8, "classification reid fusion mvpdr spectral vqa"),
    "audio.seconds": (1.0, "classification reid fusion mvpdr spectral vqa"),
    "spectral.temperature": (0.2, "classification reid fusion mvpdr trimodal audiovisual vqa"),
    "data.modalities": ((("rgb", (0, 1, 2)),), "reid fusion mvpdr trimodal audiovisual vqa"),
    "data.questions": ("columns", "classification reid fusion mvpdr spectral trimodal audiovisual"),
    "data.answers": (10, "classification reid fusion mvpdr spectral trimodal audiovisual"),
    "data.renderings": (("line",), "classification reid spectral trimodal audiovisual vqa"),
    "data.languages": (("en", "de"), "classification reid fusion mvpdr spectral"),
    "data.sound": ("any", "classification reid fusion mvpdr spectral"),
    "data.builder": ("cars196", "classification reid fusion mvpdr spectral trimodal audiovisual vqa"),
    "data.fractions": ((0.5, 0.25, 0.25), "classification reid"),
    "data.root": ("x", "fusion mvpdr spectral"),
    "loss.label_smoothing": (0.2, "mvpdr spectral"),
    "loss.balanced": (True, "reid mvpdr spectral vqa"),
    "loss.focal_gamma": (2.0, "reid mvpdr spectral vqa"),
    "loss.mixup": (0.8, "reid fusion mvpdr spectral trimodal audiovisual vqa"),
    "loss.branch_weighting": ("sum", "fusion mvpdr spectral trimodal audiovisual vqa"),
    "loss.metric": ("circle", "classification fusion mvpdr spectral trimodal audiovisual vqa"),
    "loss.circle_scale": (32.0, "classification reid fusion mvpdr spectral trimodal audiovisual vqa"),
    "evaluation.metric": ("euclidean", "classification fusion mvpdr spectral trimodal audiovisual vqa"),
    "evaluation.rerank": (True, "classification fusion mvpdr spectral trimodal audiovisual vqa"),
    "evaluation.rerank_k1": (9, "classification reid fusion mvpdr spectral trimodal audiovisual vqa"),
    "optim.momentum": (0.8, "classification fusion mvpdr spectral trimodal audiovisual vqa"),
    "optim.b2": (0.99, "reid"),
    "optim.trust_coefficient": (0.1, " ".join(RUNS)),
    "data.augment.rand_magnitude": (3.0, " ".join(RUNS)),
    "data.augment.pad": (4, "fusion mvpdr spectral trimodal audiovisual vqa"),
    "data.cache.passes": (2, "classification reid spectral"),
    "data.image_size": (128, "reid"),
    "model.stride": (8, "fusion mvpdr spectral trimodal audiovisual vqa"),
    "model.depth": (3, "mvpdr spectral trimodal audiovisual"),
    "model.width": (48, "mvpdr spectral"),
    "model.crossvit.mlp_ratio": ((4.0, 4.0, 4.0), " ".join(RUNS)),
}
"""Field → another value than its default, and the tasks whose runs above do not read it."""


def run(task):
    name, arg = RUNS[task]
    return importlib.import_module(f"configs.{name}").get_config(arg)


def put(config, key, value):
    *path, field = key.split(".")
    for part in path:
        config = config[part]
    config[field] = value


@pytest.mark.parametrize("task", RUNS)
@pytest.mark.parametrize("key", FOREIGN)
def test_only_what_reads_a_field_takes_it(task, key):
    value, strangers = FOREIGN[key]
    config = run(task)
    put(config, key, value)
    found = ownership.unread(config)
    assert (key in found) == (task in strangers.split())
    if key in found:
        with pytest.raises(UserError) as e:
            ownership.check(config)
        assert "\n" not in str(e.value) and "is not read by this run" in str(e.value)
        assert f"--config.{found[0]}=" in str(e.value)


@pytest.mark.parametrize("task", RUNS)
def test_no_section_of_another_task_is_taken(task):
    config, own = run(task), register.tasks.get(task).sections
    for section in schema.task_sections():
        if section in own:
            continue
        for key, value in config[section].items():
            with config.ignore_type():
                config[section][key] = ("other", value)
            assert ownership.unread(config) == [f"{section}.{key}"]
            with config.ignore_type():
                config[section][key] = value


def test_a_message_says_who_reads_the_field_and_what_to_do():
    for task, key, value, said in (
        ("classification", "fusion.head", "nonsense",
         "config.fusion.head='nonsense' is not read by this run: one of the tasks fusion, vqa reads it, not "
         "'classification'. To leave it at the default: --config.fusion.head=concat"),
        ("classification", "optim.momentum", 0.5,
         "config.optim.momentum=0.5 is not read by this run: it is read only with optim.name='sgd' or 'lars'. To "
         "leave it at the default: --config.optim.momentum=0.9"),
        ("classification", "data.renderings", ("line",),
         "config.data.renderings=('line',) is not read by this run: the data source 'openmoji' reads it, not 'cub'. To "
         "leave it at the default: --config.data.renderings='('\"'\"'color'\"'\"',)'"),
        ("fusion", "fusion.rank", 8,
         "config.fusion.rank=8 is not read by this run: the task 'fusion' does not read it with its other settings. To "
         "leave it at the default: --config.fusion.rank=4"),
    ):  # fmt: skip
        config = run(task)
        put(config, key, value)
        with pytest.raises(UserError) as e:
            config_lib.validate(config)
        assert str(e.value) == said
    put(config, "audio.seconds", 1.0)
    put(config, "mvpdr.alpha", 1.0)
    with pytest.raises(
        UserError,
        match="seconds=1.0 .*: --config.audio.seconds=4.0 --config.fusion.rank=4 --config.mvpdr.alpha=0.3$",
    ):
        config_lib.validate(config)


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("classification", {"model.ablation": "sa_only"}),
        ("classification", {"model.ablation": "sa_glca", "loss.branch_weighting": "sum"}),
        ("classification", {"optim.name": "sgd"}),
        ("classification", {"data.source": "folder"}),
        ("classification", {"data.source": "prepared"}),
        ("classification", {"report.enabled": False, "train.steps": 1}),
        ("classification", {"optim.name": "sgd", "optim.momentum": 0.8}),
        ("reid", {"model.ablation": "sa_only", "loss.pair_group": 8}),
        ("reid", {"evaluation.rerank": True, "evaluation.rerank_k1": 9}),
        ("fusion", {"fusion.mode": "image"}),
        ("fusion", {"fusion.mode": "concat"}),
        ("fusion", {"fusion.head": "low_rank", "fusion.rank": 8}),
        ("fusion", {"text.kind": "bank", "text.descriptions": "openmoji", "text.bank_level": "token"}),
        ("mvpdr", {"train.epochs": 0.0, "train.best_metric": ""}),
        ("trimodal", {"trimodal.modalities": ("image", "text")}),
        ("audiovisual", {"trimodal.modalities": ("image",)}),
        ("spectral", {"spectral.fusion": "attention", "spectral.query_width": 64}),
        ("spectral", {"spectral.train_on": ("line",)}),
        ("vqa", {"data.question_types": ("is_it",)}),
    ],
)
def test_overrides_that_users_write(task, fields):
    config = run(task)
    for key, value in fields.items():
        put(config, key, value)
    config_lib.validate(config)


VARIATIONS = (
    {}, {"text.kind": "bank"}, {"text.kind": "class"}, {"fusion.head": "bilinear"}, {"fusion.head": "bottleneck"},
    {"fusion.head": "low_rank"}, {"mvpdr.prompts": "captions"}, {"audio.encoder": "wav2vec2_base"},
)  # fmt: skip


MODEL_SECTIONS = ("crossvit",)


def patterns():
    """Every pattern that some run reads by."""
    found = {*ownership.READ_BY_EVERY_RUN, *(field for c in ownership.CONDITIONS for field in c.fields)}
    found |= {f"data.{field}" for _, record in register.datasets.records() for field in record.reads}
    fields = {f for _, record in register.backbones.records() for f in (*record.reads, *record.spared)}
    fields |= {f for _, record in register.tasks.records() for own in record.builds.values() for f in own}
    found |= {f"model.{field}{'.*' if field in MODEL_SECTIONS else ''}" for field in fields}
    for variation in VARIATIONS:
        config = config_lib.default()
        for key, value in variation.items():
            put(config, key, value)
        found |= {pattern for _, record in register.tasks.records() for pattern in record.reads(config)}
    return found


def test_every_field_has_a_reader_and_every_reader_a_field():
    names = [key for key, _ in ownership.leaves(config_lib.default())]
    read = patterns()
    assert [key for key in names if not any(fnmatchcase(key, p) for p in read)] == []
    assert [p for p in sorted(read) if not any(fnmatchcase(key, p) for key in names)] == []


def test_a_task_of_ones_own_says_what_its_model_reads(monkeypatch):
    monkeypatch.setattr(register.tasks, "_found", dict(register.tasks._found))
    register.task("pairs", builds={"pair": ("trunk", "width")})(lambda config, facts: None)
    config = config_lib.default()
    config.task, config.model.name, config.model.trunk, config.model.width = "pairs", "pair", "resnet50", 32
    config.model.heads = 4
    with pytest.raises(
        UserError, match="model.heads=4 is not read .* 'pair' has no such field; it has trunk, width"
    ):
        config_lib.validate(config)
    config.model.heads = 0
    config_lib.validate(config)
    for task, name, message in (
        ("pairs", "vit_shallow", "the task pairs builds 'pair'"),
        ("classification", "pair", "set task='pairs'"),
    ):
        config = config_lib.default()
        config.task, config.model.name = task, name
        with pytest.raises(UserError, match=message):
            config_lib.validate(config)


def test_what_overrides_switch_off_returns_to_its_default_and_nothing_else_does():
    before = run("reid")
    before.loss.focal_alpha = 0.5  # the file's own mistake
    config = before.copy_and_resolve_references()
    config.optim.name, config.optim.b2, config.data.augment.erase = "adamw", 0.99, 0.0
    config.evaluation.rerank_k1 = 9  # the user's own mistake
    before.optim.momentum = config.optim.momentum = 0.8
    gone = ownership.put_back(
        config, before, ("optim.name", "optim.b2", "data.augment.erase", "evaluation.rerank_k1")
    )
    assert sorted(gone) == ["data.augment.erase_fill", "optim.momentum"]
    assert ownership.unread(config) == ["evaluation.rerank_k1", "loss.focal_alpha"]
    normal = config_lib.default()
    assert config.optim.momentum == normal.optim.momentum
    assert config.data.augment.erase_fill == normal.data.augment.erase_fill
