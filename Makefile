# The short names for what CMake does.
BUILD ?= build
CMAKE_FLAGS ?=

all: ## build build/nibble
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) > /dev/null
	@cmake --build $(BUILD) -j $$(nproc)

test: all ## run every test
	@cd $(BUILD) && ctest --output-on-failure -j $$(nproc)

.PHONY: all test
