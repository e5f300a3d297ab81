/* rdma: a file's blocks, written and read by RDMA from elsewhere.
 *
 *   rdma serve FILE BYTES PORT            holds the file's first bytes, and lets clients at them
 *   rdma write ADDRESS PORT OFFSET        standard input goes there (a mebibyte at most)
 *   rdma read ADDRESS PORT OFFSET BYTES   to standard output
 *   rdma stream ADDRESS PORT              until standard input ends: writes, reads back, compares
 *
 * The server pins, maps and registers the range once. From then on the network card writes to the
 * file's blocks and reads them; no CPU of the server has a part in it. A client connects by TCP and
 * gets what it must know: the queue's number, the address and the key.
 *
 * When somebody wants the blocks (a truncate, a punch, a rename over the file), the server is told
 * by its lease. It takes the clients' queues away and ends the registration: from that moment the
 * card refuses the old key, so no client has to be asked. Then it unmaps, unpins, gives the lease
 * up, and takes the file anew, as it is then. A client connects again and gets the new key.
 *
 * What a client has written is in the file at once. It is durable when the server has flushed it,
 * as any store into a view is (client/README.md): this example leaves that out.
 *
 * Without such a card, soft-RoCE will do: rdma link add rxe0 type rxe netdev eth0
 * The pool must lie on device DAX or tmpfs: Linux registers no memory of other DAX filesystems.
 *
 * cc rdma.c $(pkg-config --cflags --libs daxfs libibverbs) -o rdma
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <daxfs.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { kPort = 1, kClients = 16, kMost = 1 << 20, kRefused = 3 };

/* What each side tells the other. A server also says where its memory is. */
struct place {
  uint32_t queue, key;
  uint64_t address, length;
  union ibv_gid gid;
};

static struct ibv_context* device;
static struct ibv_pd* domain;
static struct ibv_cq* completions;
static union ibv_gid gid;
static uint8_t gid_index;

static void open_device(void) {
  static const unsigned char kIpv4[12] = {[10] = 0xff, [11] = 0xff};
  int count = 0;
  struct ibv_device** all = ibv_get_device_list(&count);
  if (all == NULL || count == 0) errx(1, "no RDMA device (rdma link add rxe0 type rxe netdev ...)");
  device = ibv_open_device(all[0]);
  if (device == NULL) err(1, "ibv_open_device");
  ibv_free_device_list(all);
  domain = ibv_alloc_pd(device);
  completions = ibv_create_cq(device, 16, NULL, NULL, 0);
  if (domain == NULL || completions == NULL) err(1, "RDMA device");
  /* A RoCE address that is made from an IPv4 address, which all versions have. */
  for (int i = 0; ibv_query_gid(device, kPort, i, &gid) == 0; ++i) {
    gid_index = (uint8_t)i;
    if (memcmp(gid.raw, kIpv4, sizeof kIpv4) == 0) return;
  }
  errx(1, "the RDMA device has no IPv4 address");
}

static struct ibv_qp* new_queue(void) {
  struct ibv_qp_init_attr wanted = {
      .send_cq = completions,
      .recv_cq = completions,
      .cap = {.max_send_wr = 4, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
      .qp_type = IBV_QPT_RC};
  struct ibv_qp* queue = ibv_create_qp(domain, &wanted);
  if (queue == NULL) err(1, "ibv_create_qp");
  return queue;
}

static void change(struct ibv_qp* queue, struct ibv_qp_attr* to, int mask) {
  errno = ibv_modify_qp(queue, to, mask | IBV_QP_STATE);
  if (errno != 0) err(1, "ibv_modify_qp");
}

static void connect_queue(struct ibv_qp* queue, const struct place* peer) {
  struct ibv_qp_attr init = {.qp_state = IBV_QPS_INIT,
                             .port_num = kPort,
                             .qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ};
  change(queue, &init, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
  struct ibv_qp_attr receive = {
      .qp_state = IBV_QPS_RTR,
      .path_mtu = IBV_MTU_1024,
      .dest_qp_num = peer->queue,
      .max_dest_rd_atomic = 1,
      .min_rnr_timer = 12,
      .ah_attr = {.is_global = 1,
                  .port_num = kPort,
                  .grh = {.dgid = peer->gid, .sgid_index = gid_index, .hop_limit = 64}}};
  change(queue, &receive,
         IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
             IBV_QP_MIN_RNR_TIMER);
  struct ibv_qp_attr send = {
      .qp_state = IBV_QPS_RTS, .timeout = 18, .retry_cnt = 7, .rnr_retry = 7, .max_rd_atomic = 1};
  change(queue, &send,
         IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
             IBV_QP_MAX_QP_RD_ATOMIC);
}

/* Both sides are told the same way: a struct in the order of bytes of the network. */
static int tell(int fd, const struct place* place) {
  struct place out = *place;
  out.queue = htonl(place->queue);
  out.key = htonl(place->key);
  out.address = htobe64(place->address);
  out.length = htobe64(place->length);
  return send(fd, &out, sizeof out, MSG_NOSIGNAL) == (ssize_t)sizeof out ? 0 : -1;
}

static int hear(int fd, struct place* place) {
  if (recv(fd, place, sizeof *place, MSG_WAITALL) != (ssize_t)sizeof *place) return -1;
  place->queue = ntohl(place->queue);
  place->key = ntohl(place->key);
  place->address = be64toh(place->address);
  place->length = be64toh(place->length);
  return 0;
}

/* ---- the server ---- */

struct held {
  int fd;
  uint64_t pin, lease;
  void* memory;
  size_t length;
  struct ibv_mr* region;
};

static struct held held;

/* In this order: once the card has forgotten the memory, nothing writes there any more. */
static void give_back(void) {
  if (ibv_dereg_mr(held.region) != 0) err(1, "ibv_dereg_mr");
  daxfs_unmap(held.memory, held.length);
  if (daxfs_unpin(held.fd, held.pin) != 0) err(1, "unpin");
  daxfs_unlease(held.fd, held.lease);
  close(held.fd);
}

/* The lease may wait for a request that is under way. The pin must not: with a lease we would be
 * waited for by the very request that the pin queues behind. */
static void take(const char* path, size_t bytes) {
again:
  held.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (held.fd < 0) err(1, "%s", path);
  if (daxfs_lease(held.fd, 0, bytes, 0, &held.lease) != 0) err(1, "%s: lease", path);
  const uint32_t flags = DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE | DAXFS_PIN_NOWAIT;
  if (daxfs_pin(held.fd, 0, bytes, flags, &held.pin) != 0) {
    if (errno != EAGAIN) err(1, "%s: pin", path);
    close(held.fd);
    goto again;
  }
  held.memory = daxfs_map(held.fd, held.pin, &held.length);
  if (held.memory == NULL) err(1, "%s: map", path);
  held.region =
      ibv_reg_mr(domain, held.memory, held.length,
                 IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ);
  if (held.region == NULL && errno == EOPNOTSUPP)
    errx(kRefused, "%s: the kernel registers no memory of this pool; lay it onto device DAX", path);
  if (held.region == NULL) err(1, "ibv_reg_mr");
  /* A rename over it may have been under way when we opened it: what we hold has no name then, and
   * nobody would tell us. */
  struct statx now;
  if (statx(held.fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_NLINK, &now) != 0)
    err(1, "%s", path);
  if (now.stx_nlink == 0) {
    give_back();
    goto again;
  }
}

static int is_asked_to_give_way(void) {
  struct daxfs_event event;
  int asked = 0;
  while (daxfs_next_event(held.fd, &event) == 0) asked = 1;
  if (errno != EAGAIN) err(1, "events");
  return asked;
}

/* Briefly: while we wait for a client that says nothing, nobody hears the lease. */
static struct ibv_qp* welcome(int fd) {
  const struct timeval patience = {.tv_sec = 5};
  struct place peer;
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (hear(fd, &peer) != 0) return NULL;
  struct ibv_qp* queue = new_queue();
  connect_queue(queue, &peer);
  const struct place own = {.queue = queue->qp_num,
                            .key = held.region->rkey,
                            .address = (uintptr_t)held.memory,
                            .length = held.length,
                            .gid = gid};
  if (tell(fd, &own) == 0) return queue;
  ibv_destroy_qp(queue);
  return NULL;
}

static int listen_on(uint16_t port) {
  const struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  const int one = 1, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) err(1, "socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (const struct sockaddr*)&any, sizeof any) != 0 || listen(fd, kClients) != 0)
    err(1, "port %u", port);
  return fd;
}

static void drop(const struct pollfd* client, struct ibv_qp* queue) {
  ibv_destroy_qp(queue);
  close(client->fd);
}

/* waits: [0] is the listener, [1] the file, and behind them clients. */
static int serve(const char* path, size_t bytes, uint16_t port) {
  struct pollfd waits[2 + kClients] = {{.fd = listen_on(port), .events = POLLIN}};
  struct ibv_qp* queues[2 + kClients] = {NULL};
  nfds_t count = 2;
  take(path, bytes);
  printf("serving %zu bytes\n", held.length);
  for (;;) {
    fflush(stdout);
    waits[1] = (struct pollfd){.fd = held.fd, .events = POLLPRI};
    if (poll(waits, count, -1) < 0 && errno != EINTR) err(1, "poll");
    for (nfds_t i = count; i-- > 2;) {
      if (waits[i].revents == 0) continue;
      /* It has gone: clients say nothing more. */
      drop(&waits[i], queues[i]);
      waits[i] = waits[--count];
      queues[i] = queues[count];
    }
    if ((waits[1].revents & POLLPRI) && is_asked_to_give_way()) {
      /* No client is asked: without its queue and the key it can do nothing more. */
      while (count > 2) --count, drop(&waits[count], queues[count]);
      give_back();
      take(path, bytes);
      printf("gave way, and holds %zu bytes again\n", held.length);
    }
    if (!(waits[0].revents & POLLIN) || count == 2 + kClients) continue;
    const int client = accept4(waits[0].fd, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0) continue;
    queues[count] = welcome(client);
    waits[count] = (struct pollfd){.fd = client, .events = POLLIN};
    if (queues[count] != NULL)
      ++count;
    else
      close(client);
  }
}

/* ---- the client ---- */

struct remote {
  int fd;
  struct ibv_qp* queue;
  struct place server;
};

static struct remote reach(const char* address, const char* port) {
  struct remote remote;
  struct sockaddr_in where = {.sin_family = AF_INET,
                              .sin_port = htons((uint16_t)strtoul(port, NULL, 10))};
  if (inet_pton(AF_INET, address, &where.sin_addr) != 1) errx(2, "%s: no IPv4 address", address);
  /* First, since a server waits but briefly for us to say something. */
  remote.queue = new_queue();
  remote.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (remote.fd < 0 || connect(remote.fd, (struct sockaddr*)&where, sizeof where) != 0)
    err(1, "%s:%s", address, port);
  const struct place own = {.queue = remote.queue->qp_num, .gid = gid};
  if (tell(remote.fd, &own) != 0 || hear(remote.fd, &remote.server) != 0)
    errx(1, "%s:%s: the server has gone", address, port);
  connect_queue(remote.queue, &remote.server);
  return remote;
}

static void leave(struct remote* remote) {
  ibv_destroy_qp(remote->queue);
  close(remote->fd);
}

/* One request, to its end: 0, or -1 if the server has taken the queue or the key away, which it
 * does when it gives the blocks back. Then there is a new one. */
static int transfer(const struct remote* remote, enum ibv_wr_opcode what, const struct ibv_mr* own,
                    size_t length, uint64_t offset) {
  if (offset > remote->server.length || length > remote->server.length - offset)
    errx(1, "the server has %llu bytes", (unsigned long long)remote->server.length);
  struct ibv_sge part = {
      .addr = (uintptr_t)own->addr, .length = (uint32_t)length, .lkey = own->lkey};
  struct ibv_send_wr request = {
      .sg_list = &part,
      .num_sge = 1,
      .opcode = what,
      .send_flags = IBV_SEND_SIGNALED,
      .wr.rdma = {.remote_addr = remote->server.address + offset, .rkey = remote->server.key}};
  struct ibv_send_wr* bad;
  errno = ibv_post_send(remote->queue, &request, &bad);
  if (errno != 0) err(1, "ibv_post_send");
  struct pollfd server = {.fd = remote->fd, .events = POLLIN};
  struct ibv_wc done;
  int count;
  /* What an earlier queue has left in the same place is not ours. */
  while ((count = ibv_poll_cq(completions, 1, &done)) == 0 ||
         (count == 1 && done.qp_num != remote->queue->qp_num)) {
    if (poll(&server, 1, 0) != 0) return -1;
    usleep(100);
  }
  if (count < 0) errx(1, "ibv_poll_cq");
  if (done.status == IBV_WC_SUCCESS) return 0;
  if (done.status != IBV_WC_REM_ACCESS_ERR && done.status != IBV_WC_RETRY_EXC_ERR)
    errx(1, "%s", ibv_wc_status_str(done.status));
  return -1;
}

/* Bytes that differ from round to round. */
static void fill(unsigned char* bytes, size_t length, unsigned long round) {
  for (size_t i = 0; i < length; ++i) bytes[i] = (unsigned char)(i * 31 + (i >> 8) + round * 101);
}

/* A read that comes after a give-way finds zeroes or another's bytes: only what was written and
 * read with one key is compared. */
static int stream(const char* address, const char* port, const struct ibv_mr* own) {
  static unsigned char expected[1 << 16];
  unsigned char* const bytes = own->addr;
  struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
  unsigned long round = 0, refused = 0;
  struct remote remote = reach(address, port);
  while (poll(&input, 1, 0) == 0) {
    fill(expected, sizeof expected, round);
    memcpy(bytes, expected, sizeof expected);
    int failed = transfer(&remote, IBV_WR_RDMA_WRITE, own, sizeof expected, 0);
    memset(bytes, 0, sizeof expected);
    if (failed == 0) failed = transfer(&remote, IBV_WR_RDMA_READ, own, sizeof expected, 0);
    if (failed != 0) {
      ++refused;
      leave(&remote);
      remote = reach(address, port);
      continue;
    }
    if (memcmp(bytes, expected, sizeof expected) != 0) errx(1, "round %lu: foreign bytes", round);
    if (round++ == 0) printf("streaming\n");
    fflush(stdout);
  }
  leave(&remote);
  printf("%lu rounds, all intact; the server gave way %lu times\n", round, refused);
  return 0;
}

static int once(const char* address, const char* port, int writes, uint64_t offset, size_t length,
                const struct ibv_mr* own) {
  const enum ibv_wr_opcode what = writes ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ;
  for (int failed = -1; failed != 0;) {
    struct remote remote = reach(address, port);
    failed = transfer(&remote, what, own, length, offset);
    leave(&remote);
  }
  if (!writes && fwrite(own->addr, 1, length, stdout) != length) err(1, "standard output");
  return 0;
}

int main(int count, char** words) {
  const char* const what = count >= 4 ? words[1] : "";
  if (strcmp(what, "serve") == 0 && count == 5) {
    open_device();
    return serve(words[2], strtoull(words[3], NULL, 0), (uint16_t)strtoul(words[4], NULL, 10));
  }
  const int writes = strcmp(what, "write") == 0 && count == 5;
  const int reads = strcmp(what, "read") == 0 && count == 6;
  if (!writes && !reads && !(strcmp(what, "stream") == 0 && count == 4))
    errx(2,
         "usage: rdma serve FILE BYTES PORT | write ADDRESS PORT OFFSET | read ADDRESS PORT "
         "OFFSET BYTES | stream ADDRESS PORT");
  open_device();
  static unsigned char memory[kMost];
  size_t length = reads ? strtoull(words[5], NULL, 0) : 0;
  if (length > kMost) errx(2, "at most %d bytes", kMost);
  if (writes) length = fread(memory, 1, kMost, stdin);
  struct ibv_mr* own = ibv_reg_mr(domain, memory, kMost, IBV_ACCESS_LOCAL_WRITE);
  if (own == NULL) err(1, "ibv_reg_mr");
  if (!writes && !reads) return stream(words[2], words[3], own);
  return once(words[2], words[3], writes, strtoull(words[4], NULL, 0), length, own);
}
