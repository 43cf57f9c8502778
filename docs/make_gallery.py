"""Draw the gallery: one picture per family, of the robot and of its tasks.

    MUJOCO_GL=egl python docs/make_gallery.py

writes ``docs/gallery/<Family>.png`` and ``docs/gallery/index.md``. The tasks are drawn in the
manner of Figure 3 of the paper: meta-training in blue, meta-test in orange.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium
import matplotlib as mpl
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import mier_adapt_envs
from mier_adapt_envs import TaskSet

FOLDER = Path(__file__).parent / "gallery"
TRAIN, TEST = "tab:blue", "tab:orange"


def numbers(tasks: TaskSet) -> tuple[np.ndarray, np.ndarray]:
    """Return the parameters of a set's meta-training and meta-test tasks, one row per task."""
    train, test = (
        np.array([task.parameters for task in split])
        for split in (tasks.meta_train, tasks.meta_test)
    )
    return train, test


def draw_velocities(axes: Axes, tasks: TaskSet) -> None:
    """Draw tick marks on a line of velocities."""
    for height, (values, colour) in enumerate(zip(numbers(tasks), (TRAIN, TEST), strict=True)):
        axes.eventplot(values[:, 0], lineoffsets=1 - height, linelengths=0.7, colors=colour)
    axes.set(xlabel="target velocity (m/s)", yticks=[], xlim=(-0.1, 4.2))


def draw_directions(axes: Axes, tasks: TaskSet) -> None:
    """Draw arrows from the origin."""
    for values, colour, width in zip(numbers(tasks), (TRAIN, TEST), (0.006, 0.012), strict=True):
        angles = values[:, 0]
        axes.quiver(
            *np.zeros((2, len(angles))),
            np.cos(angles),
            np.sin(angles),
            color=colour,
            width=width,
            scale=2.2,
            alpha=0.8,
        )
    axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=[], yticks=[])


def draw_forwards_backwards(axes: Axes, tasks: TaskSet) -> None:
    """Draw the two directions, which both splits share."""
    for height, (values, colour) in enumerate(zip(numbers(tasks), (TRAIN, TEST), strict=True)):
        axes.quiver(
            *np.array([[0.0, 0.0], [0.3 - 0.6 * height] * 2]),
            values[:, 0],
            np.zeros(2),
            color=colour,
            width=0.02,
            scale=2.2,
        )
    axes.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[])


def draw_goals(axes: Axes, tasks: TaskSet) -> None:
    """Draw goals in the plane."""
    for values, colour in zip(numbers(tasks), (TRAIN, TEST), strict=True):
        axes.scatter(*values.T, color=colour, s=10)
    axes.scatter(0, 0, color="black", marker="+")
    axes.set(aspect="equal", xlabel="x (m)", ylabel="y (m)")


def draw_masks(axes: Axes, tasks: TaskSet) -> None:
    """Draw one row per task and one column per joint, coloured where it is negated."""
    train, test = numbers(tasks)
    rows = np.concatenate([train, test])
    image = np.ones((*rows.shape, 3))
    image[: len(train)][train < 0] = mpl.colors.to_rgb(TRAIN)
    image[len(train) :][test < 0] = mpl.colors.to_rgb(TEST)
    axes.imshow(image, aspect="auto", interpolation="nearest")
    axes.axhline(len(train) - 0.5, color="black", linewidth=0.8)
    names = mier_adapt_envs.env_class(tasks.family).parameter_names
    axes.set(ylabel="task")
    axes.set_xticks(range(len(names)), names, rotation=60, fontsize=7)


def draw_multipliers(axes: Axes, tasks: TaskSet) -> None:
    """Draw the multipliers' quartiles, field by field."""
    names = np.array(
        [name.split("[")[0] for name in mier_adapt_envs.env_class(tasks.family).parameter_names]
    )
    fields = list(dict.fromkeys(names))
    for offset, values, colour in zip((-0.18, 0.18), numbers(tasks), (TRAIN, TEST), strict=True):
        axes.boxplot(
            [values[:, names == field].ravel() for field in fields],
            positions=np.arange(len(fields)) + offset,
            widths=0.3,
            sym="",
            patch_artist=True,
            boxprops={"facecolor": colour, "edgecolor": colour},
            medianprops={"color": "black"},
        )
    axes.set(yscale="log", ylabel="multiplier")
    axes.set_xticks(range(len(fields)), fields, rotation=20, fontsize=7)


PICTURES: dict[str, tuple[str, Callable[[Axes, TaskSet], None]]] = {
    "HalfCheetahVel": ("hard", draw_velocities),
    "HalfCheetahDir": ("standard", draw_forwards_backwards),
    "HalfCheetahNegatedJoints": ("standard", draw_masks),
    "AntDir": ("ood", draw_directions),
    "AntGoal": ("standard", draw_goals),
    "AntNegatedJoints": ("released", draw_masks),
    "Walker2dRandParams": ("ood", draw_multipliers),
    "HumanoidDir": ("standard", draw_directions),
}


def robot_picture(tasks: TaskSet) -> np.ndarray:
    """Return a frame of the robot shortly after it was started."""
    tall = tasks.family in ("Walker2dRandParams", "HumanoidDir")
    env = gymnasium.make(
        tasks.env_id,
        task=tasks.meta_test[0],
        render_mode="rgb_array",
        width=360,
        height=300,
        camera_name="track" if tall else None,  # the default camera cuts off their feet
    )
    env.reset(seed=1)
    for _ in range(8):
        env.step(np.zeros(env.action_space.shape))
    frame = env.render()
    env.close()
    return frame


def main() -> None:
    """Write the pictures and the page."""
    FOLDER.mkdir(exist_ok=True)
    page = [
        "# Gallery",
        "",
        "Each family's robot and one of its task sets: meta-training in blue, meta-test in orange.",
        "Drawn by `docs/make_gallery.py`.",
        "",
        "Robots that change after training have [a page of their own]"
        "(../environments/ChangedRobots.md).",
    ]
    for family, (name, draw) in PICTURES.items():
        tasks = mier_adapt_envs.task_set(family, name)
        figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.9), layout="constrained")
        left.imshow(robot_picture(tasks))
        left.set_axis_off()
        draw(right, tasks)
        sizes = f"{len(tasks.meta_train)} / {len(tasks.meta_test)} tasks"
        right.set_title(f"{name}: {sizes}", fontsize=9)
        figure.savefig(FOLDER / f"{family}.png", dpi=110)
        plt.close(figure)
        env_class = mier_adapt_envs.env_class(family)
        page += [
            "",
            f"## {family}",
            "",
            f"`{tasks.env_id}`. {(env_class.__doc__ or '').splitlines()[0]} "
            f"Task sets: {', '.join(f'`{one}`' for one in mier_adapt_envs.task_sets(family))}.",
            "",
            f"![{family}: the robot, and the tasks of the set {name}]({family}.png)",
        ]
    (FOLDER / "index.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
