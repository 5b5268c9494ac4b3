"""A model for lmms-eval: LLaVA-OneVision under a schedule. See docs/lmms_eval.md."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

MODEL_ID = "aim_llava_onevision"


def manifest() -> "ModelManifest":
    """What lmms-eval finds under the entry-point group ``lmms_eval.models``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(MODEL_ID, simple_class_path=f"{__name__}.model.AimLlavaOnevision")
