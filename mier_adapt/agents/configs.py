"""Configurations: the model, the policy, a meta-training run, and how an agent adapts."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from mier_adapt._checks import (
    Count,
    NonNegative,
    Number,
    Positive,
    PositiveShare,
    Range,
    Share,
    Size,
    checked_fields,
)
from mier_adapt.gates import AlwaysGate, MarginGate, NeverGate
from mier_adapt.protocols import Gate
from mier_adapt_envs import TaskSet, task_set

Split = Literal["meta_train", "meta_test"]
"""Of a task set: the tasks of meta-training, or those that are kept for evaluation."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The context model and its meta-training."""

    hidden_sizes: tuple[Size, ...] = (200, 200, 200, 200)
    """Widths of the hidden layers (released code)."""
    context_dim: Count = 5
    """Dimensions of the context (paper: 5; 10 for cheetah negated joints)."""
    learn_initial_context: bool = False
    """Meta-learn where contexts start (paper) instead of keeping zero (released code)."""
    normalize: bool = True
    """Z-score inputs and targets by the first data. Ours: much faster learning."""
    inner_steps: Count = 2
    """Context steps in meta-training and before acting (paper)."""
    inner_lr: Positive = 1.0
    """Size of a context step (paper: 0.01, which with the limit below keeps contexts within 0.2
    of their start; see docs/results.md)."""
    max_inner_grad_norm: Positive = 10.0
    """L2 norm to which longer context gradients are rescaled (paper)."""
    first_order: bool = False
    """Ignore second derivatives in the meta-gradient. Not the paper."""
    lr: Positive = 1e-3
    """Adam's step size for the weights (released code)."""
    max_grad_norm: Positive = 10.0
    """L2 norm to which longer meta-gradients are rescaled (paper)."""
    tasks_per_batch: Size = 10
    """Tasks of a meta-step (paper)."""
    batch_size: Size = 64
    """Transitions of each task in each of the two sets of a meta-step (released: 200, 400)."""
    adaptation_window: Size | None = None
    """Of each task's newest transitions under the initial context, how many adaptation sets are
    drawn from; from all of them by default (paper)."""
    pretrain_steps: Count = 2000
    """Meta-steps on the first data, before the policy learns. Ours."""

    def __post_init__(self) -> None:
        checked_fields(self)


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The context-conditioned SAC."""

    hidden_sizes: tuple[Size, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics (released code; paper: 3 of 300)."""
    lr: Positive = 1e-3
    """Adam's step size for actor, critics and temperature (paper: 3e-4)."""
    normalize: bool = False
    """Learn as if observations were divided by their standard deviation in the first data, by 0.1
    where it is less, and by 1 where there is none. Ours: so."""
    reward_scale: Positive = 1.0
    """Learn as if rewards were multiplied by this, and the temperature with them. Ours: 0.1."""
    gamma: PositiveShare = 0.99
    """Discount factor per environment step (paper)."""
    tau: PositiveShare = 0.005
    """Share of the critics that enters their targets with every update (paper). Ours: 0.01."""
    target_entropy: Number = -1.0
    """In nats (released code)."""
    final_target_entropy: Number = -1.0
    """What it becomes, linearly, over the annealed share of a run. Ours: -4."""
    batch_size: Size = 320
    """Transitions of an update, over all tasks of the meta-batch (paper: 256; released: 10
    times the model's batch)."""
    updates_per_model_step: Size = 4
    """SAC updates for each meta-step, with its contexts (released: 1). Ours: 8."""

    def __post_init__(self) -> None:
        checked_fields(self)


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """How an agent meets a new task (Algorithm 2), stage by stage."""

    adaptation_steps: Annotated[Size, Range(least=2)] = 400
    """Real transitions that identify the task (paper, Table 1); some of them are held out."""
    collection_rounds: Size = 2
    """Rounds in which they are gathered: the first with the initial context, later ones with
    the context found so far. Paper: 1."""
    excitation: NonNegative = 0.0
    """Standard deviation of noise that moves a robot which has come to rest as it hardly ever did
    in known tasks, while transitions are gathered; commands are within [-1, 1]. Ours; 0 leaves
    them to the policy (paper)."""
    context_steps: Count = 10
    """N: gradient steps on the context (paper, Table 1)."""
    later_context_lr: Positive = 0.1
    """Size of the context steps beyond those of meta-training (a tenth of theirs, as in the
    released code)."""
    diagnose: bool = True
    """Look for the simplest hypothesis of what changed, and undo it in front of the policy where
    that can be done; nothing else is tried where it suffices. Ours. Where only rewards vary there
    is nothing to look for."""
    learn_always: bool = False
    """Go through the stages that follow, which learn, also where undoing a change suffices, to
    compare them. In the episodes of a budget nothing is learned there all the same."""
    try_known_task: bool = True
    """Where only rewards vary and no context explains the new ones as well as known tasks are
    explained, also try the policy of the known task that should return most by the new models, and
    go on from the better of both in real episodes. Ours."""
    refresh_updates: Count = 500
    """Updates of the actor alone, against the frozen critics; 0 leaves the stage out (paper)."""
    num_models: Size = 4
    """Models that are refined side by side and share the relabeling (paper: 1)."""
    weight_steps: Count = 800
    """M: Adam steps on a model's weights (paper, Table 1: 0 or 100, without rehearsal). None behind
    a compensation of what explains all."""
    weight_lr: Positive = 1e-3
    """Their step size (released code)."""
    context_lr: NonNegative = 1e-2
    """Adam's step size of the model's context beside them (paper: 0)."""
    model_batch_size: Size | None = 128
    """New transitions in a weight step. None: all of them (paper)."""
    rehearsal_batch_size: Count = 256
    """Earlier tasks' transitions in a weight step (paper: 0)."""
    validate_every: Size = 25
    """Weight steps between looks at the validation part."""
    validation_threshold: Number | None = None
    """Relabel only if the models' validation loss is below this, in the model's loss units
    (paper: -3; absent in the released code)."""
    relabel_rounds: Count = 5
    """How many times stored experience is relabeled afresh; 0 leaves the stage out."""
    relabel_size: Size = 20_000
    """Transitions relabeled each time (paper: 100,000)."""
    updates_per_round: Size = 200
    """SAC updates after each relabeling (released: 500, for 40 rounds)."""
    actor_lr: Positive = 1e-4
    """Adam's step size of the actor in fine-tuning. Ours: the paper's 3e-4 lost returns."""
    critic_lr: Positive = 3e-4
    """Adam's step size of the critics in fine-tuning (paper)."""
    unexplained_scale: Positive = 1.0
    """Factor of both where no diagnosis explains the task: there is further to go. Ours."""
    batch_size: Size = 256
    """Transitions of an update (paper)."""
    real_fraction: Share = 0.2
    """Share of real transitions in it (paper: 0.05)."""
    averaged_share: Share = 0.5
    """Last share of the updates over which the policy's weights are averaged into those that are
    handed back; 0 for the last ones (paper)."""
    gate: Gate = field(default_factory=MarginGate)
    """Decides by real episodes between the new policy and the one that only knows the new context;
    :class:`.AlwaysGate` hands the new one back unseen (paper)."""

    def __post_init__(self) -> None:
        checked_fields(self)
        if self.collection_rounds > self.adaptation_steps:
            raise ValueError(
                "AdaptConfig expected at least one of adaptation_steps for each of "
                f"collection_rounds, got {self.adaptation_steps} and {self.collection_rounds}."
            )

    @classmethod
    def for_own_policy(cls, **changes: Any) -> Self:
        """How :func:`.adapt_algorithm` adapts a policy that knows no context.

        A model without a context cannot rehearse earlier tasks: their transitions contradict the
        new ones. A policy that never learned to tell tasks apart has further to go, and critics
        that know one task have to forget more of it: hence more updates, and larger steps where the
        task is not explained. What comes of that varies more, so that the gate asks for as many
        episodes as doubt needs. It has met one task alone, and may come to rest in another.

        Args:
            **changes: Fields that are to be different.
        """
        options: dict[str, Any] = {
            "collection_rounds": 1,
            "excitation": 0.5,
            "refresh_updates": 0,
            "num_models": 2,
            "rehearsal_batch_size": 0,
            "context_lr": 0.0,
            "updates_per_round": 400,
            "unexplained_scale": 3.0,
            "gate": MarginGate(episodes=2, most_episodes=8),
        }
        return cls(**{**options, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON.

        Raises:
            TypeError: If the gate is not one of the library's.
        """
        kinds = {kind: name for name, kind in GATES.items()}
        if type(self.gate) not in kinds:
            raise TypeError(
                f"AdaptConfig expected gate to be of {sorted(GATES)} to be written, got "
                f"{self.gate}. Give a gate of your own to adapt() with dataclasses.replace."
            )
        gate = {"kind": kinds[type(self.gate)], **dataclasses.asdict(self.gate)}  # type: ignore[call-overload]
        plain = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {**plain, "gate": gate}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that :meth:`to_dict` gave.

        Raises:
            ValueError: If a field is unknown or out of range.
        """
        try:
            given = dict(values)
            if "gate_episodes" in given:  # as release 0.1 wrote it
                episodes = given.pop("gate_episodes")
                margin = given.pop("gate_margin", MarginGate.margin)
                gate = {"kind": "margin", "episodes": episodes, "margin": margin}
                given["gate"] = gate if episodes else {"kind": "always"}
            options = dict(given.pop("gate", {"kind": "margin"}))
            kind = options.pop("kind")
            if kind not in GATES:
                raise ValueError(f"AdaptConfig expected gate to be in {list(GATES)}, got {kind!r}.")
            for name in options.keys() - {each.name for each in dataclasses.fields(GATES[kind])}:
                raise ValueError(f"AdaptConfig expected gate to be one with {name}, got {kind}.")
            return cls(**given, gate=GATES[kind](**options))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"Not a configuration of this version: {error}") from error


@dataclass(frozen=True, kw_only=True)
class ContinueConfig:
    """How an adaptation goes on, round by round. Ours throughout; chosen on development tasks."""

    weight_steps: Count = 400
    """Adam steps on the weights of the model that is fitted to all real transitions; 0 fits the
    context alone, as does a compensation of what explains all."""
    num_models: Size = 1
    """Models that are fitted side by side and share the relabeling."""
    relabel_size: Size = 20_000
    """Transitions relabeled in a round."""
    kept_rounds: Size = 3
    """Rounds whose relabeled transitions are kept."""
    updates: Size = 400
    """Updates of the algorithm in a round."""
    actor_lr: Positive = 3e-4
    """Adam's step size of the actor."""
    critic_lr: Positive = 3e-4
    """Adam's step size of the critics."""
    tau: PositiveShare = 0.03
    """Share of the critics that enters their targets with every update: these are few, and carry
    what will be back to the present. The algorithm's own where nothing undoes other dynamics, or
    helps, and no context explains them: it learns on as it did."""
    real_fraction: Share = 0.5
    """Share of real transitions in a batch; all of it where nothing undoes other dynamics, or
    helps, and no context explains them. With 1 nothing is relabeled."""
    averaged_share: Share = 0.5
    """Last share of a round's updates over which the weights of the policy that plays are averaged;
    0 for the last ones. Learning goes on from the last ones."""
    window: Size = 3
    """Episodes of as many policies in a row that say how good these are."""
    margin: NonNegative = 0.04
    """By how much, as a share of its return, they have to be better than what came. They may be as
    much worse than what learning began with, where that is something else: it was chosen by an
    episode."""

    def __post_init__(self) -> None:
        checked_fields(self)


@dataclass(frozen=True, kw_only=True)
class MetaTrainConfig:
    """A meta-training run (Algorithm 1)."""

    family: str
    """Family of tasks, as `mier-adapt tasks` lists them."""
    task_set: str = "standard"
    """Which of the family's task sets."""
    updates: Size = 300_000
    """SAC updates of the whole run (paper: 300 iterations of 1000)."""
    updates_per_iteration: Size = 1_000
    """SAC updates after each collection (paper)."""
    tasks_per_iteration: Size = 5
    """Tasks collected in an iteration, drawn with replacement (released code)."""
    adaptation_episodes: Size = 2
    """Episodes of each with the initial context (paper: 400 steps)."""
    evaluation_episodes: Size = 3
    """Episodes of each with the adapted context (paper: 600 steps)."""
    initial_episodes: Size = 10
    """Episodes of every task before the first iteration (released: 5 times 400 steps)."""
    episode_steps: Size = 200
    """Environment steps of an episode (paper)."""
    annealed_share: Share = 0.0
    """Last share of the updates, over which all step sizes fall linearly to zero. A run that is
    called again with more updates sets them anew. Ours: 0.4; see docs/results.md."""
    replay_per_task: Size = 100_000
    """Transitions kept of each task."""
    evaluate_every: Size = 10
    """Iterations between evaluations."""
    evaluated_split: Split = "meta_train"
    """Which tasks are evaluated. Those of the meta-test split are for curves to report: settings
    that are chosen by them have seen them."""
    evaluated_tasks: Size = 10
    """How many of these tasks, the split's first ones."""
    late_contexts: bool = False
    """Take each meta-step beside the SAC updates that its contexts are drawn for, on a core of its
    own, and let them act on those of the meta-step before. Ours."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The context model and its meta-training."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The context-conditioned SAC."""

    def __post_init__(self) -> None:
        checked_fields(self)
        task_set(self.family, self.task_set)  # which says what there is, where there is none such

    @property
    def tasks(self) -> TaskSet:
        """The tasks of a run: those that it trains on, and those that are kept for evaluation."""
        return task_set(self.family, self.task_set)

    @property
    def iterations(self) -> int:
        """Iterations of the whole run, the last of which may be a short one."""
        return -(-self.updates // self.updates_per_iteration)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that :meth:`to_dict` gave.

        Raises:
            ValueError: If a field is unknown or out of range.
        """
        try:
            given = dict(values)
            for name, part in (("model", ModelConfig), ("policy", PolicyConfig)):
                options: dict[str, Any] = {
                    key: tuple(value) if isinstance(value, list) else value
                    for key, value in given.get(name, {}).items()
                    # an option of release 0.1
                    if not (key == "critic_layer_norm" and value is False)
                }
                given[name] = part(**options)
            return cls(**given)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"Not a configuration of this version: {error}") from error


GATES: dict[str, Any] = {"margin": MarginGate, "always": AlwaysGate, "never": NeverGate}
"""The library's own, by the names that files have for them."""


def merged(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values by key, in which what is given stands; another kind of gate brings its own fields."""
    if given.get("kind", base.get("kind")) != base.get("kind"):
        return dict(given)
    return {
        **base,
        **{
            key: merged(base.get(key, {}), value) if isinstance(value, dict) else value
            for key, value in given.items()
        },
    }
