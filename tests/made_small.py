"""The settings of runs whose tables are made without training, in a moment."""

from symrun.bench.tables import FULL_SCALE

MADE_SMALL = [
    *FULL_SCALE,
    *("data.image_size=32", "data.classes=10", "data.train_images=40", "data.val_images=20"),
    *("model.width=0.0625", "train.batch_size=20"),
]
