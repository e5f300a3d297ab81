#include "tools/hold/rdma.h"

#include <fmt/format.h>
#include <infiniband/verbs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/pieces.h"
#include "base/units.h"

namespace daxfs::hold {
namespace {

template <class T, int (*destroy)(T*)>
struct Destroy {
  void operator()(T* object) const { destroy(object); }
};
template <class T, int (*destroy)(T*)>
using Owned = std::unique_ptr<T, Destroy<T, destroy>>;
using Context = Owned<ibv_context, ibv_close_device>;
using Domain = Owned<ibv_pd, ibv_dealloc_pd>;
using Region = Owned<ibv_mr, ibv_dereg_mr>;
using Completions = Owned<ibv_cq, ibv_destroy_cq>;
using QueuePair = Owned<ibv_qp, ibv_destroy_qp>;

constexpr std::uint8_t kPort = 1;
constexpr int kRemote = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;

Problem explain_register(int code, const std::string& path) {
  if (code == EOPNOTSUPP || code == EFAULT) {
    return {
        fmt::format(
            "{}: cannot register the pinned memory with the RDMA adapter: {}: the kernel allows "
            "no long-term references to files of the pool's filesystem (fsdax, disks): make "
            "the pool on device DAX (/dev/daxX.Y), or on tmpfs to try it out",
            path, std::strerror(code)),
        code};
  }
  return {fmt::format("{}: cannot register the pinned memory with the RDMA adapter: {}{}", path,
                      std::strerror(code),
                      code == ENOMEM ? ": raise the limit of locked memory (ulimit -l)" : ""),
          code};
}

// Two queue pairs of one adapter, connected with each other: what the first one writes goes into
// the held memory as a remote peer's would, by key and address.
class RdmaEngine final : public Engine {
 public:
  explicit RdmaEngine(std::string path) : path_(std::move(path)), there_(kMostPieces) {}

  Outcome<void> start() {
    int count = 0;
    ibv_device** const devices = ibv_get_device_list(&count);
    if (devices == nullptr || count == 0) {
      if (devices != nullptr) ibv_free_device_list(devices);
      return problem(ENODEV, path_ +
                                 ": no RDMA device on this machine: add one (soft-RoCE: rdma "
                                 "link add rxe0 type rxe netdev eth0), or use --engine io_uring");
    }
    context_.reset(ibv_open_device(devices[0]));
    ibv_free_device_list(devices);
    if (!context_) return failed("open the RDMA device", errno);
    domain_.reset(ibv_alloc_pd(context_.get()));
    if (!domain_) return failed("use the RDMA device", errno);
    completions_.reset(ibv_create_cq(context_.get(), kMostPieces, nullptr, nullptr, 0));
    if (!completions_) return failed("use the RDMA device", errno);
    constexpr int kAccess = IBV_ACCESS_LOCAL_WRITE;  // a number: the macro mixes two enumerations
    own_side_.reset(
        ibv_reg_mr(domain_.get(), there_.data(), there_.size() * sizeof(Block), kAccess));
    if (!own_side_) return failed("register memory of its own with the RDMA device", errno);
    for (QueuePair& pair : pairs_) {
      ibv_qp_init_attr wanted = {};
      wanted.send_cq = wanted.recv_cq = completions_.get();
      wanted.cap = {kMostPieces, 1, 1, 1, 0};
      wanted.qp_type = IBV_QPT_RC;
      pair.reset(ibv_create_qp(domain_.get(), &wanted));
      if (!pair) return failed("make a queue pair", errno);
    }
    if (const int code = connect(*pairs_[0], *pairs_[1]); code != 0) {
      return failed("connect a queue pair with itself", code);
    }
    if (const int code = connect(*pairs_[1], *pairs_[0]); code != 0) {
      return failed("connect a queue pair with itself", code);
    }
    return {};
  }

  Outcome<void> remember(const std::vector<std::span<std::byte>>& memory) override {
    for (const std::span<std::byte> piece : memory) {
      Region region(ibv_reg_mr(domain_.get(), piece.data(), piece.size(), kRemote));
      if (!region) return std::unexpected(explain_register(errno, path_));
      regions_.push_back(std::move(region));
    }
    std::sort(regions_.begin(), regions_.end(),
              [](const Region& a, const Region& b) { return a->addr < b->addr; });
    return {};
  }

  void forget() override { regions_.clear(); }

  Outcome<void> copy_out(std::span<const std::span<std::byte>> pieces) override {
    return transfer(pieces, IBV_WR_RDMA_READ);
  }
  Outcome<void> copy_in(std::span<const std::span<std::byte>> pieces) override {
    return transfer(pieces, IBV_WR_RDMA_WRITE);
  }
  std::byte* there(std::size_t piece) override { return there_[piece].data(); }

 private:
  using Block = std::array<std::byte, kBlockSize>;

  Outcome<void> failed(const char* what, int code) const {
    return problem(code, fmt::format("{}: cannot {}: {}", path_, what, std::strerror(code)));
  }

  // RoCE addresses peers by GID, InfiniBand proper by LID.
  int connect(ibv_qp& from, ibv_qp& to) {
    ibv_port_attr port = {};
    if (ibv_query_port(context_.get(), kPort, &port) != 0) return EIO;
    ibv_gid gid = {};
    if (ibv_query_gid(context_.get(), kPort, 0, &gid) != 0) return EIO;

    ibv_qp_attr attr = {};
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = kPort;
    attr.qp_access_flags = kRemote;
    int code = ibv_modify_qp(&from, &attr,
                             IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    if (code != 0) return code;

    attr = {};
    attr.qp_state = IBV_QPS_RTR;
    attr.path_mtu = port.active_mtu;
    attr.dest_qp_num = to.qp_num;
    attr.max_dest_rd_atomic = 1;
    attr.min_rnr_timer = 12;
    attr.ah_attr.port_num = kPort;
    attr.ah_attr.dlid = port.lid;
    if (port.link_layer == IBV_LINK_LAYER_ETHERNET) {
      attr.ah_attr.is_global = 1;
      attr.ah_attr.grh.dgid = gid;
      attr.ah_attr.grh.hop_limit = 1;
    }
    code = ibv_modify_qp(&from, &attr,
                         IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                             IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    if (code != 0) return code;

    attr = {};
    attr.qp_state = IBV_QPS_RTS;
    attr.timeout = 14;
    attr.retry_cnt = 7;
    attr.rnr_retry = 7;
    attr.max_rd_atomic = 1;
    return ibv_modify_qp(&from, &attr,
                         IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                             IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
  }

  const ibv_mr& region_of(const std::byte* address) const {
    const auto begin = [](const Region& region) {
      return static_cast<const std::byte*>(region->addr);
    };
    return **last_begun(regions_, address, begin);
  }

  Outcome<void> transfer(std::span<const std::span<std::byte>> pieces, ibv_wr_opcode direction) {
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      ibv_sge own = {reinterpret_cast<std::uintptr_t>(there(i)),
                     static_cast<std::uint32_t>(pieces[i].size()), own_side_->lkey};
      ibv_send_wr wanted = {};
      wanted.sg_list = &own;
      wanted.num_sge = 1;
      wanted.opcode = direction;
      wanted.send_flags = IBV_SEND_SIGNALED;
      wanted.wr.rdma.remote_addr = reinterpret_cast<std::uintptr_t>(pieces[i].data());
      wanted.wr.rdma.rkey = region_of(pieces[i].data()).rkey;
      ibv_send_wr* bad = nullptr;
      if (const int code = ibv_post_send(pairs_[0].get(), &wanted, &bad); code != 0) {
        return failed("start an RDMA transfer", code);
      }
    }
    for (std::size_t done = 0; done < pieces.size();) {
      ibv_wc completion = {};
      const int count = ibv_poll_cq(completions_.get(), 1, &completion);
      if (count < 0) return failed("wait for RDMA transfers", EIO);
      if (count == 0) continue;  // the adapter needs microseconds
      if (completion.status != IBV_WC_SUCCESS) {
        return problem(EIO, fmt::format("{}: an RDMA transfer failed: {}", path_,
                                        ibv_wc_status_str(completion.status)));
      }
      ++done;
    }
    return {};
  }

  const std::string path_;
  std::vector<Block> there_;
  Context context_;
  Domain domain_;
  Completions completions_;
  Region own_side_;
  std::array<QueuePair, 2> pairs_;
  std::vector<Region> regions_;  // by address
};

}  // namespace

Outcome<std::unique_ptr<Engine>> make_rdma_engine(const std::string& path) {
  auto engine = std::make_unique<RdmaEngine>(path);
  if (auto started = engine->start(); !started) return std::unexpected(started.error());
  return engine;
}

}  // namespace daxfs::hold
