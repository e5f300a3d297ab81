#include "lease/gate_event.h"

namespace daxfs {

std::string_view to_string(GateEvent::Kind kind) {
  switch (kind) {
    case GateEvent::Kind::pin:
      return "pin";
    case GateEvent::Kind::unpin:
      return "unpin";
    case GateEvent::Kind::lease:
      return "lease";
    case GateEvent::Kind::unlease:
      return "unlease";
    case GateEvent::Kind::breaks:
      return "break";
    case GateEvent::Kind::refused:
      return "refused";
    case GateEvent::Kind::deferred:
      return "deferred";
    case GateEvent::Kind::waiting:
      return "waiting";
    case GateEvent::Kind::resumed:
      return "resumed";
    case GateEvent::Kind::timeout:
      return "timeout";
    case GateEvent::Kind::interrupted:
      return "interrupted";
    case GateEvent::Kind::freed:
      return "freed";
    case GateEvent::Kind::policy:
      return "policy";
    case GateEvent::Kind::quarantine:
      return "quarantine";
  }
  return "?";
}

}  // namespace daxfs
