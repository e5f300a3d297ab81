/* SPDX-License-Identifier: Apache-2.0
 *
 * daxfs.h: pins and layout leases on files of a daxfs mount. A pin promises that no other file gets
 * the blocks of a range; a lease is the right to be told before they are taken away.
 *
 * A pin or lease belongs to the open file description that took it (its holder). It ends at the
 * last close. If the process died, its pins stay for exit_grace= (see daxfs_unpin()). Everything
 * here is a plain ioctl on a descriptor of a file in the mount; libdaxfs only wraps them.
 * Thread-safe. All functions return 0 or a count, or -1 with errno; but daxfs_map() and
 * daxfs_map_at() return an address, or NULL with errno.
 */
#ifndef DAXFS_H
#define DAXFS_H

#include <linux/ioctl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__) || defined(__clang__)
#pragma GCC visibility push(default)
#endif

#define DAXFS_BLOCK_SIZE 4096u

/* flags of daxfs_pin() */
/* bounded: detaches wait for it (short_timeout); default: long-term */
#define DAXFS_PIN_SHORT 0x1u
/* the holder will write; needs a descriptor open for writing */
#define DAXFS_PIN_WRITE 0x2u
/* fill holes with zeroed blocks (and extend the file); else ENXIO */
#define DAXFS_PIN_ALLOCATE 0x4u
/* EAGAIN instead of queueing behind a waiting detach */
#define DAXFS_PIN_NOWAIT 0x8u

/* flags of struct daxfs_extent */
/* allocated, reads as zeroes */
#define DAXFS_EXTENT_UNWRITTEN 0x1u
/* the pin is one for writing (in the answer of DAXFS_IOC_PIN_EXTENTS) */
#define DAXFS_EXTENT_WRITABLE 0x2u

/* A run of blocks of a file. Bytes; multiples of the block size (4096). */
struct daxfs_extent {
  uint64_t file_offset;
  uint64_t pool_offset;
  uint64_t length;
  uint32_t flags; /* DAXFS_EXTENT_* */
  uint32_t pins;  /* pins that cover (part of) it, long and short */
};

/* Pins [offset, offset + length) of the file (whole blocks around it).
 * EBADF: descriptor not open for reading (or, with DAXFS_PIN_WRITE or _ALLOCATE, writing); EINVAL:
 * length 0, range past 2^63 - 1, unknown flags, not a regular file; ENXIO: a hole and no
 * DAXFS_PIN_ALLOCATE; ENOSPC; ENOMEM: pin_limit, user_limit; EOPNOTSUPP: longterm=forbid; EPERM:
 * longterm=lease without one; EAGAIN: DAXFS_PIN_NOWAIT and a detach waits for this range (or a
 * truncate for the file, while the kernel has cached pages of it: it can write none then, and the
 * pin comes behind the truncate); EINTR; EROFS: blocks are missing, and the mount is read-only;
 * EIO: the storage has failed; ENOTTY: not a daxfs file.
 *
 * With the page cache: what programs have stored by write(2) or through ordinary mappings is in the
 * medium when the pin is granted. Of what the holder of a write pin stores from then on,
 *  - descriptors that are opened while a write pin is there see everything, as O_DIRECT does;
 *  - older ones, and ordinary mappings, may show a page as it was when the kernel last read it.
 *    That ends when a write pin of the file is given back, and when anybody pins it, asks for its
 *    extents, data or holes, or writes with O_DIRECT.
 * What an ordinary mapping stores meanwhile comes to the medium when the kernel writes it back
 * (msync), and only the bytes that were stored: the holder's in the same page stay. Where both
 * have stored to the same byte, either may win. */
int daxfs_pin(int fd, uint64_t offset, uint64_t length, uint32_t flags, uint64_t* pin_id);

/* Gives the pin back, and its blocks are free to go at once: end what a device does with them
 * first. ENOENT: no such pin of this open file description.
 *
 * The last close of the descriptor does the same if the process that closes it goes on. If it dies
 * or executes another program, what it has submitted to a device cannot be recalled: its pins stay
 * for exit_grace=, or until no page of the machine is pinned. The kernel does not say who closes.
 * It is seen of every process that took a pin through the descriptor or asked where it lies
 * (daxfs_map()), and of a child of such a process that has just ended. It is not seen:
 *   - of others that got the descriptor (by SCM_RIGHTS, or from a parent that has ended) and never
 *     used it here; nor of a child if its parent ignores SIGCHLD: call daxfs_map() there;
 *   - that a ring or a memory region lives on in another process, after the last descriptor was
 *     closed: keep the descriptor open as long as any of these;
 *   - of vmsplice() and MSG_ZEROCOPY, whose pages the kernel does not count: exit_grace= alone.
 * Where none of this can be seen (a process of another pid namespace), a close ends its pins once
 * no page of the machine is pinned, or after exit_grace=; daxfs_unpin() is at once there as well.
 */
int daxfs_unpin(int fd, uint64_t pin_id);

/* The pinned extents in file order. Returns how many there are, and fills in at most `capacity`. */
ssize_t daxfs_pin_extents(int fd, uint64_t pin_id, struct daxfs_extent* out, size_t capacity);

/* The extents of any range of the file (holes are left out), with their pin counts. */
ssize_t daxfs_extents(int fd, uint64_t offset, uint64_t length, struct daxfs_extent* out,
                      size_t capacity);

/* Maps the pinned blocks as one contiguous view of the medium; writable if the pin is
 * (DAXFS_PIN_WRITE).
 *
 * The address returned is that of the first byte of the first pinned *block*, and *length is the
 * length of all pinned blocks. So after daxfs_pin(fd, offset, ...), byte `o` of the file is at
 *     (char *)address + (o - offset / DAXFS_BLOCK_SIZE * DAXFS_BLOCK_SIZE)
 * and the address may be given to daxfs_unmap() (or munmap()) as it is.
 *
 * Opens the pool with the caller's rights at the daemon's path, or else at $DAXFS_POOL, and locks a
 * byte of it for later daemons. MAP_SYNC where the medium can, else MAP_SHARED alone; all or
 * nothing. NULL, errno: EACCES, ENOENT: the caller cannot open the pool; ESTALE: another file is
 * there; ENOENT: no such pin of this open file description; EOPNOTSUPP: the device maps in larger
 * steps than these extents have (2 MiB), use daxfs_map_iov(); ENOMEM: no room, or more pieces than
 * vm.max_map_count. The view must not be used after the pin is gone; unmap it first. */
void* daxfs_map(int fd, uint64_t pin_id, size_t* length);
int daxfs_unmap(void* address, size_t length);

/* One address per extent of daxfs_pin_extents(), in that order; always possible. Returns how many
 * extents there are; fails with ENOSPC if that is more than `capacity` (query with capacity 0:
 * returns the count and maps nothing). Otherwise errors are daxfs_map()'s. Where the device maps in
 * larger steps, the blocks around an extent are mapped with it: they are other files', keep off.
 * Give all of the addresses back, unchanged, with daxfs_unmap_iov(); that also works when the
 * daemon is gone. */
ssize_t daxfs_map_iov(int fd, uint64_t pin_id, struct iovec* out, size_t capacity);
int daxfs_unmap_iov(int fd, const struct iovec* iov, size_t count);

/* The same with a descriptor of the pool, for a caller that was given one by another process, or
 * that finds the pool elsewhere: open for reading, and for writing if the pin is. EBADF; ESTALE: of
 * another file; EACCES: not open for writing. The lock is on an open file of the library's own
 * where this process may open the pool; else on that of `pool`, and then it stays until that is
 * closed. */
void* daxfs_map_at(int pool, int fd, uint64_t pin_id, size_t* length);
ssize_t daxfs_map_iov_at(int pool, int fd, uint64_t pin_id, struct iovec* out, size_t capacity);

/* Takes over a long-term pin that this process took before the daemon died (the same process, not
 * a child of it): from now on it belongs to this descriptor, which must be open on the same file,
 * and for writing if the pin is. ENOENT: no such pin is left over; EPERM: another process's, or
 * another file's; EBADF. */
int daxfs_adopt(int fd, uint64_t pin_id);

/* flags of daxfs_lease() */
/* requests to take the blocks away fail with ETXTBSY, instead of breaking the lease, unless they
 * come through this descriptor (or a copy of it); needs a descriptor open for writing */
#define DAXFS_LEASE_EXCLUSIVE 0x1u
/* EAGAIN instead of queueing behind a waiting detach */
#define DAXFS_LEASE_NOWAIT 0x2u
/* *lease_id is a lease that you have: give up what lies outside [offset, offset + length) */
#define DAXFS_LEASE_SHRINK 0x4u

/* Takes a layout lease over [offset, offset + length) (whole blocks around it), holes and what lies
 * behind the end included. Before a truncate, punch or rename over the file changes where the range
 * lies, you are told: poll(2) says POLLPRI, daxfs_next_event() says the rest. Not told: what is
 * asked through this open file description itself (ftruncate(), fallocate()), by whichever process.
 * Your own process's truncate by path, or through another open(), is told like others'; where it
 * would wait for nothing but its own process's pins and leases (pin_policy=break), it fails with
 * EDEADLK.
 * EBADF: descriptor not open for reading (exclusive: for writing); EINVAL: length 0, range past
 * 2^63 - 1, unknown flags, not a regular file, SHRINK to more than you have; EAGAIN: another
 * holder's lease is there, and one of both is exclusive, or NOWAIT and a detach waits; ENOLCK: more
 * than 4096 leases; EINTR; SHRINK: ENOENT, EBUSY as for daxfs_unlease(). */
int daxfs_lease(int fd, uint64_t offset, uint64_t length, uint32_t flags, uint64_t* lease_id);

/* Gives the lease up. ENOENT: no such lease of this open file description; EBUSY: the mount is
 * longterm=lease, and a long-term pin of yours needs it (unpin first). */
int daxfs_unlease(int fd, uint64_t lease_id);

/* daxfs_event.type */
/* give way: unpin and give up or shrink the lease, until `deadline_ns`. A holder that reads it late
 * (it was stopped, or busy) can ask whether a request still waits: DAXFS_QUERY_LEASES with the
 * cursor lease_id - 1 begins with this lease, and its "breaking" says so */
#define DAXFS_EVENT_BREAK 1u
/* nothing to answer: the layout changes (deadline_ns is 0), or the lease was taken away because the
 * time was up */
#define DAXFS_EVENT_CHANGED 2u
#define DAXFS_EVENT_REVOKED 3u

/* daxfs_event.reason */
#define DAXFS_REASON_TRUNCATE 1u
#define DAXFS_REASON_PUNCH 2u
#define DAXFS_REASON_RENAME 3u

struct daxfs_event {
  uint64_t lease_id;
  uint64_t offset; /* the part of the lease that is asked for, in bytes, whole blocks */
  uint64_t length;
  uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0: none */
  uint32_t type;        /* DAXFS_EVENT_* */
  uint32_t reason;      /* DAXFS_REASON_* */
  int32_t pid;          /* the process that asks; 0: unknown */
  uint32_t reserved;
};

/* The next event of this descriptor's leases. Several requests for one lease come as one event,
 * whose range covers them all. EAGAIN: there is none (also without any lease). */
int daxfs_next_event(int fd, struct daxfs_event* out);

/* ---- direct access: EXPERIMENTAL, for mounts with the option `direct`; may change until it is
 * released ---- */

/* A file that this process reads and writes by itself, at the speed of memory. */
struct daxfs_direct;

/* Attaches to the file of a descriptor: from now on the functions below copy between memory and the
 * file's blocks without a system call, where they can; where they cannot they make the system call
 * of their name. Other programs see what they do as they see pread(2) and pwrite(2) on a descriptor
 * with O_DIRECT. While a copy lasts it is a short-term pin: a truncate, punch or rename over the
 * file by anybody waits for it, and no copy touches a block that is another file's by then, whoever
 * is killed or stopped.
 *
 * It uses an open file of its own (/proc/self/fd), with the rights of `fd`, which may be closed. As
 * long as somebody is attached, descriptors that are opened do not use the kernel's page cache;
 * where others do, by an ordinary mapping for instance, everybody goes through the kernel until a
 * tenth of a second after that. NULL, errno: EOPNOTSUPP: the mount is without `direct`, or the
 * medium needs more than stores, or a set-user-id file is open for writing; EACCES: the caller
 * cannot open the pool for writing (as for daxfs_map(), also ENOENT, ESTALE); EINVAL: not a regular
 * file; EROFS; ENOSPC, ENOMEM; ENOTTY: not a daxfs file; and those of open(2).
 *
 * One thing is taken from the process: SIGBUS, which is handed on where it does not come from a
 * copy here. Storage that is lost below the pool is EIO. A forked child may go on using what its
 * parent has attached, by system calls, and may attach itself. In a signal handler that has
 * interrupted one of these functions: not one of them, and no truncate of the same file, which
 * would wait for itself. */
struct daxfs_direct* daxfs_attach(int fd);
/* Detaches: no other function may be running on it, or follow. Always 0. */
int daxfs_detach(struct daxfs_direct* direct);

/* As pread(2), pwrite(2), preadv(2), pwritev(2). Thread-safe. What a write has returned is durable;
 * its time (mtime) may be lost in a crash. Where a buffer cannot be read or written: SIGSEGV, as
 * with memcpy(). Like all accesses to DAX, and unlike with a page cache, two that overlap in time
 * can each see a part of the other. */
ssize_t daxfs_pread(struct daxfs_direct* direct, void* buffer, size_t length, uint64_t offset);
ssize_t daxfs_pwrite(struct daxfs_direct* direct, const void* buffer, size_t length,
                     uint64_t offset);
ssize_t daxfs_preadv(struct daxfs_direct* direct, const struct iovec* iov, int count,
                     uint64_t offset);
ssize_t daxfs_pwritev(struct daxfs_direct* direct, const struct iovec* iov, int count,
                      uint64_t offset);

struct daxfs_counts {
  uint64_t direct;
  uint64_t by_kernel;
};
/* How many of these calls went which way. Always 0. */
int daxfs_direct_counts(const struct daxfs_direct* direct, struct daxfs_counts* out);

/* ---- the ioctls beneath; every struct has the same layout on all 64- and 32-bit systems ---- */

struct daxfs_pin_args {
  uint64_t offset;
  uint64_t length;
  uint32_t flags;
  uint32_t reserved; /* 0 */
  uint64_t pin_id;   /* out */
};

struct daxfs_unpin_args {
  uint64_t pin_id;
};

#define DAXFS_EXTENTS_PER_CALL 500u
struct daxfs_extents_args {
  uint64_t pin_id; /* DAXFS_IOC_PIN_EXTENTS */
  uint64_t offset; /* DAXFS_IOC_EXTENTS: file range */
  uint64_t length;
  uint64_t cursor; /* in: 0 to begin; out: pass it on to continue */
  uint32_t count;  /* out: extents in this answer */
  uint32_t more;   /* out: 1 if a further call gives more */
  struct daxfs_extent extents[DAXFS_EXTENTS_PER_CALL]; /* out */
};

struct daxfs_lease_args {
  uint64_t offset;
  uint64_t length;
  uint32_t flags;
  uint32_t reserved; /* 0 */
  uint64_t lease_id; /* out; with DAXFS_LEASE_SHRINK also in */
};

struct daxfs_unlease_args {
  uint64_t lease_id;
};

#define DAXFS_POOL_DEVICE_DAX 0x1u /* a character device: mapping steps are map_alignment */
struct daxfs_pool_args {
  uint64_t map_alignment; /* mmap offsets and lengths are multiples of it */
  uint64_t device;        /* st_dev and st_ino of the pool as the daemon has it open */
  uint64_t inode;
  uint32_t flags; /* DAXFS_POOL_* */
  uint32_t reserved;
  char path[4096];
};

/* Reports, as JSON objects, one a line; `cursor` goes from 0 to DAXFS_QUERY_END. */
#define DAXFS_QUERY_STATUS 1u
#define DAXFS_QUERY_PINS 2u
#define DAXFS_QUERY_LIMBO 3u
#define DAXFS_QUERY_EXTENTS 4u /* of the file that the descriptor is open on */
#define DAXFS_QUERY_LEASES 5u
#define DAXFS_QUERY_WAITING 6u
#define DAXFS_QUERY_ATTACHED 7u /* who copies by itself: daxfs_attach() */
#define DAXFS_QUERY_END UINT64_MAX
struct daxfs_query_args {
  uint32_t what;
  uint32_t length; /* out: bytes of text */
  uint64_t cursor; /* in and out */
  char text[16000];
};

/* Switches policies: `text` holds `defer` or `pin_policy=defer,wait_timeout=5s`, all of it or
 * nothing. The call fails with EPERM, or with EINVAL and a sentence for people in `text`. Who calls
 * counts, not who opened the descriptor: no program makes this call by accident. */
struct daxfs_policy_args {
  uint32_t length; /* bytes of text, in and out */
  uint32_t reserved;
  char text[4000];
};

/* Direct access; EXPERIMENTAL, may change until it is released. daxfs_attach() is the way to use
 * it: what a client owes the daemon is said in client/doorbell.h and docs/direct-access.md of the
 * source. `proof`: the caller has an exclusive open-file-description lock of byte 2^62 + 2^61 +
 * proof of the pool, as only who can open it for writing can. Then, before the doorbell is mapped
 * and anything is stored there: a shared one of byte 2^62 + pin_id, on the open file that is
 * mapped. */
struct daxfs_attach_args {
  uint64_t proof;
  uint64_t pool_length; /* 0; out: in bytes */
  uint64_t pin_id; /* out: names it for DAXFS_IOC_DETACH (a struct daxfs_unpin_args) and _DIRECT */
  uint64_t attachment; /* out: whose slots are whose */
  uint64_t doorbell;   /* out: a page of the pool, as an offset */
};

#define DAXFS_EPOCH_NONE UINT64_MAX /* closed: go through the kernel */
struct daxfs_direct_args {
  uint64_t pin_id;
  uint64_t offset; /* a range of the file, from which to begin; holes are left out */
  uint64_t length;
  uint64_t epoch;     /* out: for as long as the doorbell says this, the extents are valid */
  uint64_t additions; /* out: and complete, for as long as it says this */
  uint64_t size;      /* out: of the file */
  uint32_t count;     /* out: extents in this answer */
  uint32_t more;      /* out: 1 if there are more behind the last of them */
  struct daxfs_extent extents[DAXFS_EXTENTS_PER_CALL]; /* out; `pins` says nothing */
};

/* What mount -o remount asks of the daemon once the kernel lets nobody write: 1, no file is changed
 * from now on (pins go on, and are recorded); 0, as before. EPERM; EBUSY: there are write pins,
 * or somebody copies whose descriptor is closed; EROFS: the pool is not open for writing. */
struct daxfs_remount_args {
  uint32_t read_only;
  uint32_t reserved; /* 0 */
};

#define DAXFS_IOC_MAGIC 0xDA
#define DAXFS_IOC_PIN _IOWR(DAXFS_IOC_MAGIC, 1, struct daxfs_pin_args)
#define DAXFS_IOC_UNPIN _IOW(DAXFS_IOC_MAGIC, 2, struct daxfs_unpin_args)
#define DAXFS_IOC_PIN_EXTENTS _IOWR(DAXFS_IOC_MAGIC, 3, struct daxfs_extents_args)
#define DAXFS_IOC_EXTENTS _IOWR(DAXFS_IOC_MAGIC, 4, struct daxfs_extents_args)
#define DAXFS_IOC_POOL _IOR(DAXFS_IOC_MAGIC, 5, struct daxfs_pool_args)
#define DAXFS_IOC_QUERY _IOWR(DAXFS_IOC_MAGIC, 6, struct daxfs_query_args)
#define DAXFS_IOC_LEASE _IOWR(DAXFS_IOC_MAGIC, 7, struct daxfs_lease_args)
#define DAXFS_IOC_UNLEASE _IOW(DAXFS_IOC_MAGIC, 8, struct daxfs_unlease_args)
#define DAXFS_IOC_NEXT_EVENT _IOR(DAXFS_IOC_MAGIC, 9, struct daxfs_event)
#define DAXFS_IOC_ADOPT _IOW(DAXFS_IOC_MAGIC, 10, struct daxfs_unpin_args)
#define DAXFS_IOC_POLICY _IOWR(DAXFS_IOC_MAGIC, 11, struct daxfs_policy_args)
#define DAXFS_IOC_ATTACH _IOWR(DAXFS_IOC_MAGIC, 12, struct daxfs_attach_args)
#define DAXFS_IOC_DETACH _IOW(DAXFS_IOC_MAGIC, 13, struct daxfs_unpin_args)
#define DAXFS_IOC_DIRECT _IOWR(DAXFS_IOC_MAGIC, 14, struct daxfs_direct_args)
#define DAXFS_IOC_REMOUNT _IOW(DAXFS_IOC_MAGIC, 15, struct daxfs_remount_args)

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
