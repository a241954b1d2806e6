"""The multi-label tasks on small copies in the official layout, and on the full metadata where they are at hand."""

from __future__ import annotations

import pytest

from sedembed import metrics
from sedembed._evaluation.tasks.fsdkaggle2019 import FSDKaggle2019Curated, FSDKaggle2019Noisy
from sedembed._evaluation.tasks.magnatagatune import MagnaTagATune


@pytest.mark.parametrize("task", [FSDKaggle2019Curated(), FSDKaggle2019Noisy(), MagnaTagATune()])
def test_facts(task):
    for metric in (task.metric, *task.other_metrics):
        metrics.check_name(metric)
    assert task.multilabel
    assert set(task.paper) == {"talnet", "weanet"}
    assert all(0 < score < 1 for score in task.paper.values())
