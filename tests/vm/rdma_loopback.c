// rdma-loopback FILE BYTES: pins the file, registers the pinned memory with the first RDMA device,
// and does what it reads from standard input:
//   write SEED   an RDMA write over all of the memory, from this process to itself
//   check SEED   whether the memory holds what that wrote
// It answers each line, and at the start, with one of its own: "ok", or what was wrong.
//
// Exit status: 0 all well, 1 something failed, 3 the kernel refuses to register this memory.
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/daxfs.h"

enum { kFailed = 1, kRefused = 3, kPort = 1 };

static void say(const char* format, ...) {
  va_list words;
  va_start(words, format);
  vprintf(format, words);
  va_end(words);
  putchar('\n');
  fflush(stdout);
}

static _Noreturn void fail(const char* what) {
  say("%s: %s", what, strerror(errno));
  exit(kFailed);
}

// The memory that is written to, and the one that is written from.
struct Memory {
  unsigned char* target;
  unsigned char* source;
  size_t length;
  struct ibv_mr* target_region;
  struct ibv_mr* source_region;
};

struct Link {
  struct ibv_context* device;
  struct ibv_pd* domain;
  struct ibv_cq* completions;
  struct ibv_qp* queue;
};

static unsigned char* pin_and_map(const char* path, size_t bytes, size_t* length) {
  const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) fail(path);
  uint64_t pin;
  if (daxfs_pin(fd, 0, bytes, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin) != 0) fail("daxfs_pin");
  void* const view = daxfs_map(fd, pin, length);
  if (view == NULL) fail("daxfs_map");
  return view;  // the pin is the descriptor's, which stays open
}

static struct Link open_device(void) {
  struct Link link = {0};
  int count = 0;
  struct ibv_device** const devices = ibv_get_device_list(&count);
  if (devices == NULL || count == 0) {
    say("no RDMA device");
    exit(kFailed);
  }
  link.device = ibv_open_device(devices[0]);
  if (link.device == NULL) fail("ibv_open_device");
  ibv_free_device_list(devices);
  link.domain = ibv_alloc_pd(link.device);
  if (link.domain == NULL) fail("ibv_alloc_pd");
  link.completions = ibv_create_cq(link.device, 16, NULL, NULL, 0);
  if (link.completions == NULL) fail("ibv_create_cq");
  return link;
}

// The device keeps using these pages until the region goes: this is the long-term pin.
static void register_memory(const struct Link* link, struct Memory* memory) {
  const int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
  memory->target_region = ibv_reg_mr(link->domain, memory->target, memory->length, access);
  if (memory->target_region == NULL && errno == EOPNOTSUPP) {
    say("the kernel registers no memory of a file on a DAX filesystem (EOPNOTSUPP); lay the pool "
        "onto device DAX "
        "(/dev/daxX.Y) for RDMA");
    exit(kRefused);
  }
  if (memory->target_region == NULL) fail("ibv_reg_mr of pinned memory");
  memory->source_region = ibv_reg_mr(link->domain, memory->source, memory->length, access);
  if (memory->source_region == NULL) fail("ibv_reg_mr of ordinary memory");
}

// A RoCE address made from an IPv4 address, that of the network device beneath.
static int find_address(struct ibv_context* device, union ibv_gid* address) {
  static const unsigned char kPrefix[12] = {[10] = 0xff, [11] = 0xff};
  for (int index = 0; ibv_query_gid(device, kPort, index, address) == 0; ++index) {
    if (memcmp(address->raw, kPrefix, sizeof kPrefix) == 0) return index;
  }
  say("the RDMA device has no IPv4 address");
  exit(kFailed);
}

static void change(struct ibv_qp* queue, struct ibv_qp_attr* attributes, int mask,
                   const char* state) {
  errno = ibv_modify_qp(queue, attributes, mask | IBV_QP_STATE);
  if (errno != 0) fail(state);
}

// A reliable connection whose other end is itself.
static void connect_to_itself(struct Link* link) {
  struct ibv_qp_init_attr wanted = {
      .send_cq = link->completions,
      .recv_cq = link->completions,
      .cap = {.max_send_wr = 16, .max_recv_wr = 16, .max_send_sge = 1, .max_recv_sge = 1},
      .qp_type = IBV_QPT_RC,
  };
  link->queue = ibv_create_qp(link->domain, &wanted);
  if (link->queue == NULL) fail("ibv_create_qp");

  struct ibv_qp_attr init = {
      .qp_state = IBV_QPS_INIT, .port_num = kPort, .qp_access_flags = IBV_ACCESS_REMOTE_WRITE};
  change(link->queue, &init, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS,
         "to state INIT");

  struct ibv_qp_attr receive = {
      .qp_state = IBV_QPS_RTR,
      .path_mtu = IBV_MTU_1024,
      .dest_qp_num = link->queue->qp_num,
      .max_dest_rd_atomic = 1,
      .min_rnr_timer = 12,
      .ah_attr = {.is_global = 1, .port_num = kPort, .grh = {.hop_limit = 64}},
  };
  receive.ah_attr.grh.sgid_index = (uint8_t)find_address(link->device, &receive.ah_attr.grh.dgid);
  change(link->queue, &receive,
         IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
             IBV_QP_MIN_RNR_TIMER,
         "to state RTR");

  // The CPU is an emulated one: 4.3 seconds before it is sent again.
  struct ibv_qp_attr send = {
      .qp_state = IBV_QPS_RTS, .timeout = 20, .retry_cnt = 7, .rnr_retry = 7, .max_rd_atomic = 1};
  change(link->queue, &send,
         IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
             IBV_QP_MAX_QP_RD_ATOMIC,
         "to state RTS");
}

// Bytes that differ from page to page, from seed to seed, and within a page.
static unsigned char expected(size_t at, unsigned seed) {
  return (unsigned char)(at * 31 + (at >> 12) * 7 + seed * 101);
}

static bool write_by_device(const struct Link* link, const struct Memory* memory, unsigned seed) {
  for (size_t at = 0; at < memory->length; ++at) memory->source[at] = expected(at, seed);
  struct ibv_sge part = {.addr = (uintptr_t)memory->source,
                         .length = (uint32_t)memory->length,
                         .lkey = memory->source_region->lkey};
  struct ibv_send_wr request = {
      .sg_list = &part,
      .num_sge = 1,
      .opcode = IBV_WR_RDMA_WRITE,
      .send_flags = IBV_SEND_SIGNALED,
      .wr.rdma = {.remote_addr = (uintptr_t)memory->target, .rkey = memory->target_region->rkey}};
  struct ibv_send_wr* refused = NULL;
  errno = ibv_post_send(link->queue, &request, &refused);
  if (errno != 0) fail("ibv_post_send");
  struct ibv_wc done;
  int count;
  while ((count = ibv_poll_cq(link->completions, 1, &done)) == 0) usleep(1000);
  if (count == 1 && done.status == IBV_WC_SUCCESS) {
    say("ok");
    return true;
  }
  say("the RDMA write failed: %s", count == 1 ? ibv_wc_status_str(done.status) : "ibv_poll_cq");
  return false;
}

static bool check(const struct Memory* memory, unsigned seed) {
  for (size_t at = 0; at < memory->length; ++at) {
    if (memory->target[at] != expected(at, seed)) {
      say("foreign bytes: at %zu is %02x, not %02x", at, memory->target[at], expected(at, seed));
      return false;
    }
  }
  say("ok");
  return true;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: rdma-loopback FILE BYTES\n");
    return 2;
  }
  struct Memory memory = {0};
  memory.target = pin_and_map(argv[1], strtoul(argv[2], NULL, 0), &memory.length);
  memory.source = aligned_alloc(4096, memory.length);
  if (memory.source == NULL) fail("memory");
  struct Link link = open_device();
  register_memory(&link, &memory);
  connect_to_itself(&link);
  say("ok");

  bool well = true;
  char word[16];
  unsigned seed;
  while (scanf("%15s %u", word, &seed) == 2) {
    well &=
        strcmp(word, "write") == 0 ? write_by_device(&link, &memory, seed) : check(&memory, seed);
  }
  return well ? 0 : kFailed;
}
