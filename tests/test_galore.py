"""GaLore's own ways: a subspace by iteration instead of an SVD, and renewals spread over the interval."""

import pytest
import torch
from shrunk_models import shrunk_model

from tuneoff.config import Optimizer
from tuneoff.methods import _galore_projectors
from tuneoff.methods._galore_optimizers import choose_class
from tuneoff.methods._galore_projectors import find_basis

RANK = 8
SIDES = ("left", "right")


def draw_gradient(*shape: int) -> torch.Tensor:
    """A gradient whose singular values fall as those of real ones do, by a power law."""
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.arange(1, left.shape[-1] + 1).float() ** -1.0
    return left * values @ right


def captured_share(gradient: torch.Tensor, basis: torch.Tensor, side: str) -> float:
    """The share of the gradient's energy in a basis, of that in as many singular vectors."""
    inside = basis.mT @ gradient if side == "left" else gradient @ basis.mT
    best = torch.linalg.svdvals(gradient)[..., :RANK]
    return float(inside.square().sum() / best.square().sum())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (3, 40, 64), (RANK, 30)])
def test_a_first_basis_is_nearly_that_of_the_svd(shape, side):
    torch.manual_seed(0)
    gradient = draw_gradient(*shape)
    basis = find_basis(gradient, RANK, side, None)
    columns = basis if side == "left" else basis.mT
    assert columns.shape == (*shape[:-2], shape[-2 if side == "left" else -1], RANK)
    assert torch.allclose(
        columns.mT @ columns, torch.eye(RANK).expand(*shape[:-2], RANK, RANK), atol=1e-5
    )
    assert 0.99 < captured_share(gradient, basis, side) <= 1.0001


@pytest.mark.parametrize("side", SIDES)
def test_a_known_basis_follows_a_gradient_that_turns(side):
    torch.manual_seed(0)
    first = draw_gradient(40, 64)
    last = draw_gradient(40, 64)
    basis = None
    for share in torch.linspace(0, 1, 20):
        gradient = (1 - share) * first + share * last
        basis = find_basis(gradient, RANK, side, basis)
    assert captured_share(last, basis, side) > 0.95
    assert captured_share(first, basis, side) < 0.9  # which a basis that stayed would have had


def test_roundings_do_not_turn_a_vector_around():
    torch.manual_seed(0)
    gradient = draw_gradient(40, 64)
    known = find_basis(gradient, RANK, "left", None)
    basis = find_basis(gradient, RANK, "left", known)
    for _ in range(5):
        noisy = gradient * (1 + 1e-6 * torch.randn(40, 64))
        assert (find_basis(noisy, RANK, "left", known) - basis).abs().max() < 1e-3


def test_a_basis_has_the_gradients_type_and_bears_what_is_not_finite():
    projector = _galore_projectors.Projector(RANK)
    projector.iterates_subspace = True
    gradient = torch.randn(20, 12, dtype=torch.bfloat16)
    gradient[0, 0] = torch.nan
    for iteration in range(2):
        low_rank = projector.project(gradient, iteration * projector.update_proj_gap)
        assert low_rank.dtype == projector.ortho_matrix.dtype == torch.bfloat16
        assert projector.ortho_matrix.isfinite().all()


@pytest.mark.parametrize("kind", ["std", "reverse_std", "right", "left", "full"])
def test_experts_iterate_as_matrices_of_their_own(kind):
    torch.manual_seed(0)
    settings = {
        "rank": 4,
        "update_proj_gap": 2,
        "scale": 0.25,
        "proj_type": kind,
        "iterates_subspace": True,
    }
    start = torch.randn(3, 12, 7)
    stack = torch.nn.Parameter(start.clone())
    alone = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    make = choose_class(Optimizer.adamw, False)
    groups = [{"params": [stack], "experts": 3, **settings}, {"params": alone, **settings}]
    optimizer = make(groups, lr=1e-2, no_deprecation_warning=True)
    for step in range(5):
        stack.grad = torch.randn(3, 12, 7)
        for parameter, part in zip(alone, stack.grad.clone(), strict=True):
            parameter.grad = part
        optimizer.step()
        if step == 2:
            optimizer.load_state_dict(optimizer.state_dict())
    expected = torch.stack([parameter.detach() for parameter in alone])
    # A wrong projection is off by a step's 1e-2; Adam makes more of roundings than they were.
    assert (stack.detach() - expected).abs().max() <= 1e-3


def list_losses(result: dict) -> list[float]:
    """The training loss of each step."""
    return [point["loss"] for point in result["curve"] if "loss" in point]


@pytest.mark.parametrize("method", ["galore", "galore_layerwise"])
def test_a_run_with_subspaces_is_the_same_twice_and_near_the_exact_one(run, tmp_path, method):
    options = [
        f"method={method}",
        "galore_rank=8",
        "galore_svd=subspace",
        "galore_refresh=staggered",
    ]
    options += ["galore_update_interval=3", "max_steps=6"]
    whole = run(*options, folder=tmp_path / "whole")
    assert whole["status"] == "finished" and whole["loss"]["final"] < whole["loss"]["initial"]
    again = run(*options, folder=tmp_path / "again")
    assert list_losses(again) == list_losses(whole)
    exact = run(
        f"method={method}",
        "galore_rank=8",
        "galore_update_interval=3",
        "max_steps=6",
        folder=tmp_path / "exact",
    )
    assert whole["loss"]["final"] == pytest.approx(exact["loss"]["final"], abs=0.05)
    assert whole["loss"]["final"] != exact["loss"]["final"]


def test_staggered_renewals_are_spread_over_the_interval(new_run, monkeypatch):
    made = new_run(
        "method=galore", "galore_rank=8", "galore_refresh=staggered", "galore_update_interval=7"
    )
    renewals = []
    whole = _galore_projectors.Projector.get_orthogonal_matrix

    def count(self, gradient, rank, type):
        renewals[-1] += 1
        return whole(self, gradient, rank, type)

    monkeypatch.setattr(_galore_projectors.Projector, "get_orthogonal_matrix", count)
    optimizer = made.parts.optimizer
    for _ in range(15):
        renewals.append(0)
        for parameter in made.parts.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    # 3 layers of 7 matrices: all of them first, then 3 in each step, whether the state was loaded or not.
    assert renewals == [21] + [3] * 14
    optimizer.load_state_dict(optimizer.state_dict())
    renewals.append(0)
    optimizer.step()
    assert renewals[-1] == 3


def test_the_matrix_of_one_shared_expert_is_projected(settings):
    """A stack of one, three-dimensional: taken for a matrix, it would end in an error of its SVD."""
    torch.manual_seed(0)
    model = shrunk_model("inkling_text")
    experiment, method, _ = settings("method=galore", "galore_rank=2")
    optimizer = method.make_optimizer(model, experiment)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    alone = model.model.layers[1].mlp.shared_experts.down_proj
    assert alone.shape[0] == 1
    assert optimizer.state[alone]["exp_avg"].shape[1:] in ((2, 24), (32, 2))
