"""The process that reads chunks of a file for an import: `python -m rlhf_hitl.formats.import_worker SOCKET`."""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection

from rlhf_hitl.formats.chunk_reading import work

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the importer, which ends its workers
    work(Connection(int(sys.argv[1])))
