# aarch64.cmake: builds for 64-bit ARM on another machine with Debian's cross compiler, and runs tests in QEMU's user emulation:
#   cmake -S . -B build-aarch64 -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake -DNIBBLE_AARCH64_ROOT=FOLDER
# where FOLDER holds the arm64 packages of our libraries, unpacked (scripts/aarch64-check makes it).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES NIBBLE_AARCH64_ROOT)
set(CMAKE_SYSROOT ${NIBBLE_AARCH64_ROOT})
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH) # Dygraphs is the same everywhere
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${NIBBLE_AARCH64_ROOT})
set(ENV{PKG_CONFIG_LIBDIR} ${NIBBLE_AARCH64_ROOT}/usr/lib/aarch64-linux-gnu/pkgconfig)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static;-L;${NIBBLE_AARCH64_ROOT})
