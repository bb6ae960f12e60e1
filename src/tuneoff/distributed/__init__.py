"""Ranks: how a run is launched in several processes, and all that FSDP and DeepSpeed need."""
