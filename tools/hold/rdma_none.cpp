// Built where libibverbs is not there.
#include "tools/hold/rdma.h"

namespace daxfs::hold {

Outcome<std::unique_ptr<Engine>> make_rdma_engine(const std::string& path) {
  return problem(EOPNOTSUPP, path +
                                 ": this daxfs-hold was built without RDMA: install "
                                 "libibverbs-dev and build again, or use --engine io_uring");
}

}  // namespace daxfs::hold
