import dataclasses
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt import Transitions
from mier_adapt._storage.checkpoints import CheckpointError, load_tree, save_tree

from .doubles import assert_same_tree, random_transitions

FIELDS = ("obs", "act", "rew", "obs_next", "terminated")


def columns(transitions: Transitions) -> dict[str, torch.Tensor]:
    return {name: getattr(transitions, name) for name in FIELDS}


@given(
    axes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    obs_dim=st.integers(1, 4),
    act_dim=st.integers(1, 3),
)
def test_flatten_joins_leading_axes_in_order(axes, obs_dim, act_dim):
    transitions = random_transitions(*axes, obs_dim=obs_dim, act_dim=act_dim)
    flat = transitions.flatten()
    assert len(transitions) == axes[0]
    assert len(flat) == int(np.prod(axes))
    assert_same_tree(
        columns(flat),
        {
            name: value.reshape(-1, *value.shape[len(axes) :])
            for name, value in columns(transitions).items()
        },
    )


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_cat_undoes_slicing(sizes):
    whole = random_transitions(sum(sizes))
    edges = np.cumsum([0, *sizes])
    parts = [whole[start:stop] for start, stop in itertools.pairwise(edges)]
    assert [len(part) for part in parts] == sizes
    assert_same_tree(columns(Transitions.cat(parts)), columns(whole))


@given(num_tasks=st.integers(1, 4), batch=st.integers(1, 4))
def test_an_int_takes_one_task_out_of_a_stack(num_tasks, batch):
    parts = [random_transitions(batch, seed=task) for task in range(num_tasks)]
    stacked = Transitions.stack(parts)
    assert stacked.rew.shape == (num_tasks, batch)
    for task, part in enumerate(parts):
        assert_same_tree(columns(stacked[task]), columns(part))
    assert_same_tree(columns(stacked.flatten()), columns(Transitions.cat(parts)))


def test_selects_by_indices_and_by_mask():
    transitions = random_transitions(6)
    indices = torch.tensor([4, 1, 1])
    assert torch.equal(transitions[indices].rew, transitions.rew[indices])
    mask = torch.tensor([True, False, False, True, False, True])
    assert torch.equal(transitions[mask].obs, transitions.obs[[0, 3, 5]])


def test_episodes_are_told_apart():
    """The second ends its episode for good, the fourth is cut, and one begins where it ended."""
    trial = Transitions(
        obs=torch.tensor([0.0, 1.0, 5.0, 6.0, 8.0]).reshape(1, 5, 1),
        act=torch.zeros(1, 5, 1),
        rew=torch.zeros(1, 5),
        obs_next=torch.tensor([1.0, 5.0, 6.0, 7.0, 9.0]).reshape(1, 5, 1),
        terminated=torch.tensor([[False, True, False, False, False]]),
    )
    assert trial.follows.tolist() == [[True, False, True, False]]


def test_moving_to_the_device_where_it_is_copies_nothing():
    transitions = random_transitions(2)
    assert transitions.to("cpu").obs.data_ptr() == transitions.obs.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "move",
    [
        lambda transitions, dtype: transitions.to(dtype),
        lambda transitions, dtype: transitions.to(dtype=dtype),
        lambda transitions, dtype: transitions.to("cpu", dtype),
        lambda transitions, dtype: transitions.to(torch.device("cpu"), dtype=dtype),
    ],
)
def test_moves_to_a_device_a_type_or_both_as_tensors_do(move, dtype):
    transitions = random_transitions(2, 3)
    moved = columns(move(transitions, dtype))
    for name, value in columns(transitions).items():
        assert torch.equal(moved[name], value if name == "terminated" else value.to(dtype))


@pytest.mark.usefixtures("unchecked")
def test_no_type_takes_what_it_cannot_hold():
    large = random_transitions(2, dtype=torch.float64)
    large.obs_next[1, 0] = 1e300
    with pytest.raises(ValueError, match="obs_next holds 1 NaN or infinite"):
        large.to(torch.float32)
    with pytest.raises(TypeError, match=r"obs to be a floating-point tensor, got torch\.int64"):
        random_transitions(2).to(torch.int64)


def test_constants_share_memory_and_no_graph():
    transitions = random_transitions(2)
    transitions.obs.requires_grad_()
    constant = transitions.detach()
    assert not constant.obs.requires_grad
    assert constant.obs.data_ptr() == transitions.obs.data_ptr()
    with torch.inference_mode():
        made = random_transitions(2)
    assert made.obs.is_inference()
    assert not made.detach().obs.is_inference()


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        random_transitions(2).rew = torch.zeros(2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("obs", np.zeros((4, 3), np.float32), TypeError, "obs to be a floating-point tensor"),
        ("act", torch.zeros(4, 2, dtype=torch.int64), TypeError, "act .* got torch.int64"),
        ("rew", [0.0] * 4, TypeError, "rew to be a floating-point tensor"),
        ("terminated", torch.zeros(4), TypeError, "terminated to be a bool tensor"),
        ("obs", torch.zeros(3), ValueError, r"obs and act of shape \(\.\.\., B, dim\)"),
        ("act", torch.zeros(5, 2), ValueError, r"act of shape \(4, 2\).* got \(5, 2\)"),
        ("rew", torch.zeros(4, 1), ValueError, r"rew of shape \(4,\).* got \(4, 1\)"),
        ("obs_next", torch.zeros(4, 2), ValueError, r"obs_next of shape \(4, 3\)"),
        ("terminated", torch.zeros(3, dtype=torch.bool), ValueError, "terminated of shape"),
        ("rew", torch.zeros(4, dtype=torch.float64), ValueError, "rew .*float32.* got .*float64"),
        ("act", torch.zeros(4, 2, device="meta"), ValueError, "act .*on.* cpu.* got .*meta"),
    ],
)
def test_rejects_a_field_that_does_not_fit(field, value, error, message):
    with pytest.raises(error, match=message):
        Transitions(**{**columns(random_transitions(4)), field: value})


@given(
    field=st.sampled_from(["obs", "act", "rew", "obs_next"]),
    value=st.sampled_from([float("nan"), float("inf"), float("-inf")]),
    position=st.integers(0, 3),
)
def test_names_the_field_that_is_not_finite(field, value, position):
    given_columns = columns(random_transitions(4))
    given_columns[field][position] = value
    with pytest.raises(ValueError, match=rf"but {field} holds [1-3] NaN or infinite entries"):
        Transitions(**given_columns)


def test_rejects_an_empty_set_a_single_row_and_nothing_to_join():
    with pytest.raises(ValueError, match="at least one transition"):
        random_transitions(0)
    nobody = torch.zeros(3, dtype=torch.bool)
    for index in (slice(0), slice(5, None), nobody, nobody.nonzero()[:, 0], 0):
        with pytest.raises(ValueError, match=r"index .*some of .*obs \(3, 3\)"):
            random_transitions(3)[index]
    for join in (Transitions.cat, Transitions.stack):
        with pytest.raises(ValueError, match=r"parts .*sets .*, got \[\]"):
            join([])


@pytest.mark.usefixtures("unchecked")
def test_sets_that_do_not_go_together_are_not_joined():
    one = random_transitions(3)
    for join in (Transitions.cat, Transitions.stack):
        with pytest.raises(ValueError, match=r"parts .*dtype"):
            join([one, random_transitions(3, dtype=torch.float64)])
        with pytest.raises(ValueError, match="parts of fitting shapes"):
            join([one, random_transitions(3, obs_dim=4)])
        with pytest.raises(TypeError, match=r"parts.* to be of type"):
            join([one, one.rew])
    with pytest.raises(ValueError, match="parts of fitting shapes"):
        Transitions.stack([one, one[:2]])


@given(
    axes=st.sampled_from([(5,), (1,), (2, 3)]),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_a_file_gives_back_what_was_written(axes, dtype, seed):
    transitions = random_transitions(*axes, seed=seed).to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        transitions.save(Path(folder) / "transitions")
        assert_same_tree(vars(Transitions.load(Path(folder) / "transitions")), vars(transitions))


@pytest.mark.parametrize("damage", ["cut", "foreign", "short", "more", "else", "another type"])
def test_a_file_of_something_else_is_refused(damage, tmp_path):
    path, transitions = tmp_path / "transitions", random_transitions(5)
    transitions.save(path)
    tree = load_tree(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "foreign":
        save_tree(path, {**tree, "format": "mier-adapt policy 1"})
    elif damage == "short":
        save_tree(path, {**tree, "rew": tree["rew"][:-1]})
    elif damage == "more":
        save_tree(path, {**tree, "context": tree["rew"]})
    elif damage == "else":
        save_tree(path, [tree])
    else:
        save_tree(path, {**tree, "rew": tree["rew"].double()})
    with pytest.raises(CheckpointError, match="transitions"):
        Transitions.load(path)
    with pytest.raises(FileNotFoundError):
        Transitions.load(tmp_path / "none")
