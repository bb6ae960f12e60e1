"""The forkserver's signals: imported by it, so that what stops a whole process group does not end it before its jobs.

A closed terminal sends SIGHUP to every process, and a scheduler SIGTERM. The jobs save a checkpoint then; without their
forkserver they would end at once. It ends with the launching process, which ends last.

SLURM sends SIGUSR2 (or SIGUSR1) to every process before a time limit: the launching process, which submitit has told
what to do then, stops the jobs in an orderly way, so that they, too, ignore it.
"""

import signal

from tuneoff.distributed.stop import STOP_SIGNALS

for number in (*STOP_SIGNALS, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, signal.SIG_IGN)
