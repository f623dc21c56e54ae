"""The callback tracks what a Trainer fits, from its first update to its last or to an error."""

import importlib

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tracked import require_whole

pytest.importorskip("lightning")
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own


class Failure(Exception):
    pass


def fitting(package, folder, callback, epochs, fails_at=None, resumed=None):
    """Fit 4 updates an epoch, with a checkpoint after each epoch."""
    pl = importlib.import_module(package)

    class Classifier(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
            self.example_input_array = torch.zeros(2, 8)

        def training_step(self, batch, index):
            if self.global_step == fails_at:
                raise Failure
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    checkpoints = importlib.import_module(f"{package}.callbacks").ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="{step}", save_top_k=-1
    )
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback, checkpoints],
    )
    data = TensorDataset(torch.randn(16, 8), torch.randint(4, (16,)))
    module = Classifier()
    trainer.fit(module, DataLoader(data, batch_size=4), ckpt_path=resumed)
    return module, trainer


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_it_tracks_the_named_network_to_the_end(package, tracked, tmp_path):
    from symrun.integrations.lightning import SymrunCallback

    callback = SymrunCallback("runs/mine", network="network", every=5)
    module, trainer = fitting(package, tmp_path, callback, epochs=2)
    (one,) = tracked
    assert one.model is module.network and one.optimizer is trainer.optimizers[0]
    assert one.example_input is module.example_input_array
    assert one.options == {"path": "runs/mine", "every": 5}
    assert (one.step, one.closed) == (8, [None])
    trainer.save_checkpoint(tmp_path / "later.ckpt")
    saved = torch.load(tmp_path / "later.ckpt", weights_only=False)["callbacks"]
    assert any("SymrunCallback" in name for name in saved)


def test_it_closes_the_run_if_the_fit_fails(tracked, tmp_path):
    from symrun.integrations.lightning import SymrunCallback

    with pytest.raises(Failure):
        fitting("lightning.pytorch", tmp_path, SymrunCallback("runs/mine"), 2, fails_at=3)
    (one,) = tracked
    assert (one.step, one.closed) == (3, [Failure])


def test_a_fit_goes_on_with_its_run_from_a_checkpoint(tmp_path):
    """The weights, the optimiser and the laws go on together, or `exact` would miss."""
    from symrun.integrations.lightning import SymrunCallback

    def callback():
        return SymrunCallback(tmp_path / "run", network="network", every=3, audit="error")

    fitting("lightning.pytorch", tmp_path, callback(), 2)
    saved = tmp_path / "checkpoints" / "step=4.ckpt"
    fitting("lightning.pytorch", tmp_path, callback(), 3, resumed=saved)
    require_whole(tmp_path / "run", steps=[0, 3, 6, 9, 12])
