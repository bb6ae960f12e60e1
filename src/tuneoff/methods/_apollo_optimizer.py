"""APOLLO's optimizer: apollo-torch's AdamW, mended. Imports torch at its head."""

from typing import Any

import torch
from apollo_torch import APOLLOAdamW, apollo
from apollo_torch.random_projector import GradientProjector, next_seed
from apollo_torch.svd_projector import GaLoreProjector
from torch._subclasses.fake_tensor import unset_fake_temporarily

from tuneoff.methods._host_reads import NoHostReads
from tuneoff.methods._projected_state import ProjectedState


class FiniteProjector(GaLoreProjector):
    """apollo-torch's projector by singular vectors, without a LinAlgError on a gradient that is not finite."""

    seed = 0  # of the random projector, beside which it is kept

    def get_orthogonal_matrix(self, weights: Any, rank: int, type: str) -> Any:
        """As upstream; the loop reports such a gradient as `diverged at step n`."""
        finite = weights.nan_to_num(0.0, 0.0, 0.0)
        return super().get_orthogonal_matrix(finite, rank, type)


class RandomProjector(GradientProjector):
    """apollo-torch's random projector, which a prediction can run: a seed is a value also where tensors have none."""

    seed: int

    def update_ortho_matrix(self, full_rank_grad: torch.Tensor, proj_type: str) -> None:
        """As upstream."""
        self.ortho_matrix = self.get_orthogonal_matrix(
            full_rank_grad, self.rank, type=proj_type, seed=self.seed
        )
        with unset_fake_temporarily():
            self.seed = next_seed(self.seed)


class ApolloAdamW(NoHostReads, ProjectedState, APOLLOAdamW):
    """A state of plain values, and no wait for each weight's norm."""

    upstream_module = apollo
    learned = ("ortho_matrix", "seed", "svd_count")

    def _make_projector(self, group: dict, parameter: torch.Tensor) -> Any:
        """Return the projector that the group names; upstream numbers the weights, so that each draws its own."""
        settings = {"update_proj_gap": group["update_proj_gap"], "scale": group["scale"]}
        if group["proj"] == "svd":
            return FiniteProjector(group["rank"], **settings)
        return RandomProjector(group["rank"], seed=self.state[parameter]["seed"], **settings)
