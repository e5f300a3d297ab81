// io_uring as the device: the held memory is its registered buffers, the other side a memfd.
#pragma once

#include "tools/hold/engine.h"

namespace daxfs::hold {

Outcome<std::unique_ptr<Engine>> make_uring_engine(const std::string& path);

}  // namespace daxfs::hold
