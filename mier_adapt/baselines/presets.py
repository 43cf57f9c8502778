"""Settings of baselines by preset: those that fit this library's presets, and published ones."""

from collections.abc import Callable
from typing import Any

from mier_adapt.agents.configs import MetaTrainConfig
from mier_adapt.agents.presets import PRESETS
from mier_adapt_envs import env_class

_PAPER = "-paper"

_PEARL_ANTS: dict[str, Any] = {
    "updates": 2_000_000,
    "updates_per_iteration": 4_000,
    "extra_episodes": 3,
    "context_size": 256,
}

_MQL_ANTS: dict[str, Any] = {"initial_episodes": 8, "steps_per_policy_step": 4}

_RAND_PARAMS: dict[str, Any] = {"inner_lr": 0.05}

PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    # github.com/iclavera/learning_to_adapt, run_scripts/run_grbal.py, of its half cheetah and ant.
    "grbal": {"ant-negated-joints": {}, "halfcheetah-negated-joints": {}},
    # github.com/katerakelly/oyster, configs/*.json; what these leave to default.py is the
    # configuration's default.
    "pearl": {
        "ant-dir": {**_PEARL_ANTS, "tasks_per_batch": 4},
        "ant-goal": {**_PEARL_ANTS, "tasks_per_batch": 10, "kl_weight": 1.0},
        "halfcheetah-dir": {
            "tasks_per_batch": 4,
            "prior_episodes": 5,
            "extra_episodes": 5,
            "context_size": 256,
        },
        "halfcheetah-vel": {"extra_episodes": 3, "context_size": 100},
        "humanoid-dir": _PEARL_ANTS,
        "walker2d-rand-params": {
            **_PEARL_ANTS,
            "tasks_per_batch": 10,
            "context_size": 100,
            "next_obs_in_context": True,
        },
    },
    # github.com/jonasrothfuss/ProMP, branch full_code: experiments/all_envs_eval/trpo_run_all.py
    # for MAML, ppo_run_all.py for ProMP, run_scripts/rl2_run_sweep.py for RL², which has the same
    # everywhere.
    "maml": {
        "ant-goal": {},
        "halfcheetah-dir": {"episode_steps": 100},
        "humanoid-dir": {"hidden_sizes": (128, 128)},
        "walker2d-rand-params": _RAND_PARAMS,
    },
    # github.com/amazon-science/meta-q-learning, run_script.py; adaptation goes on with the step
    # size of meta-training.
    "mql": {
        "ant-dir": {
            **_MQL_ANTS,
            "history": 25,
            "target_noise": 0.4,
            "likelihood_weight": 0.05,
            "most_log_weight": 1.2,
            "own_updates": 5,
            "replay_updates": 400,
            "adaptation_lr": 3e-4,
        },
        "ant-goal": {
            **_MQL_ANTS,
            "updates_per_iteration": 200,
            "history": 40,
            "context_dim": 40,
            "lr": 4e-4,
            "adaptation_lr": 4e-4,
            "exploration_noise": 0.3,
            "most_log_weight": 2.0,
            "replay_updates": 150,
            "replay_batch_size": 256,
        },
        "halfcheetah-dir": {
            "updates_per_iteration": 500,
            "tasks_per_iteration": 1,
            "context_dim": 20,
            "exploration_noise": 0.3,
            "likelihood_weight": 0.5,
            "most_log_weight": 1.5,
            "replay_updates": 50,
            "replay_batch_size": 2560,
            "adaptation_lr": 3e-4,
        },
        "halfcheetah-vel": {
            "updates_per_iteration": 200,
            "tasks_per_iteration": 1,
            "initial_episodes": 3,
            "context_dim": 15,
            "lr": 1e-3,
            "exploration_noise": 0.3,
        },
        "humanoid-dir": {
            "updates_per_iteration": 500,
            "tasks_per_iteration": 1,
            "history": 15,
            "context_dim": 20,
            "steps_per_policy_step": 3,
            "most_log_weight": 2.0,
            "own_updates": 5,
            "replay_updates": 15,
            "adaptation_lr": 3e-4,
        },
        "walker2d-rand-params": {
            "updates_per_iteration": 200,
            "initial_episodes": 10,
            "history": 10,
            "lr": 8e-4,
            "adaptation_lr": 8e-4,
            "steps_per_policy_step": 3,
            "target_noise": 0.2,
            "likelihood_weight": 0.06,
            "most_log_weight": 1.1,
            "replay_updates": 400,
        },
    },
    "promp": {
        "ant-goal": {},
        "halfcheetah-dir": {"episode_steps": 100},
        "humanoid-dir": {"hidden_sizes": (128, 128)},
        "walker2d-rand-params": {**_RAND_PARAMS, "inner_kl_weight": 1e-3},
    },
    "rl2": {
        "ant-dir": {},
        "ant-goal": {},
        "halfcheetah-dir": {},
        "halfcheetah-vel": {},
        "walker2d-rand-params": {},
    },
}
"""What a method's released code sets for the tasks of a preset, by method and preset.

Each becomes the preset ``…-paper`` of that method."""


def _fast_pearl(config: MetaTrainConfig) -> dict[str, Any]:
    """PEARL in hours on two cores: smaller batches, larger steps, ten times the data per step.

    An iteration is of 8,000 environment steps, and a run of at most 800,000, as gradient steps of
    512 transitions cost more than these.
    """
    return {
        "updates": min(2 * config.updates, 80_000),
        "updates_per_iteration": 800,
        "tasks_per_iteration": 10,
        "initial_episodes": config.initial_episodes,
        "hidden_sizes": (256, 256),
        "tasks_per_batch": 8,
        "batch_size": 64,
        "lr": 1e-3,
        "replay_per_task": config.replay_per_task,
        "evaluate_every": config.evaluate_every,
        "next_obs_in_context": env_class(config.family).varies != "reward",
    }


def _fast_mql(config: MetaTrainConfig) -> dict[str, Any]:
    """MQL in about an hour on one core: ten times the data per step, a short history.

    An iteration is of 8,000 environment steps, and a run of at most 800,000. Evaluations adapt on
    smaller batches, as their gradient steps cost as much as those of meta-training.
    """
    return {
        "updates": min(config.updates, 80_000),
        "updates_per_iteration": 800,
        "tasks_per_iteration": 8_000 // config.episode_steps,
        "initial_episodes": config.initial_episodes,
        "history": 10,
        "hidden_sizes": (256, 256),
        "lr": 1e-3,
        "replay_per_task": config.replay_per_task,
        "replay_batch_size": 256,
        "evaluate_every": 2 * config.evaluate_every,
    }


def _fast_grbal(config: MetaTrainConfig) -> dict[str, Any]:
    """GrBAL in about an hour on one core, of which plans take most: fewer, by smaller networks.

    An iteration is of 4,000 environment steps, and a run of at most 1,500,000. On random actions in
    the meta-training tasks of ``halfcheetah-negated-joints``, 1,500 updates with an inner step of
    0.3 leave an error of 0.11 after it, and 2,000 with one of 0.01 leave 0.25, as without it.
    """
    return {
        "updates": min(config.updates, 30_000),
        "updates_per_iteration": 80,
        "episodes_per_iteration": 4_000 // config.episode_steps,
        "hidden_sizes": (256, 256),
        "inner_lr": 0.3,
        "candidates": 150,
        "evaluate_every": 25,
    }


def _sac(config: MetaTrainConfig) -> dict[str, Any]:
    """SAC without a context: as many updates as ours, with as much data each."""
    return {"updates": min(config.updates, 160_000), "evaluate_every": config.evaluate_every}


_OURS: dict[str, Callable[[MetaTrainConfig], dict[str, Any]]] = {
    "grbal": _fast_grbal,
    "mql": _fast_mql,
    "pearl": _fast_pearl,
    "sac": _sac,
}
"""Settings of ours, of methods whose published ones take days, or that have none."""


def baseline_presets(method: str) -> list[str]:
    """Names of the presets that a method can be trained by."""
    ours = [
        name
        for name, preset in PRESETS.items()
        if not name.endswith(_PAPER) and _can_learn(method, preset.meta_train.family)
    ]
    return ours + [f"{name}{_PAPER}" for name in PUBLISHED.get(method, ())]


def preset_settings(method: str, name: str) -> dict[str, Any]:
    """What a preset says of a method's configuration, by field.

    Args:
        method: Its name in runs' files.
        name: One of :func:`baseline_presets`.

    Raises:
        ValueError: If there is none of this name; the message lists the names.
    """
    known = baseline_presets(method)
    if name not in known:
        raise ValueError(
            f"of_preset expected name of a preset of {method}, one of {sorted(known)}, "
            f"got {name!r}."
        )
    base = name.removesuffix(_PAPER)
    config = PRESETS[base].meta_train
    if base != name:
        return {**_tasks(config), **PUBLISHED[method][base]}
    return family_settings(method, config)


def baseline_preset_name(method: str, config: Any) -> str | None:
    """The preset that a method's configuration is, but perhaps for its ``updates``."""
    for name in baseline_presets(method):
        settings = {**preset_settings(method, name), "updates": config.updates}
        if type(config).from_dict(settings) == config:
            return name
    return None


def family_settings(method: str, config: MetaTrainConfig) -> dict[str, Any]:
    """What a configuration of this library's own method says of another's on the same tasks.

    That is family, task set and length of episodes, and settings that fit them: ours, where there
    are any, or else what was published for the family.
    """
    if method in _OURS:
        return {**_OURS[method](config), **_tasks(config)}
    for name, published in PUBLISHED.get(method, {}).items():
        if PRESETS[name].meta_train.family == config.family:
            return {**published, **_tasks(config)}
    return _tasks(config)


def _can_learn(method: str, family: str) -> bool:
    """GrBAL plans by a reward that is known."""
    return method != "grbal" or env_class(family).reward_fn is not None


def _tasks(config: MetaTrainConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("family", "task_set", "episode_steps")}
