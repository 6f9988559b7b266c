"""The table of models: its command, and its counts against published ones and formulas."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from fusionjax.models import __main__ as command
from fusionjax.models import cards, names

# The table of docs/methods/crossvit.md (timm's): parameters, GMACs.
CROSSVIT = {
    "crossvit_tiny_240": (7_014_800, 1.57),
    "crossvit_small_240": (26_856_272, 5.63),
    "crossvit_base_240": (105_025_232, 21.22),
    "crossvit_9_240": (8_553_296, 1.85),
    "crossvit_15_240": (27_528_464, 5.81),
    "crossvit_18_240": (43_271_408, 9.05),
    "crossvit_9_dagger_240": (8_776_592, 1.99),
    "crossvit_15_dagger_240": (28_209_008, 6.13),
    "crossvit_18_dagger_240": (44_266_976, 9.50),
    "crossvit_15_dagger_408": (28_500_080, 21.45),
    "crossvit_18_dagger_408": (44_606_560, 32.47),
}
OTHERS = {
    "vit_base_patch16_224": (86_567_656, 17.58),
    "deit_tiny_patch16_224": (5_717_416, 1.26),
    "resnet50": (25_557_032, 4.11),
    "efficientnet_b0": (5_288_548, 0.39),
    "wav2vec2_base": (94_371_712, 6.91),
}


def test_the_table_has_the_published_counts(capsys):
    chosen = [*CROSSVIT, *OTHERS, "efficientnet_lite0"]
    assert command.main(chosen) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert list(rows) == [name for name in names() if any(part in name for part in chosen)]
    for name, (parameters, gmacs) in {**CROSSVIT, **OTHERS}.items():
        cells = rows[name].split()
        assert cells[1] == f"{parameters:,}", name
        assert float(cells[2]) == pytest.approx(gmacs, rel=0.02), name
    assert rows["wav2vec2_base"].split()[3:] == ["16000", "transformers", "facebook/wav2vec2-base"]
    assert rows["efficientnet_lite0"].endswith("package:efficientnet_lite0")


def test_vit_equals_the_formula():
    n, d = 197, 768
    want = 12 * (12 * n * d * d + 2 * n * n * d) + 196 * d * d + 1000 * d
    assert cards.card("vit_base_patch16_224").gmacs == pytest.approx(want / 1e9, rel=1e-9)


def test_loops_and_groups_are_counted():
    def loop(x):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.dot)(x, x), None), x, length=5)[0]

    assert cards.macs(jax.make_jaxpr(loop)(jnp.ones((4, 4))).jaxpr) == 5 * 64

    def depthwise(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, jnp.ones((3, 3, 1, 8)), (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=8
        )

    assert cards.macs(jax.make_jaxpr(depthwise)(jnp.ones((1, 6, 6, 8))).jaxpr) == 6 * 6 * 8 * 9


def test_the_command_starts_and_says_what_it_does_not_find():
    call = [sys.executable, "-m", "fusionjax.models"]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([*call, "crossvit_9_240"], capture_output=True, text=True, cwd=root, check=True)
    assert "8,553,296   1.84  240×240×3" in done.stdout and len(done.stdout.splitlines()) == 2
    done = subprocess.run([*call, "crosvit"], capture_output=True, text=True, cwd=root)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "crosvit" in done.stderr
