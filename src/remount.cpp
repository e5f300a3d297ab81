#include "src/remount.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>

namespace daxfs {

Status Remount::set_read_only(bool read_only, const Caller& caller) {
  if (!callers_.is_trusted(caller)) return fail(EPERM);
  if (mount_.options.read_only) return read_only ? Status() : fail(EROFS);
  if (read_only && (has_write_pins() || direct_.lingers())) return fail(EBUSY);
  if (health_.read_only() == read_only) return {};
  health_.set_read_only(read_only);
  spdlog::info("{}: remounted {}", mount_.mountpoint, read_only ? "read-only" : "read-write");
  return {};
}

bool Remount::has_write_pins() const {
  constexpr std::size_t kPage = 1000;
  PinId after{};
  for (;;) {
    const std::vector<PinInfo> pins = gate_.pins_after(after, kPage);
    if (pins.empty()) return false;
    if (std::ranges::any_of(pins, &PinInfo::write)) return true;
    after = pins.back().id;
  }
}

}  // namespace daxfs
