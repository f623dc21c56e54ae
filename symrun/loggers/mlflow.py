"""MLflow: wherever the user tracks, which MLFLOW_TRACKING_URI says; by default a local file."""

import os
import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric

from symrun.runs.directory import RunDirectory


class Sink:
    """A run of its own beside any that the user's loop logs to. A resumed run is another one."""

    def __init__(self, run: RunDirectory, step: int) -> None:
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "symrun")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        self._run = self._client.create_run(experiment, run_name=str(run.path)).info.run_id

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in scalars.items()]
        self._client.log_batch(self._run, metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)
