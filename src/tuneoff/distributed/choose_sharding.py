"""The choice of what lays a model on the ranks; each engine is imported where it is the one."""

from tuneoff.distributed.ranks import Ranks
from tuneoff.distributed.sharding import Sharding


def make_sharding(ranks: Ranks, name: str) -> Sharding:
    """Return how `name` (none, ddp, fsdp2, zero2, zero3) lays a model on these ranks."""
    if name == "fsdp2":
        from tuneoff.distributed.fsdp2 import Fsdp2

        return Fsdp2(ranks)
    if name.startswith("zero"):
        from tuneoff.distributed.deepspeed_engine import DeepSpeed

        return DeepSpeed(ranks)
    return Sharding(ranks)
