"""What all tests share."""

import os

# Nothing here is worth more threads than a small machine has, and the two pools would be in each other's way.
os.environ.setdefault("RAYON_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", os.environ.get("DPO_KERNELS_TEST_DEVICES", ""))

import torch  # noqa: E402

torch.set_num_threads(2)
