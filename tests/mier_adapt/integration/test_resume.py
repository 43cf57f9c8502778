"""A process that trains stock algorithms is killed in mid-stride, and nothing is lost."""

import random
import time
from pathlib import Path

import numpy as np
import torch

from mier_adapt._storage.checkpoints import load_tree, save_tree
from mier_adapt._storage.randomness import (
    global_generator_state,
    seed_global_generators,
    set_global_generator_state,
)
from mier_adapt.integration import (
    ContextReplayBuffer,
    algorithm_state,
    load_algorithm_state,
    update,
)

from ..doubles import (
    ACT_DIM,
    ALGORITHMS,
    CONTEXT_DIM,
    OBS_DIM,
    assert_same_tree,
    random_transitions,
    start_python,
)

STEPS = 24


def train(checkpoint: Path, steps: int = STEPS) -> None:
    """Train every stock algorithm on one replay buffer, with a checkpoint after every step."""
    seed_global_generators(7)
    generator = np.random.default_rng(7)
    buffer = ContextReplayBuffer(
        2,
        50,
        obs_dim=OBS_DIM,
        act_dim=ACT_DIM,
        context_dim=CONTEXT_DIM,
        generator=generator,
    )
    algorithms = {name: ALGORITHMS[name]() for name in ("SAC", "TD3", "REDQ")}
    done = 0
    if checkpoint.is_file():
        state = load_tree(checkpoint)
        for name, algorithm in algorithms.items():
            load_algorithm_state(algorithm, state[name])
        buffer.load_state(state["buffer"])
        generator.bit_generator.state = state["generator"]
        set_global_generator_state(state["global"])
        done = state["done"]
    while done < steps:
        # New data and new contexts on the way, so that the buffer's state matters.
        buffer.extend(done % 2, random_transitions(9, seed=done), initial_context=done % 3 == 0)
        held = np.flatnonzero([len(each) for each in buffer.buffers])
        contexts = generator.normal(size=(len(held), CONTEXT_DIM))
        buffer.set_contexts(held, torch.from_numpy(contexts.astype(np.float32)))
        for algorithm in algorithms.values():
            update(algorithm, buffer, 16)
        done += 1
        save_tree(
            checkpoint,
            {
                **{name: algorithm_state(algorithm) for name, algorithm in algorithms.items()},
                "buffer": buffer.state(),
                "generator": generator.bit_generator.state,
                "global": global_generator_state(),
                "done": done,
            },
        )
        print(done, flush=True)


SCRIPT = """
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
from tests.mier_adapt.integration.test_resume import train

train(Path(sys.argv[1]))
"""


def test_stock_algorithms_that_are_killed_and_restarted_end_bit_for_bit_alike(tmp_path, capsys):
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    train(uninterrupted)
    capsys.readouterr()
    moments = random.Random(0)
    for lines in (5, 9):
        with start_python(SCRIPT, killed) as process:
            for _ in range(lines):
                assert process.stdout.readline(), process.stderr.read()
            time.sleep(moments.uniform(0, 0.03))  # anywhere in a step or a save
            process.kill()
        assert process.returncode == -9
    done = load_tree(killed)["done"]
    assert 14 <= done < STEPS
    with start_python(SCRIPT, killed) as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_same_tree(load_tree(killed), load_tree(uninterrupted))
