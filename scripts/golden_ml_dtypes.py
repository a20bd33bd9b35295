#!/usr/bin/env python3
"""Makes tests/golden/ml_dtypes.txt: the small formats as the ml_dtypes package sees them.

    python3 scripts/golden_ml_dtypes.py > tests/golden/ml_dtypes.txt      (needs numpy and ml_dtypes)

Lines:  value FORMAT CODE BITS       the float that a code stands for, by its bits
        first FORMAT CODE BITS       the smallest positive float that rounds to this code; rounding is monotonic, so these
                                     say what becomes of every float up to the largest code
"""
import ml_dtypes
import numpy as np


def bits_of(x):
    return int(np.float32(x).view(np.uint32))


def cast(bits, dtype):
    return int(np.array([bits], np.uint32).view(np.float32).astype(dtype).view(np.uint8)[0])


def first_float(code, dtype, largest):
    """Binary search over the bits of the positive floats up to `largest`, which are ordered like their values."""
    low, high = 0, bits_of(largest)
    while low < high:
        middle = (low + high) // 2
        if cast(middle, dtype) >= code:
            high = middle
        else:
            low = middle + 1
    return low


def check_monotonic(dtype, largest):
    bits = np.sort(np.random.default_rng(1).integers(0, bits_of(largest), 200000, dtype=np.uint32))
    codes = bits.view(np.float32).astype(dtype).view(np.uint8)
    assert (np.diff(codes.astype(int)) >= 0).all()


def main():
    print(f"# ml_dtypes {ml_dtypes.__version__}; made by scripts/golden_ml_dtypes.py")
    formats = {
        "e2m1": (ml_dtypes.float4_e2m1fn, 16, 7),
        "e4m3": (ml_dtypes.float8_e4m3fn, 256, 0x7E),
        "e5m2": (ml_dtypes.float8_e5m2, 256, 0x7B),
        "e8m0": (ml_dtypes.float8_e8m0fnu, 256, None),
    }
    for name, (dtype, codes, largest_code) in formats.items():
        values = np.arange(codes, dtype=np.uint8).view(dtype).astype(np.float32)
        for code in range(codes):
            if not np.isnan(values[code]):
                print(f"value {name} {code:02x} {bits_of(values[code]):08x}")
        if largest_code is None:
            continue
        check_monotonic(dtype, values[largest_code])
        for code in range(1, largest_code + 1):
            print(f"first {name} {code:02x} {first_float(code, dtype, values[largest_code]):08x}")


if __name__ == "__main__":
    main()
