"""Images in, device batches out."""

from symrun.config import DataConfig, SyntheticConfig
from symrun.data import synthetic, tiny_imagenet
from symrun.data.batches import Batches
from symrun.data.dataset import Dataset, Split

__all__ = ["Batches", "Dataset", "Split", "load"]


def load(config: DataConfig) -> Dataset:
    """The data set that `config` describes: downloaded and decoded, or made, if need be.

    Error: UsageError naming the file or the setting that cannot be used.
    Example: load(SyntheticConfig("synthetic", 10, 32, 2000, 500, seed=0)).classes
    """
    if isinstance(config, SyntheticConfig):
        return synthetic.synthetic_textures(config)
    return tiny_imagenet.tiny_imagenet(config)
