"""Qwen3-VL: images and videos of any size, a timestamp before each temporal patch, DeepStack."""

from typing import ClassVar

from transformers import Qwen3VLForConditionalGeneration

from aim_runtime.models.adapters.qwen2_vl import Qwen2VLAdapter
from aim_runtime.models.small_parts import HIDDEN, IMAGE, PATCH, TEXT, VIDEO


class Qwen3VLAdapter(Qwen2VLAdapter):
    """Each temporal patch, two frames of a video, is a group in a run of its own; an image is one.

    The features of inner blocks, which the LLM adds, follow the tokens (``patching.deepstack``).
    """

    kinds: ClassVar = (Qwen3VLForConditionalGeneration,)
    frames_apart: ClassVar = True
    pixel_inputs: ClassVar = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw"),
    }
    smallest: ClassVar = {
        "qwen3_vl": {
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "vision_start_token_id": 252,
            "vision_end_token_id": 253,
            "text_config": TEXT
            | {
                "head_dim": 16,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_section": [4, 2, 2],
                    "mrope_interleaved": True,
                },
            },
            "vision_config": {
                "depth": 3,
                "num_heads": 2,
                "hidden_size": 32,
                "out_hidden_size": HIDDEN,
                "intermediate_size": 48,
                "patch_size": PATCH,
                "spatial_merge_size": 2,
                "num_position_embeddings": 36,
                "deepstack_visual_indexes": [0, 1],
            },
            "tie_word_embeddings": False,
        }
    }
