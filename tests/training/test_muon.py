import torch

from mathgrpo.optim.muon import Muon, orthogonalised


def test_singular_values_come_near_one_and_vectors_stay() -> None:
    torch.manual_seed(0)
    for shape in ((3, 6, 10), (3, 10, 6)):
        matrices = torch.randn(shape)
        result = orthogonalised(matrices)
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.3 and values.max() < 1.4
        u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
        core = u.transpose(1, 2) @ result @ vh.transpose(1, 2)
        assert torch.allclose(core, torch.diag_embed(torch.diagonal(core, dim1=1, dim2=2)), atol=1e-4)


def test_each_matrix_is_orthogonalised_by_itself() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(4, 8), 100 * torch.randn(4, 8)
    both = orthogonalised(torch.stack([a, b]))
    assert torch.allclose(both[0], orthogonalised(a[None])[0], atol=1e-6)


def test_it_solves_a_regression_faster_than_its_start() -> None:
    torch.manual_seed(0)
    target, inputs = torch.randn(6, 5), torch.randn(40, 5)
    weight = torch.nn.Parameter(torch.zeros(6, 5))
    optimizer = Muon([weight], lr=0.05)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (inputs @ (weight - target).T).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


def test_parameters_without_gradient_stay() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    Muon([weight]).step()
    assert torch.equal(weight, torch.ones(2, 2))
