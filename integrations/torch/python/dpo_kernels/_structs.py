"""The C ABI's structs, enumerators and signatures, as tools/structs.py makes them from dpo_kernels.h, which documents
them. Not to be edited."""

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_uint32, c_void_p


class Sized(ctypes.Structure):
    """A struct that starts with its own size, by which the library refuses one that it does not know."""

    def __init__(self, **fields):
        super().__init__(struct_size=ctypes.sizeof(type(self)), **fields)


DPO_VERSION = 100
DPO_IGNORE_INDEX = -100
DPO_NO_TROUBLE = 0xffffffff
DPO_TRANSFORM_SCALE = 1 << 0
DPO_TRANSFORM_SOFTCAP = 1 << 1
DPO_TRANSFORM_VALID_VOCAB = 1 << 2
DPO_BATCH_ROW_STRIDE = 1 << 0
DPO_BATCH_IGNORE_INDEX = 1 << 1
DPO_BATCH_LD_ALPHA = 1 << 2
DPO_TERM_WEIGHT = 1 << 0
DPO_TERM_PARAMETER_0 = 1 << 1
DPO_TERM_PARAMETER_1 = 1 << 2
DPO_TERM_BETA = 1 << 3
DPO_LOSS_LABEL_SMOOTHING = 1 << 0
DPO_LOSS_GAMMA = 1 << 1
DPO_LOSS_BASELINE = 1 << 2
DPO_LOSS_ALPHA = 1 << 3
DPO_LOSS_NORMALIZER = 1 << 4
DPO_GRADIENT_UPSTREAM_SCALE = 1 << 0
DPO_GRADIENT_THRESHOLD = 1 << 1
DPO_LM_HEAD_BUDGET_BYTES = 1 << 0
DPO_LM_HEAD_WORKSPACE_LOGITS_DTYPE = 1 << 0
DPO_LM_HEAD_WORKSPACE_BUDGET_BYTES = 1 << 1
DPO_LM_HEAD_WORKSPACE_PRODUCT_BYTES = 1 << 2

# dpo_result
DPO_OK = 0
DPO_ERROR_VALUE = 1
DPO_ERROR_INDEX = 2
DPO_ERROR_MISSING = 3
DPO_ERROR_DATA = 4
DPO_ERROR_NO_DRIVER = 5
DPO_ERROR_NO_IMAGE = 6
DPO_ERROR_DRIVER = 7
DPO_ERROR_UNSUPPORTED = 8
DPO_ERROR_INTERNAL = 9
DPO_ERROR_NO_CUBLASLT = 10
DPO_ERROR_CUBLASLT = 11

# dpo_dtype
DPO_F32 = 0
DPO_F16 = 1
DPO_BF16 = 2

# dpo_label_type
DPO_LABELS_I32 = 0
DPO_LABELS_I64 = 1

# dpo_label_alignment
DPO_ALIGNED = 1
DPO_NEXT_TOKEN = 2

# dpo_pairs
DPO_PAIRS_CONCATENATED = 0
DPO_PAIRS_INTERLEAVED = 1
DPO_PAIRS_INDEXED = 2
DPO_PAIRS_NONE = 3
DPO_PAIRS_UNPAIRED = 4

# dpo_divergence
DPO_REVERSE_KL = 0
DPO_FORWARD_KL = 1
DPO_JENSEN_SHANNON = 2
DPO_ALPHA_DIVERGENCE = 3

# dpo_normalizer
DPO_BY_PAIRS = 0
DPO_BY_TOKENS = 1


class dpo_transform(ctypes.Structure):
    _fields_ = [
        ("given", c_uint32),
        ("scale", c_float),
        ("softcap", c_float),
        ("valid_vocab", c_size_t),
    ]


class dpo_batch(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("vocab", c_size_t),
        ("sequences", c_size_t),
        ("sequence_len", c_size_t),
        ("cu_seqlens", c_void_p),
        ("rows", c_size_t),
        ("pairs", c_uint32),
        ("label_alignment", c_uint32),
        ("pair_count", c_size_t),
        ("chosen", c_void_p),
        ("rejected", c_void_p),
        ("desirable", c_void_p),
        ("given", c_uint32),
        ("ld_alpha", c_float),
        ("row_stride", c_size_t),
        ("ignore_index", c_int64),
        ("transform", dpo_transform),
    ]


class dpo_inputs(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("dtype", c_uint32),
        ("label_type", c_uint32),
        ("logits", c_void_p),
        ("labels", c_void_p),
    ]


class dpo_loss_term(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("weight", c_double),
        ("beta", c_double),
        ("parameters", c_double * 2),
        ("given", c_uint32),
    ]


class dpo_pair_inputs(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("lengths", c_void_p),
        ("beta", c_void_p),
        ("gamma", c_void_p),
        ("weight", c_void_p),
        ("label_smoothing", c_void_p),
        ("sequence_log_weights", c_void_p),
        ("kl_logps", c_void_p),
        ("kl_ref_logps", c_void_p),
        ("kl_count", c_size_t),
        ("normalizer", c_void_p),
        ("chosen_tokens", c_void_p),
    ]


class dpo_loss(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("beta", c_double),
        ("terms", c_void_p),
        ("term_count", c_size_t),
        ("divergence", c_uint32),
        ("normalized_by", c_uint32),
        ("length_normalized", c_int32),
        ("wpo_weights", c_int32),
        ("reference_free", c_int32),
        ("given", c_uint32),
        ("label_smoothing", c_double),
        ("gamma", c_double),
        ("baseline", c_double),
        ("alpha", c_double),
        ("normalizer", c_double),
        ("inputs", c_void_p),
    ]


class dpo_status(ctypes.Structure):
    _fields_ = [
        ("bad_label", c_uint32),
        ("nonfinite_row", c_uint32),
        ("empty_sequence", c_uint32),
        ("bad_cu_seqlens", c_uint32),
        ("bad_pair", c_uint32),
        ("bad_pair_input", c_uint32),
    ]


class dpo_mean_token_metrics(ctypes.Structure):
    _fields_ = [
        ("scored", c_uint32),
        ("entropy", c_float),
        ("accuracy", c_float),
        ("mean_logit", c_float),
        ("logsumexp", c_float),
        ("sum_p2", c_float),
    ]


class dpo_token_metrics(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("entropy", c_void_p),
        ("correct", c_void_p),
        ("mean_logit", c_void_p),
        ("sum_p2", c_void_p),
        ("sequence_log_weights", c_void_p),
        ("mean", c_void_p),
    ]


class dpo_logps(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("logps", c_void_p),
        ("scored", c_void_p),
        ("token_logps", c_void_p),
        ("logsumexp", c_void_p),
        ("logsumexp_residual", c_void_p),
        ("token_weights", c_void_p),
        ("metrics", c_void_p),
        ("status", c_void_p),
    ]


class dpo_pair_metrics(ctypes.Structure):
    _fields_ = [
        ("pairs", c_uint32),
        ("chosen", c_uint32),
        ("rejected", c_uint32),
        ("loss", c_float),
        ("chosen_reward", c_float),
        ("rejected_reward", c_float),
        ("margin", c_float),
        ("accuracy", c_float),
    ]


class dpo_batch_metrics(ctypes.Structure):
    _fields_ = [
        ("status", dpo_status),
        ("pairs", dpo_pair_metrics),
        ("tokens", dpo_mean_token_metrics),
    ]


class dpo_pair_outputs(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("pair_losses", c_void_p),
        ("chosen_rewards", c_void_p),
        ("rejected_rewards", c_void_p),
        ("margins", c_void_p),
        ("coef", c_void_p),
        ("metrics", c_void_p),
    ]


class dpo_gradient(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("logsumexp", c_void_p),
        ("logsumexp_residual", c_void_p),
        ("coef", c_void_p),
        ("token_coef", c_void_p),
        ("entropy_coef", c_void_p),
        ("entropy", c_void_p),
        ("upstream", c_void_p),
        ("given", c_uint32),
        ("upstream_scale", c_float),
        ("threshold", c_float),
        ("nonfinite_row", c_void_p),
        ("dlogits", c_void_p),
    ]


class dpo_lm_head(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("dtype", c_uint32),
        ("label_type", c_uint32),
        ("hidden_size", c_size_t),
        ("hidden", c_void_p),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("labels", c_void_p),
        ("given", c_uint32),
        ("budget_bytes", c_size_t),
    ]


class dpo_lm_head_backward_inputs(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("logsumexp", c_void_p),
        ("logsumexp_residual", c_void_p),
        ("coef", c_void_p),
        ("token_coef", c_void_p),
        ("entropy_coef", c_void_p),
        ("entropy", c_void_p),
        ("given", c_uint32),
        ("threshold", c_float),
    ]


class dpo_lm_head_gradients(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("upstream", c_void_p),
        ("given", c_uint32),
        ("upstream_scale", c_float),
        ("hidden", c_void_p),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("nonfinite_row", c_void_p),
    ]


class dpo_lm_head_plan(ctypes.Structure):
    _fields_ = [
        ("chunks", c_size_t),
        ("most_rows", c_size_t),
        ("chunk_bytes", c_size_t),
        ("weight_block_bytes", c_size_t),
        ("multiplied_rows", c_size_t),
        ("logps_rows", c_size_t),
        ("frozen_weight_rows", c_size_t),
        ("whole_pairs_rows", c_size_t),
        ("two_sweeps_rows", c_size_t),
    ]


class dpo_workspace(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("sequences", c_size_t),
        ("rows", c_size_t),
        ("vocab", c_size_t),
        ("memory", c_void_p),
    ]


class dpo_cuda_lm_head_workspace(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("sequences", c_size_t),
        ("rows", c_size_t),
        ("pairs", c_size_t),
        ("vocab", c_size_t),
        ("hidden_size", c_size_t),
        ("dtype", c_uint32),
        ("given", c_uint32),
        ("logits_dtype", c_uint32),
        ("budget_bytes", c_size_t),
        ("product_bytes", c_size_t),
        ("memory", c_void_p),
    ]


# Of each function what it returns and takes.
FUNCTIONS = {
    "dpo_version": (c_uint32, []),
    "dpo_last_error": (c_char_p, []),
    "dpo_status_check": (c_uint32, [c_void_p]),
    "dpo_cpu_logps": (c_uint32, [POINTER(dpo_batch), POINTER(dpo_inputs), POINTER(dpo_logps)]),
    "dpo_cpu_pair_loss": (
        c_uint32,
        [
            POINTER(dpo_batch),
            c_void_p,
            c_void_p,
            c_void_p,
            POINTER(dpo_loss),
            POINTER(dpo_pair_outputs),
            c_void_p,
        ],
    ),
    "dpo_cpu_forward": (
        c_uint32,
        [
            POINTER(dpo_batch),
            POINTER(dpo_inputs),
            c_void_p,
            POINTER(dpo_loss),
            POINTER(dpo_logps),
            POINTER(dpo_pair_outputs),
        ],
    ),
    "dpo_cpu_backward": (c_uint32, [POINTER(dpo_batch), POINTER(dpo_inputs), POINTER(dpo_gradient)]),
    "dpo_cpu_factored": (
        c_uint32,
        [
            POINTER(dpo_batch),
            POINTER(dpo_inputs),
            c_void_p,
            POINTER(dpo_loss),
            POINTER(dpo_logps),
            POINTER(dpo_pair_outputs),
            c_void_p,
        ],
    ),
    "dpo_cpu_lm_head_workspace_create": (c_uint32, [POINTER(c_void_p)]),
    "dpo_cpu_lm_head_workspace_free": (None, [c_void_p]),
    "dpo_cpu_lm_head_plan": (
        c_uint32,
        [
            POINTER(dpo_batch),
            POINTER(dpo_lm_head),
            POINTER(dpo_loss),
            POINTER(dpo_lm_head_gradients),
            c_void_p,
        ],
    ),
    "dpo_cpu_lm_head_logps": (
        c_uint32,
        [
            POINTER(dpo_batch),
            POINTER(dpo_lm_head),
            POINTER(dpo_logps),
            c_void_p,
        ],
    ),
    "dpo_cpu_lm_head_forward": (
        c_uint32,
        [
            POINTER(dpo_batch),
            POINTER(dpo_lm_head),
            c_void_p,
            POINTER(dpo_loss),
            POINTER(dpo_logps),
            POINTER(dpo_pair_outputs),
            POINTER(dpo_lm_head_gradients),
            c_void_p,
        ],
    ),
    "dpo_cpu_lm_head_backward": (
        c_uint32,
        [
            POINTER(dpo_batch),
            POINTER(dpo_lm_head),
            POINTER(dpo_lm_head_backward_inputs),
            POINTER(dpo_lm_head_gradients),
            c_void_p,
        ],
    ),
    "dpo_cuda_load": (c_uint32, [POINTER(c_void_p)]),
    "dpo_cuda_free": (None, [c_void_p]),
    "dpo_cuda_workspace_size": (c_uint32, [POINTER(dpo_workspace), c_void_p]),
    "dpo_cuda_logps": (
        c_uint32,
        [
            c_void_p,
            POINTER(dpo_batch),
            POINTER(dpo_inputs),
            POINTER(dpo_logps),
            POINTER(dpo_workspace),
            c_void_p,
        ],
    ),
    "dpo_cuda_pair_loss": (
        c_uint32,
        [
            c_void_p,
            POINTER(dpo_batch),
            c_void_p,
            c_void_p,
            c_void_p,
            POINTER(dpo_loss),
            POINTER(dpo_pair_outputs),
            c_void_p,
            c_void_p,
        ],
    ),
    "dpo_cuda_forward": (
        c_uint32,
        [
            c_void_p,
            POINTER(dpo_batch),
            POINTER(dpo_inputs),
            c_void_p,
            POINTER(dpo_loss),
            POINTER(dpo_logps),
            POINTER(dpo_pair_outputs),
            POINTER(dpo_workspace),
            c_void_p,
        ],
    ),
    "dpo_cuda_factored": (
        c_uint32,
        [
            c_void_p,
            POINTER(dpo_batch),
            POINTER(dpo_inputs),
            c_void_p,
            POINTER(dpo_loss),
            POINTER(dpo_logps),
            POINTER(dpo_pair_outputs),
            c_void_p,
            POINTER(dpo_workspace),
            c_void_p,
        ],
    ),
    "dpo_cuda_backward": (
        c_uint32,
        [
            c_void_p,
            POINTER(dpo_batch),
            POINTER(dpo_inputs),
            POINTER(dpo_gradient),
            c_void_p,
        ],
    ),
    "dpo_cuda_products_create": (c_uint32, [POINTER(c_void_p)]),
    "dpo_cuda_products_free": (None, [c_void_p]),
    "dpo_cuda_lm_head_workspace_size": (c_uint32, [POINTER(dpo_cuda_lm_head_workspace), c_void_p]),
    "dpo_cuda_lm_head_plan": (
        c_uint32,
        [
            POINTER(dpo_batch),
            POINTER(dpo_lm_head),
            POINTER(dpo_loss),
            POINTER(dpo_lm_head_gradients),
            POINTER(dpo_cuda_lm_head_workspace),
            c_void_p,
        ],
    ),
    "dpo_cuda_lm_head_logps": (
        c_uint32,
        [
            c_void_p,
            c_void_p,
            POINTER(dpo_batch),
            POINTER(dpo_lm_head),
            POINTER(dpo_logps),
            POINTER(dpo_cuda_lm_head_workspace),
            c_void_p,
        ],
    ),
    "dpo_cuda_lm_head_forward": (
        c_uint32,
        [
            c_void_p,
            c_void_p,
            POINTER(dpo_batch),
            POINTER(dpo_lm_head),
            c_void_p,
            POINTER(dpo_loss),
            POINTER(dpo_logps),
            POINTER(dpo_pair_outputs),
            POINTER(dpo_lm_head_gradients),
            POINTER(dpo_cuda_lm_head_workspace),
            c_void_p,
        ],
    ),
    "dpo_cuda_lm_head_backward": (
        c_uint32,
        [
            c_void_p,
            c_void_p,
            POINTER(dpo_batch),
            POINTER(dpo_lm_head),
            POINTER(dpo_lm_head_backward_inputs),
            POINTER(dpo_lm_head_gradients),
            POINTER(dpo_cuda_lm_head_workspace),
            c_void_p,
        ],
    ),
}
