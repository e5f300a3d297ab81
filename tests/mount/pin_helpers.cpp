#include "tests/mount/pin_helpers.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

std::vector<std::string> hold_command(const std::string& path, std::uint64_t offset,
                                      std::uint64_t length, const std::vector<std::string>& more) {
  std::vector<std::string> command{tool("daxfs-hold"),     path,       "--offset",
                                   std::to_string(offset), "--length", std::to_string(length)};
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

}  // namespace

void make_victim(const Mount& mount, std::size_t blocks, bool fragmented) {
  const std::string victim = mount.path("f");
  const std::string source = mount.path("source");
  REQUIRE(unlink(victim.c_str()) == 0);
  if (access(source.c_str(), F_OK) != 0) write_file(source, "");
  if (fragmented) {
    write_fragmented(victim, blocks, 1);
  } else {
    write_file(victim, pattern(blocks * kBlock, 1));
  }
}

const char* name_of(End end) {
  constexpr std::array names{"unpin", "close", "SIGTERM", "SIGKILL"};
  return names[static_cast<std::size_t>(end)];
}

HoldProcess::HoldProcess(const std::string& path, std::uint64_t offset, std::uint64_t length,
                         const std::vector<std::string>& more)
    : process_(hold_command(path, offset, length, more)) {
  const bool held = process_.says("held");
  // No engine but mmap holds memory of an fsdax file, or before Linux 6.12 of device DAX.
  if (!held && on_persistent_memory() &&
      process_.err().find("the kernel allows no long-term references") != std::string::npos) {
    skip_here("the kernel registers no memory of this pool");
  }
  INFO(process_.err());
  REQUIRE(held);
}

Finished HoldProcess::stop() {
  process_.signal(SIGTERM);
  return process_.finish();
}

Held::Held(const std::string& path, std::uint64_t offset, std::uint64_t length, End end)
    : end_(end) {
  if (end == End::terminate || end == End::kill) {
    process_.emplace(path, offset, length, std::vector<std::string>{"--read-only"});
    return;
  }
  fd_ = open_file(path, O_RDONLY);
  REQUIRE(daxfs_pin(fd_.get(), offset, length, 0, &pin_) == 0);
  view_ = view_of(fd_.get(), pin_, &length_);
  content_.assign(view_, length_);
}

Held::~Held() {
  if (view_ != nullptr) daxfs_unmap(view_, length_);
}

void Held::check() {
  if (view_ != nullptr) CHECK(difference(std::string_view(view_, length_), content_) == "");
  if (process_) {
    CHECK(process_->process().running());
    CHECK(process_->process().err().empty());
  }
}

void Held::end() {
  check();
  if (view_ != nullptr) REQUIRE(daxfs_unmap(view_, length_) == 0);
  view_ = nullptr;
  switch (end_) {
    case End::unpin:
      REQUIRE(daxfs_unpin(fd_.get(), pin_) == 0);
      break;
    case End::close:
      close();
      break;
    case End::terminate: {
      const Finished finished = process_->stop();
      INFO(finished.err);
      CHECK(finished.code == 0);
      process_.reset();
      break;
    }
    case End::kill:
      process_.reset();
      break;
  }
}

int punch(const std::string& path, std::uint64_t offset, std::uint64_t length) {
  const UniqueFd fd = open_file(path, O_WRONLY);
  return error_of(fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            static_cast<off_t>(offset), static_cast<off_t>(length)));
}

const std::array<Detach, 5> kDetaches{{
    {"punch", [](const Mount& m) { return punch(m.path("f"), 0, 1ull << 40); }, true, false},
    {"truncate", [](const Mount& m) { return error_of(truncate(m.path("f").c_str(), 0)); }, false,
     false},
    {"ftruncate",
     [](const Mount& m) {
       const UniqueFd fd = open_file(m.path("f"), O_WRONLY);
       return error_of(ftruncate(fd.get(), 0));
     },
     false, false},
    {"O_TRUNC",
     [](const Mount& m) {
       const UniqueFd fd(open(m.path("f").c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC, 0));
       return fd ? 0 : errno;
     },
     false, false},
    {"rename over",
     [](const Mount& m) { return error_of(rename(m.path("source").c_str(), m.path("f").c_str())); },
     false, true},
}};

}  // namespace daxfs::test
