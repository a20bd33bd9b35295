"""What vLLM, SGLang and TransformerEngine (engines.txt) make of NVFP4 without a GPU: the files of theirs that are plain torch.

The packages are installed without what they ask for. vLLM's file is imported as it is; those of the others are loaded by
their paths, with stand-ins for modules that only their other functions use.
"""
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
import types

import torch
from safetensors.torch import load_file

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts")
GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden/transformer_engine.safetensors")


def folder_of(package):
    """Where a package lies, without importing it."""
    return importlib.machinery.PathFinder.find_spec(package).submodule_search_locations[0]


def vllm():
    """Its emulation, by which vLLM computes where it has no kernel for NVFP4: (packed, bytes, factor, type) -> numbers."""
    from vllm.model_executor.layers.quantization.utils import nvfp4_emulation_utils as theirs

    return lambda packed, scale, factor, dtype: theirs.dequantize_to_dtype(packed, scale, factor, dtype, swizzle=False)


def sglang():
    """By which SGLang makes numbers of weights that a layer does not take as codes: the same arguments."""
    for name in ("sglang.srt.layers.quantization.fp8_utils", "sglang.srt.utils"):
        while name:
            made = sys.modules.setdefault(name, types.ModuleType(name))
            made.block_quant_dequant = made.inverse_transform_scale_ue8m0 = made.set_weight_attrs = None
            name = name.rpartition(".")[0]
    path = os.path.join(folder_of("sglang"), "srt/layers/quantization/dequantization.py")
    spec = importlib.util.spec_from_file_location("dequantization", path)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    return theirs.dequantize_nvfp4


def decode(engine, kind, tensors):
    """Module and numbers of each layer of a folder, in the type in which `kind` is compared. Both engines turn the divisor of
    compressed-tensors around (vLLM's CompressedTensorsW4A4Fp4, SGLang's CompressedTensorsW4A16Fp4), then decode as ModelOpt's."""
    codes, outer, dtype = {"compressed-tensors": (".weight_packed", ".weight_global_scale", torch.bfloat16),
                           "modelopt": (".weight", ".weight_scale_2", torch.float32)}[kind]
    for module in [name[: -len(outer)] for name in tensors if name.endswith(outer)]:
        factor = tensors[module + outer].max()
        if kind == "compressed-tensors":
            factor = 1.0 / factor
        yield module, engine(tensors[module + codes], tensors[module + ".weight_scale"], factor, dtype)


def transformer_engine():
    """Its reference quantizer over the inputs of our golden file: how many bytes of codes, scales and amax differ, of how many."""
    sys.path.insert(0, SCRIPTS)
    sys.dont_write_bytecode = True
    import golden_transformer_engine as golden

    torch.backends.mkldnn.enabled = False  # as the script has it
    folder = os.path.join(folder_of("transformer_engine"), "pytorch/custom_recipes")
    reference, utils = golden.load_reference(folder)
    tensors = load_file(GOLDEN)
    other = count = 0
    for name in [key[: -len("/x")] for key in tensors if key.endswith("/x")]:
        x = tensors[name + "/x"]
        made = dict(zip(("1x16", "1x16t"), golden.quantized(reference, utils, x, (1, 16), False)))
        made["16x16"] = golden.quantized(reference, utils, x, (16, 16), False)[0]
        if name + "/rht/codes" in tensors:
            made["rht"] = golden.quantized(reference, utils, x, (1, 16), True)[1]
        for kind, parts in made.items():
            for part, theirs in parts.items():
                ours = tensors[f"{name}/{kind}/{part}"]
                bytes_ = [t.contiguous().view(torch.uint8) for t in (theirs, ours)]
                other += int((bytes_[0] != bytes_[1]).sum())
                count += ours.numel() * ours.element_size()
    return other, count


def version(package):
    return importlib.metadata.version(package)
