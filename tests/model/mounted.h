// A filesystem over a medium in memory, and its operations as plain calls: those that may have to
// wait at the gate are waited for.
#pragma once

#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "blockmap/medium/heap_medium.h"
#include "blockmap/volume/mkfs.h"
#include "blockmap/volume/volume.h"
#include "src/filesystem.h"

namespace daxfs::testing {

// Who asks, where that is of no importance.
inline constexpr Caller kRoot{.uid = 0, .gid = 0};

inline void format_medium(Medium& medium) {
  if (const auto made = make_filesystem(medium, {}); !made)
    throw std::runtime_error(made.error().text);
}

inline MountOptions mount_options(PinPolicy policy, std::uint64_t short_timeout_ms = 0) {
  MountOptions options;
  options.gate.pin_policy = policy;
  options.gate.short_timeout_ms = short_timeout_ms;
  options.atime = AtimeMode::noatime;
  options.unsafe_demo = policy == PinPolicy::ignore;
  return options;
}

struct Mounted {
  Mounted(Medium& medium, const MountOptions& options, KernelCache* kernel = nullptr,
          std::optional<std::chrono::seconds> request_limit = {}) {
    auto opened = Volume::open(medium, "pool", options.read_only, 1);
    if (!opened) throw std::runtime_error(opened.error().text);
    volume = std::move(*opened);
    fs = std::make_unique<Filesystem>(Mount{
        .volume = *volume, .options = options, .kernel = kernel, .request_limit = request_limit});
  }

  std::unique_ptr<Volume> volume;
  std::unique_ptr<Filesystem> fs;
};

// Hands a completion to `issue` and waits until it was called. With a cancellation, that is used
// when it takes longer than `patience`.
template <class T, class Issue>
T wait_for(const Issue& issue, const CancellationRef& cancellation = nullptr,
           std::chrono::milliseconds patience = std::chrono::milliseconds(0)) {
  const auto promise = std::make_shared<std::promise<T>>();
  auto future = promise->get_future();
  issue([promise](T result) { promise->set_value(std::move(result)); });
  if (cancellation && future.wait_for(patience) == std::future_status::timeout) {
    cancellation->cancel();
  }
  return future.get();
}

inline Result<struct stat> set_attributes(Filesystem& fs, InodeNumber inode,
                                          const AttributeChange& change) {
  return wait_for<Result<struct stat>>(
      [&](auto done) { fs.attributes().set(inode, change, {}, kRoot, nullptr, std::move(done)); });
}

inline Status truncate(Filesystem& fs, InodeNumber inode, std::uint64_t size) {
  AttributeChange change;
  change.size = size;
  const auto changed = set_attributes(fs, inode, change);
  return changed ? Status() : std::unexpected(changed.error());
}

inline Status rename(Filesystem& fs, InodeNumber parent, const std::string& name,
                     InodeNumber new_parent, const std::string& new_name, unsigned flags) {
  const Renaming renaming{parent, name, new_parent, new_name, flags};
  return wait_for<Status>([&](auto done) {
    fs.renames().rename(
        renaming, kRoot, [] { return nullptr; }, std::move(done));
  });
}

inline Status punch(Filesystem& fs, OpenFile& file, std::uint64_t offset, std::uint64_t length) {
  return wait_for<Status>([&](auto done) {
    fs.space().punch_hole(file, FileOffset(offset), ByteCount(length), kRoot, nullptr,
                          std::move(done));
  });
}

inline Result<PinId> pin(Filesystem& fs, OpenFile& file, const PinRange& range) {
  return wait_for<Result<PinId>>(
      [&](auto done) { fs.pins().pin(file, range, kRoot, nullptr, std::move(done)); });
}

inline Status unpin(Filesystem& fs, OpenFile& file, PinId id) {
  return wait_for<Status>([&](auto done) { fs.pins().unpin(file, id, std::move(done)); });
}

inline Result<std::string> read(Filesystem& fs, OpenFile& file, std::uint64_t offset,
                                std::uint64_t length) {
  std::string out;
  const Status done = fs.reading().read(
      file, FileOffset(offset), ByteCount(length), [&](std::span<const iovec> pieces) {
        for (const iovec& piece : pieces) {
          out.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
        }
        return true;
      });
  if (!done) return std::unexpected(done.error());
  return out;
}

inline Result<std::size_t> write(Filesystem& fs, OpenFile& file, const WriteRequest& request) {
  return wait_for<Result<std::size_t>>(
      [&](auto done) { fs.writing().write(file, request, std::move(done)); });
}

inline Result<std::size_t> write(Filesystem& fs, OpenFile& file, std::uint64_t offset,
                                 std::string_view data, bool drop_privileges = false) {
  return write(fs, file,
               {.offset = FileOffset(offset),
                .data = std::as_bytes(std::span(data)),
                .drop_privileges = drop_privileges,
                .caller = kRoot});
}

// Makes something and gives the lookup reference back at once.
inline Result<InodeNumber> number_of(Filesystem& fs, const Result<Entry>& entry) {
  if (!entry) return std::unexpected(entry.error());
  fs.names().forget(entry->inode, 1);
  return entry->inode;
}

}  // namespace daxfs::testing
