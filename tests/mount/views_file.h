// One file, open in all ordinary ways: a descriptor that uses the page cache, one with O_DIRECT, a
// shared mapping, and one that is opened just for a call.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/unique_fd.h"
#include "tests/mount/views_model.h"

namespace daxfs::test {

enum class View : std::uint8_t { cached, direct, mapped, fresh };
inline constexpr unsigned kViews = 4;
const char* name_of(View view);

class ViewsFile {
 public:
  explicit ViewsFile(std::string path);  // made anew, empty
  ~ViewsFile();
  ViewsFile(const ViewsFile&) = delete;
  ViewsFile& operator=(const ViewsFile&) = delete;

  const std::string& path() const { return path_; }
  int fd() const { return cached_.get(); }
  // All of these: 0 or a count, -errno on failure. EFAULT: the mapping gave SIGBUS.
  long read(View view, std::uint64_t offset, std::span<char> out);
  long write(View view, std::uint64_t offset, std::span<const char> data);
  long fallocate(int mode, ByteSpan range);
  long truncate(std::uint64_t size, bool by_path);
  long sync(bool by_mapping);
  // SEEK_DATA, SEEK_HOLE: -1 for ENXIO.
  std::int64_t seek(std::uint64_t from, bool data);
  // Closes and opens again what stays open.
  void reopen();

 private:
  void open_all();
  void close_all();

  std::string path_;
  UniqueFd cached_, direct_;
  char* memory_ = nullptr;
  char* aligned_ = nullptr;
};

}  // namespace daxfs::test
