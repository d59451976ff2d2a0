"""The network sees what it says it sees, and nothing else."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from bids_flair.models.network import (
    CENTRES,
    SPREADS,
    Architecture,
    PatchRegressor,
    narrowed,
    upsample,
)

STYLE = torch.linspace(0.5, 2, 14).view(1, 2, 7)
SMALL = Architecture(inputs=('T1w', 'T2w'), levels=3, stem=4, width=8, blocks=1)


@pytest.fixture(params=[(), (2, 5, 2), (3, 2, 4)])
def network(request) -> PatchRegressor:
    torch.manual_seed(1)
    network = PatchRegressor(replace(SMALL, convolutions=request.param))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.requires_grad_(False)


def _input(length: int, halo: int = SMALL.halo) -> torch.Tensor:
    size = length + 2 * halo
    x = torch.rand(1, 2 * SMALL.contrasts, size, size, size)
    x[:, SMALL.contrasts :] = (x[:, SMALL.contrasts :] > 0.2).float()
    x[:, : SMALL.contrasts] *= x[:, SMALL.contrasts :]
    return x


def test_a_voxel_does_not_depend_on_the_block_it_is_computed_in(network):
    x = _input(16, network.architecture.halo)
    whole = network(x, STYLE)[0].reshape(16, 16, 16)
    part = network(x[..., 8:, :-8, 4:-4], STYLE)[0].reshape(8, 8, 8)
    torch.testing.assert_close(part, whole[8:, :8, 4:12])


def test_only_the_voxels_to_keep_are_predicted(network):
    x, keep = _input(8, network.architecture.halo), torch.rand(1, 8, 8, 8) < 0.3
    everywhere = network(x, STYLE)
    kept = network(x, STYLE, keep)
    for all_voxels, some in zip(everywhere, kept, strict=True):
        torch.testing.assert_close(some, all_voxels[keep.flatten()])


def test_the_style_of_a_contrast_that_is_there_matters(network):
    x, other = _input(8, network.architecture.halo), STYLE.clone()
    other[0, 1] += 0.5
    assert not torch.allclose(network(x, STYLE)[0], network(x, other)[0])
    absent = other.clone()
    absent[0, 1] = torch.nan
    assert torch.isfinite(network(x, absent)[0]).all()


def test_a_network_without_style_does_not_look_at_it():
    network = PatchRegressor(replace(SMALL, style=0))
    x = _input(8)
    torch.testing.assert_close(network(x, STYLE), network(x, 2 * STYLE))


def test_a_narrowed_network_answers_as_if_the_others_were_absent(network):
    x, absent = _input(8, network.architecture.halo), STYLE.clone()
    x[:, [0, 2]] = 0
    absent[0, 0] = torch.nan
    narrow = narrowed(network, ('T2w',))
    assert narrow.architecture == replace(network.architecture, inputs=('T2w',))
    torch.testing.assert_close(narrow(x[:, [1, 3]], STYLE[:, 1:]), network(x, absent))


def test_each_block_has_its_own_style(network):
    x, other = _input(8, network.architecture.halo), STYLE * 1.5
    keep = torch.rand(2, 8, 8, 8) < 0.3
    both, _ = network(x.repeat(2, 1, 1, 1, 1), torch.cat([STYLE, other]), keep)
    second, _ = network(x, other, keep[1:])
    torch.testing.assert_close(both[int(keep[0].sum()) :], second)


def test_the_receptive_field_is_the_halo_and_is_used(network):
    stride = network.architecture.stride
    x = _input(8, network.architecture.halo)
    before = network(x, STYLE)[0].reshape(8, 8, 8)
    changed = x.clone()
    changed[:, 0, 0] += 1.0
    changed[:, SMALL.contrasts, 0] = 1.0
    after = network(changed, STYLE)[0].reshape(8, 8, 8)
    assert not torch.equal(after[:stride], before[:stride])
    # The far half lies more than a halo away from the plane that changed.
    torch.testing.assert_close(after[stride:], before[stride:])


def test_a_wider_patch_needs_a_wider_halo():
    assert SMALL.halo == replace(SMALL, convolutions=(2, 5, 2)).halo == 12
    assert replace(SMALL, convolutions=(2, 6, 2)).halo == 16
    assert replace(SMALL, convolutions=(2, 2, 4)).halo == 20


def test_coarse_patches_average_over_the_voxels_present(network):
    x = torch.zeros(1, 4, 32, 32, 32)
    x[:, 0], x[:, 2] = 3.0, 1.0
    x[:, :, ::2] = 0.0
    value, _, presence, _ = network._pyramid(x)[2][0]
    alone = (3.0 - CENTRES['T1w']) / SPREADS['T1w']
    torch.testing.assert_close(value, torch.full_like(value, alone))
    torch.testing.assert_close(presence, torch.full_like(presence, 0.5))


def test_the_uncertainty_does_not_disturb_the_mean():
    network = PatchRegressor(SMALL)
    network(_input(8), STYLE)[1].sum().backward()
    assert all(p.grad is None for p in network.levels.parameters())
    assert network.reach[0].weight.grad is not None


def test_twice_the_resolution_is_trilinear():
    coarse = torch.rand(2, 7, 6, 9, 3)
    fine = F.interpolate(coarse.movedim(-1, 1), scale_factor=2, mode='trilinear')
    expected = fine[..., 3:11, 3:9, 3:15].movedim(1, -1)
    torch.testing.assert_close(upsample(coarse, 8), expected)
