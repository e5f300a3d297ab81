// Assertions that stay on in every build: what must hold, or going on would break a promise.
//
// They are about the program, never about what it reads: damage of the medium and hostile input are
// errors. Where one fails, the daemon ends as at any crash: what was acknowledged is on the medium,
// and the next mount keeps what living processes have pinned.
#pragma once

#include <fmt/core.h>

#include <source_location>
#include <string>

namespace daxfs {

// Says what is wrong, on stderr and to the system's log, and aborts.
[[noreturn, gnu::cold]] void bug(const std::string& what, const char* condition,
                                 std::source_location place = std::source_location::current());

}  // namespace daxfs

// DAXFS_REQUIRE(condition, format, arguments...): the text names the object and what is wrong.
#define DAXFS_REQUIRE(condition, ...)                                       \
  do {                                                                      \
    if (!(condition)) ::daxfs::bug(::fmt::format(__VA_ARGS__), #condition); \
  } while (false)

// The same for what costs too much in a release: on in the builds with sanitizers.
#ifdef DAXFS_EXPENSIVE_CHECKS
#define DAXFS_REQUIRE_EXPENSIVE(condition, ...) DAXFS_REQUIRE(condition, __VA_ARGS__)
#else
#define DAXFS_REQUIRE_EXPENSIVE(condition, ...) static_cast<void>(0)
#endif
