# SPDX-License-Identifier: Apache-2.0
# Toolchain for ./dev aarch64: Debian's cross compiler; its programs run under qemu-user. Headers are the machine's own
# (Debian's cross compilers read /usr/include), Highway's library is the one that ./dev unpacks into AARCH64_ROOT.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES AARCH64_ROOT)
set(libraries ${AARCH64_ROOT}/usr/lib/aarch64-linux-gnu)
set(hwy_DIR ${libraries}/cmake/hwy)
set(CMAKE_BUILD_RPATH ${libraries})
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
