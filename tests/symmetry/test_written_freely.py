"""What people write in a forward pass that makes a model run with other tensors, or in float64,
unlike with its own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from symrun.errors import UsageError
from symrun.symmetry.proof import prove
from symrun.symmetry.search import find_structure

VECTORS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(6, (4, 7), generator=torch.Generator().manual_seed(0))


def cross_entropy(outputs):
    return F.cross_entropy(outputs, torch.tensor([0, 1, 2, 0], device=outputs.device))


class Net(nn.Module):
    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


def proven(net, example):
    """Names of the groups that are found; each must be proven."""
    groups = find_structure(net, example, cross_entropy).groups
    proofs = prove(net, groups, example, cross_entropy)
    assert not [proof for proof in proofs if proof.reason]
    return [f"{group.symmetry.value} {group.name} {group.units}" for group in groups]


LOGITS = ["translation out 6", "translation out.bias 1"]


def test_masks_as_indices():
    net = Net(
        lambda n, x: n.out(n.words(x).relu()[x >= 0].view(4, 7, 6).mean(1)),
        words=nn.Embedding(6, 6),
        out=nn.Linear(6, 3),
    )
    assert proven(net, TOKENS) == ["rescale words -> out 6", *LOGITS]


def test_a_parameter_that_is_read_from_a_list_is_the_same_parameter():
    """A head tied to the embedding without being registered twice; and a penalty on a layer that
    would otherwise have a scale."""
    tied = Net(
        lambda n, x: F.linear(n.norm(n.words(x)).mean(1), n.listed[0])[:, :3],
        words=nn.Embedding(6, 6),
        norm=nn.LayerNorm(6),
    )
    tied.listed = [tied.words.weight]
    assert proven(tied, TOKENS) == ["rescale words -> norm 1"]
    norm = Net(
        lambda n, x: n.out(n.norm(n.hidden(x))) * n.listed[0].norm(),
        hidden=nn.Linear(5, 6),
        norm=nn.BatchNorm1d(6),
        out=nn.Linear(6, 3),
    )
    norm.listed = [norm.hidden.weight]
    assert proven(norm, VECTORS) == ["rescale hidden -> out 1", "rescale norm -> out 6", *LOGITS]


def test_checkpointing_runs_again_with_the_same_parameters():
    net = Net(
        lambda n, x: n.out(checkpoint(lambda y: n.hidden(y).relu(), x, use_reentrant=False)),
        hidden=nn.Linear(5, 6),
        out=nn.Linear(6, 3),
    )
    assert proven(net, VECTORS) == ["rescale hidden -> out 6", *LOGITS]
    assert all(parameter.grad is None for parameter in net.parameters())


def test_what_a_forward_makes_in_float32_is_proven_in_float64():
    def root_mean_square(net, x):
        x = net.hidden(x).float()
        return net.out(x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6))

    def recurrent(net, x):
        state = torch.zeros(len(x), 6, device=x.device)
        return net.out((net.hidden(x) + net.again(state)).relu())

    def one_hot(net, x):
        return net.out(net.hidden(F.one_hot(x, 5).float()).relu().mean(1))

    made = {"hidden": nn.Linear(5, 6), "out": nn.Linear(6, 3), "again": nn.Linear(6, 6)}
    default = torch.get_default_dtype()
    assert proven(Net(root_mean_square, **made), VECTORS)[0] == "scale hidden 1"
    assert proven(Net(recurrent, **made), VECTORS)[-2:] == LOGITS
    assert proven(Net(one_hot, **made), TOKENS % 5) == ["rescale hidden -> out 6", *LOGITS]
    assert torch.get_default_dtype() == default


def test_a_forward_that_fails_in_float64_is_one_line():
    table = torch.ones(6, 6)
    net = Net(lambda n, x: n.out(n.hidden(x) @ table.to(x.device)), hidden=nn.Linear(5, 6),
              out=nn.Linear(6, 3))  # fmt: skip
    groups = find_structure(net, VECTORS, cross_entropy).groups
    with pytest.raises(UsageError, match="^Net fails on float64 inputs of shape .*: expected "):
        prove(net, groups, VECTORS, cross_entropy)


def test_a_sparse_gradient():
    net = Net(lambda n, x: n.out(n.words(x).mean(1).relu()), words=nn.Embedding(6, 6, sparse=True),
              out=nn.Linear(6, 3))  # fmt: skip
    assert proven(net, TOKENS) == ["rescale words -> out 6", *LOGITS]


def test_a_complex_parameter_is_in_no_group():
    net = Net(
        lambda n, x: n.out((n.hidden(x) * n.factor).abs()),
        hidden=nn.Linear(5, 6),
        factor=nn.Parameter(torch.randn(6, dtype=torch.complex64)),
        out=nn.Linear(6, 3),
    )
    assert proven(net, VECTORS) == ["rescale hidden -> out 6", *LOGITS]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_list_of_weights_that_recurrent_layers_keep_is_as_it_was(kind):
    net = Net(
        lambda n, x: n.out(n.again(n.words(x))[0][:, -1]),
        words=nn.Embedding(6, 5),
        again=kind(5, 6, batch_first=True),
        out=nn.Linear(6, 3),
    )
    before = net(TOKENS)
    proven(net, TOKENS)
    kept, own = net.again._flat_weights, net.again._parameters.values()
    assert all(one is other for one, other in zip(kept, own, strict=True))
    assert torch.equal(net(TOKENS), before)
