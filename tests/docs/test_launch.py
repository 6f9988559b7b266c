"""The files of launch/: processes on this machine, and the cluster's commands with stand-ins that note how they are called."""

import json
import os
import pathlib
import shlex
import subprocess

import numpy as np
import pytest
import yaml

from fusionjax import arguments
from fusionjax import main as train
from fusionjax.train import metrics
from tests.support import process, tiny

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("pictures") / "root")


def bash(script, *words, cwd=None, expect=0, **environment):
    done = subprocess.run(
        ["bash", str(LAUNCH / script), *map(str, words)],
        cwd=cwd or process.ROOT, capture_output=True, text=True, env=os.environ | environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def stand_in(folder, name, body):
    """A command that notes its arguments in <name>.calls, then does `body`."""
    calls = folder / f"{name}.calls"
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$*" >> {shlex.quote(str(calls))}\n{body}\n')
    path.chmod(0o755)
    return calls


def test_two_processes_of_four_devices_give_the_losses_of_one(data, tmp_path):
    """Evaluation, checkpoints and report included; one workdir, written once."""
    losses = []
    for processes, devices in ((1, 1), (2, 4)):
        folder = tmp_path / f"run{processes}"
        bash(
            "local.sh", processes, "python", "-m", "fusionjax.main",
            f"--config=tests/support/tiny.py:root={data},steps=6", f"--workdir={folder}",
            "--config.train.batch_size=16", "--config.loss.pair_group=2", "--config.train.log_every=1",
            "--config.train.checkpoint_every=3", "--config.report.enabled=False",
            DEVICES=str(devices), LOGS=str(tmp_path / "logs"),
        )  # fmt: skip
        records = metrics.read(folder)
        losses.append(
            [r[k] for r in records for k in ("train/loss", "train/loss_pwca", "test/nll") if k in r]
        )
        environment = json.loads((folder / "config.json").read_text())["environment"]
        assert environment["processes"] == processes
    assert len(losses[0]) == len(losses[1]) == 15
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert "test/nll" not in (tmp_path / "logs" / "1.log").read_text()  # process 0 reports


def test_a_failing_process_gives_its_exit_code(tmp_path):
    done = bash(
        "local.sh",
        2,
        "sh",
        "-c",
        'case "$*" in *process=1) exit 7;; esac',
        "sh",
        expect=7,
        LOGS=str(tmp_path),
    )
    assert f"process 1 ended with exit code 7: {tmp_path}/1.log" in done.stderr
    assert "usage" in bash("local.sh", "two", "true", expect=2).stderr


@pytest.mark.parametrize(
    ("code", "starts", "again"),
    [(0, 0, False), (2, 0, False), (75, 0, True), (143, 2, True), (75, 3, False), (137, 9, False)],
)
def test_slurm_starts_again_what_was_preempted(tmp_path, code, starts, again):
    """But not for ever what ends at once."""
    srun = stand_in(tmp_path, "srun", f"exit {code}")
    scontrol = stand_in(tmp_path, "scontrol", "exit 0")
    bash(
        "slurm.sbatch", "--config=cub", "--workdir=runs/a b", expect=0 if again else code,
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", SLURM_JOB_ID="17", SLURM_RESTART_COUNT=str(starts),
    )  # fmt: skip
    assert "fusionjax train --config=cub --workdir=runs/a b" in srun.read_text()
    assert scontrol.exists() == again and (not again or scontrol.read_text() == "requeue 17\n")
    options = [
        line for line in (LAUNCH / "slurm.sbatch").read_text().splitlines() if line.startswith("#SBATCH")
    ]
    assert "#SBATCH --signal=TERM@120" in options and "#SBATCH --requeue" in options


def test_a_job_set_connects_its_pods():
    content = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    [workers] = content["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    asked = [a.replace("$(JOB_COMPLETION_INDEX)", "1") for a in container["args"]]
    options = arguments.parse(train.COMMAND, asked)
    name = content["metadata"]["name"]
    assert (
        options.coordinator == f"{name}-{workers['name']}-0-0.{name}:{container['ports'][0]['containerPort']}"
    )
    assert options.processes == job["completions"] == job["parallelism"] and options.process == 1
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    [rule] = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2]  # a mistake of the user is not tried a hundred times


def test_a_tpu_slice_is_made_used_and_removed(tmp_path):
    gcloud = stand_in(tmp_path, "gcloud", "exit 0")
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "NAME": "cub",
        "ZONE": "z",
        "TYPE": "v4-32",
    }
    for words in (["create"], ["run", "--config=cub", "--workdir=a b"], ["watch"], ["stop"], ["delete"]):
        bash("tpu_vm.sh", *words, **environment)
    calls = gcloud.read_text()
    assert (
        "create cub --accelerator-type=v4-32" in calls
        and "--spot" not in calls
        and "delete cub --quiet" in calls
    )
    assert r"fusionjax train --distributed --config=cub --workdir=a\ b" in calls
    assert "tpu_vm.sh create" in bash("tpu_vm.sh", "run", expect=2, **environment).stderr


def test_a_spot_slice_is_made_anew_until_the_run_is_done(tmp_path):
    """The slice is preempted once; the run answers 75, then 0."""
    states = tmp_path / "states"
    states.write_text("NONE\nREADY none\nPREEMPTED\nNONE\nREADY 75\nREADY runs\nREADY 0\n")
    gcloud = stand_in(
        tmp_path, "gcloud",
        f"""now=$(head -n 1 {states})
case "$*" in
  *describe*) echo "${{now%% *}}"; case $now in READY*) ;; *) sed -i 1d {states} ;; esac ;;
  *fusionjax.exit*cat*|*"cat fusionjax.exit"*) echo "${{now##* }}"; sed -i 1d {states} ;;
esac""",
    )  # fmt: skip
    done = bash(
        "tpu_vm.sh", "keep", "--config=cub", "--workdir=w", EVERY="0",
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", NAME="cub", ZONE="z", TYPE="v4-32",
    )  # fmt: skip
    calls = gcloud.read_text().splitlines()
    assert sum(" create " in f" {c} " and "--spot" in c for c in calls) == 2
    assert sum("fusionjax train --distributed" in c and "nohup" in c for c in calls) == 2
    assert "done" in done.stdout
