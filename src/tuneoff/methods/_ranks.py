"""Ranks: what a method that takes one from the model's matrices can take. Imports torch at its head."""

from tuneoff.config import ConfigError
from tuneoff.models.layers import Targets


def check_rank(
    rank: int,
    rank_key: str,
    targets: Targets,
    target_key: str,
    times: int = 1,
) -> None:
    """Refuse a rank above the small side of a targeted matrix.

    Args:
        rank: the rank that every targeted matrix, or its gradient, must give.
        rank_key: the option that asks for it.
        targets: the targeted matrices.
        target_key: the option that names them, which can leave a matrix out.
        times: a matrix must give so many times the rank.

    Raises:
        ConfigError: naming the first such matrix, and the targets that can give the rank.
    """
    shapes = list_shapes(targets)
    needed = times * rank
    too_small = {name: shape for name, shape in shapes.items() if min(shape) < needed}
    for name, (rows, columns) in too_small.items():
        allowed = f"{name} is {rows}x{columns}, so at most {min(rows, columns) // times}"
        remaining = sorted(_find_leaves(shapes) - _find_leaves(too_small))
        if remaining:
            allowed += f"; {target_key}=[{','.join(remaining)}] leaves it out"
        raise ConfigError(rank_key, rank, allowed)


def list_shapes(targets: Targets) -> dict[str, tuple[int, int]]:
    """Return (rows, columns) of each targeted matrix by the weight's name; of stacked experts, of one's matrix."""
    shapes: dict[str, tuple[int, int]] = {}
    for path, layer in targets.linears.items():
        rows, columns = layer.weight.shape  # type: ignore[misc]
        shapes[f"{path}.weight"] = (int(rows), int(columns))
    for path, stack in targets.experts.items():
        shapes[path] = stack.matrix_shape
    return shapes


def _find_leaves(names: dict[str, tuple[int, int]]) -> set[str]:
    """Return the last segments of the weights' paths, as the target options take them."""
    return {name.removesuffix(".weight").rpartition(".")[2] for name in names}
