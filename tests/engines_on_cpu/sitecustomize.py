"""Python imports this by itself where the folder is on PYTHONPATH: so in a launcher, its ranks, and a forkserver."""

import engines_on_cpu

engines_on_cpu.patch_what_is_imported()
