"""A model for lmms-eval: LLaVA-OneVision under a schedule. See docs/lmms_eval.md."""

from typing import TYPE_CHECKING

from aim_cost.studies.lmms_results import OUR_MODEL

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> "ModelManifest":
    """What lmms-eval finds under the entry-point group ``lmms_eval.models``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(OUR_MODEL, simple_class_path=f"{__name__}.model.AimLlavaOnevision")
