"""Comparing finished runs: the numbers, the page, what is refused, and what a real run leaves for it."""

import csv
import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from fusionjax.errors import UserError
from fusionjax.evaluation import classification, per_example
from fusionjax.evaluation.significance import mcnemar
from fusionjax.experiment import trainer, workdir
from fusionjax.interpret import comparison as page
from fusionjax.interpret import comparison_figures
from fusionjax.studies import comparison
from tests.support import process, tiny

pytestmark = pytest.mark.usefixtures("libraries_warn")


def hand_made(
    folder, values, *, examples="e1", names=None, read=("test",), fields=(), records=(), environment=()
):
    """A finished run's workdir, of what a comparison reads; `values`: array → a value an example."""
    folder.mkdir(parents=True)
    c = tiny.get_config("root=/nowhere")
    for key, value in dict(fields).items():
        section, _, name = key.rpartition(".")
        target = c
        for part in filter(None, section.split(".")):
            target = target[part]
        target[name] = value
    workdir.write(folder, c, {"examples": {"train": "t", **dict.fromkeys(read, examples)}})
    n = len(next(iter(values.values())))
    per_example.write(
        folder,
        {
            "name": [f"{i:04d}.png" for i in range(n)] if names is None else names,
            "split": np.array("test"),
            "read": np.array(read),
            **values,
        },
    )
    results = {
        f"test/{per_example.MEASURES[k]}": float(np.mean(v))
        for k, v in values.items()
        if k in per_example.MEASURES
    }
    (folder / "results.json").write_text(json.dumps({**results, "step": 12, "seconds": 75.0}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def said_of(found):
    """The text on one line: where it breaks does not matter."""
    return " ".join(page.text(found).split())


def right(share, n=300, seed=0):
    return (np.random.default_rng(seed).random(n) < share).astype(np.uint8)


def logged(height, steps=60):
    records = []
    for s in range(5, steps + 1, 5):
        records.append(
            {"step": s, "train/loss": 3 / s**0.5 + 0.1 * np.sin(s) - height, "train/learning_rate": 1e-3}
        )
        if s % 15 == 0:
            records.append({"step": s, "val/accuracy": height * s / steps, "val/nll": 3 - s / 30})
    return [*records, {"step": steps, "test/accuracy": height}]


@pytest.fixture
def ablations(tmp_path):
    """Two configs, two seeds each."""
    made = []
    for k, ablation in enumerate(("full", "sa_only")):
        for seed in (0, 1):
            values = {"correct": right(0.82 - 0.12 * k, seed=7 + 10 * k + seed)}
            fields = {"seed": seed, "model.ablation": ablation}
            folder = tmp_path / "runs" / f"{ablation}_{seed}"
            made.append(hand_made(folder, values, fields=fields, records=logged(0.8 - 0.1 * k + 0.02 * seed)))
    return made


def test_numbers_are_those_of_the_examples(ablations):
    found = comparison.compare(ablations)
    values = [np.load(f / "outcomes.npz")["correct"].astype(float) for f in ablations]
    assert found.measures == ["accuracy"] and [r.name for r in found.rows] == [f.name for f in ablations]
    first = found.rows[0].scores["accuracy"]
    assert first.difference is None and first.p is None and first.value == values[0].mean()
    for row, v in list(zip(found.rows, values, strict=True))[1:]:
        score, want = row.scores["accuracy"], mcnemar(values[0], v)
        assert score.difference == pytest.approx(v.mean() - values[0].mean())
        assert (score.p, score.gained, score.lost) == (want.p, want.gained, want.lost)
        low, high = score.difference_interval
        half = 1.96 * (v - values[0]).std() / np.sqrt(len(v))
        assert (low, high) == pytest.approx(
            (score.difference - half, score.difference + half), abs=0.12 * half
        )
        half = 1.96 * v.std() / np.sqrt(len(v))
        assert score.interval == pytest.approx((v.mean() - half, v.mean() + half), abs=0.12 * half)
    assert list(found.fields.values()) == ["ablation", "seed"]
    assert found.rows[2].fields == {"model.ablation": "sa_only", "seed": 0}


def test_seeds_of_one_config_are_grouped(ablations):
    found = comparison.compare(ablations)
    values = [np.load(f / "outcomes.npz")["correct"].mean() for f in ablations]
    assert [g.name for g in found.groups] == ["ablation=full", "ablation=sa_only"]
    assert [list(g.members) for g in found.groups] == [["full_0", "full_1"], ["sa_only_0", "sa_only_1"]]
    second = found.groups[1]
    assert second.scores["accuracy"].value == pytest.approx(np.mean(values[2:]))
    assert second.scores["accuracy"].difference == pytest.approx(np.mean(values[2:]) - np.mean(values[:2]))
    assert second.deviation("accuracy") == pytest.approx(abs(values[2] - values[3]) / np.sqrt(2))
    assert not comparison.compare(ablations[:3]).groups, "one run is no mean"
    assert len(comparison.compare(ablations[:3], group=True).groups) == 2
    assert not comparison.compare(ablations, group=False).groups


def test_average_precision_is_tested_by_the_bootstrap(tmp_path):
    rng = np.random.default_rng(0)
    ap = rng.beta(2, 1, 200)
    better = np.clip(ap + 0.03 + 0.05 * rng.standard_normal(200), 0, 1)
    read = ("query", "gallery")
    folders = [
        hand_made(tmp_path / n, {"average_precision": v, "rank1": (v > 0.4).astype(np.uint8)}, read=read)
        for n, v in (("a", ap), ("b", better), ("c", ap))
    ]
    found = comparison.compare(folders)
    assert found.measures == ["mAP", "rank1"]
    b, c = (found.rows[i].scores["mAP"] for i in (1, 2))
    assert b.test == "paired bootstrap" and b.p < 0.001 < b.difference_interval[0] and b.gained is None
    assert (c.difference, c.p, c.difference_interval) == (0.0, 1.0, (0.0, 0.0))
    assert found.rows[1].scores["rank1"].test == "McNemar, exact"
    assert "Where an interval is empty" in said_of(found), "of c, which is a again"
    assert "Queries of one identity are correlated" in said_of(found)


def test_the_text_says_what_the_intervals_are(ablations):
    found = comparison.compare(ablations)
    said = said_of(found)
    assert "over test examples, not over training seeds" in said and "2,000 for a difference" in said
    assert "not corrected for the 3 comparisons" in said and "accuracy, test, 300 examples" in said
    lines = page.text(found).splitlines()
    assert lines[1].split()[:5] == ["run", "ablation", "seed", "accuracy", "%"]
    assert len({line.index("–") for line in lines[2:6]}) == 1, "columns are aligned"
    alone = page.text(comparison.compare(ablations[:1]))
    assert "interval is empty" not in said + alone
    assert "difference" not in alone and " p " not in alone


def test_markdown_and_csv_hold_the_same(ablations, tmp_path):
    found = comparison.compare(ablations)
    page.write(tmp_path / "out", found)
    assert (tmp_path / "out" / "comparison.md").read_text().count(
        "\n| "
    ) == 6 + 4  # heads, rules, rows of two tables
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["run"] for r in rows] == [r.name for r in found.rows] and rows[0]["difference"] == ""
    for line, row in zip(rows, found.rows, strict=True):
        s = row.scores["accuracy"]
        assert float(line["value"]) == s.value and float(line["low"]) == s.interval[0]
        assert line["model.ablation"] == row.fields["model.ablation"]
    assert float(rows[2]["p"]) == found.rows[2].scores["accuracy"].p


def test_names_are_no_formulas_in_csv(tmp_path):
    """A spreadsheet program would run them."""
    names = ("=cmd", "+1+1", "-2+3", "@SUM(A1)", "plain")
    folders = [hand_made(tmp_path / name, {"correct": right(0.8, seed=i)}) for i, name in enumerate(names)]
    page.write(tmp_path / "out", comparison.compare(folders))
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["run"] for r in rows] == ["'=cmd", "'+1+1", "'-2+3", "'@SUM(A1)", "plain"]
    assert all(float(r["difference"] or 0) <= 1 for r in rows), "numbers stay numbers, negative ones too"


def test_the_interval_of_a_run_is_that_of_its_report(tmp_path):
    """Whatever runs it is compared with, at any seed."""
    values = [right(0.7, n=50, seed=s) for s in range(3)]
    folders = [
        hand_made(tmp_path / str(s), {"correct": v}, fields={"seed": s, "optim.momentum": 0.1 * s + 0.1})
        for s, v in enumerate(values)
    ]
    for paired in (True, False):
        for row, v in zip(comparison.compare(folders, paired=paired).rows, values, strict=True):
            p = np.stack([1 - v, v], axis=1).astype(np.float32)
            report = classification.evaluate(p, np.ones(50, int))
            assert row.scores["accuracy"].interval == report.accuracy_interval


def test_images_replaced_under_the_same_names_are_no_pairs(tmp_path):
    folders = [hand_made(tmp_path / name, {"correct": right(0.8)}) for name in "abc"]
    for folder, digest in zip(folders, ("files:1", "files:2", "loaded:3"), strict=True):
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, "contents": {"test": digest}}))
    with pytest.raises(
        UserError, match="different images of the same names: the contents of their files differ"
    ):
        comparison.compare(folders[:2])
    assert comparison.compare(folders[::2]), "sampled in another way"
    assert comparison.compare(folders[:2], paired=False)


def test_the_page_links_to_the_reports_that_are_there(tmp_path):
    runs = [hand_made(tmp_path / "runs" / name, {"correct": right(0.5)}) for name in ("a #1", "b")]
    (runs[0] / "report").mkdir()
    (runs[0] / "report" / "index.html").write_text("page")
    text = page.write(tmp_path / "runs" / "side", comparison.compare(runs)).read_text()
    assert text.count('<a href="../a%20%231/report/index.html">a #1</a>') == 2, (
        "in the results, and among the runs"
    )
    assert "b/report" not in text and "<td>b</td>" in text


def test_the_page_is_whole(ablations, tmp_path):
    out = tmp_path / "out"
    found = comparison.compare(ablations)
    text = page.write(out, found).read_text()
    for name in ("intervals", "seeds", "curves"):
        assert f'src="comparison_{name}.png"' in text
        with Image.open(out / f"comparison_{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    assert "not over training seeds" in text and "1 min 15 s" in text and "<script" not in text
    (out / "mine.txt").write_text("mine")
    alone = hand_made(tmp_path / "alone", {"correct": right(0.5)})
    page.write(out, comparison.compare([alone]))
    assert sorted(os.listdir(out)) == [".comparison.json",
        "comparison.csv", "comparison.md", "comparison_intervals.png", "index.html", "mine.txt",
    ]  # fmt: skip
    for folder, what in ((alone, "a run"), (tmp_path / "page", "a page that is no comparison")):
        folder.mkdir(exist_ok=True)
        if folder != alone:
            (folder / "index.html").write_text("another")
        with pytest.raises(UserError, match=f"holds {what}; name another folder"):
            page.write(folder, found)
    with pytest.raises(UserError, match="is a file"):
        page.write(tmp_path / "page" / "index.html", found)


def test_what_no_example_says_by_itself_stands_beside(tmp_path):
    runs = [hand_made(tmp_path / name, {"correct": right(0.5)}) for name in "ab"]
    for k, run in enumerate(runs):
        path = run / "results.json"
        scores = {"test/knn/rgb": 0.25 + k, "test/kind": "text", "val/knn/rgb": 0.75, f"test/only_{k}": 1.0}
        path.write_text(json.dumps(json.loads(path.read_text()) | scores))
        (run / "report").mkdir()
        for name in ("joint_map", "confusion_matrix", "curves", *["similarities_rgb_and_uv"] * k):
            Image.new("RGB", (4, 3), (k, 0, 0)).save(run / "report" / f"figure_{name}.png")
    found = comparison.compare(runs)
    assert found.further == {"knn/rgb": [0.25, 1.25]}
    assert [*found.pictures] == ["Confusion matrix", "Joint map of the embeddings"]
    assert "Further scores, test, without intervals" in page.text(found) and "0.250" in page.markdown(found)
    out = page.write(tmp_path / "out", found).parent
    text = (out / "index.html").read_text()
    for k in range(2):
        name = f"comparison_{k:02d}_figure_joint_map.png"
        assert f'src="{name}"' in text and Image.open(out / name).getpixel((0, 0)) == (k, 0, 0)
    page.write(out, comparison.compare(runs[:1]))
    assert not list(out.glob("comparison_01_*"))


def test_hostile_names_are_text(tmp_path):
    folders = [
        hand_made(tmp_path / name, {"correct": right(0.5, seed=i)}, names=[f"\udcff{j}\n" for j in range(300)],
                  fields={"pretrained.source": "<script>alert(1)</script> $x | y"} if i else {})
        for i, name in enumerate(("<b>$\\frac{1}{0}$|", "line\nbreak\x07"))
    ]  # fmt: skip
    found = comparison.compare(folders)
    text = page.write(tmp_path / "out", found).read_text()
    assert "<script>alert" not in text and "<b>" not in text and "&lt;b&gt;" in text
    assert "\x07" not in page.text(found) and "<script" not in page.markdown(found)
    assert all(line.count(" | ") == page.markdown(found).splitlines()[2].count(" | ")
               for line in page.markdown(found).splitlines()[2:6])  # fmt: skip


def test_many_fields_have_a_table_of_their_own(tmp_path):
    other = {
        "optim.learning_rate": 1e-5,
        "optim.name": "sgd",
        "model.ratio": 0.5,
        "model.ablation": "sa_glca",
    }
    folders = [
        hand_made(tmp_path / n, {"correct": right(0.7)}, fields=f) for n, f in (("a", {}), ("b", other))
    ]
    found = page.tables(comparison.compare(folders))
    assert found[-1].title == "Where the configs differ"
    assert ["optim.learning_rate", "0.003", "1e-05"] in found[-1].rows and len(found[-1].rows) == 4
    assert found[0].heads[:2] == ["run", "accuracy %"]


def test_what_flatters_or_muddles_is_said(tmp_path):
    base = {"correct": right(0.7)}
    a = hand_made(tmp_path / "x" / "run", base, fields={"train.best_metric": "test/accuracy"})
    b = hand_made(tmp_path / "y" / "run", base)
    c = hand_made(tmp_path / "z" / "run", base, fields={"data.threads": 3})
    content = json.loads((b / "config.json").read_text())
    content["examples"]["train"], content["environment"]["jax"] = "other", "0.1"
    (b / "config.json").write_text(json.dumps(content))
    said = said_of(comparison.compare([a, b, c]))
    assert "! The checkpoints of x/run were selected on the split that is scored" in said
    assert "! The runs were trained on different examples." in said
    assert "! A seed occurs more than once in y/run, z/run" in said, "threads are no difference"
    assert "different versions of JAX" in said


def test_unpaired_compares_other_examples(tmp_path):
    a = hand_made(tmp_path / "a", {"correct": right(0.8)}, examples="one")
    b = hand_made(tmp_path / "b", {"correct": right(0.7, n=240)}, examples="two", fields={"seed": 1})
    with pytest.raises(UserError, match=r"different examples \(.*config.seed determines .*--unpaired"):
        comparison.compare([a, b])
    found = comparison.compare([a, b], paired=False)
    score = found.rows[1].scores["accuracy"]
    assert score.p is None and score.gained is None
    half = 1.96 * np.sqrt(0.8 * 0.2 / 300 + 0.7 * 0.3 / 240)
    low, high = score.difference_interval
    assert (high - low) / 2 == pytest.approx(half, rel=0.12)
    said = said_of(found)
    assert (
        "! Unpaired" in said
        and "different examples" in said
        and "McNemar" not in said
        and "240 to 300" in said
    )


def test_mistakes_are_one_line(tmp_path):
    good = hand_made(tmp_path / "good", {"correct": right(0.8)})

    def says(message, *folders):
        with pytest.raises(UserError, match=message) as e:
            comparison.compare(folders)
        assert "\n" not in str(e.value)

    says("a workdir is missing")
    says("is listed twice", good, tmp_path / "good" / ".." / "good")
    (tmp_path / "empty").mkdir()
    says("empty has no config.json", good, tmp_path / "empty")
    says("nowhere has no config.json", tmp_path / "nowhere")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"hidden_size": 768}')
    says(r"foreign/config.json is damaged \(it holds no config\)", foreign)
    running = hand_made(tmp_path / "running", {"correct": right(0.8)})
    (running / "results.json").unlink()
    says("running is not finished: .* run its training command again", good, running)
    cut = hand_made(tmp_path / "cut", {"correct": right(0.8)})
    for content in ('{"test/accur', "3", "[]", "[" * 200_000, '{"seconds": "x"}'):
        (cut / "results.json").write_text(content)
        says("results.json is damaged", cut)
    (cut / "results.json").write_text('{"test/accuracy": null}')
    says("do not belong together", cut)
    newer = hand_made(tmp_path / "newer", {"correct": right(0.8)})
    (newer / "config.json").write_text('{"config": {"sead": 1}}')
    says("newer: config.sead is not a field of this version", newer)
    old = hand_made(tmp_path / "old", {"correct": right(0.8)})
    (old / "outcomes.npz").unlink()
    says("outcomes.npz is missing.*start the run's training command again", old)
    fewer = hand_made(tmp_path / "fewer", {"correct": right(0.8, n=299)})
    says("300 and 299, 299 in common", good, fewer)
    people = hand_made(tmp_path / "people", {"average_precision": np.full(300, 0.5)})
    says("cannot be compared: one has test/accuracy, the other test/mAP", good, people)


def test_curves_have_more_than_one_point(tmp_path):
    """A score of the last step alone is no curve; a step that was logged twice counts once; null is no number."""
    twice = [{"step": 10, "train/loss": 9.0}, {"step": 20, "train/loss": None}]
    a = hand_made(tmp_path / "a", {"correct": right(0.8)}, records=[*twice, *logged(0.8)])
    b = hand_made(tmp_path / "b", {"correct": right(0.8)}, records=logged(0.7, steps=30))
    figure = comparison_figures.curves(comparison.compare([a, b]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "loss, training", "accuracy in %, val", "negative log likelihood in nats, val",
    ]  # fmt: skip
    first, second = figure.axes[0].lines
    assert list(first.get_xdata()) == list(range(5, 61, 5)) and max(first.get_ydata()) < 9
    assert list(second.get_xdata()) == list(range(5, 31, 5)) and first.get_color() != second.get_color()
    quiet = hand_made(
        tmp_path / "quiet", {"correct": right(0.8)}, records=[{"step": 1, "test/accuracy": 0.8}]
    )
    assert comparison_figures.curves(comparison.compare([quiet])) is None


def test_two_real_runs(tmp_path):
    """One is trained, and its results average to its scores; the other is it with some answers changed. Then the command."""
    root = tiny.pictures(tmp_path / "pictures")
    c = tiny.get_config(f"root={root},steps=4")
    c.report.enabled, c.data.eval_splits, c.model.ablation, c.optim.ema_decay = (
        False,
        ("test",),
        "sa_only",
        0.0,
    )
    one, two = tmp_path / "one", tmp_path / "two"
    summary = trainer.Experiment(c, one).train()
    with np.load(one / "outcomes.npz", allow_pickle=False) as file:
        stored = {k: file[k] for k in file.files}
    assert stored["correct"].mean() == summary["test/accuracy"]
    assert -np.log(stored["probability"]).mean() == pytest.approx(summary["test/nll"], abs=1e-5)
    assert ((stored["label"] == stored["prediction"]) == stored["correct"]).all()
    found = per_example.read(one, summary)
    assert len(found.names) == 9 and all((root / name).exists() for name in found.names)
    assert {tiny.CLASSES[k] for k in stored["label"]} == {pathlib.Path(n).parts[0] for n in found.names}

    (one / "outcomes.npz").unlink()
    again = trainer.Experiment(c, one).train()
    assert (
        again["test/accuracy"] == summary["test/accuracy"]
        and per_example.read(one, again).names == found.names
    )

    two.mkdir()
    content = json.loads((one / "config.json").read_text())
    content["config"]["model"]["ablation"] = "sa_glca"
    (two / "config.json").write_text(json.dumps(content))
    (two / "metrics.jsonl").write_bytes((one / "metrics.jsonl").read_bytes())
    values = {k: v for k, v in stored.items() if not k.startswith("name_")}
    per_example.write(two, values | {"name": found.names, "correct": 1 - stored["correct"]})
    (two / "results.json").write_text(json.dumps({**summary, "test/accuracy": 1 - summary["test/accuracy"]}))

    def command(*arguments, **settings):
        return process.python("-m", "fusionjax.compare", *arguments, **settings)

    done = command(one, two, f"--out={tmp_path / 'out'}")
    n = int(stored["correct"].sum())
    assert f"{9 - n} : {n}" in done.stdout and "sa_glca" in done.stdout and "index.html" in done.stdout
    assert (tmp_path / "out" / "index.html").exists()
    refused = command(one, one, expect=2)
    assert refused.stderr.count("\n") == 1 and "listed twice" in refused.stderr


def test_a_comparison_repeats_what_its_runs_say(tmp_path):
    """A sentence of several runs once, with their names."""
    made = [hand_made(tmp_path / name, {"correct": right(0.7)}) for name in "abc"]
    for folder, said in zip(made, (["few"], ["few", "1 of 3 classes is never predicted"], []), strict=True):
        path = folder / "results.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "cautions": said}))
    found = comparison.compare(made)
    assert [line for line in found.warnings if line.endswith(("few", "predicted"))] == [
        "a, b: few",
        "b: 1 of 3 classes is never predicted",
    ]
    assert "1 of 3 classes is never predicted" in page.write(tmp_path / "page", found).read_text()


def test_a_run_whose_text_leaks_is_no_measurement(tmp_path):
    fields = {"task": "fusion", "model.name": "fusion", "text.kind": "class"}
    a = hand_made(tmp_path / "a", {"correct": np.array([1, 0, 1])})
    b = hand_made(tmp_path / "b", {"correct": np.array([1, 1, 1])}, fields=fields)
    said = comparison.compare([a, b]).warnings
    assert any("Label leakage: the text of every image in b is the description" in line for line in said)
    assert not any("Label leakage" in line for line in comparison.compare([a]).warnings)
