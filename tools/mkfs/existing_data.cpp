#include "tools/mkfs/existing_data.h"

#include <blkid/blkid.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "blockmap/format.h"

namespace daxfs {
namespace {

constexpr std::uint64_t kHeadBytes = 2ull << 20;

bool begins_with_magic(std::span<const std::byte> data) {
  return data.size() >= pmem::kMagic.size() &&
         std::memcmp(data.data(), pmem::kMagic.data(), pmem::kMagic.size()) == 0;
}

std::optional<std::size_t> first_nonzero(std::span<const std::byte> data) {
  const auto found = std::ranges::find_if(data, [](std::byte b) { return b != std::byte{0}; });
  if (found == data.end()) return std::nullopt;
  return static_cast<std::size_t>(found - data.begin());
}

std::string describe_byte(std::uint64_t offset) {
  return fmt::format("data (the first byte that is not zero is at offset {})", offset);
}

// What libblkid calls it.
std::optional<std::string> recognise(int fd) {
  struct Free {
    void operator()(blkid_probe probe) const { blkid_free_probe(probe); }
  };
  const std::unique_ptr<blkid_struct_probe, Free> probe(blkid_new_probe());
  if (!probe || blkid_probe_set_device(probe.get(), fd, 0, 0) != 0) return std::nullopt;
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_enable_partitions(probe.get(), 1);
  if (blkid_do_safeprobe(probe.get()) != 0) return std::nullopt;
  const char* value = nullptr;
  if (blkid_probe_lookup_value(probe.get(), "TYPE", &value, nullptr) == 0) {
    return fmt::format("{} data", value);
  }
  if (blkid_probe_lookup_value(probe.get(), "PTTYPE", &value, nullptr) == 0) {
    return fmt::format("a {} partition table", value);
  }
  return std::nullopt;
}

// Reads as much of [offset, offset + buffer) as the file has; nullopt on an error (errno).
std::optional<std::span<const std::byte>> read_at(int fd, std::span<std::byte> buffer,
                                                  std::uint64_t offset) {
  std::size_t done = 0;
  while (done < buffer.size()) {
    const ssize_t n =
        ::pread(fd, buffer.data() + done, buffer.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::nullopt;
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  return buffer.first(done);
}

}  // namespace

Outcome<std::optional<std::string>> existing_data_in_file(int fd, const std::string& path) {
  const auto failure = [&] {
    const int code = errno;
    return problem(code, fmt::format("pool {}: cannot be read: {}", path, std::strerror(code)));
  };
  struct stat st {};
  if (::fstat(fd, &st) != 0) return failure();
  const auto size = static_cast<std::uint64_t>(st.st_size);
  const std::uint64_t whole = size & ~(kBlockSize - 1);
  std::vector<std::byte> buffer(1 << 20);

  for (const std::uint64_t copy :
       {std::uint64_t{0}, whole >= kBlockSize ? whole - kBlockSize : 0}) {
    const auto block = read_at(fd, std::span(buffer).first(pmem::kMagic.size()), copy);
    if (!block) return failure();
    if (begins_with_magic(*block)) return "a daxfs pool";
  }
  if (auto known = recognise(fd)) return known;

  for (std::uint64_t at = 0; at < size;) {
    const off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    // A filesystem that knows no holes: read on.
    if (data >= 0) at = static_cast<std::uint64_t>(data);
    const auto chunk = read_at(fd, buffer, at);
    if (!chunk) return failure();
    if (auto place = first_nonzero(*chunk)) return describe_byte(at + *place);
    if (chunk->empty()) break;
    at += chunk->size();
  }
  return std::nullopt;
}

std::optional<std::string> existing_data_in_device(const Medium& medium) {
  const std::uint64_t size = medium.size().value;
  const std::uint64_t last = size - kBlockSize;
  const std::span<const std::byte> head(medium.at(PoolOffset(0)), std::min(size, kHeadBytes));
  const std::span<const std::byte> tail(medium.at(PoolOffset(last)), kBlockSize);
  if (begins_with_magic(head) || begins_with_magic(tail)) return "a daxfs pool";
  if (auto place = first_nonzero(head)) return describe_byte(*place);
  if (auto place = first_nonzero(tail)) return describe_byte(last + *place);
  return std::nullopt;
}

}  // namespace daxfs
