"""What include/lycomerge.h declares, for ctypes. make_abi.py writes this file."""

from ctypes import (
    CDLL,
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_int,
    c_size_t,
    c_uint32,
    c_uint64,
    c_uint8,
    c_void_p,
)

ABI_VERSION = 1

LYCO_STATUS_OK = 0
LYCO_STATUS_IO = 10
LYCO_STATUS_FORMAT = 11
LYCO_STATUS_UNSUPPORTED = 12
LYCO_STATUS_MISMATCH = 13
LYCO_STATUS_VALUE = 14
LYCO_STATUS_OPTION = 20
LYCO_STATUS_CANCELLED = 30
LYCO_STATUS_NULL_PARAMETER = 100
LYCO_STATUS_BAD_ARGUMENT = 101
LYCO_STATUS_INVALID_UTF8 = 102
LYCO_STATUS_INTERNAL = 200

LYCO_LOG_LEVEL_WARNING = 20
LYCO_LOG_LEVEL_INFO = 30

LYCO_PARAM_WEIGHT = 0
LYCO_PARAM_BIAS = 1

LYCO_DTYPE_F64 = 1
LYCO_DTYPE_F32 = 2
LYCO_DTYPE_F16 = 3
LYCO_DTYPE_BF16 = 4
LYCO_DTYPE_F8_E4M3 = 5
LYCO_DTYPE_F8_E5M2 = 6
LYCO_DTYPE_I64 = 16
LYCO_DTYPE_I32 = 17
LYCO_DTYPE_I16 = 18
LYCO_DTYPE_I8 = 19
LYCO_DTYPE_U64 = 20
LYCO_DTYPE_U32 = 21
LYCO_DTYPE_U16 = 22
LYCO_DTYPE_U8 = 23
LYCO_DTYPE_BOOL = 24


class lyco_open_options(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("skip_unknown", c_uint32),
        ("base", c_char_p),
    ]


class lyco_layer_info(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("param", c_uint32),
        ("name", c_char_p),
        ("family", c_char_p),
        ("rows", c_uint64),
        ("cols", c_uint64),
        ("rank", c_uint64),
        ("scale", c_double),
        ("stored_count", c_uint64),
    ]


class lyco_tensor_view(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_uint32),
        ("name", c_char_p),
        ("data", POINTER(c_uint8)),
        ("byte_len", c_uint64),
        ("shape", POINTER(c_size_t)),
        ("dim_count", c_uint64),
    ]


class lyco_forecast(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("huge", c_uint32),
        ("byte_len", c_uint64),
        ("input_byte_len", c_uint64),
        ("relative_error", c_double),
    ]


class lyco_bake_options(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("stochastic", c_uint32),
        ("seed", c_uint64),
    ]


class lyco_layer_report(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("param", c_uint32),
        ("name", c_char_p),
        ("family", c_char_p),
        ("rank", c_uint64),
        ("norm", c_double),
        ("relative_error", c_double),
        ("direction_error", c_double),
    ]

lyco_log_callback = CFUNCTYPE(None, c_void_p, c_uint32, c_char_p)

lyco_progress_callback = CFUNCTYPE(c_int, c_void_p, c_char_p, c_size_t, c_size_t)

lyco_delta_callback = CFUNCTYPE(c_int, c_void_p, POINTER(lyco_layer_info), POINTER(lyco_tensor_view))


def declare(library: CDLL) -> None:
    """Gives every function its types."""
    library.lyco_version.argtypes = []
    library.lyco_version.restype = c_char_p
    library.lyco_abi_version.argtypes = []
    library.lyco_abi_version.restype = c_uint32
    library.lyco_status_name.argtypes = [c_uint32]
    library.lyco_status_name.restype = c_char_p
    library.lyco_error_status.argtypes = [c_void_p]
    library.lyco_error_status.restype = c_uint32
    library.lyco_error_message.argtypes = [c_void_p]
    library.lyco_error_message.restype = c_char_p
    library.lyco_error_file.argtypes = [c_void_p]
    library.lyco_error_file.restype = c_char_p
    library.lyco_error_layer.argtypes = [c_void_p]
    library.lyco_error_layer.restype = c_char_p
    library.lyco_error_free.argtypes = [c_void_p]
    library.lyco_error_free.restype = None
    library.lyco_set_log.argtypes = [lyco_log_callback, c_void_p, c_uint32, POINTER(c_void_p)]
    library.lyco_set_log.restype = c_uint32
    library.lyco_strategy_count.argtypes = []
    library.lyco_strategy_count.restype = c_size_t
    library.lyco_strategy_name.argtypes = [c_size_t]
    library.lyco_strategy_name.restype = c_char_p
    library.lyco_strategy_title.argtypes = [c_size_t]
    library.lyco_strategy_title.restype = c_char_p
    library.lyco_strategy_help.argtypes = [c_size_t]
    library.lyco_strategy_help.restype = c_char_p
    library.lyco_strategy_paper.argtypes = [c_size_t]
    library.lyco_strategy_paper.restype = c_char_p
    library.lyco_strategy_parameter_count.argtypes = [c_size_t]
    library.lyco_strategy_parameter_count.restype = c_size_t
    library.lyco_strategy_parameter_name.argtypes = [c_size_t, c_size_t]
    library.lyco_strategy_parameter_name.restype = c_char_p
    library.lyco_strategy_parameter_takes.argtypes = [c_size_t, c_size_t]
    library.lyco_strategy_parameter_takes.restype = c_char_p
    library.lyco_strategy_parameter_default.argtypes = [c_size_t, c_size_t]
    library.lyco_strategy_parameter_default.restype = c_char_p
    library.lyco_strategy_parameter_help.argtypes = [c_size_t, c_size_t]
    library.lyco_strategy_parameter_help.restype = c_char_p
    library.lyco_family_count.argtypes = []
    library.lyco_family_count.restype = c_size_t
    library.lyco_family_name.argtypes = [c_size_t]
    library.lyco_family_name.restype = c_char_p
    library.lyco_family_help.argtypes = [c_size_t]
    library.lyco_family_help.restype = c_char_p
    library.lyco_option_count.argtypes = []
    library.lyco_option_count.restype = c_size_t
    library.lyco_option_name.argtypes = [c_size_t]
    library.lyco_option_name.restype = c_char_p
    library.lyco_option_value.argtypes = [c_size_t]
    library.lyco_option_value.restype = c_char_p
    library.lyco_option_default.argtypes = [c_size_t]
    library.lyco_option_default.restype = c_char_p
    library.lyco_option_help.argtypes = [c_size_t]
    library.lyco_option_help.restype = c_char_p
    library.lyco_option_choice_count.argtypes = [c_size_t]
    library.lyco_option_choice_count.restype = c_size_t
    library.lyco_option_choice.argtypes = [c_size_t, c_size_t]
    library.lyco_option_choice.restype = c_char_p
    library.lyco_adapter_open.argtypes = [c_char_p, POINTER(lyco_open_options), POINTER(c_void_p), POINTER(c_void_p)]
    library.lyco_adapter_open.restype = c_uint32
    library.lyco_adapter_from_memory.argtypes = [c_char_p, POINTER(c_uint8), c_size_t, POINTER(lyco_open_options), POINTER(c_void_p), POINTER(c_void_p)]
    library.lyco_adapter_from_memory.restype = c_uint32
    library.lyco_adapter_retain.argtypes = [c_void_p]
    library.lyco_adapter_retain.restype = c_void_p
    library.lyco_adapter_free.argtypes = [c_void_p]
    library.lyco_adapter_free.restype = None
    library.lyco_adapter_kind.argtypes = [c_void_p]
    library.lyco_adapter_kind.restype = c_char_p
    library.lyco_adapter_byte_len.argtypes = [c_void_p]
    library.lyco_adapter_byte_len.restype = c_uint64
    library.lyco_adapter_layer_count.argtypes = [c_void_p]
    library.lyco_adapter_layer_count.restype = c_size_t
    library.lyco_adapter_layer_info.argtypes = [c_void_p, c_size_t, POINTER(lyco_layer_info), POINTER(c_void_p)]
    library.lyco_adapter_layer_info.restype = c_uint32
    library.lyco_adapter_metadata.argtypes = [c_void_p, c_char_p, POINTER(c_char_p), POINTER(c_void_p)]
    library.lyco_adapter_metadata.restype = c_uint32
    library.lyco_adapter_metadata_count.argtypes = [c_void_p]
    library.lyco_adapter_metadata_count.restype = c_size_t
    library.lyco_adapter_metadata_key.argtypes = [c_void_p, c_size_t]
    library.lyco_adapter_metadata_key.restype = c_char_p
    library.lyco_adapter_survey.argtypes = [c_void_p, POINTER(c_char_p), POINTER(c_void_p)]
    library.lyco_adapter_survey.restype = c_uint32
    library.lyco_adapter_save.argtypes = [c_void_p, c_char_p, POINTER(c_void_p)]
    library.lyco_adapter_save.restype = c_uint32
    library.lyco_adapter_tensor_count.argtypes = [c_void_p]
    library.lyco_adapter_tensor_count.restype = c_size_t
    library.lyco_adapter_tensor.argtypes = [c_void_p, c_size_t, POINTER(lyco_tensor_view), POINTER(c_void_p)]
    library.lyco_adapter_tensor.restype = c_uint32
    library.lyco_adapter_find_tensor.argtypes = [c_void_p, c_char_p, POINTER(c_size_t), POINTER(c_void_p)]
    library.lyco_adapter_find_tensor.restype = c_uint32
    library.lyco_adapter_bytes.argtypes = [c_void_p, POINTER(POINTER(c_uint8)), POINTER(c_size_t), POINTER(c_void_p)]
    library.lyco_adapter_bytes.restype = c_uint32
    library.lyco_adapter_tensor_dlpack.argtypes = [c_void_p, c_size_t, POINTER(c_void_p), POINTER(c_void_p)]
    library.lyco_adapter_tensor_dlpack.restype = c_uint32
    library.lyco_builder_new.argtypes = []
    library.lyco_builder_new.restype = c_void_p
    library.lyco_builder_add.argtypes = [c_void_p, POINTER(lyco_tensor_view), POINTER(c_void_p)]
    library.lyco_builder_add.restype = c_uint32
    library.lyco_builder_add_dlpack.argtypes = [c_void_p, c_char_p, c_void_p, POINTER(c_void_p)]
    library.lyco_builder_add_dlpack.restype = c_uint32
    library.lyco_builder_set_metadata.argtypes = [c_void_p, c_char_p, c_char_p, POINTER(c_void_p)]
    library.lyco_builder_set_metadata.restype = c_uint32
    library.lyco_builder_finish.argtypes = [c_void_p, c_char_p, POINTER(lyco_open_options), POINTER(c_void_p), POINTER(c_void_p)]
    library.lyco_builder_finish.restype = c_uint32
    library.lyco_builder_free.argtypes = [c_void_p]
    library.lyco_builder_free.restype = None
    library.lyco_merge_new.argtypes = []
    library.lyco_merge_new.restype = c_void_p
    library.lyco_merge_add.argtypes = [c_void_p, c_void_p, c_double, POINTER(c_void_p)]
    library.lyco_merge_add.restype = c_uint32
    library.lyco_merge_set_block_weights.argtypes = [c_void_p, c_size_t, c_char_p, POINTER(c_void_p)]
    library.lyco_merge_set_block_weights.restype = c_uint32
    library.lyco_merge_set.argtypes = [c_void_p, c_char_p, c_char_p, POINTER(c_void_p)]
    library.lyco_merge_set.restype = c_uint32
    library.lyco_merge_set_recipe.argtypes = [c_void_p, c_char_p, POINTER(c_void_p)]
    library.lyco_merge_set_recipe.restype = c_uint32
    library.lyco_merge_cancel.argtypes = [c_void_p, POINTER(c_void_p)]
    library.lyco_merge_cancel.restype = c_uint32
    library.lyco_merge_forecast.argtypes = [c_void_p, lyco_progress_callback, c_void_p, POINTER(lyco_forecast), POINTER(c_void_p)]
    library.lyco_merge_forecast.restype = c_uint32
    library.lyco_merge_run.argtypes = [c_void_p, lyco_progress_callback, c_void_p, POINTER(c_void_p), POINTER(c_void_p), POINTER(c_void_p)]
    library.lyco_merge_run.restype = c_uint32
    library.lyco_merge_run_to.argtypes = [c_void_p, c_char_p, lyco_progress_callback, c_void_p, POINTER(c_void_p), POINTER(c_void_p)]
    library.lyco_merge_run_to.restype = c_uint32
    library.lyco_merge_free.argtypes = [c_void_p]
    library.lyco_merge_free.restype = None
    library.lyco_merge_plan.argtypes = [c_void_p, lyco_progress_callback, c_void_p, POINTER(c_void_p), POINTER(c_void_p)]
    library.lyco_merge_plan.restype = c_uint32
    library.lyco_plan_json.argtypes = [c_void_p]
    library.lyco_plan_json.restype = c_char_p
    library.lyco_plan_picture.argtypes = [c_void_p, c_char_p, c_uint32, POINTER(POINTER(c_uint8)), POINTER(c_uint64), POINTER(c_void_p)]
    library.lyco_plan_picture.restype = c_uint32
    library.lyco_plan_free.argtypes = [c_void_p]
    library.lyco_plan_free.restype = None
    library.lyco_merge_compare.argtypes = [c_void_p, lyco_progress_callback, c_void_p, POINTER(c_void_p), POINTER(c_void_p)]
    library.lyco_merge_compare.restype = c_uint32
    library.lyco_comparison_json.argtypes = [c_void_p]
    library.lyco_comparison_json.restype = c_char_p
    library.lyco_comparison_picture.argtypes = [c_void_p, c_char_p, c_uint32, POINTER(POINTER(c_uint8)), POINTER(c_uint64), POINTER(c_void_p)]
    library.lyco_comparison_picture.restype = c_uint32
    library.lyco_comparison_free.argtypes = [c_void_p]
    library.lyco_comparison_free.restype = None
    library.lyco_adapter_delta.argtypes = [c_void_p, c_size_t, c_uint32, POINTER(c_uint8), c_uint64, POINTER(c_void_p)]
    library.lyco_adapter_delta.restype = c_uint32
    library.lyco_adapter_delta_norm.argtypes = [c_void_p, c_size_t, POINTER(c_double), POINTER(c_void_p)]
    library.lyco_adapter_delta_norm.restype = c_uint32
    library.lyco_merge_deltas.argtypes = [c_void_p, lyco_delta_callback, lyco_progress_callback, c_void_p, POINTER(c_void_p)]
    library.lyco_merge_deltas.restype = c_uint32
    library.lyco_merge_bake.argtypes = [c_void_p, c_char_p, c_char_p, POINTER(lyco_bake_options), lyco_progress_callback, c_void_p, POINTER(c_void_p), POINTER(c_void_p)]
    library.lyco_merge_bake.restype = c_uint32
    library.lyco_merge_extract.argtypes = [c_void_p, c_char_p, c_char_p, c_char_p, lyco_progress_callback, c_void_p, POINTER(c_void_p), POINTER(c_void_p)]
    library.lyco_merge_extract.restype = c_uint32
    library.lyco_report_relative_error.argtypes = [c_void_p]
    library.lyco_report_relative_error.restype = c_double
    library.lyco_report_json.argtypes = [c_void_p]
    library.lyco_report_json.restype = c_char_p
    library.lyco_report_layer_count.argtypes = [c_void_p]
    library.lyco_report_layer_count.restype = c_size_t
    library.lyco_report_layer.argtypes = [c_void_p, c_size_t, POINTER(lyco_layer_report), POINTER(c_void_p)]
    library.lyco_report_layer.restype = c_uint32
    library.lyco_report_free.argtypes = [c_void_p]
    library.lyco_report_free.restype = None
