// The ABI of daxfs.h, held still: a change of any number below breaks every program that was built
// before.
#include <cstddef>

#include "client/daxfs.h"

namespace {

static_assert(sizeof(daxfs_extent) == 32);
static_assert(offsetof(daxfs_extent, file_offset) == 0);
static_assert(offsetof(daxfs_extent, pool_offset) == 8);
static_assert(offsetof(daxfs_extent, length) == 16);
static_assert(offsetof(daxfs_extent, flags) == 24);
static_assert(offsetof(daxfs_extent, pins) == 28);

static_assert(sizeof(daxfs_pin_args) == 32);
static_assert(offsetof(daxfs_pin_args, offset) == 0);
static_assert(offsetof(daxfs_pin_args, length) == 8);
static_assert(offsetof(daxfs_pin_args, flags) == 16);
static_assert(offsetof(daxfs_pin_args, reserved) == 20);
static_assert(offsetof(daxfs_pin_args, pin_id) == 24);

static_assert(sizeof(daxfs_unpin_args) == 8);
static_assert(offsetof(daxfs_unpin_args, pin_id) == 0);

static_assert(sizeof(daxfs_extents_args) == 16040);
static_assert(offsetof(daxfs_extents_args, pin_id) == 0);
static_assert(offsetof(daxfs_extents_args, offset) == 8);
static_assert(offsetof(daxfs_extents_args, length) == 16);
static_assert(offsetof(daxfs_extents_args, cursor) == 24);
static_assert(offsetof(daxfs_extents_args, count) == 32);
static_assert(offsetof(daxfs_extents_args, more) == 36);
static_assert(offsetof(daxfs_extents_args, extents) == 40);

static_assert(sizeof(daxfs_pool_args) == 4128);
static_assert(offsetof(daxfs_pool_args, map_alignment) == 0);
static_assert(offsetof(daxfs_pool_args, device) == 8);
static_assert(offsetof(daxfs_pool_args, inode) == 16);
static_assert(offsetof(daxfs_pool_args, flags) == 24);
static_assert(offsetof(daxfs_pool_args, reserved) == 28);
static_assert(offsetof(daxfs_pool_args, path) == 32);

static_assert(sizeof(daxfs_query_args) == 16016);
static_assert(offsetof(daxfs_query_args, what) == 0);
static_assert(offsetof(daxfs_query_args, length) == 4);
static_assert(offsetof(daxfs_query_args, cursor) == 8);
static_assert(offsetof(daxfs_query_args, text) == 16);

static_assert(sizeof(daxfs_lease_args) == 32);
static_assert(offsetof(daxfs_lease_args, offset) == 0);
static_assert(offsetof(daxfs_lease_args, length) == 8);
static_assert(offsetof(daxfs_lease_args, flags) == 16);
static_assert(offsetof(daxfs_lease_args, reserved) == 20);
static_assert(offsetof(daxfs_lease_args, lease_id) == 24);

static_assert(sizeof(daxfs_unlease_args) == 8);
static_assert(offsetof(daxfs_unlease_args, lease_id) == 0);

static_assert(sizeof(daxfs_event) == 48);
static_assert(offsetof(daxfs_event, lease_id) == 0);
static_assert(offsetof(daxfs_event, offset) == 8);
static_assert(offsetof(daxfs_event, length) == 16);
static_assert(offsetof(daxfs_event, deadline_ns) == 24);
static_assert(offsetof(daxfs_event, type) == 32);
static_assert(offsetof(daxfs_event, reason) == 36);
static_assert(offsetof(daxfs_event, pid) == 40);
static_assert(offsetof(daxfs_event, reserved) == 44);

static_assert(sizeof(daxfs_policy_args) == 4008);
static_assert(offsetof(daxfs_policy_args, length) == 0);
static_assert(offsetof(daxfs_policy_args, reserved) == 4);
static_assert(offsetof(daxfs_policy_args, text) == 8);

static_assert(sizeof(daxfs_attach_args) == 40);
static_assert(offsetof(daxfs_attach_args, proof) == 0);
static_assert(offsetof(daxfs_attach_args, pool_length) == 8);
static_assert(offsetof(daxfs_attach_args, pin_id) == 16);
static_assert(offsetof(daxfs_attach_args, attachment) == 24);
static_assert(offsetof(daxfs_attach_args, doorbell) == 32);

static_assert(sizeof(daxfs_direct_args) == 16056);
static_assert(offsetof(daxfs_direct_args, pin_id) == 0);
static_assert(offsetof(daxfs_direct_args, offset) == 8);
static_assert(offsetof(daxfs_direct_args, length) == 16);
static_assert(offsetof(daxfs_direct_args, epoch) == 24);
static_assert(offsetof(daxfs_direct_args, additions) == 32);
static_assert(offsetof(daxfs_direct_args, size) == 40);
static_assert(offsetof(daxfs_direct_args, count) == 48);
static_assert(offsetof(daxfs_direct_args, more) == 52);
static_assert(offsetof(daxfs_direct_args, extents) == 56);

static_assert(sizeof(daxfs_remount_args) == 8);
static_assert(offsetof(daxfs_remount_args, read_only) == 0);
static_assert(offsetof(daxfs_remount_args, reserved) == 4);

// The kernel's limit for a FUSE server's ioctls, each way: the size field of the number has 14
// bits.
static_assert(sizeof(daxfs_direct_args) < 16384);
static_assert(sizeof(daxfs_extents_args) < 16384 && sizeof(daxfs_query_args) < 16384);

static_assert(DAXFS_IOC_PIN == 0xC020DA01u);
static_assert(DAXFS_IOC_UNPIN == 0x4008DA02u);
static_assert(DAXFS_IOC_PIN_EXTENTS == 0xFEA8DA03u);
static_assert(DAXFS_IOC_EXTENTS == 0xFEA8DA04u);
static_assert(DAXFS_IOC_POOL == 0x9020DA05u);
static_assert(DAXFS_IOC_QUERY == 0xFE90DA06u);
static_assert(DAXFS_IOC_LEASE == 0xC020DA07u);
static_assert(DAXFS_IOC_UNLEASE == 0x4008DA08u);
static_assert(DAXFS_IOC_NEXT_EVENT == 0x8030DA09u);
static_assert(DAXFS_IOC_ADOPT == 0x4008DA0Au);
static_assert(DAXFS_IOC_POLICY == 0xCFA8DA0Bu);
static_assert(DAXFS_IOC_ATTACH == 0xC028DA0Cu);
static_assert(DAXFS_IOC_DETACH == 0x4008DA0Du);
static_assert(DAXFS_IOC_DIRECT == 0xFEB8DA0Eu);
static_assert(DAXFS_IOC_REMOUNT == 0x4008DA0Fu);

}  // namespace
