#include "fuse_ops/request_loop.h"

#include <pthread.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <system_error>
#include <utility>

#include "base/background_thread.h"

namespace daxfs {
namespace {

constexpr std::size_t kPage = 4096;
// The largest request is a write. For the headers the kernel wants as much room as libfuse has.
constexpr std::size_t kRoom = kMaxWriteBytes + kPage;
// A write's data begins behind these, and is to lie at the start of a page.
constexpr std::size_t kWriteHeaders = sizeof(fuse_in_header) + sizeof(fuse_write_in);

// Where a worker has its requests, one after another.
class Buffer {
 public:
  std::byte* begin() const { return memory_.get() + kPage - kWriteHeaders; }

 private:
  struct Free {
    void operator()(std::byte* memory) const {
      ::operator delete[](memory, std::align_val_t(kPage));
    }
  };
  std::unique_ptr<std::byte[], Free> memory_{new (std::align_val_t(kPage))
                                                 std::byte[kRoom + kPage]};
};

bool is_forget(std::uint32_t opcode) {
  return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET;
}

// read(2), the only place where a worker can be cancelled.
ssize_t read_request(int fd, std::byte* into) {
  pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, nullptr);
  const ssize_t got = ::read(fd, into, kRoom);
  const int why = errno;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, nullptr);
  errno = why;
  return got;
}

}  // namespace

RequestLoop::RequestLoop(fuse_session* session, Hooks hooks)
    : session_(session), hooks_(std::move(hooks)) {}

int RequestLoop::run() {
  if (!start_worker()) return EAGAIN;
  std::vector<std::thread> workers;
  int error = 0;
  {
    const MutexLock lock(mutex_);
    while (!ended_) over_.wait(mutex_);
    workers = std::move(workers_);  // nobody adds one from now on
    error = error_;
  }
  for (std::thread& worker : workers) pthread_cancel(worker.native_handle());
  for (std::thread& worker : workers) worker.join();
  return error;
}

void RequestLoop::stop() { end(0); }

void RequestLoop::end(int error) {
  stopped_.store(true, std::memory_order_relaxed);
  fuse_session_exit(session_);  // libfuse complains of failures less from now on
  const MutexLock lock(mutex_);
  if (!std::exchange(ended_, true)) error_ = error;
  over_.notify_one();
}

bool RequestLoop::start_worker() {
  const MutexLock lock(mutex_);
  if (ended_ || workers_.size() == kMostWorkers) return true;
  idle_.fetch_add(1);
  try {
    workers_.push_back(background_thread("daxfs-worker", [this] { work(); }));
  } catch (const std::system_error&) {
    idle_.fetch_sub(1);
    if (workers_.empty()) return false;
    if (!std::exchange(warned_, true)) {
      spdlog::warn("no more threads can be had: {} serve requests", workers_.size());
    }
    return true;
  }
  started_.store(static_cast<unsigned>(workers_.size()), std::memory_order_relaxed);
  return true;
}

void RequestLoop::work() {
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, nullptr);
  const Buffer buffer;
  const int fd = fuse_session_fd(session_);
  while (!stopped_.load(std::memory_order_relaxed)) {
    const ssize_t got = read_request(fd, buffer.begin());
    if (got < 0) {
      // ENOENT: the request was interrupted before it was read.
      if (errno == EINTR || errno == EAGAIN || errno == ENOENT) continue;
      return end(errno == ENODEV ? 0 : errno);  // ENODEV: unmounted, or aborted
    }
    const std::span<std::byte> message(buffer.begin(), static_cast<std::size_t>(got));
    const auto request = Message::of(message);
    if (!request) return end(EIO);
    const std::uint32_t opcode = request->header().opcode;
    // A burst of FORGETs, which nobody waits for, needs no more threads.
    const bool counts = !is_forget(opcode);
    if (counts && idle_.fetch_sub(1) == 1 && opcode != FUSE_INIT &&
        started_.load(std::memory_order_relaxed) < kMostWorkers) {
      start_worker();
    }
    serve_message(session_, message, hooks_.beyond);
    if (opcode == FUSE_INIT) hooks_.after_init();
    if (counts) idle_.fetch_add(1);
  }
}

}  // namespace daxfs
