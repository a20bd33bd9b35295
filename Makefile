# Short names for what CMake does. `make help` lists them.
BUILD ?= build
JOBS ?= $(shell nproc)
CMAKE_FLAGS ?=
MAKEFLAGS += --no-print-directory
PREFIX ?= /usr/local
SOURCES = $(shell git ls-files '*.c' '*.h' '*.cc' '*.cu' '*.cuh')

all: ## build build/nibble and the tests (BUILD=dir, CMAKE_FLAGS=...)
	@cmake -S . -B $(BUILD) -DCMAKE_INSTALL_PREFIX=$(PREFIX) $(CMAKE_FLAGS) > /dev/null
	@cmake --build $(BUILD) -j $(JOBS)

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

cuda: ## build the program and libnibble-cuda.so, the backend for NVIDIA GPUs (needs CUDA's compiler)
	@$(MAKE) all CMAKE_FLAGS="-DNIBBLE_CUDA=ON $(CMAKE_FLAGS)"

parquet: ## build libnibble-parquet.so too, which reads text from Parquet (fetches Apache Arrow's library, 55 MB)
	@scripts/fetch-arrow $(BUILD)/arrow
	@$(MAKE) all CMAKE_FLAGS="-DNIBBLE_PARQUET=ON -DNIBBLE_ARROW=$(abspath $(BUILD)/arrow) $(CMAKE_FLAGS)"

gpu-check: ## build a folder to carry to a machine with a GPU; check every operation where there is one
	@scripts/gpu-check

test: all ## run every test; TESTS=regex picks some by name
	@cd $(BUILD) && ctest --output-on-failure -j $(JOBS) $(if $(TESTS),-R '$(TESTS)')

bench: all ## check the kernels, then measure them beside their peers
	@for what in gemm quantize ops; do $(BUILD)/nibble bench $$what || exit 1; done

peers-torch: all ## nibble.torch beside nibble train and torch, in an environment of its own outside of this folder (5 GB)
	@scripts/peers-torch $(BUILD)

headers: ## compile each public header alone, as C11 and as C++
	@scripts/check-headers

format: ## lay out the sources with clang-format
	@clang-format -i $(SOURCES)

lint: ## clang-format, clang-tidy, cppcheck, shellcheck: no change, only findings
	@scripts/lint $(BUILD)

asan: ## run the tests under AddressSanitizer (memory errors and leaks)
	@$(MAKE) test BUILD=build-asan CMAKE_FLAGS="-DNIBBLE_SANITIZE=address $(CMAKE_FLAGS)"

ubsan: ## run the tests under UndefinedBehaviorSanitizer
	@$(MAKE) test BUILD=build-ubsan CMAKE_FLAGS="-DNIBBLE_SANITIZE=undefined $(CMAKE_FLAGS)"

tsan: ## run the tests under ThreadSanitizer with LLVM's OpenMP runtime (data races; needs clang and libomp-dev)
	@$(MAKE) test BUILD=build-tsan CMAKE_FLAGS="-DNIBBLE_SANITIZE=thread -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ $(CMAKE_FLAGS)"

avx512: ## run the tests with the AVX-512 kernels emulated, on a processor without it (needs libsimde-dev)
	@$(MAKE) test BUILD=build-avx512 CMAKE_FLAGS="-DNIBBLE_EMULATE_AVX512=ON $(CMAKE_FLAGS)"

fuzz: ## run each target of tests/fuzz for FUZZ_SECONDS (default 60) under libFuzzer, ASan and UBSan (needs clang)
	@scripts/fuzz $(or $(FUZZ_SECONDS),60)

clang: ## build and test with clang instead of gcc
	@$(MAKE) test BUILD=build-clang CMAKE_FLAGS="-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ $(CMAKE_FLAGS)"

crash-test: all ## kill training at random moments, resume, compare every bit; KILLS=300 RECIPE=nvfp4
	@scripts/crash-test $(or $(KILLS),300) $(or $(RECIPE),nvfp4) $(BUILD)/nibble

attack: all ## kill, cut and fail a run at every call; what became of it: docs/reliability.md; RECIPES="nvfp4 chon"
	@scripts/attack $(BUILD)/nibble $(BUILD)/libfaults.so $(ATTACK)

peers: all ## exports beside transformers, compressed-tensors, ModelOpt, gguf and llama.cpp (downloads them; see scripts/peers)
	@scripts/peers $(abspath $(BUILD))

install: all ## install program, library, headers, docs, nibble.pc and a CMake package under PREFIX (default /usr/local; DESTDIR works)
	@cmake --install $(BUILD)

clean: ## remove the build folders
	@rm -rf build build-asan build-ubsan build-tsan build-clang build-avx512 build-fuzz build-gpu

.PHONY: all cuda parquet gpu-check help test bench headers format lint asan ubsan tsan avx512 fuzz clang crash-test attack peers peers-torch install clean
