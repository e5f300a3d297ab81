#include "tools/hold/explain.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "client/daxfs.h"

namespace daxfs::hold {
namespace {

// Names the first hole of the range, or the file's end if that comes first.
std::string first_gap(int file, const ByteRange& range, const std::string& path) {
  const FileRange blocks = covering(range.begin, range.length);
  const std::uint64_t start = offset_of(blocks.start).value;
  const std::uint64_t end = offset_of(blocks.end()).value;
  std::uint64_t covered = start;
  const ssize_t count = daxfs_extents(file, start, end - start, nullptr, 0);
  std::vector<daxfs_extent> extents(count > 0 ? static_cast<std::size_t>(count) : 0);
  if (count > 0 &&
      daxfs_extents(file, start, end - start, extents.data(), extents.size()) == count) {
    for (const daxfs_extent& extent : extents) {
      if (extent.file_offset > covered) break;
      covered = extent.file_offset + extent.length;
    }
  }
  struct stat status;
  if (fstat(file, &status) == 0 && covered >= static_cast<std::uint64_t>(status.st_size)) {
    return fmt::format("{} ends at {}, the range does not", path, status.st_size);
  }
  return fmt::format("{} has a hole at offset {}", path, covered);
}

std::string pool_path(int file) {
  daxfs_pool_args pool = {};
  if (ioctl(file, DAXFS_IOC_POOL, &pool) < 0) return "?";
  return {pool.path, strnlen(pool.path, sizeof pool.path)};
}

}  // namespace

Problem explain_pin(int code, int file, const ByteRange& range, const Options& options) {
  const std::string& path = options.path;
  const std::string where =
      fmt::format("{} bytes at offset {}", range.length.value, range.begin.value);
  switch (code) {
    case ENOTTY:
    case ENOSYS:
      return {path + ": not on a daxfs mount; only files there can be pinned", code};
    case ENXIO:
      return {first_gap(file, range, path) + ": use --allocate to fill it in", code};
    case EOPNOTSUPP:
      return {fmt::format(
                  "{}: long-term pins are forbidden on this mount (longterm=forbid): use --short, "
                  "or mount with longterm=allow",
                  path),
              code};
    case EPERM:
      return {fmt::format(
                  "{}: a long-term pin needs a layout lease on this mount (longterm=lease): use "
                  "--lease or --short",
                  path),
              code};
    case ENOMEM:
      return {
          fmt::format(
              "{}: pinning {} would exceed this user's pin_limit or user_limit: pin less, or mount "
              "with a higher limit",
              path, where),
          code};
    case ENOSPC:
      return {fmt::format(
                  "{}: no space left in the pool for {}: free some (see daxfsctl status, daxfsctl "
                  "limbo)",
                  path, where),
              code};
    case EBADF:
      return {
          path + ": the descriptor is not open the way the pin needs: check the file's permissions",
          code};
    case ENOTCONN:
    case ECONNABORTED:
      return {path + ": the daemon of this mount is gone: umount it and mount it again", code};
    default:
      return {fmt::format("{}: cannot pin {}: {}", path, where, std::strerror(code)), code};
  }
}

Problem explain_lease(int code, FileRange range, const Options& options) {
  const std::string& path = options.path;
  switch (code) {
    case EAGAIN:
      return {fmt::format(
                  "{}: another holder has {} lease over bytes {} to {}: wait until it ends (see "
                  "daxfsctl leases), or choose another range",
                  path, options.exclusive ? "a" : "an exclusive", offset_of(range.start).value,
                  offset_of(range.end()).value),
              code};
    case ENOTTY:
    case ENOSYS:
      return {path + ": not on a daxfs mount; only files there can be leased", code};
    case ENOTCONN:
    case ECONNABORTED:
      return {path + ": the daemon of this mount is gone: umount it and mount it again", code};
    default:
      return {fmt::format("{}: cannot take a lease: {}", path, std::strerror(code)), code};
  }
}

Problem explain_map(int code, int file, const std::string& path) {
  switch (code) {
    case EACCES:
    case EPERM:
      return {fmt::format(
                  "{}: cannot open its pool {}: {}: holders map the pool with their own rights, so "
                  "its owner and mode must allow it",
                  path, pool_path(file), std::strerror(code)),
              code};
    case ESTALE:
      return {fmt::format(
                  "{}: {} is no longer the pool that is mounted: mount the pool that is there now, "
                  "or put the other one back",
                  path, pool_path(file)),
              code};
    case ENOENT:
      return {fmt::format("{}: its pool {} does not exist here: run where that path leads to it",
                          path, pool_path(file)),
              code};
    case ENOMEM:
      return {fmt::format("{}: cannot map the pinned blocks: {}: hold a shorter range, or raise "
                          "vm.max_map_count",
                          path, std::strerror(code)),
              code};
    default:
      return {fmt::format("{}: cannot map the pinned blocks: {}", path, std::strerror(code)), code};
  }
}

Problem explain_release(int code) {
  return {fmt::format("cannot release: {}", std::strerror(code)), code};
}

Problem explain_open(int code, const std::string& path, bool for_writing) {
  switch (code) {
    case ENOENT: {
      const auto parent = std::filesystem::path(path).parent_path();
      std::error_code unknown;
      if (!parent.empty() && !std::filesystem::exists(parent, unknown)) {
        return {fmt::format("{}: its directory {} does not exist", path, parent.string()), code};
      }
      return {path + ": no such file: use --allocate --length to create it", code};
    }
    case EACCES:
    case EROFS:
      return {
          fmt::format(
              "{}: {}{}", path, std::strerror(code),
              for_writing ? ": a write pin needs write access, --read-only takes a read pin" : ""),
          code};
    case ENOTCONN:
    case ECONNABORTED:
      return {path + ": the daemon of this mount is gone: umount it and mount it again", code};
    default:
      return {fmt::format("{}: {}", path, std::strerror(code)), code};
  }
}

}  // namespace daxfs::hold
