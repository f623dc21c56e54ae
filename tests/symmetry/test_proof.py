"""Whatever makes a symmetry false, the proof refuses it by name, and keeps the others."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from symrun.symmetry import Group, Symmetry, columns, find_structure, rows
from symrun.symmetry.proof import prove
from symrun.symmetry.search import passes_differ

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def inputs():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def cross_entropy(outputs):
    return F.cross_entropy(outputs, LABELS.to(outputs.device))


class Net(nn.Module):
    """Linear, ReLU, linear, ReLU, linear."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.three(self.two(self.one(x).relu()).relu())


def rescale(first, second, width=4, inside=5, outside=4):
    """The group of a layer and the next, as if nothing stood between them but a ReLU."""
    members = (
        rows(f"{first}.weight", (width, inside), -1),
        rows(f"{first}.bias", (width,), -1),
        columns(f"{second}.weight", (outside, width), width),
    )
    return Group(Symmetry.rescale, f"{first} -> {second}", (first, second), members)


ONE_TWO, TWO_THREE = rescale("one", "two"), rescale("two", "three", 4, 4, 3)
LOGITS = Group(Symmetry.translation, "three", ("three",), (columns("three.weight", (3, 4), 4),))


class SkipsAtRandom(Net):
    def forward(self, x):
        x = self.one(x).relu()
        x = self.two(x).relu() if random.random() < 0.8 else x
        return self.three(x)


class DropsBranches(Net):
    """Stochastic depth by torch's random numbers, read on the host."""

    def forward(self, x):
        x = self.one(x).relu()
        keep = random.random() < 0.9
        return self.three(x + self.two(x).relu() if keep else x)


class CountsCalls(Net):
    calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.one(x).relu()
        return self.three(x if self.calls % 3 == 0 else self.two(x).relu())


class PartWithoutGradient(Net):
    def forward(self, x):
        x = self.one(x).relu()
        with torch.no_grad():
            scale = self.two(x).relu()
        return self.three(x * scale)


class Detached(Net):
    def forward(self, x):
        return self.three(self.two(self.one(x).relu().detach()).relu())


class ReturnsAnActivation(Net):
    def forward(self, x):
        hidden = self.one(x).relu()
        return self.three(self.two(hidden).relu()), hidden


def hooked_gradient():
    net = Net()
    net.two.weight.register_hook(lambda gradient: gradient * 2)
    return net


def replaced_method():
    net = Net()
    net.one.forward = lambda x: torch.tanh(F.linear(x, net.one.weight, net.one.bias))
    return net


def bent_after_the_layer():
    net = Net()
    net.one.register_forward_hook(lambda module, given, output: output.tanh())
    return net


def overlapping():
    net = Net()
    memory = torch.randn(36)
    net.two.weight = nn.Parameter(memory[:16].view(4, 4))
    net.three.weight = nn.Parameter(memory[10:22].view(3, 4))
    return net


FALSE = {
    "layer drop": (SkipsAtRandom, [ONE_TWO, TWO_THREE]),
    "stochastic depth": (DropsBranches, [ONE_TWO, TWO_THREE]),
    "counted calls": (CountsCalls, [ONE_TWO, TWO_THREE]),
    "a part without gradient": (PartWithoutGradient, [ONE_TWO, TWO_THREE]),
    "detached": (Detached, [ONE_TWO]),
    "a hook on a gradient": (hooked_gradient, [ONE_TWO, TWO_THREE]),
    "a replaced method": (replaced_method, [ONE_TWO]),
    "a forward hook": (bent_after_the_layer, [ONE_TWO]),
}


@pytest.mark.parametrize("kind", FALSE)
def test_a_false_group_is_refused_by_name_and_its_neighbours_are_kept(kind):
    make, false = FALSE[kind]
    torch.manual_seed(0)
    net = make()
    groups = [ONE_TWO, TWO_THREE, LOGITS]
    proofs = prove(net, groups, inputs(), cross_entropy)
    assert [proof.group for proof in proofs] == groups
    assert [proof.group for proof in proofs if proof.reason] == false
    for proof in proofs:
        assert proof.reason is None or ("loss" in proof.reason or "gradient" in proof.reason)


@pytest.mark.parametrize("kind", FALSE)
def test_the_search_reports_no_false_group_that_the_proof_does_not_refuse(kind):
    make, false = FALSE[kind]
    torch.manual_seed(0)
    net = make()
    found = find_structure(net, inputs().float(), cross_entropy).groups
    kept = [p.group for p in prove(net, found, inputs(), cross_entropy) if p.reason is None]
    wrong = {one.name for one in false}
    assert not wrong & {group.name for group in kept}
    assert LOGITS in kept


def test_a_global_forward_hook_is_seen():
    def bend(module, given, output):
        return output.tanh() if isinstance(module, nn.Linear) and output.shape[-1] == 4 else None

    handle = nn.modules.module.register_module_forward_hook(bend)
    try:
        net = Net()
        assert [group.name for group in find_structure(net, inputs().float()).groups] == [
            "three",
            "three.bias",
        ]
        (proof,) = prove(net, [ONE_TWO], inputs(), cross_entropy)
    finally:
        handle.remove()
    assert proof.reason


def test_weights_that_overlap_in_memory_belong_to_no_group():
    found = find_structure(overlapping(), inputs().float(), cross_entropy).groups
    named = {members.parameter for group in found for members in group.members}
    assert not named & {"two.weight", "three.weight"}


def test_what_was_found_in_evaluation_is_refused_in_training():
    norm = nn.BatchNorm1d(4)
    net = nn.Sequential(nn.Linear(5, 4), norm, nn.ReLU(), nn.Linear(4, 3))
    in_training = find_structure(net, inputs().float()).groups
    net.eval()
    (scale,) = (group for group in in_training if group.symmetry is Symmetry.scale)
    (proof,) = prove(net, [scale], inputs(), cross_entropy)
    assert proof.reason and "the loss changes" in proof.reason
    assert "0" not in [group.name for group in find_structure(net, inputs().float()).groups]


def test_an_activation_in_the_loss_is_seen_by_search_and_proof():
    def loss(outputs):
        return cross_entropy(outputs[0]) + outputs[1].square().mean()

    net = ReturnsAnActivation()
    (proof,) = prove(net, [ONE_TWO], inputs(), loss)
    assert proof.reason
    found = [group.name for group in find_structure(net, inputs().float(), loss).groups]
    assert "one -> two" not in found and "two -> three" in found


@pytest.mark.parametrize(
    "loss",
    [
        lambda outputs: F.mse_loss(outputs, torch.ones_like(outputs)),
        lambda outputs: F.binary_cross_entropy_with_logits(outputs, torch.ones_like(outputs)),
        lambda outputs: outputs[:, 0].square().mean(),
    ],
)
def test_another_loss_has_no_translation(loss):
    torch.manual_seed(0)
    net = Net()
    (proof,) = prove(net, [LOGITS], inputs(), loss)
    assert proof.reason
    found = find_structure(net, inputs().float(), loss).groups
    assert not [group for group in found if group.symmetry is Symmetry.translation]
    assert "one -> two" in [group.name for group in found]


def test_the_model_the_gradients_and_all_random_numbers_stay_as_they_were():
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state(), random.getstate()
    found = find_structure(net, inputs().float(), cross_entropy).groups
    proofs = prove(net, found, inputs(), cross_entropy)
    assert len(proofs) == 4 and not [proof for proof in proofs if proof.reason]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]


def test_eps_is_negligible_in_the_proof_however_small_the_filter():
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, eps=1e-3), nn.ReLU(), nn.Linear(4, 3))
    (scale, *_) = find_structure(net, inputs().float(), cross_entropy).groups
    (proof,) = prove(net, [scale], inputs(), cross_entropy)
    assert proof.reason is None and proof.loss_change <= 1e-12 and proof.defect <= 1e-9


def test_passes_that_differ_are_told_from_dropout():
    example = inputs().float()
    dropout = nn.Sequential(nn.Linear(5, 4), nn.Dropout(), nn.Linear(4, 3))
    for net, differ in ((dropout, False), (SkipsAtRandom(), True), (CountsCalls(), True)):
        assert passes_differ(net, example, cross_entropy) is differ


class Raised(Net):
    def forward(self, x):
        return self.three(self.two(self.one(x).relu() + 1e-3).relu())


def test_a_small_constant_that_nothing_is_divided_by_is_felt():
    """The proof takes it for an eps, so the search must not."""
    found = find_structure(Raised(), inputs().float(), cross_entropy).groups
    assert [group.name for group in found] == ["two -> three", "three", "three.bias"]


def test_a_small_constant_that_is_felt_is_no_eps_to_the_proof_either():
    """As it would be named by hand."""
    proofs = prove(Raised(), [ONE_TWO, TWO_THREE], inputs(), cross_entropy)
    assert [proof.group for proof in proofs if proof.reason] == [ONE_TWO]


class ScoresOneOfTwo(Net):
    def forward(self, x):
        hidden = self.one(x).relu()
        return self.three(hidden), self.two(hidden).relu()


def test_an_output_that_is_not_scored_leaves_the_groups_of_the_other():
    """What leads to it alone has no gradient, so it may be scaled along or not."""
    found = find_structure(ScoresOneOfTwo(), inputs().float()).groups
    assert [group.name for group in found] == ["one -> three", "three", "three.bias"]
    proofs = prove(ScoresOneOfTwo(), found, inputs(), lambda outputs: cross_entropy(outputs[0]))
    assert not [proof for proof in proofs if proof.reason]
