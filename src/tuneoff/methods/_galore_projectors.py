"""GaLore's projectors: galore-torch's, mended, with a second way to find the subspace. Imports torch at its head."""

from typing import Any

import torch
from galore_torch.galore_projector import GaLoreProjector

# Of the randomized range finder (Halko et al. 2011, sections 4.3 and 4.5).
OVERSAMPLING = 8
POWER_ITERATIONS = 2


class Projector(GaLoreProjector):
    """galore-torch's projector, mended: no LinAlgError on a non-finite gradient, and reverse_std at full rank."""

    ortho_matrix: Any
    iterates_subspace = False  # instead of a full SVD
    refresh_offset = 0  # steps by which this matrix is renewed before others

    def project(self, full_rank_grad: Any, iter: int) -> Any:
        """As upstream; the interval ends `refresh_offset` steps earlier."""
        return super().project(full_rank_grad, iter + self.refresh_offset)

    def get_orthogonal_matrix(self, weights: Any, rank: int, type: str) -> Any:
        """As upstream, but a gradient that is not finite raises no error, and the subspace may be iterated.

        The loop reports such a gradient as `diverged at step n`; an SVD would raise before it can.
        """
        finite = weights.nan_to_num(0.0, 0.0, 0.0)
        if not self.iterates_subspace:
            return super().get_orthogonal_matrix(finite, rank, type)
        known = self.ortho_matrix
        if type != "full":
            return find_basis(finite, rank, type, known)
        left, right = known or (None, None)
        return [find_basis(finite, rank, "left", left), find_basis(finite, rank, "right", right)]

    def project_back(self, low_rank_grad: Any) -> Any:
        """Take a gradient of shape (r, n) or (m, r) to the weight's (m, n), scaled.

        Upstream's reverse_std takes the wrong side where the low-rank gradient is square.
        """
        rows, columns = low_rank_grad.shape
        if self.proj_type == "reverse_std" and rows == columns:
            rank, width = self.ortho_matrix.shape
            if rank < width:
                return low_rank_grad @ self.ortho_matrix * self.scale
        return super().project_back(low_rank_grad)


class ExpertsProjector(Projector):
    """The same projection for each matrix of a stack of experts, whose singular vectors are its own.

    The gradient has the shape (experts, m, n), or (experts · m, n) where the model keeps the experts one below the
    other; the low-rank gradient has (experts, r, n), (experts, m, r), or (experts, r, r) for `full`.
    """

    experts: int
    ortho_matrix: Any  # left and right singular vectors

    def project(self, full_rank_grad: torch.Tensor, iter: int) -> torch.Tensor:
        """Return the low-rank gradients of all experts; renew their projections where the interval is over."""
        self.full_shape = full_rank_grad.shape
        stack = full_rank_grad.reshape(self.experts, -1, full_rank_grad.shape[-1])
        is_due = (iter + self.refresh_offset) % self.update_proj_gap == 0
        if self.ortho_matrix is None or is_due:
            self.ortho_matrix = self._find_singular_vectors(stack)
        left, right = self.ortho_matrix
        low_rank_grad = stack
        if left is not None:
            low_rank_grad = left.mT @ low_rank_grad
        if right is not None:
            low_rank_grad = low_rank_grad @ right.mT
        return low_rank_grad

    def _find_singular_vectors(self, stack: torch.Tensor) -> list[torch.Tensor | None]:
        """Return the first r left (experts, m, r) and right (experts, r, n) singular vectors, None where unused."""
        finite = stack.nan_to_num(0.0, 0.0, 0.0)
        is_tall = stack.shape[1] >= stack.shape[2]
        sides = {
            "std": ("right" if is_tall else "left",),
            "reverse_std": ("left" if is_tall else "right",),
            "full": ("left", "right"),
        }.get(self.proj_type, (self.proj_type,))
        known = self.ortho_matrix or [None, None]
        if self.iterates_subspace:
            bases = []
            for side, basis in zip(("left", "right"), known, strict=True):
                bases.append(find_basis(finite, self.rank, side, basis) if side in sides else None)
            return bases
        left, _, right = torch.linalg.svd(finite.float(), full_matrices=False)
        return [
            left[:, :, : self.rank].to(stack.dtype) if "left" in sides else None,
            right[:, : self.rank, :].to(stack.dtype) if "right" in sides else None,
        ]

    def project_back(self, low_rank_grad: torch.Tensor) -> torch.Tensor:
        """Take the low-rank gradients to the shape of the parameter, scaled."""
        left, right = self.ortho_matrix
        stack = low_rank_grad
        if left is not None:
            stack = left @ stack
        if right is not None:
            stack = stack @ right
        return stack.reshape(self.full_shape) * self.scale


def make_projector(group: dict, refresh_offset: int) -> Projector:
    """Return a projector as a parameter group describes it."""
    projector_class = ExpertsProjector if "experts" in group else Projector
    projector = projector_class(
        group["rank"],
        update_proj_gap=group["update_proj_gap"],
        scale=group["scale"],
        proj_type=group["proj_type"],
    )
    projector.iterates_subspace = group.get("iterates_subspace", False)
    projector.refresh_offset = refresh_offset
    if isinstance(projector, ExpertsProjector):
        projector.experts = group["experts"]
    return projector


# ---------------------------------------------------------------- a subspace without an SVD of the whole gradient
def find_basis(
    gradient: torch.Tensor, rank: int, side: str, known: torch.Tensor | None
) -> torch.Tensor:
    """Return an orthonormal basis near the gradient's first r singular vectors of one side.

    One step of subspace iteration takes the known basis on, at 4 m n r operations instead of an SVD's; its vectors turn
    with the gradient and do not jump or change sign, so that Adam's moments along them keep their meaning.

    Args:
        gradient: (…, m, n).
        rank: r, at most the smaller of m and n.
        side: left or right.
        known: the basis that was in use, in the shape that is returned; None before the first.

    Returns:
        (…, m, r) of the left side, (…, r, n) of the right, in the gradient's type.
    """
    if side == "right":
        turned = None if known is None else known.mT
        return find_basis(gradient.mT, rank, "left", turned).mT.contiguous()
    exact = gradient.float()
    basis = draw_basis(exact, rank) if known is None else iterate_basis(exact, known.float())
    return basis.to(gradient.dtype)


def iterate_basis(gradient: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return orthonormal columns (…, m, r) that span G Gᵀ times those of `basis`."""
    return orthonormalize(gradient @ (gradient.mT @ basis))


def orthonormalize(columns: torch.Tensor) -> torch.Tensor:
    """Return orthonormal columns of the same span (…, m, r), each on the side of its original.

    QR leaves the signs open; here R's diagonal is not negative, so that rounding cannot turn a column around.
    """
    q, r = torch.linalg.qr(columns)
    diagonal = torch.diagonal(r, dim1=-2, dim2=-1)  # (…, r)
    signs = torch.where(diagonal < 0, -1.0, 1.0)
    return q * signs.unsqueeze(-2)


def draw_basis(gradient: torch.Tensor, rank: int) -> torch.Tensor:
    """Return nearly the first r left singular vectors (…, m, r) from a random start (Halko et al. 2011)."""
    rows, columns = gradient.shape[-2:]
    width = min(rank + OVERSAMPLING, rows, columns)
    # From a generator of its own: a run's other draws stay as they are, and every start is the same.
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(columns, width, generator=generator).to(gradient.device)
    basis = orthonormalize(gradient @ start)
    for _ in range(POWER_ITERATIONS):
        basis = iterate_basis(gradient, basis)
    # Of the wider span the r directions with the most of the gradient; eigh has them last.
    inside = basis.mT @ gradient  # (…, width, n)
    _, directions = torch.linalg.eigh(inside @ inside.mT)
    return basis @ directions[..., -rank:].flip(-1)
