// The C interface (client/daxfs.h): pins, extents, reports. Numbers carry the size of their struct,
// so one of a wrong size is an unknown number: ENOTTY.
#include <sys/stat.h>

#include <cstring>

#include "client/daxfs.h"
#include "fuse_ops/ops_control.h"
#include "fuse_ops/ops_flags.h"
#include "fuse_ops/shutdown.h"

namespace daxfs::ops {
namespace {

template <class T>
T argument(const void* in) {
  T out;
  std::memcpy(&out, in, sizeof out);
  return out;
}

template <class T>
void answer(fuse_req_t req, const T& out) {
  fuse_reply_ioctl(req, 0, &out, sizeof out);
}

void reply_ioctl(fuse_req_t req, const Status& status) {
  if (status) {
    fuse_reply_ioctl(req, 0, nullptr, 0);
  } else {
    fuse_reply_err(req, status.error().code);
  }
}

void pin(fuse_req_t req, daxfs_pin_args args, OpenFile& opened) {
  if (args.reserved != 0) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  const auto waiting = Waiting::of(req);
  fs(req).pins().pin(opened, {FileOffset(args.offset), ByteCount(args.length), args.flags},
                     caller(req), waiting->cancellation(),
                     [waiting, args](const Result<PinId>& pinned) {
                       fuse_req_t answered = waiting->finish();
                       if (!pinned) {
                         fuse_reply_err(answered, pinned.error().code);
                         return;
                       }
                       daxfs_pin_args out = args;
                       out.pin_id = pinned->value;
                       answer(answered, out);
                     });
}

void unpin(fuse_req_t req, const daxfs_unpin_args& args, OpenFile& opened) {
  fs(req).pins().unpin(opened, PinId{args.pin_id},
                       [req](const Status& status) { reply_ioctl(req, status); });
}

void lease(fuse_req_t req, daxfs_lease_args args, OpenFile& opened) {
  if (args.reserved != 0) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  const auto waiting = Waiting::of(req);
  fs(req).leases().lease(opened, {FileOffset(args.offset), ByteCount(args.length), args.flags},
                         LeaseId{args.lease_id}, caller(req), waiting->cancellation(),
                         [waiting, args](const Result<LeaseId>& taken) {
                           fuse_req_t answered = waiting->finish();
                           if (!taken) {
                             fuse_reply_err(answered, taken.error().code);
                             return;
                           }
                           daxfs_lease_args out = args;
                           out.lease_id = taken->value;
                           answer(answered, out);
                         });
}

std::uint32_t type_of(const LeaseNews& news) {
  if (news.kind == LeaseNews::Kind::revoked) return DAXFS_EVENT_REVOKED;
  return news.deadline ? DAXFS_EVENT_BREAK : DAXFS_EVENT_CHANGED;
}

std::uint32_t reason_of(const LeaseNews& news) {
  switch (news.reason) {
    case DetachReason::truncate:
      return DAXFS_REASON_TRUNCATE;
    case DetachReason::punch:
      return DAXFS_REASON_PUNCH;
    case DetachReason::rename_over:
      return DAXFS_REASON_RENAME;
  }
  return 0;
}

void next_event(fuse_req_t req, OpenFile& opened) {
  const auto news = fs(req).leases().next_news(opened);
  if (!news) {
    fuse_reply_err(req, news.error().code);
    return;
  }
  daxfs_event out{};
  out.lease_id = news->lease.value;
  out.offset = offset_of(news->range.start).value;
  out.length = bytes(news->range.count).value;
  if (const auto& deadline = news->deadline) {
    // libstdc++'s steady clock is CLOCK_MONOTONIC.
    out.deadline_ns =
        static_cast<std::uint64_t>(std::chrono::nanoseconds(deadline->time_since_epoch()).count());
  }
  out.type = type_of(*news);
  out.reason = reason_of(*news);
  out.pid = news->process;
  answer(req, out);
}

// What is wrong comes in the text, beside the error.
void set_policy(fuse_req_t req, daxfs_policy_args args) {
  if (args.length > sizeof args.text || args.reserved != 0) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  const auto set = fs(req).policies().set({args.text, args.length}, caller(req));
  args = {};
  if (set) {
    answer(req, args);
    return;
  }
  const std::string_view why = std::string_view(set.error().text).substr(0, sizeof args.text);
  std::memcpy(args.text, why.data(), why.size());
  args.length = static_cast<std::uint32_t>(why.size());
  fuse_reply_ioctl(req, -set.error().code, &args, sizeof args);
}

void remount(fuse_req_t req, const daxfs_remount_args& args) {
  if (args.read_only > 1 || args.reserved != 0) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  reply_ioctl(req, fs(req).remount().set_read_only(args.read_only == 1, caller(req)));
}

void answer_extents(fuse_req_t req, daxfs_extents_args args, const Result<PinnedExtents>& found,
                    bool cursor_is_index) {
  if (!found) {
    fuse_reply_err(req, found.error().code);
    return;
  }
  args.count = 0;
  args.more = found->more ? 1 : 0;
  for (const PinnedExtent& extent : found->extents) {
    const std::uint32_t flags = (extent.unwritten ? DAXFS_EXTENT_UNWRITTEN : 0u) |
                                (found->writable ? DAXFS_EXTENT_WRITABLE : 0u);
    args.extents[args.count++] = {.file_offset = extent.file.value,
                                  .pool_offset = extent.pool.value,
                                  .length = extent.length.value,
                                  .flags = flags,
                                  .pins = extent.pins.long_term + extent.pins.short_term};
    if (!cursor_is_index) args.cursor = (extent.file + extent.length).value;
  }
  if (cursor_is_index) args.cursor += args.count;
  answer(req, args);
}

void pin_extents(fuse_req_t req, daxfs_extents_args args, OpenFile& opened) {
  fs(req).files().note_user(opened, caller(req));
  const auto found =
      fs(req).extents().of_pin(opened, PinId{args.pin_id}, args.cursor, DAXFS_EXTENTS_PER_CALL);
  answer_extents(req, args, found, true);
}

// The cursor of a range is the file offset to go on from; 0 begins at args.offset.
void extents(fuse_req_t req, daxfs_extents_args args, OpenFile& opened) {
  std::uint64_t from = args.offset;
  std::uint64_t length = args.length;
  if (args.cursor > args.offset && length > 0) {
    const std::uint64_t skipped = args.cursor - args.offset;
    if (skipped >= length) {
      answer_extents(req, args, PinnedExtents{}, false);
      return;
    }
    from += skipped;
    length -= skipped;
  }
  answer_extents(req, args,
                 fs(req).extents().of_range(opened, FileOffset(from), ByteCount(length),
                                            DAXFS_EXTENTS_PER_CALL),
                 false);
}

void attach(fuse_req_t req, daxfs_attach_args args, OpenFile& opened) {
  if (args.pool_length != 0) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  const auto terms = fs(req).direct_access().attach(opened, args.proof, caller(req));
  if (!terms) {
    fuse_reply_err(req, terms.error().code);
    return;
  }
  // Of its times nobody tells the kernel from now on.
  fs(req).kernel_pages().attributes_changed(opened.inode->number);
  args.pool_length = fs(req).mount().volume.medium().size().value;
  args.pin_id = terms->pin.value;
  args.attachment = static_cast<std::uint64_t>(terms->attachment);
  args.doorbell = terms->page.value;
  answer(req, args);
}

void direct(fuse_req_t req, daxfs_direct_args args, OpenFile& opened, bool pages_dropped) {
  const auto where =
      fs(req).direct_access().where(opened, PinId{args.pin_id}, FileOffset(args.offset),
                                    ByteCount(args.length), DAXFS_EXTENTS_PER_CALL, pages_dropped);
  if (!where) {
    fuse_reply_err(req, where.error().code);
    return;
  }
  args.epoch = where->epoch.value_or(DAXFS_EPOCH_NONE);
  args.additions = where->additions;
  args.size = where->size;
  args.count = 0;
  args.more = where->found.more ? 1 : 0;
  for (const PinnedExtent& extent : where->found.extents) {
    args.extents[args.count++] = {.file_offset = extent.file.value,
                                  .pool_offset = extent.pool.value,
                                  .length = extent.length.value,
                                  .flags = extent.unwritten ? DAXFS_EXTENT_UNWRITTEN : 0u,
                                  .pins = 0};
  }
  answer(req, args);
}

void pool(fuse_req_t req) {
  const Pool* const in_use = fs(req).mount().pool;
  if (in_use == nullptr) {
    fuse_reply_err(req, ENODEV);
    return;
  }
  struct stat attributes {};
  if (fstat(in_use->descriptor(), &attributes) != 0) {
    fuse_reply_err(req, errno);
    return;
  }
  daxfs_pool_args out{};
  if (in_use->path().size() >= sizeof out.path) {
    fuse_reply_err(req, ENAMETOOLONG);
    return;
  }
  out.map_alignment = in_use->map_alignment();
  out.device = attributes.st_dev;
  out.inode = attributes.st_ino;
  out.flags = in_use->is_device_dax() ? DAXFS_POOL_DEVICE_DAX : 0;
  std::memcpy(out.path, in_use->path().data(), in_use->path().size());
  answer(req, out);
}

void query(fuse_req_t req, daxfs_query_args args, OpenFile* opened) {
  std::string text;
  const Status status =
      fs(req).reports().report(args.what, args.cursor, sizeof args.text, text, opened, caller(req));
  if (!status) {
    fuse_reply_err(req, status.error().code);
    return;
  }
  args.length = static_cast<std::uint32_t>(text.size());
  std::memset(args.text, 0, sizeof args.text);
  std::memcpy(args.text, text.data(), text.size());
  answer(req, args);
}

void query_settled(fuse_req_t req, const daxfs_query_args& args, const OpenFileRef& opened) {
  if (!opened || args.what != DAXFS_QUERY_EXTENTS) return query(req, args, opened.get());
  fs(req).kernel_pages().write_back(*opened,
                                    [req, opened, args](bool) { query(req, args, opened.get()); });
}

// What is about the whole mount, by way of anything in it, answered; false: it is none of that.
bool ioctl_of_mount(fuse_req_t req, unsigned command, const void* in, const OpenFileRef& opened) {
  switch (command) {
    case DAXFS_IOC_POOL:
      pool(req);
      return true;
    case DAXFS_IOC_QUERY:
      query_settled(req, argument<daxfs_query_args>(in), opened);
      return true;
    case DAXFS_IOC_POLICY:
      set_policy(req, argument<daxfs_policy_args>(in));
      return true;
    case DAXFS_IOC_REMOUNT:
      remount(req, argument<daxfs_remount_args>(in));
      return true;
    case kShutdown:
      shut_down(req);
      return true;
    default:
      return false;
  }
}

void ioctl(fuse_req_t req, fuse_ino_t inode, unsigned command, void*, fuse_file_info* info,
           unsigned flags, const void* in, std::size_t in_size, std::size_t out_size) {
  const bool no_file = (flags & FUSE_IOCTL_DIR) != 0 || is_control(inode);
  const OpenFileRef opened = no_file ? nullptr : file(info);
  if (is_about_flags(command)) {
    if (is_control(inode)) return reply(req, fail(ENOTTY));
    return ioctl_flags(req, inode, command, opened, in, in_size);
  }
  if (in_size < ((_IOC_DIR(command) & _IOC_WRITE) != 0 ? _IOC_SIZE(command) : 0) ||
      out_size < ((_IOC_DIR(command) & _IOC_READ) != 0 ? _IOC_SIZE(command) : 0)) {
    fuse_reply_err(req, ENOTTY);
    return;
  }
  if (ioctl_of_mount(req, command, in, opened)) return;
  if (opened == nullptr) {
    // A directory, or what is told as a file: it has no extents, and holds no pins.
    const bool asks_for_range = command == DAXFS_IOC_PIN || command == DAXFS_IOC_EXTENTS ||
                                command == DAXFS_IOC_LEASE || command == DAXFS_IOC_ATTACH;
    const bool names_one = command == DAXFS_IOC_UNPIN || command == DAXFS_IOC_PIN_EXTENTS ||
                           command == DAXFS_IOC_UNLEASE || command == DAXFS_IOC_ADOPT ||
                           command == DAXFS_IOC_DETACH || command == DAXFS_IOC_DIRECT;
    if (command == DAXFS_IOC_NEXT_EVENT) {
      fuse_reply_err(req, EAGAIN);
    } else {
      fuse_reply_err(req, asks_for_range ? EINVAL : names_one ? ENOENT : ENOTTY);
    }
    return;
  }
  switch (command) {
    case DAXFS_IOC_PIN:
      return pin(req, argument<daxfs_pin_args>(in), *opened);
    case DAXFS_IOC_UNPIN:
      return unpin(req, argument<daxfs_unpin_args>(in), *opened);
    case DAXFS_IOC_PIN_EXTENTS:
      return pin_extents(req, argument<daxfs_extents_args>(in), *opened);
    case DAXFS_IOC_EXTENTS:
      return fs(req).kernel_pages().write_back(
          *opened, [req, opened, args = argument<daxfs_extents_args>(in)](bool) {
            extents(req, args, *opened);
          });
    case DAXFS_IOC_LEASE:
      return lease(req, argument<daxfs_lease_args>(in), *opened);
    case DAXFS_IOC_UNLEASE:
      return reply_ioctl(req, fs(req).leases().unlease(
                                  *opened, LeaseId{argument<daxfs_unlease_args>(in).lease_id}));
    case DAXFS_IOC_NEXT_EVENT:
      return next_event(req, *opened);
    case DAXFS_IOC_ADOPT:
      return reply_ioctl(
          req, fs(req).files().adopt(*opened, PinId{argument<daxfs_unpin_args>(in).pin_id},
                                     caller(req)));
    case DAXFS_IOC_ATTACH:
      // What programs have stored through the page cache is on the medium, and nothing is cached.
      return fs(req).kernel_pages().write_back(
          *opened, [req, opened, args = argument<daxfs_attach_args>(in)](bool) {
            attach(req, args, *opened);
          });
    case DAXFS_IOC_DETACH:
      return reply_ioctl(req, fs(req).direct_access().detach(
                                  *opened, PinId{argument<daxfs_unpin_args>(in).pin_id}));
    case DAXFS_IOC_DIRECT:
      return fs(req).kernel_pages().write_back(
          *opened, [req, opened, args = argument<daxfs_direct_args>(in)](bool dropped) {
            direct(req, args, *opened, dropped);
          });
    default:
      fuse_reply_err(req, ENOTTY);
  }
}

}  // namespace

void add_ioctl_ops(fuse_lowlevel_ops& ops) { ops.ioctl = ioctl; }

}  // namespace daxfs::ops
