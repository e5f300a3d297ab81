// Files with known content, and what can be seen of them.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "client/daxfs.h"

namespace daxfs::test {

inline constexpr std::size_t kBlock = 4096;

// Bytes that differ from block to block and from seed to seed, and are never zero.
std::string pattern(std::size_t size, unsigned seed);

// Where two contents differ, in a line; "" if they do not.
std::string difference(std::string_view seen, std::string_view expected);

// These REQUIRE success.
UniqueFd open_file(const std::string& path, int flags, mode_t mode = 0644);
void write_at(int fd, std::uint64_t offset, std::string_view data);
std::string read_at(int fd, std::uint64_t offset, std::size_t length);  // short at the end
void write_file(const std::string& path, std::string_view data);
std::string read_file(const std::string& path);

// Preallocates all that is free to a file, from its beginning on. How much it has then, in bytes.
std::uint64_t allocate_all_free(int fd);

// A file of so many blocks, each an extent of its own; content as pattern() has it.
void write_fragmented(const std::string& path, std::size_t blocks, unsigned seed);

// [start, end) of the parts with data, by SEEK_DATA and SEEK_HOLE.
using Parts = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
Parts data_parts(const std::string& path);

std::vector<daxfs_extent> extents_of(int fd);

// What MAP_SHARED answers for a handle that bypasses the page cache: ENODEV before Linux 6.6.
int shared_mapping_of_direct_handle();

// Aligned memory, as O_DIRECT wants it.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::size_t size);
  ~AlignedBuffer();
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  char* data() { return data_; }
  std::string_view view() const { return {data_, size_}; }

 private:
  char* data_;
  std::size_t size_;
};

// Until the clock that files are stamped with has moved on.
void next_tick();

// Everything of a file that a refused operation must leave alone.
struct Snapshot {
  explicit Snapshot(const std::string& path);
  bool operator==(const Snapshot&) const = default;

  std::uint64_t inode, size, blocks, links;
  std::int64_t mtime_ns, ctime_ns;
  Parts parts;
  std::string data;
};

}  // namespace daxfs::test
