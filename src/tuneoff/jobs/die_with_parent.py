"""Imported first by the forkserver: ends it with the process that started it, at once and without its clean-up.

It would end by itself, but only after the imports it is in and the teardown of torch, which take seconds.
"""

import ctypes
import signal

PR_SET_PDEATHSIG = 1
if hasattr(ctypes.CDLL(None), "prctl"):  # Linux
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
