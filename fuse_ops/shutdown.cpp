#include "fuse_ops/shutdown.h"

#include <cerrno>
#include <set>

namespace daxfs::ops {
namespace {

bool is_shutdown(const Message& request) {
  const auto in = request.body<fuse_ioctl_in>();
  return in && in->cmd == kShutdown;
}

// With an open file the kernel asks for attributes before it takes a write into its pages.
bool is_before_write(const Message& request) {
  const auto in = request.body<fuse_getattr_in>();
  return in && (in->getattr_flags & FUSE_GETATTR_FH) != 0;
}

bool is_still_served(const Message& request) {
  switch (request.header().opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
    case FUSE_INTERRUPT:
    case FUSE_DESTROY:
    case FUSE_STATFS:
    case kOpcodeStatx:
      return true;
    case FUSE_GETATTR:
      return !is_before_write(request);
    case FUSE_IOCTL:
      return is_shutdown(request);  // once more
    default:
      return false;
  }
}

}  // namespace

void shut_down(fuse_req_t req) {
  Context& session = context(req);
  const Status done = session.filesystem.shut_down(caller(req));
  if (!done) {
    fuse_reply_err(req, done.error().code);
    return;
  }
  // What the kernel keeps of open files would be read on without asking, and it cannot write it.
  std::set<const Inode*> told;
  for (const OpenFileRef& file : session.open_files.all()) {
    if (told.insert(&*file->inode).second) session.filesystem.kernel_pages().drop(*file->inode);
  }
  session.pollers.wake_all();
  fuse_reply_ioctl(req, 0, nullptr, 0);
}

bool refuse_if_shut_down(Context& session, const Message& request) {
  if (!session.filesystem.health().is_shut_down()) [[likely]]
    return false;
  if (is_still_served(request)) return false;
  send_answer(EIO, {});
  return true;
}

}  // namespace daxfs::ops
