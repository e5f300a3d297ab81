/* What daxfs.h promises to programs in C: it compiles as C11, alone, with every warning on. */
#include "client/daxfs.h"

_Static_assert(sizeof(struct daxfs_extent) == 32, "daxfs_extent");
_Static_assert(sizeof(struct daxfs_pin_args) == 32, "daxfs_pin_args");
_Static_assert(sizeof(struct daxfs_unpin_args) == 8, "daxfs_unpin_args");
_Static_assert(sizeof(struct daxfs_extents_args) == 16040, "daxfs_extents_args");
_Static_assert(sizeof(struct daxfs_pool_args) == 4128, "daxfs_pool_args");
_Static_assert(sizeof(struct daxfs_query_args) == 16016, "daxfs_query_args");
_Static_assert(sizeof(struct daxfs_lease_args) == 32, "daxfs_lease_args");
_Static_assert(sizeof(struct daxfs_unlease_args) == 8, "daxfs_unlease_args");
_Static_assert(sizeof(struct daxfs_event) == 48, "daxfs_event");
_Static_assert(sizeof(struct daxfs_policy_args) == 4008, "daxfs_policy_args");
_Static_assert(offsetof(struct daxfs_extents_args, extents) == 40, "daxfs_extents_args.extents");
_Static_assert(offsetof(struct daxfs_query_args, text) == 16, "daxfs_query_args.text");

/* The ioctl numbers as a C compiler sees them, for the C++ side to compare with. */
const unsigned long daxfs_abi_numbers_in_c[] = {
    DAXFS_IOC_PIN,        DAXFS_IOC_UNPIN, DAXFS_IOC_PIN_EXTENTS, DAXFS_IOC_EXTENTS,
    DAXFS_IOC_POOL,       DAXFS_IOC_QUERY, DAXFS_IOC_LEASE,       DAXFS_IOC_UNLEASE,
    DAXFS_IOC_NEXT_EVENT, DAXFS_IOC_ADOPT, DAXFS_IOC_POLICY};

/* Every function can be called from C with the types that the header documents. */
int daxfs_abi_call_all_from_c(int fd) {
  uint64_t pin = 0;
  struct daxfs_extent extent;
  struct iovec part;
  size_t length = 0;
  void* view;
  int failures = 0;
  failures += daxfs_pin(fd, 0, 4096, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin) < 0;
  failures += daxfs_pin_extents(fd, pin, &extent, 1) < 0;
  failures += daxfs_extents(fd, 0, 4096, &extent, 1) < 0;
  view = daxfs_map(fd, pin, &length);
  failures += view == NULL;
  failures += daxfs_map_iov(fd, pin, &part, 1) < 0;
  failures += daxfs_unpin(fd, pin) < 0;
  if (view != NULL) failures += daxfs_unmap(view, length) < 0;
  failures += daxfs_unmap_iov(fd, &part, 1) < 0;
  return failures;
}

/* The same for what that one has no answer for: they are compiled and linked. */
int daxfs_abi_lease_from_c(int fd) {
  uint64_t lease = 0;
  struct daxfs_event event;
  struct iovec part;
  size_t length = 0;
  int failures = 0;
  failures += daxfs_map_at(fd, fd, 1, &length) == NULL;
  failures += daxfs_map_iov_at(fd, fd, 1, &part, 1) < 0;
  failures += daxfs_lease(fd, 0, 4096, DAXFS_LEASE_EXCLUSIVE | DAXFS_LEASE_NOWAIT, &lease) < 0;
  failures += daxfs_next_event(fd, &event) < 0;
  failures += daxfs_unlease(fd, lease) < 0;
  failures += daxfs_adopt(fd, 1) < 0;
  return failures;
}
