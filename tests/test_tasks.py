"""Each task's loss against a computation by hand, and the output that it scores."""

import dataclasses
import math
from collections import OrderedDict, namedtuple

import pytest
import torch

from symrun.config import Config
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.tasks import TASKS, make_criterion, output_of
from symrun.training.metrics import Scores, means

CPU = torch.device("cpu")
LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
LABELS = torch.tensor([2, 0])


def loss_of(outputs, labels, *settings):
    config = compose(["data=synthetic", *settings]).task
    classes = outputs.shape[-1]
    return make_criterion(config, classes, CPU, torch.float64)(outputs, labels).item()


def softmax(row):
    weights = [math.exp(value) for value in row]
    return [weight / sum(weights) for weight in weights]


def targets(label, smoothing=0.0):
    return [(1 - smoothing) * (place == label) + smoothing / 3 for place in range(3)]


def by_hand(smoothing=0.0, weights=(1.0, 1.0, 1.0)):
    """- sum of weight target ln p, over the sum of the labels' weights."""
    total = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        for p, target, weight in zip(softmax(row), targets(label, smoothing), weights, strict=True):
            total -= weight * target * math.log(p)
    return total / sum(weights[label] for label in LABELS.tolist())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], by_hand()),
        (["task.label_smoothing=0.2"], by_hand(smoothing=0.2)),
        (["task.class_weights=[1,2,5]"], by_hand(weights=(1.0, 2.0, 5.0))),
        (
            ["task.class_weights=[1,2,5]", "task.label_smoothing=0.2"],
            by_hand(smoothing=0.2, weights=(1.0, 2.0, 5.0)),
        ),
    ],
)
def test_cross_entropy(settings, expected):
    """A dozen operations on numbers below 10, each exact to 2^-53 of them."""
    assert loss_of(LOGITS, LABELS, *settings) == pytest.approx(expected, abs=1e-14)


def test_squared_error_is_the_mean_over_batch_and_classes():
    rows = zip(LOGITS.tolist(), LABELS.tolist(), strict=True)
    squares = [
        (value - target) ** 2
        for row, label in rows
        for value, target in zip(row, targets(label), strict=True)
    ]
    assert loss_of(LOGITS, LABELS, "task=mse") == pytest.approx(sum(squares) / 6, abs=1e-14)


def test_sigmoid_cross_entropy_is_the_mean_over_batch_and_classes():
    terms = []
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        for value, target in zip(row, targets(label), strict=True):
            p = 1 / (1 + math.exp(-value))
            terms.append(-target * math.log(p) - (1 - target) * math.log(1 - p))
    assert loss_of(LOGITS, LABELS, "task=bce") == pytest.approx(sum(terms) / 6, abs=1e-14)


def test_next_token_is_the_mean_over_all_tokens():
    logits, labels = LOGITS.expand(4, 2, 3), LABELS.expand(4, 2)
    assert loss_of(logits, labels, "task=next_token") == pytest.approx(by_hand(), abs=1e-14)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("classes", [2, 10])
def test_chance_is_the_loss_of_the_best_constant_output(name, classes):
    """Where every class is equally frequent: its gradient there is 0."""
    share = torch.tensor(1 / classes, dtype=torch.float64)
    best = {"mse": share, "bce": torch.logit(share)}.get(name, torch.tensor(0.0).double())
    constant = best.expand(classes).clone().requires_grad_()
    outputs, labels = constant.expand(classes, classes), torch.arange(classes)
    if TASKS[name].per_token:
        outputs, labels = outputs[None], labels[None]
    config = compose([f"task={name}"]).task
    loss = make_criterion(config, classes, CPU, torch.float64)(outputs, labels)
    loss.backward()
    chance, label = TASKS[name].chance(classes)
    assert loss.item() == pytest.approx(chance, abs=1e-14) and str(classes) in label
    assert constant.grad.abs().max() < 1e-15


def test_scores_count_every_token():
    logits = torch.randn(4, 7, 6)
    labels = torch.randint(6, (4, 7))
    rows, tokens = Scores(CPU), Scores(CPU)
    rows.add(logits.flatten(0, 1), labels.flatten(), torch.tensor(0.5))
    tokens.add(logits, labels, torch.tensor(0.5))
    assert means(rows.read_and_reset()) == means(seen := tokens.read_and_reset())
    assert means(seen).labels == 28
    assert means(seen).top1 == (logits.argmax(-1) == labels).double().mean()


class Plain:
    def __init__(self, **values):
        self.__dict__.update(values)


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    state: torch.Tensor


ONE, TWO = torch.zeros(1), torch.zeros(2)


@pytest.mark.parametrize(
    ("outputs", "name", "expected"),
    [
        (ONE, None, ONE),
        (ONE, "logits", ONE),  # of a network that returns more only while it trains
        ((ONE, TWO), None, ONE),
        ([ONE, TWO], 1, TWO),
        ({"state": ONE, "logits": TWO}, None, TWO),
        (OrderedDict(main=ONE, aux=TWO), "aux", TWO),
        (Output(ONE, TWO), None, ONE),
        (Output(ONE, TWO), "state", TWO),
        (Plain(state=ONE, logits=TWO), None, TWO),
        (namedtuple("Outputs", "aux logits")(ONE, TWO), None, TWO),
        (namedtuple("Outputs", "aux other")(ONE, TWO), None, ONE),
        (namedtuple("Outputs", "aux logits")(ONE, TWO), "aux", ONE),
        (namedtuple("Outputs", "aux logits")(ONE, TWO), 0, ONE),
    ],
)
def test_the_output_that_is_scored(outputs, name, expected):
    assert output_of(outputs, name) is expected


@pytest.mark.parametrize(
    ("outputs", "name", "message"),
    [
        ({"main": ONE, "aux": TWO}, None, "a dict: task.output must be one of main, aux, got None"),
        ((ONE, TWO), 2, "a tuple: task.output must be one of 0, 1, got 2"),
        (({}, ONE), None, "a tuple: task.output must be one of 1, got None"),
        (None, None, "a NoneType: task.output must be null, and the network must return a tensor"),
        (3.5, "x", "a float: task.output must be null, and the network must return a tensor"),
    ],
)
def test_no_such_output(outputs, name, message):
    with pytest.raises(UsageError) as caught:
        output_of(outputs, name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("task.label_smoothing=1", "task.label_smoothing must be in [0, 1), got 1.0"),
        ("task.label_smoothing=nan", "task.label_smoothing must be in [0, 1), got nan"),
        ("task.class_weights=[1,0]", "task.class_weights must be finite numbers > 0, got [1.0"),
        ("task.class_weights=2", "task.class_weights must be a list such as [0.5,0.75], got 2"),
        ("task.output=[1]", "task.output must be text, got [1]"),
        ("task.name=hinge", "task.name must be one of cross_entropy, mse, bce, next_token, got h"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(UsageError) as caught:
        compose(["data=synthetic", settings])
    assert message in str(caught.value)


def test_an_output_is_a_name_or_a_place():
    assert compose(["task.output=1"]).task.output == 1
    assert compose(["task.output=aux"]).task.output == "aux"


@pytest.mark.parametrize("recorded", ["classification", None])
def test_a_run_from_before_tasks_had_settings(recorded):
    """Their loss was cross-entropy, without any of today's settings."""
    now = compose(["data=synthetic"])
    before = now.to_dict() | {"task": recorded}
    if recorded is None:
        del before["task"]
    assert Config.from_mapping(before) == now and now.task.name == "cross_entropy"
