"""The forkserver's signals: imported by it, so that what stops a whole process group does not end it before its jobs.

A closed terminal sends SIGHUP to every process, and a scheduler SIGTERM. The jobs save a checkpoint then; without their
forkserver they would end at once. It ends with the launching process, which ends last.
"""

import signal

from tuneoff.distributed.stop import STOP_SIGNALS

for number in STOP_SIGNALS:
    signal.signal(number, signal.SIG_IGN)
