"""Two processes that meet, one of which comes to grief: `python -m tests.support.peers <port> <index> <how>`."""

import os
import signal
import sys
import time

from fusionjax import cli
from fusionjax.arguments import Command
from fusionjax.distributed import hosts
from fusionjax.errors import UserError

port, index, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def come_to_grief() -> None:
    """The first meeting was held."""
    if how in ("SIGKILL", "SIGSTOP", "SIGTERM"):
        os.kill(os.getpid(), signal.Signals[how])
        time.sleep(60)
    if how == "error":
        raise UserError("the disk is full")
    if how == "late":
        time.sleep(20)


def main(options: object) -> None:
    hosts._BEAT, hosts._NAMED_AFTER = 0.5, 1.0
    hosts.start(f"localhost:{port}", 2, index, limits=hosts.Limits(silence=3, late=8, start=60))
    assert hosts.meet("step 1", wish=f"save{index}" if index else "") == {1: "save1"}
    print("met", flush=True)
    if index == 1:
        come_to_grief()
    hosts.meet("step 2")
    hosts.finish()


if __name__ == "__main__":
    cli.run(Command("peers", "", lambda parser: None, main), [])
