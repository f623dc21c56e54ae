"""The callback tracks what a Trainer of Hugging Face trains, inside accelerate's wrapper."""

import pytest
import torch
from torch import nn
from tracked import require_whole

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers and accelerate


class Failure(Exception):
    pass


class Network(nn.Module):
    def __init__(self, fails_at=None):
        super().__init__()
        self.linear, self.passes, self.fails_at = nn.Linear(8, 4), 0, fails_at

    def forward(self, inputs, labels):
        self.passes += 1
        if self.passes == self.fails_at:
            raise Failure
        outputs = self.linear(inputs)
        return {"loss": nn.functional.cross_entropy(outputs, labels), "outputs": outputs}


def training(folder, callback, epochs, network=None, resumed=None):
    """4 updates an epoch, with a checkpoint after each epoch."""
    settings = transformers.TrainingArguments(
        str(folder / "checkpoints"),
        num_train_epochs=epochs,
        per_device_train_batch_size=4,
        save_strategy="epoch",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    data = [{"inputs": torch.randn(8), "labels": torch.tensor(i % 4)} for i in range(16)]
    network = network or Network()
    trainer = transformers.Trainer(network, settings, train_dataset=data, callbacks=[callback])
    trainer.train(resume_from_checkpoint=resumed)
    return network


def test_it_tracks_the_optimiser_inside_the_wrapper_to_the_end(tracked, tmp_path):
    from symrun.integrations.transformers import SymrunCallback

    example = torch.zeros(2, 8)
    callback = SymrunCallback("runs/mine", example, every=5)
    network = training(tmp_path, callback, epochs=2)
    (one,) = tracked
    assert one.model is network and one.example_input is example
    assert one.options.pop("loss")({"loss": 1.5}) == 1.5
    assert one.options == {"path": "runs/mine", "every": 5}
    assert (one.step, one.closed, callback.tracker) == (8, [None], None)


def test_it_closes_the_run_if_the_training_fails(tracked, tmp_path):
    from symrun.integrations.transformers import SymrunCallback

    with pytest.raises(Failure), SymrunCallback("runs/mine", torch.zeros(2, 8)) as callback:
        training(tmp_path, callback, 2, Network(fails_at=4))
    (one,) = tracked
    assert (one.step, one.closed) == (3, [Failure])


def test_a_training_goes_on_with_its_run_from_a_checkpoint(tmp_path):
    """The weights, the optimiser and the laws go on together, or `exact` would miss."""
    from symrun.integrations.transformers import SymrunCallback

    example = {"inputs": torch.randn(2, 8), "labels": torch.zeros(2, dtype=torch.int64)}

    def callback():
        return SymrunCallback(tmp_path / "run", example, every=3, audit="error")

    training(tmp_path, callback(), 2)
    saved = tmp_path / "checkpoints" / "checkpoint-4"
    training(tmp_path, callback(), 3, resumed=str(saved))
    require_whole(tmp_path / "run", steps=[0, 3, 6, 9, 12])
