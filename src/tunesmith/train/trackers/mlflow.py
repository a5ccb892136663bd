"""MLflow: the server or database that MLFLOW_TRACKING_URI names, else MLflow's own default in the working directory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith.i18n import _
from tunesmith.train.trackers import Traced

PACKAGE, MODULE = "mlflow", "mlflow"
MARK = "tunesmith.run"
LONGEST = 6000  # characters that MLflow takes for a parameter


class Tracker:
    def start(self, run: Traced) -> str:
        import mlflow
        from mlflow.tracking import MlflowClient

        place = mlflow.get_tracking_uri()
        self._client: Any = MlflowClient(place)
        experiment = self._client.get_experiment_by_name(run.project)
        number = experiment.experiment_id if experiment else self._client.create_experiment(run.project)
        known = self._client.search_runs([number], filter_string=f"tags.`{MARK}` = '{run.id}'", max_results=1)
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._client.create_run(number, run_name=run.experiment, tags={MARK: run.id}).info.run_id
            for name, value in _flat(run.settings):
                self._client.log_param(self._id, name, value[:LONGEST])
        if place.startswith("http"):
            return f"{place}/#/experiments/{number}/runs/{self._id}"
        return _("look with: {command}").format(command=f"mlflow ui --backend-store-uri {place}")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [Metric(name, value, now, step) for name, value in numbers.items()])

    def finish(self) -> None:
        self._client.set_terminated(self._id)


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, str(value)
