#!/usr/bin/env python3
"""Makes tests/golden/four_six.safetensors: inputs, and what two public codes of Four Over Six (arXiv:2512.02010) make of them.

    ATEN_CPU_CAPABILITY=avx2 python3 scripts/golden_four_six.py TRANSFORMER_ENGINE/transformer_engine/pytorch/custom_recipes \\
        FOUROVERSIX/src OUT.safetensors

Used: TransformerEngine d0067d0da6cb (2026-08-22) and mit-han-lab/fouroversix dadfad6901d4 (2026-04-21); needs PyTorch, no
GPU. The order in which PyTorch adds up depends on the width of its vectors: eight lanes are the dialect `fouroversix`.
Tensors of a case NAME:
    NAME/x                           the input, F32 [rows, cols]
    NAME/te-ERROR-TOP-TILE/codes ..  TransformerEngine: U8 [rows, cols/2], scales U8 [rows, cols/16]
    NAME/fos-ERROR-256-TILE/codes .. fouroversix
"""
import sys
import types

import torch

from golden_transformer_engine import load_reference, write_safetensors


def load_fouroversix(folder):
    """Its PyTorch reference without the package's __init__, which wants a GPU."""
    sys.path.insert(0, folder)
    for name in ("fouroversix", "fouroversix.kernels", "fouroversix.quantize", "fouroversix.quantize.pytorch"):
        package = types.ModuleType(name)
        package.__path__ = [folder + "/" + name.replace(".", "/")]
        sys.modules[name] = package
    from fouroversix.quantize.pytorch import reference
    from fouroversix.utils import ScaleRule

    return reference, ScaleRule


def inputs():
    random = torch.Generator().manual_seed(20251202)

    def normal(rows, cols):
        return torch.randn(rows, cols, generator=random)

    # Small integers: the two scales often err alike, or alike but for the last bit of a sum.
    integers = torch.randint(-40, 41, (48, 128), generator=random).float()
    tenths = torch.randint(-24, 25, (48, 128), generator=random).float() / 10
    heavy = normal(32, 64) * torch.exp(2 * normal(32, 64))
    near_five = torch.where(torch.rand(32, 64, generator=random) < 0.3, 5.0, 1.0) * normal(32, 64).sign()
    near_five[:, ::16] = 6.0
    sparse = normal(32, 64) * (torch.rand(32, 64, generator=random) < 0.1)
    ties = torch.Generator().manual_seed(18)  # one of few where the order decides, with 1x16 and with 16x16
    elevenths = torch.randint(-12, 13, (64, 128), generator=ties).float() / 11
    small = normal(16, 64) * 1e-4
    small[0, 0] = 300.0
    return {"normal": normal(48, 128), "bf16": normal(48, 128).bfloat16().float(), "integers": integers, "tenths": tenths,
            "heavy": heavy, "near_five": near_five, "sparse": sparse, "small": small, "zeros": torch.zeros(16, 32),
            "elevenths": elevenths}


def main():
    te_folder, fos_folder, out = sys.argv[1:]
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        sys.exit("expected ATEN_CPU_CAPABILITY=avx2: sums in eight lanes")
    te, utils = load_reference(te_folder)
    fos, rule = load_fouroversix(fos_folder)
    tensors = {}

    def put(name, codes, scales):
        tensors[name + "/codes"] = codes
        tensors[name + "/scales"] = scales.contiguous().view(torch.uint8)

    for name, x in inputs().items():
        tensors[name + "/x"] = x
        for rows in (1, 16):
            for error in ("mse", "mae"):
                for top in (256, 448):
                    q = te.NVFP4QuantizerRef(dtype=utils.Fp4Formats.E2M1, quant_tile_shape=(rows, 16), columnwise=False,
                                             nvfp4_use_4over6=True, nvfp4_e4m3_max=top, nvfp4_4over6_err_mode=error)
                    codes, scales, *_ = q._quantize(x)
                    put(f"{name}/te-{error}-{top}-{rows}", codes, scales)
            for error, theirs in (("mse", rule.mse), ("mae", rule.mae), ("max", rule.abs_max)):
                codes, scales, _ = fos.quantize(x, scale_rule=theirs, block_scale_2d=rows == 16,
                                                use_blackwell_scale_layout=False)
                if rows == 16:  # theirs stand a row of tiles: the same for its sixteen rows
                    scales = scales.reshape(x.shape[0] // 16, 16, -1)
                put(f"{name}/fos-{error}-256-{rows}", codes, scales.reshape(x.shape[0], -1))
    write_safetensors(out, tensors, {"torch": torch.__version__, "made_by": "scripts/golden_four_six.py"})


if __name__ == "__main__":
    main()
