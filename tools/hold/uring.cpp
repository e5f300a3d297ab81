#include "tools/hold/uring.h"

#include <fmt/format.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/pieces.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace daxfs::hold {
namespace {

constexpr std::size_t kLargestBuffer = std::size_t{1} << 30;  // the kernel's limits
constexpr std::size_t kMostBuffers = 1 << 14;
constexpr std::size_t kThereBytes = Engine::kMostPieces * kBlockSize;

Problem explain_start(int code, const std::string& path) {
  const char* const why =
      code == EPERM || code == ENOSYS
          ? "it is not allowed here: see kernel.io_uring_disabled and the container's seccomp "
            "profile, or use --engine mmap"
          : std::strerror(code);
  return {fmt::format("{}: cannot start io_uring: {}", path, why), code};
}

Problem explain_register(int code, const std::string& path) {
  switch (code) {
    case EOPNOTSUPP:
    case EFAULT:
      return {fmt::format(
                  "{}: cannot register the pinned memory with io_uring: {}: the kernel allows no "
                  "long-term references to files of the pool's filesystem (fsdax, disks): make the "
                  "pool on device DAX (/dev/daxX.Y, Linux 6.12), or on tmpfs to try it out",
                  path, std::strerror(code)),
              code};
    case ENOMEM:
      return {
          fmt::format("{}: cannot register the pinned memory with io_uring: {}: raise the limit "
                      "of locked memory (ulimit -l), or hold less",
                      path, std::strerror(code)),
          code};
    default:
      return {fmt::format("{}: cannot register the pinned memory with io_uring: {}", path,
                          std::strerror(code)),
              code};
  }
}

class UringEngine final : public Engine {
 public:
  explicit UringEngine(std::string path) : path_(std::move(path)) {}

  ~UringEngine() override {
    if (started_) io_uring_queue_exit(&ring_);
    if (there_ != nullptr) munmap(there_, kThereBytes);
  }

  Outcome<void> start() {
    const int code = io_uring_queue_init(kMostPieces, &ring_, 0);
    if (code < 0) return std::unexpected(explain_start(-code, path_));
    started_ = true;
    file_ = UniqueFd(memfd_create("daxfs-hold", MFD_CLOEXEC));
    if (!file_ || ftruncate(file_.get(), kThereBytes) < 0) return no_memory();
    void* const mapped =
        mmap(nullptr, kThereBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
    if (mapped == MAP_FAILED) return no_memory();
    there_ = static_cast<std::byte*>(mapped);
    return {};
  }

  Outcome<void> remember(const std::vector<std::span<std::byte>>& memory) override {
    buffers_.clear();
    for (std::span<std::byte> rest : memory) {
      while (!rest.empty()) {
        const std::size_t size = std::min(rest.size(), kLargestBuffer);
        buffers_.push_back({rest.data(), size});
        rest = rest.subspan(size);
      }
    }
    if (buffers_.size() > kMostBuffers) {
      return problem(E2BIG, fmt::format("{}: the pinned memory is in {} pieces, io_uring takes {}: "
                                        "hold a shorter range, or a file with fewer extents",
                                        path_, buffers_.size(), kMostBuffers));
    }
    std::sort(buffers_.begin(), buffers_.end(),
              [](const iovec& a, const iovec& b) { return a.iov_base < b.iov_base; });
    const int code =
        io_uring_register_buffers(&ring_, buffers_.data(), static_cast<unsigned>(buffers_.size()));
    if (code < 0) return std::unexpected(explain_register(-code, path_));
    registered_ = true;
    return {};
  }

  void forget() override {
    if (registered_) io_uring_unregister_buffers(&ring_);
    registered_ = false;
  }

  Outcome<void> copy_out(std::span<const std::span<std::byte>> pieces) override {
    return transfer(pieces, io_uring_prep_write_fixed, "out of");
  }
  Outcome<void> copy_in(std::span<const std::span<std::byte>> pieces) override {
    return transfer(pieces, io_uring_prep_read_fixed, "into");
  }
  std::byte* there(std::size_t piece) override { return there_ + piece * kBlockSize; }

 private:
  Outcome<void> no_memory() const {
    const int code = errno;
    return problem(code, fmt::format("{}: no memory for io_uring's side of the copies: {}", path_,
                                     std::strerror(code)));
  }

  int index_of(const std::byte* address) const {
    const auto begin = [](const iovec& buffer) {
      return static_cast<const std::byte*>(buffer.iov_base);
    };
    return static_cast<int>(last_begun(buffers_, address, begin) - buffers_.begin());
  }

  template <class Prepare>
  Outcome<void> transfer(std::span<const std::span<std::byte>> pieces, Prepare prepare,
                         const char* direction) {
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      io_uring_sqe* const entry = io_uring_get_sqe(&ring_);  // there is room for kMostPieces
      prepare(entry, file_.get(), pieces[i].data(), static_cast<unsigned>(pieces[i].size()),
              i * kBlockSize, index_of(pieces[i].data()));
      entry->user_data = pieces[i].size();
    }
    int code = io_uring_submit_and_wait(&ring_, static_cast<unsigned>(pieces.size()));
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      io_uring_cqe* entry = nullptr;
      // A signal can interrupt the waiting, not the transfer.
      int waited = -EINTR;
      while (waited == -EINTR) waited = io_uring_wait_cqe(&ring_, &entry);
      if (waited < 0) return failed(waited, direction);
      const int result = entry->res;
      const bool all = result >= 0 && static_cast<std::uint64_t>(result) == entry->user_data;
      io_uring_cqe_seen(&ring_, entry);
      if (!all && (code >= 0 || code == -EINTR)) code = result < 0 ? result : -EIO;
    }
    if (code < 0 && code != -EINTR) return failed(code, direction);
    return {};
  }

  Outcome<void> failed(int code, const char* direction) const {
    return problem(-code, fmt::format("{}: io_uring cannot copy {} the registered memory: {}",
                                      path_, direction, std::strerror(-code)));
  }

  const std::string path_;
  io_uring ring_ = {};
  bool started_ = false;
  bool registered_ = false;
  std::vector<iovec> buffers_;  // by address
  UniqueFd file_;
  std::byte* there_ = nullptr;
};

}  // namespace

Outcome<std::unique_ptr<Engine>> make_uring_engine(const std::string& path) {
  auto engine = std::make_unique<UringEngine>(path);
  if (auto started = engine->start(); !started) return std::unexpected(started.error());
  return engine;
}

}  // namespace daxfs::hold
