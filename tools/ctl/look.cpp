#include "tools/ctl/look.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

namespace daxfs::ctl {

Look::Look(const Mount& mount)
    : finished_(eventfd(0, EFD_CLOEXEC)), thread_([this, &mount] {
        taken_ = take_snapshot(mount);
        const std::uint64_t one = 1;
        static_cast<void>(!write(finished_.get(), &one, sizeof one));
      }) {}

Look::~Look() {
  if (thread_.joinable()) thread_.join();
}

Outcome<Snapshot> Look::take() {
  thread_.join();
  return std::move(taken_);
}

}  // namespace daxfs::ctl
