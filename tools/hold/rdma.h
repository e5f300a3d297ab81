// An RDMA adapter as the device: it writes into the held memory and reads from it by itself.
#pragma once

#include "tools/hold/engine.h"

namespace daxfs::hold {

Outcome<std::unique_ptr<Engine>> make_rdma_engine(const std::string& path);

}  // namespace daxfs::hold
