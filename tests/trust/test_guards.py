"""What is not finite stops its step, is named, and reaches no checkpoint and no user."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mier_adapt._storage.checkpoints import CHECKPOINT_FILE, load_checkpoint, save_tree
from mier_adapt.adaptation import adapt
from mier_adapt.agents import FamilyEnvs, collect, load_run
from mier_adapt.integration import PolicyActor, build_sac
from mier_adapt.training import meta_train
from mier_adapt.training.meta_training import MetaTrainer
from mier_adapt_envs import task_set
from tests.mier_adapt.doubles import ClockVectorEnv, tiny_config

AT = 7


def spoil_model(trainer: MetaTrainer) -> None:
    with torch.no_grad():
        next(trainer.run.context_model.layers.parameters()).fill_(torch.nan)


def spoil_critic(trainer: MetaTrainer) -> None:
    with torch.no_grad():
        next(trainer.run.algorithm.critic.parameters())[0, 0] = torch.inf


def spoil_actor(trainer: MetaTrainer) -> None:
    with torch.no_grad():
        next(trainer.run.algorithm.policy.parameters())[0, 0] = torch.nan


def spoil_gradient(trainer: MetaTrainer) -> None:
    layer: Any = trainer.run.context_model.layers[0]
    layer.weight.register_hook(lambda grad: grad * torch.inf)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_model, r"meta-loss is nan at SAC update 8, worst on task \d+ \(negated joints"),
        (spoil_critic, r"SAC's \w+_loss\d? is (nan|inf) at update 8, on tasks \[\d"),
        (spoil_actor, r"actor.* (not finite|is nan)|parameter policy\.actor|actor_loss is nan"),
        (spoil_gradient, r"meta-gradient of layers\.0\.weight is not finite at SAC update 8, on"),
    ],
)
def test_meta_training_stops_and_keeps_the_last_good_checkpoint(
    spoil: Any, message: str, tmp_path: Path
) -> None:
    def on_step(trainer: MetaTrainer, row: Any) -> None:
        if trainer.updates == AT:
            spoil(trainer)

    with pytest.raises(FloatingPointError, match=message):
        meta_train(tiny_config(), tmp_path, seed=1, checkpoint_seconds=1e9, on_step=on_step)
    assert not (tmp_path / CHECKPOINT_FILE).exists()
    with pytest.raises(FloatingPointError):
        meta_train(tiny_config(), tmp_path, seed=1, checkpoint_seconds=0.0, on_step=on_step)
    _, tree = load_checkpoint(tmp_path)
    # A spoilt gradient shows at the next step of the model; a spoilt state is never saved.
    assert tree["updates"] == (AT + 1 if spoil is spoil_gradient else AT - 1)


def test_a_checkpoint_refuses_values_that_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "tree"
    save_tree(path, {"a": 1})
    for bad in (torch.tensor([1.0, torch.nan]), torch.tensor(torch.inf), float("nan")):
        with pytest.raises(ValueError, match=r"Refusing to save.*/deep/1 .*(not finite|nan)"):
            save_tree(path, {"deep": [0, bad]})
    assert [each.name for each in tmp_path.iterdir()] == ["tree"]


class FaultyEnv(ClockVectorEnv):
    """A ClockVectorEnv that gives a number that is not finite at one step."""

    fault = ""

    def step(self, actions: Any) -> Any:
        obs, rew, terminated, truncated, infos = super().step(actions)
        if len(self.received) == 3:
            if self.fault == "reward":
                rew[1] = np.nan
            elif self.fault == "observation":
                obs[1, 0] = np.inf
        return obs, rew, terminated, truncated, infos


def actor_for(env: ClockVectorEnv) -> PolicyActor:
    spaces: Any = (env.single_observation_space, env.single_action_space)
    return PolicyActor(build_sac(*spaces, 2, hidden_sizes=(8,)).policy, torch.zeros(2, 2))


@pytest.mark.parametrize("fault", ["reward", "observation"])
def test_collection_names_step_task_and_value(fault: str) -> None:
    env = FaultyEnv(2)
    env.fault = fault
    with pytest.raises(FloatingPointError, match=rf"The {fault} at step 2 in task \(8, 9\) \(slot"):
        collect(
            env,
            [(50, 50), (8, 9)],
            actor_for(env),
            steps=5,
            generator=np.random.default_rng(0),
        )


def test_collection_names_a_policy_that_diverged() -> None:
    actor = actor_for(ClockVectorEnv(2))
    with torch.no_grad():
        next(actor.policy.parameters()).fill_(torch.nan)
    for explore, match in ((True, "parameter actor"), (False, "parameter actor|action at step 0")):
        with pytest.raises(FloatingPointError, match=match):
            collect(
                ClockVectorEnv(2),
                [(50, 50)] * 2,
                actor,
                steps=5,
                generator=np.random.default_rng(0),
                explore=explore,
            )


@pytest.mark.parametrize("part", ["model", "critic", "policy"])
def test_no_adaptation_hands_back_what_is_not_finite(part: str, finished_run: Path) -> None:
    tasks = task_set("HalfCheetahNegatedJoints")
    with FamilyEnvs(tasks) as envs:
        run = load_run(finished_run, envs)
        networks: dict[str, Any] = {
            "model": run.context_model.layers,
            "critic": run.algorithm.critic,
            "policy": run.algorithm.policy,
        }
        with torch.no_grad():
            next(networks[part].parameters()).fill_(torch.nan)
        new_task = run.new_task(envs, tasks[12])
        with pytest.raises(FloatingPointError):
            adapt(run, new_task, run.adapt_config, seed=0, evaluation_episodes=1)
