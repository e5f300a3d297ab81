#include "tools/hold/engine.h"

#include "tools/hold/rdma.h"
#include "tools/hold/uring.h"

namespace daxfs::hold {

Outcome<std::unique_ptr<Engine>> Engine::make(EngineKind kind, const std::string& path) {
  switch (kind) {
    case EngineKind::mmap:
      break;
    case EngineKind::io_uring:
      return make_uring_engine(path);
    case EngineKind::rdma:
      return make_rdma_engine(path);
  }
  return nullptr;
}

}  // namespace daxfs::hold
