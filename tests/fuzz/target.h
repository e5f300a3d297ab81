// What a fuzz target is: a file that defines these two functions. libFuzzer calls the first with
// whatever it makes up; replay.cpp calls it with the seeds and with what was found once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "tests/fuzz/input.h"

// Aborts on a finding. Equal inputs do equal things.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace daxfs::fuzz {

// Inputs to begin with: one of each kind that a fuzzer would take long to come across.
void make_seeds(const std::function<void(const std::string& name, const std::string& bytes)>& add);

// A finding that no sanitizer sees: says what is wrong, and aborts.
void require(bool holds, const std::string& what);

}  // namespace daxfs::fuzz
