"""nibble: 4-bit formats and training recipes of the C library, for Python.

    import nibble
    q = nibble.quantize(x, "nvfp4")          # x: float32 [rows, cols], numpy, torch, or any buffer
    y = nibble.dequantize(q)

    import nibble.torch
    nibble.torch.apply(model, recipe="chon")

No logic lives here: bits are made by libnibble, as `nibble quantize` makes them.
"""
import ctypes as _c

from . import _library as _l
from ._library import Error

__all__ = ["Error", "Quantized", "Quantizer", "Recipe", "dequantize", "quantize"]
__version__ = _l.nb.version().decode()


class Quantizer:
    """How one operand is quantized: from the grammar of recipes ("{format: nvfp4, block: 16x16}", "mxfp4"), or a role of
    a recipe (Recipe("nvfp4")["wgrad.dy"])."""

    def __init__(self, text):
        self._record = _l.nb_quantizer()
        _l.nb.quantizer_parse(text.encode(), _c.byref(self._record))

    def __str__(self):
        text = _c.create_string_buffer(512)
        return _l.nb.quantizer_text(_c.byref(self._record), text, len(text)).decode()

    def __repr__(self):
        return f"Quantizer({str(self)!r})"

    def __eq__(self, other):
        return isinstance(other, Quantizer) and str(self) == str(other)

    def __hash__(self):
        return hash(str(self))


class Recipe:
    """A recipe by its name ("nvfp4") or the path of a recipe file. str() is the whole of it, every default filled in."""

    roles = tuple(_l.ROLES)

    def __init__(self, name, folder=None):
        self._source = (str(name), folder)
        self._handle = _c.c_void_p()
        _l.nb.recipe_open(str(name).encode(), str(folder or _l.recipes_folder()).encode(), _c.byref(self._handle))

    def __getitem__(self, role):
        """The Quantizer of an operand: "fprop.x", "fprop.w", "dgrad.dy", "dgrad.w", "wgrad.dy" or "wgrad.x"."""
        if role not in _l.ROLES:
            raise KeyError(f"{role}: expected one of {', '.join(_l.ROLES)}")
        made = Quantizer.__new__(Quantizer)
        made._record = _l.nb.recipe_quantizer(self._handle, _l.ROLES.index(role))
        return made

    def check_steps(self, steps):
        """Raises Error where the recipe cannot be carried out in so many optimizer steps."""
        _l.nb.recipe_check_steps(self._handle, steps)

    @property
    def name(self):
        for line in str(self).splitlines():
            if line.startswith("name:"):
                return line[5:].strip().strip('"')
        return ""

    def __str__(self):
        size = _l.nb.recipe_text(self._handle, None, 0) + 1
        text = _c.create_string_buffer(size)
        _l.nb.recipe_text(self._handle, text, size)
        return text.value.decode()

    def __repr__(self):
        return f"Recipe({self.name!r})"

    def __del__(self):
        if getattr(self, "_handle", None):
            _l.nb.recipe_close(self._handle)


class Quantized:
    """Codes and scales of a matrix. Arrays are of the kind that was quantized (numpy, torch, or memoryview):

    codes         uint8: 4-bit [rows, (cols + 1) / 2], element 2i in the low nibble; 8-bit [rows, cols]
    scales        uint8 [rows, cols / block] E4M3 or E8M0 bytes, tiles of 16x16 repeated in their rows; or None
    outer_scales  float32 [rows, cols / 128], or [rows] or [cols] of whole rows or columns; or None
    tensor_scale  float32 [1]; or None
    """

    def __init__(self, quantizer, shape, kind):
        self.quantizer, self.shape, self._kind = quantizer, shape, kind
        rows, cols = shape
        q = quantizer._record
        size = _l.nb.qtensor_bytes(_c.byref(q), rows, cols)

        def made(what, count):
            return kind.empty(what, (rows, count // rows)) if count else None
        self.codes = made("uint8", size.codes)
        self.scales = made("uint8", size.scales)
        floats = size.outer_scales // 4
        flat = q.block_rows == 0 or q.block_cols == 0
        self.outer_scales = kind.empty("float32", (floats,) if flat else (rows, floats // rows)) if floats else None
        self.tensor_scale = kind.empty("float32", (1,)) if size.tensor_scale else None

    def _view(self):
        at = [self._kind.address(a) if a is not None else None
              for a in (self.codes, self.scales, self.outer_scales, self.tensor_scale)]
        return _l.nb_qtensor(self.quantizer._record, self.shape[0], self.shape[1], *at)


# ---- arrays: what is asked of each kind ----

class _Buffers:
    """Anything with a C-contiguous float32 buffer of two dimensions; results are memoryviews."""

    @staticmethod
    def input(x):
        view = memoryview(x)
        if view.format not in ("f", "<f") or view.ndim != 2 or not view.c_contiguous:
            raise TypeError(f"a buffer of format {view.format!r} and {view.ndim} dimensions; expected C-contiguous float32 "
                            "[rows, cols]")
        if view.readonly:
            view = memoryview(bytearray(view.cast("B"))).cast("f", view.shape)
        return view

    @staticmethod
    def empty(what, shape):
        count = 1
        for n in shape:
            count *= n
        return memoryview(bytearray(count * (4 if what == "float32" else 1))).cast(
            "f" if what == "float32" else "B", shape)

    @staticmethod
    def address(view):
        return _c.addressof(_c.c_char.from_buffer(view.cast("B") if view.ndim > 1 or view.format != "B" else view))


class _Numpy:
    @staticmethod
    def input(x):
        import numpy
        if x.dtype != numpy.float32 or x.ndim != 2:
            raise TypeError(f"an array of {x.dtype} and {x.ndim} dimensions; expected float32 [rows, cols]")
        return numpy.ascontiguousarray(x)

    @staticmethod
    def empty(what, shape):
        import numpy
        return numpy.empty(shape, what)

    @staticmethod
    def address(array):
        return array.ctypes.data


class _Torch:
    @staticmethod
    def input(x):
        import torch
        if x.device.type != "cpu":
            raise NotImplementedError(f"a tensor on {x.device}: nibble's Python quantizes on the CPU; expected x.cpu()")
        if x.dtype != torch.float32 or x.dim() != 2:
            raise TypeError(f"a tensor of {x.dtype} and {x.dim()} dimensions; expected float32 [rows, cols]")
        return x.detach().contiguous()

    @staticmethod
    def empty(what, shape):
        import torch
        return torch.empty(shape, dtype=getattr(torch, what))

    @staticmethod
    def address(tensor):
        return tensor.data_ptr()


def _kind_of(x):
    module = type(x).__module__.split(".")[0]
    return _Torch if module == "torch" else _Numpy if module == "numpy" else _Buffers


def _matrix(kind, x, shape):
    return _l.nb_mat(kind.address(x), _l.F32, shape[0], shape[1], shape[1], None, None)


# ---- the two functions ----

def quantize(x, how, *, seed=0, signs=0, transpose=False, threads=0):
    """Codes of a float32 matrix [rows, cols] along its columns (transpose: along its rows, as of x.T).

    `how` is a Quantizer or its text. `seed` keys stochastic rounding and `signs` fresh Hadamard signs: the bits are those
    of `nibble quantize --seed SEED`."""
    if not isinstance(how, Quantizer):
        how = Quantizer(how)
    if _l.nb.quantizer_is_bf16(_c.byref(how._record)):
        raise Error("bf16 is not quantized; expected nvfp4, mxfp4, ...")
    kind = _kind_of(x)
    x = kind.input(x)
    rows, cols = x.shape
    shape = (cols, rows) if transpose else (rows, cols)
    _l.nb.quantizer_check_shape(_c.byref(how._record), *shape)
    made = Quantized(how, shape, kind)
    noise = _l.nb_noise(seed, _l.nb.name_hash(b"quantize", None), signs, None)
    view, source = made._view(), _matrix(kind, x, (rows, cols))
    _l.nb.quantize(_l.backend(threads), _c.byref(view), _c.byref(source), transpose, _c.byref(noise), None)
    return made


def dequantize(quantized, *, threads=0):
    """The decoded float32 numbers, in the rotated domain where the quantizer rotates."""
    kind = quantized._kind
    out = kind.empty("float32", quantized.shape)
    view, to = quantized._view(), _matrix(kind, out, quantized.shape)
    _l.nb.dequantize(_l.backend(threads), _c.byref(to), _c.byref(view))
    return out
