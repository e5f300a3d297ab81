// Layout leases, as programs ask for them. (lease/ has the rules.)
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/units.h"
#include "lease/gate.h"
#include "src/callers.h"
#include "src/health.h"
#include "src/open_file.h"
#include "src/waiting.h"

namespace daxfs {

struct LeaseRange {
  FileOffset offset;
  ByteCount length;
  std::uint32_t flags = 0;  // DAXFS_LEASE_*
};

// Thread-safe; has no state of its own, and takes no lock but the gate's.
class Leases {
 public:
  Leases(const Health& health, Gate& gate, Callers& callers)
      : health_(health), gate_(gate), callers_(callers) {}

  // A new lease, or with DAXFS_LEASE_SHRINK what is to be left of `lease`. May wait behind a
  // detach. EINVAL, EBADF, EIO, and as Gate::lease() and shrink_lease().
  void lease(OpenFile& file, const LeaseRange& range, LeaseId lease, const Caller& caller,
             const CancellationRef& cancellation, Completion<LeaseId> done);
  Status unlease(OpenFile& file, LeaseId lease) { return gate_.unlease(file.holder, lease); }
  // EAGAIN: none.
  Result<LeaseNews> next_news(OpenFile& file) { return gate_.next_news(file.holder); }
  bool has_news(const OpenFile& file) const { return gate_.has_news(file.holder); }

 private:
  const Health& health_;
  Gate& gate_;
  Callers& callers_;
};

}  // namespace daxfs
