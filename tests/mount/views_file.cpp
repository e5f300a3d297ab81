#include "tests/mount/views_file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace daxfs::test {
namespace {

sigjmp_buf away;

// Copies between a mapping and memory of ours; -EFAULT if the kernel has no page for it.
long copy_guarded(char* to, const char* from, std::size_t size) {
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) { siglongjmp(away, 1); };
  sigaction(SIGBUS, &action, &before);
  long result = static_cast<long>(size);
  if (sigsetjmp(away, 1) == 0) {
    std::memcpy(to, from, size);
  } else {
    result = -EFAULT;
  }
  sigaction(SIGBUS, &before, nullptr);
  return result;
}

long answer(long result) { return result < 0 ? -errno : result; }

UniqueFd opened(const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | flags, 0600));
  if (fd.get() < 0) throw std::runtime_error(path + ": open: " + std::strerror(errno));
  return fd;
}

}  // namespace

const char* name_of(View view) {
  constexpr const char* kNames[] = {"cached", "O_DIRECT", "mapped", "fresh"};
  return kNames[static_cast<unsigned>(view)];
}

ViewsFile::ViewsFile(std::string path) : path_(std::move(path)) {
  unlink(path_.c_str());
  opened(path_, O_CREAT | O_EXCL);
  aligned_ = static_cast<char*>(std::aligned_alloc(kViewsBlock, kViewsMost));
  open_all();
}

ViewsFile::~ViewsFile() {
  close_all();
  std::free(aligned_);
}

void ViewsFile::open_all() {
  cached_ = opened(path_, 0);
  direct_ = opened(path_, O_DIRECT);
  void* const memory =
      mmap(nullptr, kViewsMost, PROT_READ | PROT_WRITE, MAP_SHARED, cached_.get(), 0);
  if (memory == MAP_FAILED) throw std::runtime_error(path_ + ": mmap: " + std::strerror(errno));
  memory_ = static_cast<char*>(memory);
}

void ViewsFile::close_all() {
  if (memory_ != nullptr) munmap(memory_, kViewsMost);
  memory_ = nullptr;
  cached_ = UniqueFd();
  direct_ = UniqueFd();
}

void ViewsFile::reopen() {
  close_all();
  open_all();
}

long ViewsFile::read(View view, std::uint64_t offset, std::span<char> out) {
  const auto at = static_cast<off_t>(offset);
  switch (view) {
    case View::cached:
      return answer(pread(cached_.get(), out.data(), out.size(), at));
    case View::direct: {
      const long got = answer(pread(direct_.get(), aligned_, out.size(), at));
      if (got > 0) std::memcpy(out.data(), aligned_, static_cast<std::size_t>(got));
      return got;
    }
    case View::mapped:
      return copy_guarded(out.data(), memory_ + offset, out.size());
    case View::fresh:
      return answer(pread(opened(path_, 0).get(), out.data(), out.size(), at));
  }
  return -EINVAL;
}

long ViewsFile::write(View view, std::uint64_t offset, std::span<const char> data) {
  const auto at = static_cast<off_t>(offset);
  switch (view) {
    case View::cached:
      return answer(pwrite(cached_.get(), data.data(), data.size(), at));
    case View::direct:
      std::memcpy(aligned_, data.data(), data.size());
      return answer(pwrite(direct_.get(), aligned_, data.size(), at));
    case View::mapped:
      return copy_guarded(memory_ + offset, data.data(), data.size());
    case View::fresh:
      return answer(pwrite(opened(path_, 0).get(), data.data(), data.size(), at));
  }
  return -EINVAL;
}

long ViewsFile::fallocate(int mode, ByteSpan range) {
  return answer(::fallocate(cached_.get(), mode, static_cast<off_t>(range.offset),
                            static_cast<off_t>(range.length)));
}

long ViewsFile::truncate(std::uint64_t size, bool by_path) {
  const auto to = static_cast<off_t>(size);
  return answer(by_path ? ::truncate(path_.c_str(), to) : ftruncate(cached_.get(), to));
}

long ViewsFile::sync(bool by_mapping) {
  return answer(by_mapping ? msync(memory_, kViewsMost, MS_SYNC) : fsync(cached_.get()));
}

std::int64_t ViewsFile::seek(std::uint64_t from, bool data) {
  const off_t found = lseek(cached_.get(), static_cast<off_t>(from), data ? SEEK_DATA : SEEK_HOLE);
  return found < 0 ? -(errno == ENXIO ? 1 : 1000 + errno) : found;
}

}  // namespace daxfs::test
