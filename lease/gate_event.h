// What happens at the gate, for programs that watch (daxfsctl events).
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/units.h"
#include "lease/policy.h"

namespace daxfs {

struct GateEvent {
  // The words of docs/promises.md; `breaks` is "break".
  enum class Kind : std::uint8_t {
    pin,
    unpin,
    lease,
    unlease,
    breaks,       // a lease holder was told
    refused,      // a detach, a pin or a lease was answered with an error
    deferred,     // a detach went ahead, and left blocks in limbo
    waiting,      // a request began to wait
    resumed,      // a request that had waited went ahead
    timeout,      // the time of one that waits is up: on_timeout decides
    interrupted,  // one that waits was given up by its caller
    freed,        // blocks left limbo for the free space; offset is in the pool
    policy,       // the options changed
    quarantine,   // of a survivor. The gate posts none: each new reader is told (Reports::listen())
  };
  static constexpr std::size_t kKinds = 14;
  Kind kind = Kind::pin;
  InodeNumber inode;  // 0: none in particular
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  PinPolicy policy = PinPolicy::refuse;  // in force for what it is about
  pid_t process = 0;                     // who asked; 0: the daemon
};

std::string_view to_string(GateEvent::Kind kind);

// How often each kind has happened, whether anybody listened or not.
using GateEventCounts = std::array<std::uint64_t, GateEvent::kKinds>;

// Thread-safe. post() is called with the gate's lock held, so that events come in the order in
// which things happened: it must be quick, and call nothing of the gate.
class GateEvents {
 public:
  virtual ~GateEvents() = default;
  // Whether anybody listens; else nothing needs to be posted.
  virtual bool wanted() const noexcept = 0;
  virtual void post(const GateEvent& event) noexcept = 0;
};

}  // namespace daxfs
