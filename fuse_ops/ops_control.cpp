#include "fuse_ops/ops_control.h"

#include <fcntl.h>
#include <poll.h>

#include <memory>

namespace daxfs::ops {

bool refuse_control(fuse_req_t req, fuse_ino_t parent, const char* name) {
  if (!is_control(parent, name)) return false;
  fuse_reply_err(req, EPERM);
  return true;
}

namespace control {
namespace {

ControlFile& file_of(const fuse_file_info* info) { return *kept_in<ControlFile>(*info); }

void close(Context& session, const fuse_file_info* info) {
  ControlFile& file = file_of(info);
  session.pollers.forget(file.holder());
  session.control.close(&file);
}

// A read of events that may wait: an INTERRUPT for it reaches the log, also if it comes first.
class WaitingRead {
 public:
  static std::shared_ptr<WaitingRead> watch(fuse_req_t req, EventLog& log) {
    auto waiting = std::make_shared<WaitingRead>(req, log);
    fuse_req_interrupt_func(
        req,
        [](fuse_req_t, void* data) {
          auto* const read = static_cast<WaitingRead*>(data);
          read->log_.cancel(read->wait);
        },
        waiting.get());
    return waiting;
  }
  WaitingRead(fuse_req_t req, EventLog& log) : req_(req), log_(log) {}
  // From here on no interrupt handler runs or will run; the request may be answered.
  fuse_req_t finish() {
    fuse_req_interrupt_func(req_, nullptr, nullptr);
    return req_;
  }
  const EventLog::WaitRef wait = std::make_shared<EventLog::Wait>();

 private:
  fuse_req_t req_;
  EventLog& log_;
};

}  // namespace

void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  const auto entry = context(req).control.lookup({parent}, name);
  if (entry && entry->inode == kRootInode) {
    reply_entry(req, fs(req).names().lookup(kRootInode, "."));
  } else {
    reply_entry(req, entry);
  }
}

void getattr(fuse_req_t req, fuse_ino_t inode) {
  reply_attributes(req, context(req).control.attributes({inode}));
}

void setattr(fuse_req_t req, fuse_ino_t inode, const AttributeChange& change) {
  reply_attributes(req, context(req).control.set_attributes({inode}, change));
}

void open(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info) {
  Context& session = context(req);
  const auto file =
      session.control.open({inode}, caller(req),
                           [&pollers = session.pollers](HolderId holder) { pollers.wake(holder); });
  if (!file) {
    fuse_reply_err(req, file.error().code);
    return;
  }
  // Whatever the kernel takes for their size, everything is read from here.
  info->direct_io = 1;
  info->noflush = 1;
  info->nonseekable = (*file)->is_stream() ? 1 : 0;
  info->fh = reinterpret_cast<std::uint64_t>(*file);
  if (fuse_reply_open(req, info) == -ENOENT) close(session, info);
}

void release(fuse_req_t req, fuse_file_info* info) {
  close(context(req), info);
  fuse_reply_err(req, 0);
}

void read(fuse_req_t req, std::size_t size, off_t offset, fuse_file_info* info) {
  Context& session = context(req);
  ControlFile& file = file_of(info);
  if (const EventLog::ReaderRef& reader = file.events()) {
    EventLog& log = session.filesystem.events();
    const auto waiting = WaitingRead::watch(req, log);
    const bool may_wait = (info->flags & O_NONBLOCK) == 0;
    log.read(reader, size, may_wait, waiting->wait,
             [waiting](const Result<std::string_view>& text) {
               fuse_req_t answered = waiting->finish();
               if (text) {
                 fuse_reply_buf(answered, text->data(), text->size());
               } else {
                 fuse_reply_err(answered, text.error().code);
               }
             });
    return;
  }
  const auto text = file.read(static_cast<std::uint64_t>(offset), size);
  if (text) {
    fuse_reply_buf(req, text->data(), text->size());
  } else {
    fuse_reply_err(req, text.error().code);
  }
}

void write(fuse_req_t req, std::string_view text, fuse_file_info* info) {
  const Status written = file_of(info).write(text, caller(req));
  if (written) {
    fuse_reply_write(req, text.size());
  } else {
    fuse_reply_err(req, written.error().code);
  }
}

void poll(fuse_req_t req, fuse_file_info* info, fuse_pollhandle* handle) {
  Context& session = context(req);
  const ControlFile& file = file_of(info);
  const EventLog::ReaderRef& reader = file.events();
  // First the handle, then the look: events that come in between wake it.
  if (handle != nullptr) session.pollers.keep(file.holder(), handle);
  unsigned ready = 0;
  if (!reader) ready = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;
  if (reader && session.filesystem.events().poll(reader)) ready = POLLIN | POLLRDNORM;
  fuse_reply_poll(req, ready);
}

}  // namespace control
}  // namespace daxfs::ops
