// For programs that tests run: each of these ends the process where something is not as expected.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <source_location>
#include <string>

namespace daxfs::test {

[[noreturn]] inline void fail(const std::string& what,
                              std::source_location where = std::source_location::current()) {
  std::fprintf(stderr, "line %u: %s\n", where.line(), what.c_str());
  std::fflush(stderr);
  _exit(1);
}

inline void expect(long seen, long expected,
                   std::source_location where = std::source_location::current()) {
  const int error = errno;
  if (seen == expected) return;
  fail(std::to_string(seen) + " (" + std::strerror(error) + ") instead of " +
           std::to_string(expected),
       where);
}

inline void expect_error(long seen, int error,
                         std::source_location where = std::source_location::current()) {
  if (seen == -1 && errno == error) return;
  fail(std::to_string(seen) + " (" + std::strerror(errno) + ") instead of -1 (" +
           std::strerror(error) + ")",
       where);
}

inline void expect_bytes(const std::string& seen, const std::string& expected,
                         std::source_location where = std::source_location::current()) {
  if (seen != expected) fail("'" + seen + "' instead of '" + expected + "'", where);
}

inline int opened(const std::string& path, int flags,
                  std::source_location where = std::source_location::current()) {
  const int fd = open(path.c_str(), flags, 0644);
  if (fd < 0) fail(path + ": " + std::strerror(errno), where);
  return fd;
}

inline std::string bytes_of(std::string room, ssize_t count, std::source_location where) {
  if (count < 0) fail(std::string("read: ") + std::strerror(errno), where);
  room.resize(static_cast<std::size_t>(count));
  return room;
}

inline std::string read_here(int fd, std::size_t length,
                             std::source_location where = std::source_location::current()) {
  std::string room(length, '?');
  const ssize_t count = read(fd, room.data(), length);
  return bytes_of(std::move(room), count, where);
}

inline std::string read_at(int fd, off_t offset, std::size_t length,
                           std::source_location where = std::source_location::current()) {
  std::string room(length, '?');
  const ssize_t count = pread(fd, room.data(), length, offset);
  return bytes_of(std::move(room), count, where);
}

inline void expect_ends_well(pid_t child,
                             std::source_location where = std::source_location::current()) {
  int status = 0;
  expect(waitpid(child, &status, 0), child, where);
  if (status != 0) fail("a child ended with status " + std::to_string(status), where);
}

template <typename Body>
void expect_child(const Body& body, std::source_location where = std::source_location::current()) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  expect_ends_well(child, where);
}

}  // namespace daxfs::test
