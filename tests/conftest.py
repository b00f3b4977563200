"""One thread a process, for the tests run in as many as there are cores; and Ctrl-C means what it means on a terminal.

A shell that starts the tests in the background has SIGINT ignored, which every process here would inherit.
"""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
