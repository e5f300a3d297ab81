// How functions fail: Result<T> carries an errno for programs, Problem a sentence for people.
#pragma once

#include <cerrno>
#include <expected>
#include <string>
#include <utility>

namespace daxfs {

// An errno value (never 0).
struct Errno {
  int code = EIO;
  constexpr bool operator==(const Errno&) const = default;
};

template <class T>
using Result = std::expected<T, Errno>;
using Status = std::expected<void, Errno>;

inline std::unexpected<Errno> fail(int code) { return std::unexpected(Errno{code}); }

// What went wrong, for a person: one line that names the object, the cause and the way out.
// `code` is the errno that comes nearest.
struct Problem {
  std::string text;
  int code = EIO;
};

template <class T>
using Outcome = std::expected<T, Problem>;

inline std::unexpected<Problem> problem(int code, std::string text) {
  return std::unexpected(Problem{std::move(text), code});
}

}  // namespace daxfs
