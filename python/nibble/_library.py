"""libnibble by ctypes: the records and functions of include/nibble that Python needs, declared as the headers have them.

tests/test_python.sh compares every record with what a C compiler makes of the headers.
"""
import contextlib
import ctypes as c
import os

HERE = os.path.dirname(os.path.abspath(__file__))

# enum nb_dtype
F32, BF16, F64, I32, U8, F16, E4M3, E5M2 = range(8)
ROLES = ["fprop.x", "fprop.w", "dgrad.dy", "dgrad.w", "wgrad.dy", "wgrad.x"]


class Error(RuntimeError):
    """What the library says: one sentence with what, where, what was expected."""


class nb_error(c.Structure):
    _fields_ = [("status", c.c_int), ("message", c.c_char * 1024)]


class nb_backend_options(c.Structure):
    _fields_ = [("threads", c.c_int32), ("isa", c.c_int)]


class nb_mat(c.Structure):
    _fields_ = [("data", c.c_void_p), ("dtype", c.c_int), ("rows", c.c_int64), ("cols", c.c_int64), ("stride", c.c_int64),
                ("amax", c.c_void_p), ("turned_amax", c.c_void_p)]


class nb_quantizer(c.Structure):
    _fields_ = [("element", c.c_int), ("scale_type", c.c_int), ("rule", c.c_int), ("outer", c.c_int),
                ("block_rows", c.c_int32), ("block_cols", c.c_int32), ("round", c.c_int), ("sr_bits", c.c_int32),
                ("hadamard_size", c.c_int32), ("hadamard_signs", c.c_int), ("hadamard_round_bf16", c.c_bool),
                ("four_six", c.c_int), ("four_six_top", c.c_int32), ("four_six_order", c.c_int)]


class nb_noise(c.Structure):
    _fields_ = [("seed", c.c_uint32), ("tensor", c.c_uint32), ("signs", c.c_uint32), ("clock", c.c_void_p)]


class nb_qtensor(c.Structure):
    _fields_ = [("quantizer", nb_quantizer), ("rows", c.c_int64), ("cols", c.c_int64), ("codes", c.c_void_p),
                ("scales", c.c_void_p), ("outer_scales", c.c_void_p), ("tensor_scale", c.c_void_p)]


class nb_qtensor_size(c.Structure):
    _fields_ = [("codes", c.c_size_t), ("scales", c.c_size_t), ("outer_scales", c.c_size_t), ("tensor_scale", c.c_size_t),
                ("total", c.c_size_t)]


class nb_pass(c.Structure):
    _fields_ = [("step", c.c_uint32), ("steps", c.c_uint32), ("micro_batch", c.c_uint32), ("rounding_seed", c.c_uint32),
                ("clock", c.c_void_p), ("forward_bf16", c.c_bool), ("backward_bf16", c.c_bool), ("z_loss", c.c_double),
                ("lens", c.c_void_p)]


class nb_linear_layer(c.Structure):
    _fields_ = [("name", c.c_char_p), ("out", c.c_int64), ("dtype", c.c_int), ("weight", c.c_void_p)]


class nb_linear_spec(c.Structure):
    _fields_ = [("recipe", c.c_void_p), ("block", c.c_int32), ("blocks", c.c_int32), ("input", c.c_char_p),
                ("in", c.c_int64), ("rows", c.c_int64), ("training", c.c_bool), ("layers", c.POINTER(nb_linear_layer)),
                ("count", c.c_int32)]


class nb_state_tensor(c.Structure):
    _fields_ = [("name", c.c_char * 256), ("dtype", c.c_int), ("elements", c.c_int64), ("data", c.c_void_p),
                ("on_host", c.c_bool)]


class nb_census_row(c.Structure):
    _fields_ = [("module", c.c_char * 128), ("gemm", c.c_char_p), ("formats", c.c_char * 96), ("kernel", c.c_char_p),
                ("reason", c.c_char_p)]


RECORDS = [nb_error, nb_backend_options, nb_mat, nb_quantizer, nb_noise, nb_qtensor, nb_qtensor_size, nb_pass,
           nb_linear_layer, nb_linear_spec, nb_state_tensor, nb_census_row]

# Functions: what they return and take. Those that return a status take an nb_error at the end.
_P, _STATUS = c.c_void_p, None
_FUNCTIONS = {
    "nb_version": (c.c_char_p, []),
    "nb_backend_open": (_STATUS, [c.c_char_p, c.POINTER(nb_backend_options), c.POINTER(_P)]),
    "nb_backend_free": ("void", [_P]),
    "nb_backend_use_stream": (_STATUS, [_P, _P]),
    "nb_backend_read": (_STATUS, [_P, _P, _P, c.c_size_t]),
    "nb_backend_write": (_STATUS, [_P, _P, _P, c.c_size_t]),
    "nb_recipe_open": (_STATUS, [c.c_char_p, c.c_char_p, c.POINTER(_P)]),
    "nb_recipe_close": ("void", [_P]),
    "nb_recipe_text": (c.c_size_t, [_P, c.c_char_p, c.c_size_t]),
    "nb_recipe_quantizer": (nb_quantizer, [_P, c.c_int]),
    "nb_recipe_check_steps": (_STATUS, [_P, c.c_int64]),
    "nb_quantizer_parse": (_STATUS, [c.c_char_p, c.POINTER(nb_quantizer)]),
    "nb_quantizer_text": (c.c_char_p, [c.POINTER(nb_quantizer), c.c_char_p, c.c_size_t]),
    "nb_quantizer_check_shape": (_STATUS, [c.POINTER(nb_quantizer), c.c_int64, c.c_int64]),
    "nb_quantizer_is_bf16": (c.c_bool, [c.POINTER(nb_quantizer)]),
    "nb_name_hash": (c.c_uint32, [c.c_char_p, c.c_char_p]),
    "nb_qtensor_bytes": (nb_qtensor_size, [c.POINTER(nb_quantizer), c.c_int64, c.c_int64]),
    "nb_quantize": (_STATUS, [_P, c.POINTER(nb_qtensor), c.POINTER(nb_mat), c.c_bool, c.POINTER(nb_noise), _P]),
    "nb_dequantize": (_STATUS, [_P, c.POINTER(nb_mat), c.POINTER(nb_qtensor)]),
    "nb_workspace_create": (_STATUS, [_P, c.POINTER(_P)]),
    "nb_workspace_free": ("void", [_P]),
    "nb_linear_create": (_STATUS, [_P, c.POINTER(nb_linear_spec), c.POINTER(_P)]),
    "nb_linear_free": ("void", [_P]),
    "nb_linear_forward": (_STATUS, [_P, c.POINTER(nb_pass), c.c_bool, c.POINTER(nb_mat), c.POINTER(nb_mat)]),
    "nb_linear_backward": (_STATUS, [_P, c.POINTER(nb_pass), c.c_bool, c.POINTER(nb_mat), c.POINTER(nb_mat),
                                     c.POINTER(nb_mat), c.POINTER(_P)]),
    "nb_linear_changed": ("void", [_P, c.POINTER(_P)]),
    "nb_linear_stepped": (_STATUS, [_P, c.POINTER(nb_pass)]),
    "nb_linear_state": (c.c_int32, [_P, c.POINTER(nb_state_tensor), c.c_int32]),
    "nb_linear_state_loaded": (_STATUS, [_P]),
    "nb_linear_census": (c.c_int32, [_P, c.POINTER(nb_census_row), c.c_int32]),
    "nb_linear_doubts": (c.c_int32, [_P, c.c_char_p, c.c_size_t]),
}


def _checked(function):
    def call(*arguments):
        err = nb_error()
        if function(*arguments, c.byref(err)) != 0:
            raise Error(err.message.decode("utf-8", "replace"))
    return call


def _find():
    """The file of NIBBLE_LIBRARY; the one that the wheel brought; that of a build in the source tree; the system's."""
    named = os.environ.get("NIBBLE_LIBRARY")
    if named:
        return named
    for path in [os.path.join(HERE, "lib", "libnibble.so"), os.path.join(HERE, "..", "..", "build", "package", "libnibble.so")]:
        if os.path.exists(path):
            return path
    return "libnibble.so.0.1"


@contextlib.contextmanager
def _said_to_runtimes():
    """What the program says before it starts (src/cli/main.c), and libraries read when they are loaded: OpenBLAS is called for
    one tile at a time, and threads of OpenMP that wait do not spin for long. What the user says stays."""
    said = {"OPENBLAS_NUM_THREADS": "1"}
    if "OMP_WAIT_POLICY" not in os.environ:
        said["GOMP_SPINCOUNT"] = "200"
    said = {name: value for name, value in said.items() if name not in os.environ}
    os.environ.update(said)
    try:
        yield
    finally:
        for name in said:
            del os.environ[name]


class _Library:
    def __init__(self):
        path = _find()
        try:
            with _said_to_runtimes():
                whole = c.CDLL(path)
        except OSError as error:
            raise ImportError(f"libnibble cannot be loaded: {error}; expected it beside the package (pip install .), "
                              "or its path in NIBBLE_LIBRARY") from None
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(whole, name)
            status = result is _STATUS
            function.argtypes = arguments + [c.POINTER(nb_error)] if status else arguments
            function.restype = c.c_int if status else None if result == "void" else result
            setattr(self, name[3:], _checked(function) if status else function)


nb = _Library()
_backends = {}


def backend(threads=0, name="cpu"):
    """The processor, with so many threads (0: as many as the process may use), or a GPU ("cuda:0"). Each is opened once."""
    key = (name, threads if name == "cpu" else 0)
    if key not in _backends:
        options, handle = nb_backend_options(key[1], 0), c.c_void_p()
        nb.backend_open(name.encode(), c.byref(options), c.byref(handle))
        _backends[key] = handle
    return _backends[key]


def recipes_folder():
    for path in [os.path.join(HERE, "recipes"), os.path.join(HERE, "..", "..", "recipes")]:
        if os.path.isdir(path):
            return path
    return "recipes"
