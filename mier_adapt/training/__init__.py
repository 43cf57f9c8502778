"""Meta-training: Algorithm 1, on logged data alone, and policies of other makes by imitation."""

from mier_adapt.training.imitation import imitate
from mier_adapt.training.meta_training import meta_train
from mier_adapt.training.mier import Mier
from mier_adapt.training.offline_training import meta_train_offline

__all__ = ["Mier", "imitate", "meta_train", "meta_train_offline"]
