"""Full fine-tuning: every weight trains. The reference that all other methods are compared with."""

from dataclasses import dataclass
from typing import ClassVar

from tuneoff.methods import Method, register


@register
@dataclass
class Full(Method):
    """All weights train, with the shared optimizer. Sharding over GPUs is `accelerate launch`'s business."""

    own_family = "full"
    elsewhere: ClassVar[dict[str, str]] = {"finetuning_type=full": "full", "adapter=full": "full"}
