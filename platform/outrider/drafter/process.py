"""The drafter as a process of its own: `python -m outrider.drafter.process DIRECTORY ENDPOINT THREADS DEVICE DTYPE`.

Prints `ready` when the endpoint answers, and ends when its standard input closes, so that it never outlives the process
that started it. It imports no engine and no transformers: that would be two thirds of its start-up.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from outrider.drafter.model import DSparkModel
from outrider.drafter.server import DraftServer
from outrider.link import ZmqDraftService

__all__ = ["main"]


def main(directory: str, endpoint: str, threads: str, device: str, dtype: str) -> None:
    """Serve the drafter in `directory` at `endpoint` until standard input closes.

    threads: of torch; device and dtype: where its weights lie, and as what.
    """
    torch.set_num_threads(int(threads))
    model = DSparkModel.load(Path(directory), getattr(torch, dtype)).to(device)
    service = ZmqDraftService(DraftServer(model, Path(directory).name), endpoint)
    service.start()
    print("ready", flush=True)
    sys.stdin.read()
    service.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
