// A snapshot that is taken beside, while the caller does other things: a daemon that is stopped
// does not answer, and nothing but the end of the process takes a question to it back.
#pragma once

#include <chrono>
#include <thread>

#include "base/result.h"
#include "base/unique_fd.h"
#include "tools/ctl/query.h"
#include "tools/ctl/snapshot.h"

namespace daxfs::ctl {

class Look {
 public:
  // Begins. std::system_error: no thread can be had. The mount outlives it.
  explicit Look(const Mount& mount);
  ~Look();  // waits for the answer
  Look(const Look&) = delete;
  Look& operator=(const Look&) = delete;

  // Readable when take() need not wait; -1: cannot be told, take() waits.
  int finished() const { return finished_.get(); }
  std::chrono::steady_clock::time_point begun() const { return begun_; }
  Outcome<Snapshot> take();

 private:
  const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  UniqueFd finished_;
  Outcome<Snapshot> taken_;
  std::thread thread_;  // the last member: it uses the others
};

}  // namespace daxfs::ctl
