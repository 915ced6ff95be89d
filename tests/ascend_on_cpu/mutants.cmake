# SPDX-License-Identifier: Apache-2.0
# Mistakes that must be caught, and by what: what test_faults prints then, or in a build with -fsanitize=thread
# test_races.

# A test of `program` with src/ascend/FILE changed: `old` (which must be there once) becomes `new`.
function(add_mutant_of program name file old new caught_as)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/mutants/${name})
  write_mutant(${PROJECT_SOURCE_DIR}/src/ascend/${file} "${old}" "${new}" ${folder}/ascend/${file})
  if(file MATCHES "simt")
    set(changed simt)
  elseif(file STREQUAL "tiling.h")
    set(changed vector host)
  elseif(file STREQUAL "run_vector.cpp")
    set(changed host)
  else()
    set(changed vector)
  endif()
  foreach(part ${changed})
    add_part(ascend_mutant_${name}_${part} ${part} ${folder})
    target_compile_options(ascend_mutant_${name}_${part} PRIVATE -w)  # a mutant may look wrong
    list(TRANSFORM parts REPLACE "^ascend_${part}$" ascend_mutant_${name}_${part})
  endforeach()
  add_ascend_test(test_mutant_${name} "${parts}" ${program}.cpp)
  add_test(NAME ascend_mutant_${name} COMMAND test_mutant_${name})
  set_tests_properties(ascend_mutant_${name} PROPERTIES PASS_REGULAR_EXPRESSION "${caught_as}")
endfunction()

if(TAPFIELD_SANITIZE STREQUAL "thread")
  set(race "WARNING: ThreadSanitizer: data race")
  add_mutant_of(test_races race_no_meeting grad_vector.h "  core.zero_sums();\n  meet();\n" "  core.zero_sums();\n"
    "${race}")
  add_mutant_of(test_races race_no_atomic_add grad_vector.h "    AscendC::SetAtomicAdd<float>();\n" "" "${race}")
  add_mutant_of(test_races race_simt_atomic_made_plain grad_simt.h "asc_atomic_add(sums + i, s00);"
    "sums[i] += s00;" "${race}")
  add_mutant_of(test_races race_simt_bands_overlap grad_simt.h
    "const Index last = first + rows < q.h ? first + rows : q.h;"
    "const Index last = first + rows < q.h ? first + rows + 1 : q.h;" "${race}")
  return()
endif()

function(add_mutant name file old new caught_as)
  add_mutant_of(test_faults ${name} ${file} "${old}" "${new}" "FAULT [^\n]*(${caught_as})")
endfunction()

add_ascend_test(test_faults "${parts}" test_faults.cpp)
add_test(NAME ascend_no_fault COMMAND test_faults)

# ------ Vector cores
add_mutant(no_atomic_add grad_vector.h "    AscendC::SetAtomicAdd<float>();\n" ""
  "two cores that have not met|a wrong result: .*grad_x")
add_mutant(atomic_add_left_on grad_vector.h "    AscendC::SetAtomicNone();\n" ""
  "another type than SetAtomicAdd|a wrong result|two cores that have not met")
add_mutant(no_meeting grad_vector.h "  core.zero_sums();\n  meet();\n" "  core.zero_sums();\n"
  "two cores that have not met")
add_mutant(no_meeting_before_rounding grad_vector.h "      meet();\n      core.round_sums();" "      core.round_sums();"
  "two cores that have not met")
add_mutant(meeting_with_copies_under_way vector.h "  AscendC::PipeBarrier<PIPE_ALL>();\n" ""
  "meets the others while its pipes are at work")
add_mutant(offsets_not_waited_for vector.h "    sync<AscendC::HardEvent::MTE2_S>();\n" ""
  "S reads what is written by MTE2 without waiting")
add_mutant(dots_not_waited_for grad_vector.h "    sync<AscendC::HardEvent::V_S>();  // the dots are there\n" ""
  "S reads what is written by V without waiting")
add_mutant(dots_overwritten grad_vector.h
  "    sync<AscendC::HardEvent::S_V>();  // the next tile's dots, and a cast of these, come after\n" ""
  "V (reads what is written|overwrites what is read) by S without waiting")
add_mutant(products_not_waited_for grad_vector.h "    vector_barrier();\n    reduce(" "    reduce("
  "V reads what is written by V without a barrier")
add_mutant(band_not_waited_for grad_bands.h "    vector_barrier();  // the next run may add to the same pixel\n" ""
  "V (reads|overwrites) what is (written|read) by V without a barrier")
add_mutant(tile_a_row_too_large run_vector.cpp "for (int64_t taps = most; taps > least; --taps) {\n    set_tile(plan, p, taps);\n    if (fits()) return plan;"
  "for (int64_t taps = most; taps > least; --taps) {\n    set_tile(plan, p, taps);\n    if (fits()) { plan.pixels += 1; return plan; }"
  "bytes of 196608 that UB has|leaves its|a wrong result")
add_mutant(queue_a_row_too_small tiling.h "b.in = 5 * rows * bytes," "b.in = 5 * rows * bytes - 32,"
  "leaves its buffer|a buffer of")
add_mutant(rows_not_padded tiling.h "return (elements + kRow - 1) / kRow * kRow;" "return elements;"
  "not aligned to 32 bytes|a buffer of")
add_mutant(shares_overlap tiling.h "begin + each + (core < more ? 1 : 0)" "begin + each + 1"
  "two cores that have not met|leaves its tensor|a wrong result")

add_mutant(run_not_waited_for grad_vector.h
  "      if (kAdd && t.joins) vector_barrier();  // what the tap before it has written is read\n" ""
  "V (reads|overwrites) what is (written|read) by V without a barrier")

# ------ SIMT
add_mutant(simt_no_meeting grad_simt.h "a);\n  AscendC::SyncAll();\n  asc_vf_call<add_taps" "a);\n  asc_vf_call<add_taps"
  "a wrong result")
add_mutant(simt_sum_overwritten grad_simt.h "asc_atomic_add(sums + i, s00);" "sums[i] = s00;" "a wrong result")
add_mutant(simt_band_misses_its_first_row grad_simt.h "h0 + 1 >= first" "h0 + 1 > first" "a wrong result")
add_mutant(simt_run_not_ended grad_simt.h "length == kRun || h0 != cell_h || " "length == kRun || "
  "a wrong result")
