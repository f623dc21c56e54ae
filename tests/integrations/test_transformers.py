"""The callback tracks what a Trainer of Hugging Face trains, inside accelerate's wrapper."""

import pytest
import torch
from torch import nn

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
    assert (one.step, one.closed, callback.tracker) == (8, 1, None)


def test_it_closes_the_run_if_the_training_fails(tracked, tmp_path):
    from symrun.integrations.transformers import SymrunCallback

    with pytest.raises(Failure), SymrunCallback("runs/mine", torch.zeros(2, 8)) as callback:
        training(tmp_path, callback, 2, Network(fails_at=4))
    (one,) = tracked
    assert (one.step, one.closed) == (3, 1)


def test_its_state_travels_with_the_trainers_checkpoints(tracked, tmp_path):
    from symrun.integrations.transformers import SymrunCallback

    training(tmp_path, SymrunCallback("runs/one", torch.zeros(2, 8)), 2)
    saved = tmp_path / "checkpoints" / "checkpoint-4"
    again = SymrunCallback("runs/two", torch.zeros(2, 8))
    training(tmp_path, again, 3, resumed=str(saved))
    assert [one.step for one in tracked] == [8, 4 + 8]
