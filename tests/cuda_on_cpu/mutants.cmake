# SPDX-License-Identifier: Apache-2.0
# Mistakes that must be caught, and by what: what the race test prints then.

# In src/cuda/FILE, `old` (which must be there once) becomes `new`; NAME.cu is compiled with it.
function(add_mutant target file name old new caught_as)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/mutants/${target})
  if(NOT file STREQUAL "${name}.cu")
    configure_file(${PROJECT_SOURCE_DIR}/src/cuda/${name}.cu ${folder}/cuda/${name}.cu COPYONLY)
  endif()
  write_mutant(${PROJECT_SOURCE_DIR}/src/cuda/${file} "${old}" "${new}" ${folder}/cuda/${file})
  add_race_test(cuda_mutant_${target} ${name} ${folder})
  set_tests_properties(cuda_mutant_${target} PROPERTIES PASS_REGULAR_EXPRESSION "${caught_as}")
endfunction()

add_mutant(barrier_removed grad_tiles.h grad
  "  __syncthreads();\n  walk_tile" "  walk_tile" "races with a .* in shared memory|assert i >= 0")
add_mutant(atomic_made_plain grad_tiles.h grad
  "add_atomically(sums + at, v)" "tapfield::cuda::add<F, V>(sums + at, v)"
  "races with a .* in global memory")
add_mutant(mask_too_small device.h grad
  "v[i] = kept + __shfl_xor_sync(kAllLanes" "v[i] = kept + __shfl_xor_sync(0xffffu" "a lane is not in the mask|a shuffle reads from a lane that its mask does not name")
add_mutant(warp_sync_removed grad_sweep.h grad
  "    __syncwarp();\n    const int count" "    const int count" "races with a .* in shared memory")
add_mutant(barrier_in_a_branch transpose.h copy
  "  __syncthreads();\n\n" "  if (warp == 0) __syncthreads();\n\n" "the barrier of line|races with a .* in shared memory")
add_mutant(shuffle_in_a_branch grad_tiles.h grad
  "sum_over_team<kDots>(team, dots, [" "if (first >= end) break;\n      sum_over_team<kDots>(team, dots, ["
  "a lane waits for others|lanes of one mask wait|a mask names a lane")
add_mutant(shared_memory_too_small grad_tiles.h grad
  "bytes = carver.used();" "bytes = carver.used() - 16;" "out of bounds")
add_mutant(array_too_small grad_tiles.h grad
  "carver.take<int>(buckets + 1)" "carver.take<int>(buckets)" "assert")
add_mutant(unstable_sum grad_sweep.h grad
  "row(a.lower, h0 + 1)" "row(a.upper, h0 + 1)" "races with a .* in global memory")
