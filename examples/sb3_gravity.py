"""A SAC of Stable-Baselines3 on Pendulum, and then gravity changes: what adapting it is worth.

The request of https://github.com/DLR-RM/stable-baselines3/issues/2100, gravity from 9.81 to 11, and
a larger change, to 15. Each policy is adapted by ``adapt_sb3``. Beside it stands what there is
without: the same model trains on in SB3, for as many real transitions as the adaptation spent, the
gate's among them. Returns are means of the same 20 deterministic episodes.

    python examples/sb3_gravity.py --out docs/images/sb3_gravity.png
"""

import copy
import io
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from stable_baselines3 import SAC

from mier_adapt import adapt_sb3

TRAINED_AT = 9.81
"""Gravity of the training, in m/s^2."""
COLOURS = {"as it came": "#D55E00", "trained on in SB3": "#999999", "adapted": "#009E73"}


@dataclass
class Args:
    """Train policies, change gravity, adapt, and draw what that was worth."""

    out: Path = Path("sb3_gravity.png")
    """The figure."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training and adaptation; a policy each."""
    gravities: tuple[float, ...] = (11.0, 15.0)
    """What gravity becomes, in m/s^2."""
    steps: int = 6_000
    """Environment steps of each training, and updates."""
    fast: bool = False
    """One short training and one gravity, to see that it runs."""


def pendulum(gravity: float) -> gymnasium.Env:
    """The robot, with episodes of 200 steps."""
    return gymnasium.make("Pendulum-v1", g=gravity)


def mean_return(predict, gravity: float, episodes: int) -> float:
    """Of episodes that begin alike for all."""
    env, total = pendulum(gravity), 0.0
    for episode in range(episodes):
        obs, _ = env.reset(seed=10_000 + episode)
        ended = False
        while not ended:
            obs, rew, terminated, truncated, _ = env.step(predict(obs))
            total, ended = total + float(rew), terminated or truncated
    return total / episodes


def deterministic(model: SAC):
    """What the model does when it does not explore."""
    return lambda obs: model.predict(obs, deterministic=True)[0]


def trained_on(model: SAC, gravity: float, steps: int) -> SAC:
    """A copy that has gone on in SB3, replay buffer included."""
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    made = SAC.load(file, env=pendulum(gravity), device=model.device)
    made.replay_buffer = copy.deepcopy(model.replay_buffer)
    return made.learn(steps, reset_num_timesteps=False)


def measured(args: Args, seed: int) -> list[tuple[float, str, float]]:
    """Of one policy: gravity, which policy, mean return."""
    steps, episodes = (300, 2) if args.fast else (args.steps, 20)
    model = SAC(
        "MlpPolicy",
        pendulum(TRAINED_AT),
        learning_rate=1e-3,
        buffer_size=2 * args.steps,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
    ).learn(steps)
    rows = [(TRAINED_AT, "as it came", mean_return(deterministic(model), TRAINED_AT, episodes))]
    print(f"seed {seed}, as trained: {rows[0][2]:.0f}", flush=True)
    for gravity in args.gravities[: 1 if args.fast else None]:
        adaptation = adapt_sb3(model, pendulum(gravity), seed=seed, label=f"gravity {gravity:g}")
        report = adaptation.report
        spent = report.real_transitions + report.gate_transitions
        policies = {
            "as it came": deterministic(model),
            "trained on in SB3": deterministic(trained_on(model, gravity, spent)),
            "adapted": adaptation.predict,
        }
        of_gravity = [
            (gravity, name, mean_return(each, gravity, episodes)) for name, each in policies.items()
        ]
        said = ", ".join(f"{name} {value:.0f}" for _, name, value in of_gravity)
        print(f"seed {seed}, gravity {gravity:g}: {said}", flush=True)
        print(f"  {spent} transitions; {report.decision}; {adaptation.diagnosis}", flush=True)
        rows += of_gravity
    return rows


def draw(rows: list[tuple[float, str, float]], out: Path) -> None:
    """Every policy's return, and means of each kind."""
    gravities = sorted({gravity for gravity, _, _ in rows})
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for place, gravity in enumerate(gravities):
        for offset, (name, colour) in zip((-0.25, 0.0, 0.25), COLOURS.items(), strict=True):
            values = [value for g, who, value in rows if (g, who) == (gravity, name)]
            if values:
                mean = np.mean(values)
                print(f"gravity {gravity:g}, {name}: {mean:.0f} of {np.round(values).tolist()}")
                label = name if place == len(gravities) - 1 else None
                axis.plot([place + offset] * len(values), values, "o", color=colour, label=label)
                axis.hlines(mean, place + offset - 0.1, place + offset + 0.1, color=colour)
    axis.set_xticks(range(len(gravities)), [f"{gravity:g}" for gravity in gravities])
    axis.set(xlabel="gravity, m/s² (trained at 9.81)", ylabel="return of an episode")
    axis.legend(frameon=False, loc="lower left")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)


def main(args: Args) -> None:
    """All of them, and the figure."""
    torch.set_num_threads(1)
    seeds = args.seeds[: 1 if args.fast else None]
    draw([row for seed in seeds for row in measured(args, seed)], args.out)


if __name__ == "__main__":
    main(tyro.cli(Args))
