"""The grouped operations against a loop over tokens."""

from __future__ import annotations

import pytest
import torch

from tandem.models.engines.vllm_cpu_lora import expand, expand_slice, shrink

SLOTS, RANK, IN, OUT = 3, 4, 6, 5


@pytest.fixture(params=[[0, 2, -1, 0, 1, 2], [1] * 6, [-1] * 6, [2]], ids=str)
def indices(request):
    return torch.tensor(request.param)


def tokenwise(x, weights, indices):
    return torch.stack(
        [x[t] @ weights[i, 0].T if i >= 0 else x.new_zeros(weights.shape[2]) for t, i in enumerate(indices)]
    )


def test_shrink(indices):
    torch.manual_seed(0)
    x, a = torch.randn(len(indices), IN), torch.randn(SLOTS, 1, RANK, IN)
    output = torch.full((len(indices), RANK), 9.0)
    shrink(x, a, output, indices, 0.5)
    torch.testing.assert_close(output, 0.5 * tokenwise(x, a, indices))


@pytest.mark.parametrize("add", [True, False])
def test_expand(indices, add):
    torch.manual_seed(0)
    x, b = torch.randn(len(indices), RANK), torch.randn(SLOTS, 1, OUT, RANK)
    before = torch.randn(len(indices), OUT)
    output = before.clone()
    expand(x, b, output, indices, add)
    torch.testing.assert_close(output, tokenwise(x, b, indices) + (before if add else 0))


def test_expand_leaves_the_rest_of_the_output_alone(indices):
    torch.manual_seed(0)
    x, b = torch.randn(len(indices), RANK), torch.randn(SLOTS, 1, OUT, RANK)
    output = torch.ones(len(indices), OUT + 7)
    expand_slice(x, b, output, indices, 3, OUT)
    torch.testing.assert_close(output[:, 3 : 3 + OUT], 1 + tokenwise(x, b, indices))
    assert (output[:, :3] == 1).all()
    assert (output[:, 3 + OUT :] == 1).all()
