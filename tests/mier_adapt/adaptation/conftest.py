import pytest

from mier_adapt.adaptation import learner
from mier_adapt.integration import MixedReplayBuffer


@pytest.fixture
def trained_on(monkeypatch):
    """The buffers that adaptations make."""
    made = []

    class Remembered(MixedReplayBuffer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(learner, "MixedReplayBuffer", Remembered)
    return made
