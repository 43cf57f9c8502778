"""What an adaptation hands back, by itself: the same actions in a control loop, a file, ONNX."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from mier_adapt import AdaptedPolicy
from mier_adapt._storage.checkpoints import save_tree
from mier_adapt._storage.files import CheckpointError
from mier_adapt.compensation import Compensation
from mier_adapt.integration import PolicyActor, algorithm_state, load_algorithm_state
from mier_adapt.integration.deterministic import deterministic_network
from tests.mier_adapt.doubles import ACT_DIM, ALGORITHMS, OBS_DIM

BOXES = {
    "unit": ([-1.0, -1.0], [1.0, 1.0]),
    "positive": ([0.0, 0.0], [3.0, 3.0]),
    "mixed": ([-2.0, 0.5], [0.5, 7.0]),
}
COMPENSATIONS = {
    "none": None,
    "reversed": Compensation(np.diag([-1.0, 0.5]), np.array([0.1, 0.0])),
    "dead": Compensation(np.diag([0.0, 0.4]), np.zeros(2)),
    "mixed": Compensation(
        np.array([[0.3, 0.9], [-0.8, 0.2]]),
        np.array([0.1, -0.2]),
        np.diag([-1.0, 2.0, 1.0]),
        np.array([0.1, 0.0, 0.0]),
    ),
}


def observations(dtype=np.float32):
    return np.random.default_rng(0).normal(size=(40, OBS_DIM)).astype(dtype)


def adapted(algorithm, *, context_dim, box="unit", dtype=np.float32, compensation=None, **parts):
    """As an adaptation makes it, of an algorithm built for this box."""
    low, high = (np.array(each, dtype) for each in BOXES[box])
    algorithm.policy.action_space = spaces.Box(low, high, dtype=dtype)
    return AdaptedPolicy(
        network=deterministic_network(algorithm.policy),
        context=torch.linspace(-1, 1, context_dim),
        low=low,
        high=high,
        compensation=compensation,
        **parts,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("undone", COMPENSATIONS)
@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_acts_the_same_wherever_it_goes(name, context_dim, undone, box, dtype, tmp_path):
    """As Tianshou would through the wrapper, as a file and as ONNX, single and batched."""
    algorithm, compensation = ALGORITHMS[name](context_dim=context_dim), COMPENSATIONS[undone]
    with torch.no_grad():  # so that commands also lie beyond what motors can do
        for each in algorithm.policy.parameters():
            each.mul_(2)
    policy = adapted(
        algorithm, context_dim=context_dim, box=box, dtype=dtype, compensation=compensation
    )
    obs = observations(dtype)
    act = obs if compensation is None else compensation.observation(obs)
    act = PolicyActor(algorithm.policy, policy.context).act(act, explore=False)
    act = act if compensation is None else compensation.action(act)
    predicted = policy.predict(obs)
    assert predicted.dtype == dtype
    np.testing.assert_allclose(predicted, algorithm.policy.map_action(act), atol=1e-6)
    assert (predicted >= policy.low).all()
    assert (predicted <= policy.high).all()
    np.testing.assert_allclose(policy.predict(obs[3]), predicted[3], atol=1e-5)

    policy.save(tmp_path / "policy.safetensors")
    loaded = AdaptedPolicy.load(tmp_path / "policy.safetensors")
    np.testing.assert_array_equal(loaded.predict(obs), predicted)

    runtime = pytest.importorskip("onnxruntime")
    loaded.export_onnx(tmp_path / "policy.onnx")
    session = runtime.InferenceSession(str(tmp_path / "policy.onnx"))
    (exported,) = session.run(None, {"obs": obs.astype(np.float32)})
    assert exported.dtype == dtype
    np.testing.assert_allclose(exported, predicted, atol=1e-5)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 8), nn.ELU(0.7), nn.Linear(8, ACT_DIM)],
        [nn.LeakyReLU(0.2), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, ACT_DIM)],
    ],
)
def test_every_layer_that_a_file_can_hold(layers, tmp_path):
    network = nn.Sequential(nn.Linear(OBS_DIM, 8), *layers, nn.Tanh())
    policy = AdaptedPolicy(
        network=network, context=torch.zeros(0), low=np.zeros(2), high=np.ones(2)
    )
    policy.save(tmp_path / "policy")
    loaded = AdaptedPolicy.load(tmp_path / "policy")
    np.testing.assert_array_equal(loaded.predict(observations()), policy.predict(observations()))
    runtime = pytest.importorskip("onnxruntime")
    policy.export_onnx(tmp_path / "policy.onnx")
    (exported,) = runtime.InferenceSession(str(tmp_path / "policy.onnx")).run(
        None, {"obs": observations()}
    )
    np.testing.assert_allclose(exported, policy.predict(observations()), atol=1e-5)


def test_another_process_needs_no_tianshou_and_no_simulator(tmp_path):
    policy = adapted(ALGORITHMS["SAC"](context_dim=2), context_dim=2, about={"task": "x"})
    policy.save(tmp_path / "policy")
    script = (
        "import sys, json, pathlib, numpy as np\n"
        "from mier_adapt import AdaptedPolicy\n"
        "policy = AdaptedPolicy.load(pathlib.Path(sys.argv[1]))\n"
        "loaded = [each for each in ('tianshou', 'mujoco', 'gymnasium') if each in sys.modules]\n"
        "act = policy.predict(np.full(3, 0.5, np.float32)).tolist()\n"
        "print(json.dumps([loaded, policy.about, act]))"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "policy")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout) == [
        [],
        {"task": "x"},
        policy.predict(np.full(3, 0.5, np.float32)).tolist(),
    ]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_built_the_same_way_trains_on(name, tmp_path):
    algorithm = ALGORITHMS[name](context_dim=0)
    policy = adapted(algorithm, context_dim=0, algorithm_state=algorithm_state(algorithm))
    policy.save(tmp_path / "policy")
    torch.manual_seed(1)
    built = ALGORITHMS[name](context_dim=0)
    loaded = AdaptedPolicy.load(tmp_path / "policy")
    load_algorithm_state(built, loaded.algorithm_state)
    actor = PolicyActor(built.policy, torch.zeros(0))
    np.testing.assert_array_equal(
        actor.act(observations(), explore=False), loaded.act(observations())
    )


class OwnActor(nn.Module):
    """No actor of Tianshou's."""

    def __init__(self, actor):
        super().__init__()
        self.actor = actor

    def forward(self, obs, state=None, info=None):
        return self.actor(obs, state, info or {})


def test_a_network_of_ones_own_acts_and_says_what_a_file_would_take(tmp_path):
    algorithm = ALGORITHMS["TD3"](context_dim=0)
    algorithm.policy.actor = OwnActor(algorithm.policy.actor)
    policy = adapted(algorithm, context_dim=0)
    acted = PolicyActor(algorithm.policy, torch.zeros(0)).act(observations(), explore=False)
    np.testing.assert_allclose(policy.predict(observations()), acted, atol=1e-6)
    for write in (policy.save, policy.export_onnx):
        with pytest.raises(TypeError, match="network of layers in"):
            write(tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def test_a_row_is_undone_for_itself():
    """The command for a row does not depend on those beside it."""
    undone = Compensation(np.array([[1.0, 0.0], [0.03, 0.02]]), np.zeros(2))
    easy, hard = np.array([0.5, 0.02]), np.array([1.0, -1.0])
    np.testing.assert_array_equal(undone.action(np.stack([easy, hard]))[0], undone.action(easy))


def test_what_makes_no_sense_is_refused(tmp_path):
    policy = adapted(ALGORITHMS["SAC"](context_dim=2), context_dim=2)
    with pytest.raises(ValueError, match="expected obs that the policy takes"):
        policy.predict(np.zeros(OBS_DIM + 1))
    with pytest.raises(ValueError, match="obs of shape"):
        policy.predict(np.full(OBS_DIM, np.nan))
    with pytest.raises(ValueError, match="low and high"):
        AdaptedPolicy(
            network=policy.network, context=policy.context, low=np.zeros(2), high=np.ones(3)
        )
    save_tree(tmp_path / "other", {"format": "something"})
    with pytest.raises(CheckpointError):
        AdaptedPolicy.load(tmp_path / "other")
