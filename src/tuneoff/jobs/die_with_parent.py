"""The parent-death signal: ends a process, which imports this, at once when the process that started it ends.

The forkserver, which imports this first, would also end by itself, but only after the imports it is in and the
teardown of torch, which take seconds.
"""

import ctypes
import signal

PR_SET_PDEATHSIG = 1  # of Linux' <sys/prctl.h>

libc = ctypes.CDLL(None)
if hasattr(libc, "prctl"):  # Linux
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
