"""Minari datasets: what is written is read back, and what does not fit is refused."""

import sys
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from mier_adapt import Transitions
from mier_adapt.integration import from_minari, to_minari
from tests.mier_adapt.doubles import random_transitions

# Minari would like to know more about each dataset than these tests can tell it.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def assert_equal(one: Transitions, other: Transitions) -> None:
    for name in ("obs", "act", "rew", "obs_next", "terminated"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_unordered_transitions_come_back_bit_for_bit() -> None:
    transitions = random_transitions(37)
    dataset = to_minari(transitions, "test/random-v0", author="us")
    assert dataset.total_episodes == 37
    assert_equal(from_minari("test/random-v0"), transitions)


def test_a_rollout_keeps_its_episodes() -> None:
    env = gymnasium.make("MIER/AntDir-v0", max_episode_steps=30)
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        for _ in range(30):
            act = rng.uniform(-1, 1, 8).astype(np.float32)
            obs_next, rew, terminated, truncated, _ = env.step(act)
            rows.append((obs, act, np.float32(rew), obs_next, terminated))
            obs = obs_next
            if terminated or truncated:
                break
    env.close()
    columns = [torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)]
    transitions = Transitions(*columns)
    dataset = to_minari(transitions, "test/ant-v0")
    assert dataset.total_episodes == 3
    assert dataset.total_steps == len(transitions)
    assert_equal(from_minari(dataset), transitions)


def test_episodes_are_cut_where_it_is_said() -> None:
    """Where an observation goes on, or seems to, nothing else tells."""
    transitions = random_transitions(9)
    path = torch.cat((transitions.obs, transitions.obs_next[-1:]))
    at_once = Transitions(
        path[:-1], transitions.act, transitions.rew, path[1:], torch.zeros(9, dtype=torch.bool)
    )
    assert to_minari(at_once, "test/one-v0", author="us").total_episodes == 1
    truncated = np.zeros(9, dtype=bool)
    truncated[[3, 6]] = True
    dataset = to_minari(at_once, "test/cut-v0", truncated=truncated, author="us")
    episodes = list(dataset.iterate_episodes())
    assert [len(each) for each in episodes] == [4, 3, 2]
    assert all(each.truncations[-1] and not each.truncations[:-1].any() for each in episodes)
    assert_equal(from_minari("test/cut-v0"), at_once)
    ended = Transitions(*(*list(vars(at_once).values())[:4], torch.from_numpy(truncated)))
    dataset = to_minari(ended, "test/ended-v0", author="us")
    assert [len(each) for each in dataset.iterate_episodes()] == [4, 3, 2]
    assert_equal(from_minari("test/ended-v0"), ended)
    for bad in (truncated[:-1], truncated.astype(float), truncated[None]):
        with pytest.raises(ValueError, match=r"truncated of shape \(9,\) and bool.*, got"):
            to_minari(at_once, "test/bad-v0", truncated=bad)


def write(action_space: spaces.Box, actions: np.ndarray) -> minari.MinariDataset:
    steps = len(actions)
    return minari.create_dataset_from_buffers(
        "test/other-v0",
        [
            EpisodeBuffer(
                observations=np.zeros((steps + 1, 2)),
                actions=actions,
                rewards=np.ones(steps),
                terminations=np.zeros(steps, dtype=bool),
                truncations=np.zeros(steps, dtype=bool),
                infos={},
            )
        ],
        observation_space=spaces.Box(-1, 1, (2,), np.float64),
        action_space=action_space,
    )


def test_actions_are_rescaled_to_the_convention_of_policies() -> None:
    space = spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float64)
    dataset = write(space, np.array([[-2.0, 0.0], [0.0, 5.0], [2.0, 10.0], [1.0, 7.5]]))
    transitions = from_minari(dataset, dtype=torch.float64)
    assert transitions.act.tolist() == [[-1, -1], [0, 0], [1, 1], [0.5, 0.5]]
    assert from_minari(dataset).obs.dtype == torch.float32


@pytest.mark.filterwarnings("error:.*:RuntimeWarning")
def test_an_action_without_a_choice_is_in_the_middle() -> None:
    space = spaces.Box(np.array([-2, 3], np.float32), np.array([2, 3], np.float32))
    actions = np.array([[-2, 3], [1, 3]], np.float32)
    found = from_minari(write(space, actions))
    assert found.act.tolist() == [[-1, 0], [0.5, 0]]


def test_unbounded_actions_must_be_in_the_convention_already() -> None:
    dataset = write(spaces.Box(-np.inf, np.inf, (1,), np.float64), np.array([[0.5], [3.0]]))
    with pytest.raises(
        ValueError, match=r"expected actions .* in \[-1, 1\], got values from 0\.5 to 3\.0"
    ):
        from_minari(dataset)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected transitions of one task.*\(2, 3, 3\)"):
        to_minari(random_transitions(2, 3), "test/many-v0")
    transitions = random_transitions(3)
    too_large = Transitions(
        transitions.obs, 5 * torch.ones_like(transitions.act), transitions.rew,
        transitions.obs_next, transitions.terminated,
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"actions of transitions in \[-1, 1\], got values from 5\.0"
    ):
        to_minari(too_large, "test/large-v0")
    with pytest.raises(FileNotFoundError, match="not found"):
        from_minari("test/nowhere-v0")


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("metadata.json", b"{}"),
        ("metadata.json", b"[" * 100_000),
        ("metadata.json", b"\xff"),
        ("main_data.hdf5", b""),
        ("main_data.hdf5", None),
    ],
)
def test_a_damaged_dataset_is_a_value_error(
    name: str, contents: bytes | None, tmp_path: Path
) -> None:
    to_minari(random_transitions(3), "test/random-v0", author="us")
    (path,) = tmp_path.rglob(name)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if contents is None else contents)
    with pytest.raises(ValueError, match=r"a whole dataset, got \w+Error: |JSON|codec"):
        from_minari("test/random-v0")


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ImportError, match=r"pip install 'mier-adapt\[minari\]'"):
        from_minari("test/random-v0")
