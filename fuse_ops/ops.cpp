#include "fuse_ops/ops.h"

#include <algorithm>

namespace daxfs::ops {

void reply(fuse_req_t req, const Status& status) {
  fuse_reply_err(req, status ? 0 : status.error().code);
}

fuse_entry_param to_param(Filesystem& filesystem, const Entry& entry) {
  fuse_entry_param param{};
  param.ino = entry.inode.value;
  param.generation = entry.generation;
  param.attr = entry.attributes;
  param.attr_timeout = believe(filesystem, entry.inode);
  param.entry_timeout = kForever;
  return param;
}

double believe(Filesystem& filesystem, InodeNumber inode) {
  return filesystem.direct_access().is_attached(inode) ||
                 filesystem.attributes().must_ask_again(inode)
             ? 0
             : kForever;
}

void reply_entry(fuse_req_t req, const Result<Entry>& entry, double longest) {
  if (!entry) {
    fuse_reply_err(req, entry.error().code);
    return;
  }
  Filesystem& filesystem = fs(req);
  fuse_entry_param param = to_param(filesystem, *entry);
  param.attr_timeout = std::min(param.attr_timeout, longest);
  // The kernel never learned of the entry: take the reference back.
  if (fuse_reply_entry(req, &param) == -ENOENT) filesystem.names().forget(entry->inode, 1);
}

void reply_attributes(fuse_req_t req, const Result<struct stat>& attributes, double longest) {
  if (attributes) {
    fuse_reply_attr(req, &*attributes, longest);
  } else {
    fuse_reply_err(req, attributes.error().code);
  }
}

OpenFile* OpenFiles::keep(OpenFileRef file) {
  OpenFile* const address = file.get();
  const MutexLock guard(mutex_);
  files_.insert({address, std::move(file)});
  return address;
}

OpenFileRef OpenFiles::take(OpenFile* file) {
  const MutexLock guard(mutex_);
  return std::move(files_.extract(file).mapped());
}

std::vector<OpenFileRef> OpenFiles::all() {
  const MutexLock guard(mutex_);
  std::vector<OpenFileRef> out;
  for (const auto& [address, file] : files_) out.push_back(file);
  return out;
}

OpenFileRef OpenFiles::take_any() {
  const MutexLock guard(mutex_);
  if (files_.empty()) return nullptr;
  return std::move(files_.extract(files_.begin()).mapped());
}

Pollers::~Pollers() {
  for (const auto& [holder, handle] : handles_) fuse_pollhandle_destroy(handle);
}

void Pollers::keep(HolderId holder, fuse_pollhandle* handle) {
  {
    const MutexLock guard(mutex_);
    std::swap(handles_[holder.value], handle);
  }
  if (handle != nullptr) fuse_pollhandle_destroy(handle);
}

fuse_pollhandle* Pollers::take(HolderId holder) {
  const MutexLock guard(mutex_);
  auto node = handles_.extract(holder.value);
  return node.empty() ? nullptr : node.mapped();
}

void Pollers::wake(HolderId holder) {
  fuse_pollhandle* const handle = take(holder);
  if (handle == nullptr) return;
  fuse_lowlevel_notify_poll(handle);
  fuse_pollhandle_destroy(handle);
}

void Pollers::wake_all() {
  absl::flat_hash_map<std::uint64_t, fuse_pollhandle*> all;
  {
    const MutexLock guard(mutex_);
    all.swap(handles_);
  }
  for (const auto& [holder, handle] : all) {
    if (handle == nullptr) continue;
    fuse_lowlevel_notify_poll(handle);
    fuse_pollhandle_destroy(handle);
  }
}

void Pollers::forget(HolderId holder) {
  fuse_pollhandle* const handle = take(holder);
  if (handle != nullptr) fuse_pollhandle_destroy(handle);
}

void hand_over(Context& context, OpenFileRef opened, fuse_file_info& info) {
  info.direct_io = opened->direct ? 1 : 0;
  info.keep_cache = opened->keep_cache ? 1 : 0;
  // Nothing is left to flush at close; and on kernels before 6.16 a close would queue behind a
  // waiting truncate.
  info.noflush = 1;
  info.fh = reinterpret_cast<std::uint64_t>(context.open_files.keep(std::move(opened)));
}

int open_made(Context& context, const Entry& entry, int flags,
              absl::FunctionRef<int(const fuse_entry_param&, const fuse_file_info&)> answer) {
  auto opened = context.filesystem.files().open(entry.inode, flags);
  if (!opened) {
    context.filesystem.names().forget(entry.inode, 1);
    return opened.error().code;
  }
  fuse_file_info info{};
  hand_over(context, std::move(*opened), info);
  // The caller was interrupted: the kernel knows neither.
  if (answer(to_param(context.filesystem, entry), info) == ENOENT) {
    release(context, info);
    context.filesystem.names().forget(entry.inode, 1);
  }
  return 0;
}

void release(Context& context, const fuse_file_info& info) {
  OpenFileRef opened = context.open_files.take(kept_in<OpenFile>(info));
  context.pollers.forget(opened->holder);
  context.filesystem.direct_access().release(*opened);
  context.filesystem.files().release(std::move(opened));
}

std::shared_ptr<Waiting> Waiting::of(fuse_req_t req) {
  return std::shared_ptr<Waiting>(new Waiting(req));
}

const CancellationRef& Waiting::cancellation() {
  if (cancellation_) return cancellation_;
  cancellation_ = std::make_shared<Cancellation>();
  fuse_req_interrupt_func(
      req_, [](fuse_req_t, void* data) { static_cast<Cancellation*>(data)->cancel(); },
      cancellation_.get());
  return cancellation_;
}

fuse_req_t Waiting::finish() {
  if (cancellation_) fuse_req_interrupt_func(req_, nullptr, nullptr);
  return req_;
}

}  // namespace daxfs::ops
