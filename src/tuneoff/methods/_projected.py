"""Projected methods: all weights train, and a package's Adam sees the gradients of matrices through a projection."""

from enum import Enum
from typing import Any, ClassVar

from tuneoff.config import ConfigError, Experiment, Optimizer, check_package, is_split
from tuneoff.methods import Method


class Projection(Enum):
    """The side of the gradient that is projected; std and reverse_std choose it by the matrix's shape."""

    std = "std"
    reverse_std = "reverse_std"
    right = "right"
    left = "left"
    full = "full"


class Projected(Method):
    """What such methods share beside their options, whose names begin with a prefix of their own."""

    own_family = "projection"
    optimizers = (Optimizer.adamw,)
    # The options are `PREFIX_target`, `PREFIX_rank`, `PREFIX_update_interval`, and others.
    prefix: ClassVar[str]
    # The package as Python imports it, and the extra of ours that installs it.
    module: ClassVar[str]
    extra: ClassVar[str]

    def describe_projection(self) -> dict:
        """Return the keys of a projected group, as the package names them."""
        raise NotImplementedError

    def choose_class(self) -> type:
        """Return the class of the optimizer."""
        raise NotImplementedError

    def check(self, experiment: Experiment) -> None:
        """Refuse shards, and a package that is not installed."""
        check_package("method", experiment.method, self.module, self.extra)
        if is_split(experiment.sharding):
            allowed = f"does not run under {experiment.sharding}: its projection would see shards"
            raise ConfigError("method", experiment.method, allowed)

    def make_optimizer(self, model: Any, experiment: Experiment) -> Any:
        """Return the package's optimizer, with the targeted matrices in projected groups.

        Raises:
            ConfigError: a rank above a targeted matrix's small side, or an unknown target.
        """
        from tuneoff.methods._projected_state import make_projected_groups
        from tuneoff.methods._ranks import check_rank
        from tuneoff.models.optimizers import BETAS, EPS

        targets = self._find_targets(model)
        rank = getattr(self, f"{self.prefix}_rank")
        check_rank(rank, f"{self.prefix}_rank", targets, f"{self.prefix}_target")
        projection = self.describe_projection()
        groups = make_projected_groups(model, experiment, targets, lambda experts: projection)
        return self.choose_class()(groups, lr=experiment.lr, betas=BETAS, eps=EPS)

    def _find_targets(self, model: Any) -> Any:
        """Return the targeted linear layers; of stacked experts the packages know nothing."""
        from tuneoff.models.layers import find_targets

        key = f"{self.prefix}_target"
        targets = find_targets(model, getattr(self, key), key)
        return targets._replace(experts={})

    def warn_of_budget(self, optimizer: Any, steps: float) -> list[str]:
        """Say where the first projection stays to the end."""
        key = f"{self.prefix}_update_interval"
        return warn_of_interval(key, getattr(self, key), steps)

    def coverage(self, model: Any) -> float:
        """Return the share of the weights whose gradients are projected; the rest is plain Adam."""
        from tuneoff.models.layers import share_of_weights

        return share_of_weights(model, self._find_targets(model).parameter_names())


def warn_of_interval(key: str, interval: int, steps: float) -> list[str]:
    """Say where the first projection stays to the end of a budget of so many steps.

    Args:
        key: the option that has the interval.
    """
    if steps > interval or steps == 1:
        return []
    return [
        f"{key}={interval}: the budget has {steps:.12g} steps, so that the subspace is never renewed"
    ]
