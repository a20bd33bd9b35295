"""nibble.torch: the linear layers of any PyTorch model, under a recipe.

    nibble.torch.apply(model, recipe="chon")     # then train as before, with any torch.optim optimizer

Every torch.nn.Linear becomes a Linear of this module with the same Parameters: state dicts keep their keys, and an
optimizer may be made before or after. Forward and backward are the C library's; weights are read where they lie, in the
memory of the processor or of an NVIDIA GPU, whose work is queued on torch's current stream.
"""
import contextlib
import ctypes as _c
import fnmatch
import threading
import weakref

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from . import Error, Recipe
from . import _library as _l

__all__ = ["Linear", "apply", "census", "step"]

_DTYPES = {torch.float32: _l.F32, torch.bfloat16: _l.BF16}
_STATE_DTYPES = {_l.F32: torch.float32, _l.BF16: torch.bfloat16, _l.F64: torch.float64, _l.I32: torch.int32,
                 _l.U8: torch.uint8}
_lock = threading.RLock()  # one workspace: layers of a process run one at a time
_workspaces = {}


def _machine(tensor, what):
    """The library's name for where a tensor lies."""
    if tensor.device.type == "cpu":
        return "cpu"
    if tensor.device.type == "cuda":
        return f"cuda:{tensor.device.index}"
    raise NotImplementedError(f"{what} on {tensor.device}; nibble.torch runs on cpu and cuda")


@contextlib.contextmanager
def _turn(tensor):
    """A layer's turn: nobody else's, and torch's device is the tensor's."""
    with _lock, torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext():
        yield


def _backend(threads, machine):
    """Ready for a call: on a GPU behind what torch has queued, and torch's next work behind the call's."""
    handle = _l.backend(threads, machine)
    if machine != "cpu":
        _l.nb.backend_use_stream(handle, torch.cuda.current_stream(int(machine[len("cuda:"):])).cuda_stream)
    return handle


def _workspace(threads, machine):
    key = (threads if machine == "cpu" else 0, machine)
    backend = _backend(threads, machine)
    if key not in _workspaces:
        handle = _c.c_void_p()
        _l.nb.workspace_create(backend, _c.byref(handle))
        _workspaces[key] = handle
    return _workspaces[key]


class _Run:
    """What all layers of one apply share."""

    def __init__(self, recipe, steps, seed, threads):
        self.recipe, self.steps, self.seed, self.threads = recipe, steps, seed, threads


def _matrix(tensor):
    return _l.nb_mat(tensor.data_ptr(), _DTYPES[tensor.dtype], tensor.shape[0], tensor.shape[1], tensor.shape[1], None, None)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, layer, training):
        y, ctx.ticket = layer._forward(x, training)
        ctx.layer = layer
        ctx.at = layer._pass()
        ctx.save_for_backward(x, weight)  # torch refuses a backward pass where either was written since
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dx, dw = ctx.layer._backward(ctx.at, ctx.ticket, x, dy.contiguous(), ctx.needs_input_grad[0],
                                     ctx.needs_input_grad[1])
        return dx, dw if dw is None else dw.to(weight.dtype), None, None


class Linear(nn.Linear):
    """A torch.nn.Linear whose three products run in the formats of a recipe. Made by apply."""

    def __init__(self, old, run, name, block, blocks):
        nn.Module.__init__(self)
        self.in_features, self.out_features = old.in_features, old.out_features
        self.weight, self.bias, self.training = old.weight, old.bias, old.training
        self._run, self._name, self._block, self._blocks = run, name, block, blocks
        self._step = 0      # optimizer steps taken
        self._micro = 0     # backward passes of this step
        self._handle, self._rows, self._passes, self._seen, self._pending = None, 0, 0, None, {}
        self._machine = "cpu"
        with _turn(self.weight):
            self._make(1)   # so that sizes that the recipe cannot run at are refused now

    # ---- the layer of the library ----

    def _make(self, rows):
        weight = self.weight
        machine = _machine(weight, f"{self._name}: its weight is")
        if weight.dtype not in _DTYPES or not weight.is_contiguous():
            raise Error(f"{self._name}: its weight is {weight.dtype}; expected contiguous float32 or bfloat16")
        layer = _l.nb_linear_layer(self._name.encode(), self.out_features, _DTYPES[weight.dtype], weight.data_ptr())
        spec = _l.nb_linear_spec(self._run.recipe._handle, self._block, self._blocks, (self._name + ".input").encode(),
                                 self.in_features, rows, True, _c.pointer(layer), 1)
        handle = _c.c_void_p()
        try:
            _l.nb.linear_create(_workspace(self._run.threads, machine), _c.byref(spec), _c.byref(handle))
        except Error as error:
            raise Error(f"{error}; hint: keep=[\"{self._name}\"] leaves the layer to torch") from None
        kept = self._state()
        self._close()
        self._handle, self._rows, self._machine = handle, rows, machine
        self._seen = (weight.data_ptr(), weight._version, weight.dtype, weight.device)
        self._finalizer = weakref.finalize(self, _l.nb.linear_free, handle)
        self._passes += 1
        self._pending = {**kept, **self._pending}
        self._load_pending()

    def _close(self):
        if self._handle:
            self._finalizer()
        self._handle = None

    def _ready(self, rows):
        now = (self.weight.data_ptr(), self.weight._version, self.weight.dtype, self.weight.device)
        _backend(self._run.threads, self._machine)
        if self._handle is None or rows > self._rows or now[2:] != self._seen[2:]:
            self._make(max(rows, self._rows))
        elif now != self._seen:
            _l.nb.linear_changed(self._handle, (_c.c_void_p * 1)(now[0]))
            self._seen = now

    def _pass(self):
        return _l.nb_pass(self._step, self._run.steps, self._micro, self._run.seed)

    # ---- forward and backward ----

    @torch.compiler.disable
    def forward(self, x):
        _machine(x, f"{self._name}: an input")
        if x.device != self.weight.device:
            raise Error(f"{self._name}: an input on {x.device}; expected {self.weight.device}, where its weight is")
        kind = x.device.type
        out = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        if x.dtype not in _DTYPES or out not in _DTYPES:
            raise Error(f"{self._name}: an input of {x.dtype}; expected float32 or bfloat16")
        flat = x.to(out).reshape(-1, self.in_features).contiguous()
        if flat.shape[0] == 0:
            return x.new_zeros((*x.shape[:-1], self.out_features), dtype=out)
        trains = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        y = _Product.apply(flat, self.weight, self, trains and self.training).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(out)

    def _forward(self, x, training):
        y = torch.empty((x.shape[0], self.out_features), dtype=x.dtype, device=x.device)
        with _turn(self.weight):
            self._ready(x.shape[0])
            at, mx, my = self._pass(), _matrix(x), _matrix(y)
            _l.nb.linear_forward(self._handle, _c.byref(at), training, _c.byref(mx), _c.byref(my))
            self._passes += 1
            # What an evaluation leaves behind serves no backward pass.
            return y, self._passes if training else 0

    def _backward(self, at, ticket, x, dy, wants_dx, wants_dw):
        dy = dy.to(x.dtype)
        dx = torch.empty_like(x) if wants_dx else None
        dw = torch.empty((self.out_features, self.in_features), dtype=torch.float32, device=x.device) if wants_dw else None
        with _turn(self.weight):
            self._ready(x.shape[0])
            mx, mdy = _matrix(x), _matrix(dy)
            mdx = _c.byref(_matrix(dx)) if wants_dx else None
            to = (_c.c_void_p * 1)(dw.data_ptr() if wants_dw else None)
            _l.nb.linear_backward(self._handle, _c.byref(at), ticket != self._passes, _c.byref(mx), _c.byref(mdy),
                                       mdx, to)
            self._micro += 1
        return dx, dw

    def _stepped(self):
        with _turn(self.weight):
            if self._handle is not None:
                self._ready(self._rows)
                at = self._pass()
                _l.nb.linear_stepped(self._handle, _c.byref(at))
                self._passes += 1
            self._step, self._micro = self._step + 1, 0

    # ---- what mechanisms keep ----

    def _tensors(self):
        count = _l.nb.linear_state(self._handle, None, 0)
        list_ = (_l.nb_state_tensor * count)()
        _l.nb.linear_state(self._handle, list_, count)
        return list_

    def _state(self):
        """Copies, by the names of the library without the layer's own."""
        out = {}
        for t in self._tensors() if self._handle else ():
            value = torch.empty(t.elements, dtype=_STATE_DTYPES[t.dtype])
            bytes_ = value.numel() * value.element_size()
            if t.on_host:
                _c.memmove(value.data_ptr(), t.data, bytes_)
            else:
                _l.nb.backend_read(_backend(self._run.threads, self._machine), value.data_ptr(), t.data, bytes_)
            out[t.name.decode().split("/")[1]] = value
        return out

    def _load_pending(self):
        if not self._pending:
            return
        for t in self._tensors():
            value = self._pending.get(t.name.decode().split("/")[1])
            if value is None:
                continue
            if value.numel() != t.elements or value.dtype != _STATE_DTYPES[t.dtype]:
                raise Error(f"{t.name.decode()}: {value.numel()} of {value.dtype}; expected {t.elements} of "
                            f"{_STATE_DTYPES[t.dtype]}: was it saved under another recipe?")
            value = value.cpu().contiguous()
            bytes_ = value.numel() * value.element_size()
            if t.on_host:
                _c.memmove(t.data, value.data_ptr(), bytes_)
            else:
                _l.nb.backend_write(_backend(self._run.threads, self._machine), t.data, value.data_ptr(), bytes_)
        _l.nb.linear_state_loaded(self._handle)
        self._pending = {}

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "nibble.step"] = torch.tensor(self._step)
        with _turn(self.weight):
            for name, value in self._state().items():
                destination[prefix + "nibble." + name] = value

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        ours = {k: state_dict.pop(k) for k in list(state_dict) if k.startswith(prefix + "nibble.")}
        super()._load_from_state_dict(state_dict, prefix, *rest)
        for key, value in ours.items():
            state_dict[key] = value
            name = key[len(prefix) + len("nibble."):]
            if name == "step":
                self._step, self._micro = int(value), 0
            else:
                self._pending[name] = value
        if self._handle:
            with _turn(self.weight):
                self._load_pending()
        unexpected = rest[3]
        unexpected[:] = [key for key in unexpected if key not in ours]

    # ---- copies: a layer of their own in the library ----

    def __getstate__(self):
        state = self.__dict__.copy()
        state["_pending"] = {**self._state(), **self._pending}
        state.update(_handle=None, _finalizer=None, _seen=None)
        state["_run"] = (self._run.recipe._source, self._run.steps, self._run.seed, self._run.threads)
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        source, steps, seed, threads = state["_run"]
        self._run = _Run(Recipe(*source), steps, seed, threads)
        with _turn(self.weight):
            self._make(self._rows)
        _layers.add(self)

    def extra_repr(self):
        return super().extra_repr() + f", recipe={self._run.recipe.name}"


# ---- steps: torch tells when an optimizer took one ----

_layers = weakref.WeakSet()
_hooked = False


def _after_step(optimizer, *_):
    moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for layer in [layer for layer in _layers if id(layer.weight) in moved]:
        layer._stepped()


def step(model):
    """Tells the layers of `model` that an optimizer step was taken. Needed only for optimizers that are not
    torch.optim.Optimizers; theirs are noticed."""
    for layer in model.modules():
        if isinstance(layer, Linear):
            layer._stepped()


# ---- apply ----

def _find(model):
    """(parent, attribute, name, block, blocks) of every torch.nn.Linear: its block is the place in the outermost
    ModuleList that it lies in."""
    found = []

    def walk(module, path, block, blocks):
        for key, child in module.named_children():
            at = (int(key), len(module)) if block < 0 and isinstance(module, nn.ModuleList) else (block, blocks)
            name = f"{path}.{key}" if path else key
            if type(child) is nn.Linear:
                found.append((module, key, name, *at))
            else:
                walk(child, name, *at)
    walk(model, "", -1, 0)
    return found


def apply(model, recipe="nvfp4", keep=(), *, steps=0, seed=0, threads=0):
    """Puts a Linear of this module in the place of every torch.nn.Linear of `model`, and returns the model.

    recipe   a name, the path of a recipe file, or a nibble.Recipe
    keep     names of modules, or patterns ("*.classifier", "decoder.*"), that stay torch's own. What the recipe itself
             keeps in BF16 (lm_head, the last blocks) becomes a Linear that multiplies in BF16
    steps    of the whole run, for recipes that plan by it (late switch, oscillation resets, OutControl)
    seed     keys stochastic rounding
    threads  of the library; 0: as many as the process may use
    """
    global _hooked
    if not isinstance(recipe, Recipe):
        recipe = Recipe(recipe)
    if steps:
        recipe.check_steps(steps)
    run = _Run(recipe, steps, seed, threads)
    made = []
    for parent, key, name, block, blocks in _find(model):
        known = name[len("model."):] if name.startswith("model.") else name  # as nibble's own models call it
        if any(fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(known, p) for p in keep):
            continue
        made.append((parent, key, Linear(getattr(parent, key), run, known, block, blocks)))
    if not made:
        raise Error("apply: the model has no torch.nn.Linear that is not kept; expected at least one")
    for parent, key, layer in made:
        setattr(parent, key, layer)
        _layers.add(layer)
    if not _hooked:
        register_optimizer_step_post_hook(_after_step)
        _hooked = True
    return model


def census(model):
    """Which product of which layer runs in which format on which kernel, and why: a list of dicts."""
    out = []
    for layer in model.modules():
        if not isinstance(layer, Linear):
            continue
        rows = (_l.nb_census_row * 3)()
        count = _l.nb.linear_census(layer._handle, rows, 3)
        out += [{"module": r.module.decode(), "gemm": r.gemm.decode(), "formats": r.formats.decode(),
                 "kernel": r.kernel.decode(), "reason": r.reason.decode()} for r in rows[:count]]
    return out
