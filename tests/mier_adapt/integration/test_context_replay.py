import copy
import pickle
from collections import Counter, deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt import Transitions
from mier_adapt.integration import ContextReplayBuffer

from ..doubles import ACT_DIM, CONTEXT_DIM, OBS_DIM, assert_same_tree, random_transitions

NUM_TASKS, SIZE = 3, 8

operations = st.lists(
    st.tuples(st.integers(0, NUM_TASKS - 1), st.integers(1, 6), st.booleans()), max_size=12
)


def empty(*, seed: int = 0, **changes: int) -> ContextReplayBuffer:
    sizes = {"num_tasks": NUM_TASKS, "size_per_task": SIZE, **changes}
    dims = {"obs_dim": OBS_DIM, "act_dim": ACT_DIM, "context_dim": CONTEXT_DIM}
    dims |= {name: sizes.pop(name) for name in tuple(sizes) if name in dims}
    return ContextReplayBuffer(
        sizes["num_tasks"],
        sizes["size_per_task"],
        **dims,
        generator=np.random.default_rng(seed),
    )


def numbered(first: int, count: int, **dims: int) -> Transitions:
    """Transitions whose reward says which they are."""
    bare = random_transitions(count, seed=first, **dims)
    rew = torch.arange(first, first + count, dtype=torch.float32)
    return Transitions(bare.obs, bare.act, rew, bare.obs_next, bare.terminated)


def fill(buffer: ContextReplayBuffer, done: list[tuple[int, int, bool]]) -> list[deque]:
    """Apply operations to a buffer and to plain lists of numbers and flags, oldest first."""
    expected = [deque(maxlen=buffer.size_per_task) for _ in range(buffer.num_tasks)]
    for first, (task, count, initial) in enumerate(done):
        buffer.extend(task, numbered(100 * first, count), initial_context=initial)
        expected[task].extend(
            (number, initial) for number in range(100 * first, 100 * first + count)
        )
    return expected


def full(**changes: int) -> ContextReplayBuffer:
    """Every task with data of both kinds; a task's rewards are its index times 100 and more."""
    buffer = empty(**changes)
    dims = {name: changes[name] for name in ("obs_dim", "act_dim") if name in changes}
    for task in range(buffer.num_tasks):
        for initial in (True, False):
            first = 100 * task + 50 * (not initial)
            buffer.extend(task, numbered(first, 4, **dims), initial_context=initial)
    return buffer


def contexts(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, CONTEXT_DIM, generator=torch.Generator().manual_seed(seed))


# Storage ------------------------------------------------------------------------------------


def loaded(buffer, path):
    """As it is in an HDF5 file of Tianshou's."""
    buffer.save_hdf5(str(path))
    return type(buffer).load_hdf5(str(path))


COPIES = {
    "deepcopy": lambda buffer, path: copy.deepcopy(buffer),
    "pickle": lambda buffer, path: pickle.loads(pickle.dumps(buffer)),
    "hdf5": loaded,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_what_a_copy_is_given_is_read_from_it(copied, tmp_path):
    buffer, twin = full(), full()
    before = buffer.state()
    made = copied(buffer, tmp_path / "buffer")
    for each in (made, twin):
        each.extend(1, numbered(7_000, 3), initial_context=True)
    assert_same_tree(made.state()["columns"], twin.state()["columns"])
    assert_same_tree(buffer.state(), before)
    for each in (made, twin):
        each.load_state(before)
    indices = np.arange(len(made.task_buffer(1)))
    assert torch.equal(
        made.task_buffer(1).transitions(indices).rew, buffer.task_buffer(1).transitions(indices).rew
    )


@given(done=operations)
def test_every_task_has_a_ring_of_its_own(done):
    buffer = empty()
    expected = fill(buffer, done)
    assert len(buffer) == sum(map(len, expected))
    if not len(buffer):
        return
    stored = buffer.stored()
    numbers = [int(number) for number in stored.rew]
    start = 0
    for task, rows in enumerate(expected):
        assert len(buffer.task_buffer(task)) == len(rows)
        assert sorted(numbers[start : start + len(rows)]) == [number for number, _ in rows]
        held = buffer.task_buffer(task)
        flagged = held.rew[held.adaptation_indices()] if rows else []
        assert [int(number) for number in flagged] == [n for n, initial in rows if initial]
        start += len(rows)


@given(
    done=operations,
    batch_size=st.integers(1, 20),
    window=st.none() | st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_adaptation_data_was_gathered_with_the_initial_context(done, batch_size, window, seed):
    buffer = empty(seed=seed)
    expected = fill(buffer, done)
    for adaptation in (True, False):
        held = [[n for n, initial in rows if initial or not adaptation] for rows in expected]
        allowed = [set(numbers if window is None else numbers[-window:]) for numbers in held]
        tasks = np.array([task for task, numbers in enumerate(allowed) if numbers], dtype=int)
        if len(tasks):
            drawn = buffer.sample_transitions(
                tasks, batch_size, adaptation=adaptation, window=window
            )
            assert drawn.obs.shape == (len(tasks), batch_size, OBS_DIM)
            for row, task in enumerate(tasks):
                assert set(map(int, drawn.rew[row])) <= allowed[task]
        for task in set(range(NUM_TASKS)) - set(tasks.tolist()):
            with pytest.raises(ValueError, match=f"for task {task}. Collect some first"):
                buffer.sample_transitions(np.array([task]), batch_size, adaptation=adaptation)


def test_all_data_of_a_task_is_drawn_evenly():
    buffer = full()
    drawn = buffer.sample_transitions(np.array([1, 1]), 4000, adaptation=False)
    counts = Counter(map(int, drawn.rew.flatten()))
    assert set(counts) == {*range(100, 104), *range(150, 154)}
    assert max(counts.values()) < 1.2 * min(counts.values())
    flagged = buffer.sample_transitions(np.array([2]), 400, adaptation=True)
    assert set(map(int, flagged.rew[0])) == set(range(200, 204))
    newest = buffer.sample_transitions(np.array([2]), 400, adaptation=True, window=3)
    assert set(map(int, newest.rew[0])) == set(range(201, 204))


def test_a_sample_for_the_model_is_stored_data_without_contexts():
    buffer = full()
    buffer.set_contexts(np.arange(NUM_TASKS), contexts(NUM_TASKS))
    drawn = buffer.sample_transitions(np.array([2, 0]), 5, adaptation=False)
    for row, task in enumerate((2, 0)):
        for column in range(5):
            number = int(drawn.rew[row, column])
            part = numbered(100 * task + (50 if number % 100 >= 50 else 0), 4)
            original = part[number % 50 : number % 50 + 1]
            for name in ("obs", "act", "obs_next", "terminated"):
                assert torch.equal(getattr(drawn, name)[row, column], getattr(original, name)[0])


def test_samples_come_from_the_given_generator_or_the_buffers_own():
    tasks = np.array([0, 1])
    first = full().sample_transitions(tasks, 6, adaptation=False)
    buffer = full()
    aside = buffer.sample_transitions(
        tasks, 6, adaptation=False, generator=np.random.default_rng(0)
    )
    again = buffer.sample_transitions(tasks, 6, adaptation=False)
    assert torch.equal(first.rew, aside.rew)  # the buffer's generator has the same seed
    assert torch.equal(first.rew, again.rew)  # and was not touched


# What an algorithm sees ---------------------------------------------------------------------


@given(
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 1000),
    active=st.lists(st.integers(0, NUM_TASKS - 1), min_size=1, max_size=5),
)
def test_tasks_have_equal_shares_and_their_own_contexts(batch_size, seed, active):
    buffer = full(seed=seed)
    tasks = np.array(active)
    values = contexts(NUM_TASKS, seed)[tasks]
    buffer.set_contexts(tasks, values)
    batch, indices = buffer.sample(batch_size)
    assert len(indices) == batch_size
    owners = indices // SIZE
    times = Counter(active)
    counts = Counter(owners.tolist())
    assert set(counts) <= set(active)
    for task, repeats in times.items():
        share = repeats * batch_size / len(active)
        assert abs(counts[task] - share) <= repeats
    for row, owner in enumerate(owners):
        expected = contexts(NUM_TASKS, seed)[owner].numpy()
        for name in ("obs", "obs_next"):
            bare = getattr(buffer, name)[indices[row]]
            np.testing.assert_array_equal(batch[name][row], np.concatenate((bare, expected)))
        assert int(batch.rew[row]) // 100 == owner
    np.testing.assert_array_equal(batch.act, buffer.act[indices])
    assert batch.obs.dtype == np.float32
    assert batch.act.shape == (batch_size, ACT_DIM)


def test_a_new_context_applies_to_all_of_a_tasks_past():
    buffer = full()
    tasks, index = np.array([1, 2]), np.array([0, SIZE, SIZE + 3, 2 * SIZE])
    stored = copy.deepcopy(buffer.obs)
    first = contexts(2)
    buffer.set_contexts(tasks, first)
    assert (buffer[index].obs[0, OBS_DIM:] == 0).all()  # task 0 has none yet
    np.testing.assert_array_equal(buffer[index].obs[1:, OBS_DIM:], first[[0, 0, 1]])
    second = contexts(1, seed=1)
    buffer.set_contexts(np.array([1]), second)
    np.testing.assert_array_equal(buffer[index].obs[1:3, OBS_DIM:], second[[0, 0]])
    np.testing.assert_array_equal(buffer[index].obs_next[3, OBS_DIM:], first[1])
    np.testing.assert_array_equal(buffer[index].obs_next[:, :OBS_DIM], buffer.obs_next[index])
    np.testing.assert_array_equal(buffer.obs, stored)
    np.testing.assert_array_equal(buffer.get(3, "obs")[:OBS_DIM], buffer.obs[3])


def test_the_buffer_keeps_its_own_copy_of_contexts():
    buffer, values = full(), contexts(1)
    before = values.clone()
    buffer.set_contexts(np.array([0]), values)
    values.add_(1.0)
    np.testing.assert_array_equal(buffer.get(np.array([0]), "obs")[:, OBS_DIM:], before)


def test_without_a_context_observations_are_bare():
    buffer = full(context_dim=0)
    buffer.set_contexts(np.array([0]), torch.zeros(1, 0))
    batch, indices = buffer.sample(6)
    np.testing.assert_array_equal(batch.obs, buffer.obs[indices])


def test_a_sample_of_zero_is_everything_of_the_current_tasks_in_order():
    buffer = full()
    buffer.set_contexts(np.array([2, 0]), contexts(2))
    _, indices = buffer.sample(0)
    assert indices.tolist() == [*range(2 * SIZE, 3 * SIZE), *range(SIZE)]
    _, shuffled = buffer.sample(None)
    assert sorted(shuffled) == sorted(indices)


# State --------------------------------------------------------------------------------------


@given(done=operations.filter(bool), seed=st.integers(0, 1000))
def test_a_restored_buffer_has_the_same_future(done, seed):
    buffer = empty(seed=seed)
    fill(buffer, done)
    tasks = np.array(sorted({task for task, _, _ in done}))
    buffer.set_contexts(tasks, contexts(len(tasks), seed))
    restored = empty(seed=seed)
    restored.load_state(buffer.state())
    assert_same_tree(restored.state(), buffer.state())
    for _ in range(2):
        assert len(restored) == len(buffer)
        for one, other in zip(buffer.sample(10), restored.sample(10), strict=True):
            for name in ("obs", "act", "rew", "obs_next", "terminated", "done"):
                if hasattr(one, name):
                    np.testing.assert_array_equal(one[name], other[name])
        everything = buffer.stored_indices()
        np.testing.assert_array_equal(restored.next(everything), buffer.next(everything))
        np.testing.assert_array_equal(restored.unfinished_index(), buffer.unfinished_index())
        for which in (buffer, restored):
            which.extend(tasks[0], numbered(9_000, 5), initial_context=True)
        for task in tasks:
            np.testing.assert_array_equal(
                restored.task_buffer(task).adaptation_indices(),
                buffer.task_buffer(task).adaptation_indices(),
            )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tasks": 2}, "2 tasks"),
        ({"size_per_task": 4}, "at most 4"),
        ({"context_dim": 3}, "contexts.*, 3"),
        ({"obs_dim": 4}, "obs.*, 4"),
        ({"act_dim": 1}, "act.*, 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_state_of_other_sizes_is_refused_and_changes_nothing(changes, message):
    buffer = full(**changes)
    before = buffer.state()
    with pytest.raises(ValueError, match=message):
        buffer.load_state(full().state())
    assert_same_tree(buffer.state(), before)


def test_emptying_the_buffer_empties_every_task():
    buffer = full()
    buffer.task_buffer(0).adaptation_indices()
    buffer.reset()
    assert len(buffer) == 0
    for adaptation in (True, False):
        with pytest.raises(ValueError, match="for task 0"):
            buffer.sample_transitions(np.array([0]), 2, adaptation=adaptation)


# Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tasks": 0}, "num_tasks >= 1, got 0"),
        ({"context_dim": -1}, "context_dim >= 0, got -1"),
        ({"size_per_task": 0}, "size_per_task >= 1, got 0"),
    ],
)
def test_construction_names_the_size_that_is_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        empty(**changes)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("tasks", "values", "message"),
    [
        ([0, 1], torch.zeros(1, CONTEXT_DIM), r"contexts of shape \(2, 2\) .* of shape \(1, 2\)"),
        ([0], torch.zeros(1, 3), r"contexts of shape \(1, 2\) .* of shape \(1, 3\)"),
        ([0], torch.zeros(CONTEXT_DIM), r"contexts of shape \(1, 2\) .* of shape \(2,\)"),
        ([0], torch.tensor([[0.0, torch.nan]]), r"contexts .* with finite values, got .*nan"),
        ([3], torch.zeros(1, CONTEXT_DIM), r"tasks .* from 0 to 2, got array\(\[3\]\)"),
        ([-1], torch.zeros(1, CONTEXT_DIM), r"tasks .* from 0 to 2, got array\(\[-1\]\)"),
        ([], torch.zeros(0, CONTEXT_DIM), "indices of one or more tasks"),
    ],
)
def test_set_contexts_refuses_what_does_not_fit_and_changes_nothing(tasks, values, message):
    buffer = full()
    buffer.set_contexts(np.array([1]), contexts(1))
    before = buffer.state()
    with pytest.raises(ValueError, match=message):
        buffer.set_contexts(np.array(tasks, dtype=int), values)
    assert_same_tree(buffer.state(), before)


def test_a_task_without_data_is_refused():
    buffer = empty()
    buffer.extend(0, numbered(0, 2), initial_context=False)
    with pytest.raises(ValueError, match="no data for task 1"):
        buffer.set_contexts(np.array([0, 1]), contexts(2))
    with pytest.raises(ValueError, match=r"initial context for task 0.*initial_context=True"):
        buffer.sample_transitions(np.array([0]), 2, adaptation=True)
    with pytest.raises(ValueError, match="no data for task 1"):
        buffer.sample(4)  # all tasks are current until set_contexts says otherwise


@pytest.mark.parametrize(
    ("task", "message"), [(-1, "task >= 0, got -1"), (NUM_TASKS, r"from 0 to 2, got \[3\]")]
)
def test_extending_a_task_that_is_not_there_is_refused(task, message):
    buffer = full()
    with pytest.raises(ValueError, match=message):
        buffer.extend(task, numbered(0, 2))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("transitions", "truncated", "error", "message"),
    [
        (random_transitions(2, 3), None, ValueError, r"transitions .*\(B, \.\.\.\)"),
        (numbered(0, 2).obs, None, ValueError, "transitions of one task"),
        (numbered(0, 2, obs_dim=5), None, ValueError, r"\(3, 2\) dimensions.* got \(5, 2\)"),
        (numbered(0, 2, act_dim=1), None, ValueError, r"\(3, 2\) dimensions.* got \(3, 1\)"),
        (numbered(0, 2), np.zeros(3, bool), ValueError, r"truncated of shape \(2,\), got \(3,\)"),
        (numbered(0, 2), np.zeros(2), ValueError, "truncated .* bool, got float64"),
        (numbered(0, 2), [False, True], TypeError, "truncated to be of type ndarray or None"),
    ],
)
def test_extending_by_what_does_not_fit_is_refused_and_changes_nothing(
    transitions, truncated, error, message
):
    buffer = full()
    before = copy.deepcopy(buffer.state())
    with pytest.raises(error, match=message):
        buffer.extend(0, transitions, truncated=truncated)
    assert_same_tree(buffer.state()["lengths"], before["lengths"])
    assert_same_tree(buffer.stored().rew, full().stored().rew)


# Logs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_logs_of_other_types_and_within_graphs_are_stored_in_single_precision(dtype):
    log = random_transitions(4).to(dtype)
    for name in ("obs", "act", "rew", "obs_next"):
        getattr(log, name).requires_grad_()
    buffers = [
        ContextReplayBuffer.of([log], generator=np.random.default_rng(0)),
        empty(num_tasks=1),
    ]
    buffers[1].extend(0, log)
    for buffer in buffers:
        stored = buffer.stored()
        for name in ("obs", "act", "rew", "obs_next", "terminated"):
            expected = getattr(log, name).detach()
            expected = expected if name == "terminated" else expected.float()
            assert torch.equal(getattr(stored, name), expected)
    large = random_transitions(4, dtype=torch.float64)
    large.rew[2] = 1e300
    with pytest.raises(ValueError, match="rew holds 1 NaN or infinite"):
        buffers[1].extend(0, large)


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), context_dim=st.integers(0, 2))
def test_holds_logs_of_several_tasks_any_of_which_may_identify_its_task(sizes, context_dim):
    logs = [numbered(100 * task, size) for task, size in enumerate(sizes)]
    buffer = ContextReplayBuffer.of(
        logs, context_dim=context_dim, generator=np.random.default_rng(0)
    )
    assert (buffer.num_tasks, buffer.size_per_task) == (len(sizes), max(sizes))
    assert (buffer.obs_dim, buffer.act_dim, buffer.context_dim) == (OBS_DIM, ACT_DIM, context_dim)
    stored, expected = buffer.stored(), Transitions.cat(logs)
    for name in ("obs", "act", "rew", "obs_next", "terminated"):
        assert torch.equal(getattr(stored, name), getattr(expected, name))
    for task, size in enumerate(sizes):
        assert len(buffer.task_buffer(task).adaptation_indices()) == size
    drawn = buffer.sample_transitions(np.arange(len(sizes)), 5, adaptation=True)
    assert (drawn.rew // 100 == torch.arange(len(sizes))[:, None]).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("logs", "error", "message"),
    [
        ([], ValueError, "at least one"),
        ([numbered(0, 2), numbered(0, 2, obs_dim=4)], ValueError, r"\(3, 2\) .* got \(4, 2\)"),
        ([random_transitions(2, 3)], ValueError, r"earlier.*\(B, \.\.\.\)"),
        (numbered(0, 2), TypeError, "earlier to be of type Sequence"),
        ([numbered(0, 2), None], ValueError, r"earlier\[1\] of one task, .* got None"),
    ],
)
def test_what_is_no_list_of_logs_is_refused(logs, error, message):
    with pytest.raises(error, match=message):
        ContextReplayBuffer.of(logs, generator=np.random.default_rng(0))


def test_targets_of_several_steps_end_where_a_log_was_cut():
    """By rewards of 1, and of 100 in the next episode, which a time limit has come before."""
    obs = torch.arange(7.0).unsqueeze(-1)
    obs_next = torch.tensor([1.0, 2, 50, 4, 5, 6, 7]).unsqueeze(-1)
    rew = torch.tensor([1.0, 1, 1, 100, 100, 100, 100])
    log = Transitions(obs, obs, rew, obs_next, torch.zeros(7, dtype=torch.bool))
    buffer = ContextReplayBuffer.of([log], generator=np.random.default_rng(0))
    assert buffer.truncated[:7].tolist() == [False, False, True, False, False, False, False]
    ends = buffer.next(np.array([0, 1, 2, 3]))
    assert ends.tolist() == [1, 2, 2, 4]


def test_stretches_are_what_a_ring_holds_before_a_transition():
    replay = ContextReplayBuffer(
        2, 4, obs_dim=1, act_dim=1, context_dim=0, generator=np.random.default_rng(0)
    )
    clock = torch.arange(6.0)
    transitions = Transitions(
        obs=clock.unsqueeze(-1),
        act=torch.zeros(6, 1),
        rew=clock,
        obs_next=clock.unsqueeze(-1) + 1,
        terminated=torch.zeros(6, dtype=torch.bool),
    )
    replay.extend(0, transitions[:4])
    replay.extend(0, transitions[4:])  # 4, 5 in the places of 0, 1
    replay.extend(1, transitions[:3])
    found = replay.stretches(np.array([1, 2, 6, 4]), 3)
    expected = [[3.0, 4.0, 5.0], [4.0, 5.0, 2.0], [0.0, 1.0, 2.0], [1.0, 2.0, 0.0]]
    torch.testing.assert_close(found.rew, torch.tensor(expected))
    torch.testing.assert_close(found.obs.squeeze(-1), torch.tensor(expected))
    for indices in ([7], [8], [-1], [], [[0]]):
        with pytest.raises(ValueError, match="stretches expected indices of stored transitions"):
            replay.stretches(np.array(indices, dtype=int), 3)
