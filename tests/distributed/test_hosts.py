"""Processes of one run start together, agree, and end together: whoever is gone, late or failed is named."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from fusionjax.distributed import hosts
from fusionjax.errors import UserError
from tests.support.process import ROOT


def pair(how: str) -> list[subprocess.CompletedProcess]:
    """Both processes of tests.support.peers, at their ends."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.peers", str(port), str(index), how],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
        )
        for index in (0, 1)
    ]  # fmt: skip
    try:
        said = [started[0].communicate(timeout=120)]
        if how == "SIGSTOP":
            started[1].send_signal(signal.SIGKILL)
        said.append(started[1].communicate(timeout=120))
    finally:
        for one in started:
            one.kill()
    return [
        subprocess.CompletedProcess(one.args, one.returncode, *out)
        for one, out in zip(started, said, strict=True)
    ]


def test_all_meet_and_end():
    for one in pair("well"):
        assert one.returncode == 0 and one.stdout.count("met") == 1, one.stderr


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("SIGKILL", r"process 1 of 2 \(.+\) is gone: no sign of life for 3 s"),
        ("SIGSTOP", r"process 1 of 2 \(.+\) is gone: no sign of life for 3 s"),
        ("SIGTERM", r"process 1 of 2 \(.+\) ended: terminated"),
        ("error", r"process 1 of 2 \(.+\) ended: the disk is full"),
        ("late", r"process 1 of 2 \(.+\) did not come to step 2 in time"),
    ],
)
def test_who_is_missing_is_named_and_ends_the_others(how, said):
    first, second = pair(how)
    assert first.returncode == hosts.RESTART, first.stderr
    lines = [line for line in first.stderr.splitlines() if line.startswith("fusionjax: error")]
    assert len(lines) == 1 and re.fullmatch(
        f"fusionjax: error: {said}; start the same command again to resume from the last checkpoint", lines[0]
    )
    if how == "late":
        assert re.search(
            r"fusionjax: process 1 of 2 \(.+\) is late: the others wait for it at step 2", first.stderr
        )
        assert second.returncode == hosts.RESTART
    if how == "error":
        assert second.returncode == 2


@pytest.mark.parametrize(
    ("variables", "launched"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, False),  # a shell of salloc
        (
            {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n[1-4]", "SLURM_PROCID": "2",
             "SLURM_LOCALID": "0"},
            True,
        ),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1", "SLURM_PROCID": "0",
          "SLURM_LOCALID": "0"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"JAX_COORDINATOR_ADDRESS": "host:1234"}, True),
    ],
)  # fmt: skip
def test_launchers_are_recognised(variables, launched):
    assert hosts.launched(variables) is launched


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("localhost:1234",), "give all three, or none"),
        (("localhost:1234", 2, 2), "--process=2 must be below --processes=2"),
        (("localhost", 2, 1), "must be host:port of process 0"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    with pytest.raises(UserError, match=said):
        hosts.start(*arguments)
    assert not hosts.several() and hosts.meet("step 1", wish="save") == {0: "save"}
